/// Parameters: named tensors that are views into flat memory, so that zeroing, clipping, AdamW, casting, averaging and
/// checkpointing are each one operation on one tensor, while the pure functions of a model see names.
namespace Hybrid

// Starting values are written by address.
#nowarn "9"

open System
open System.Collections.Generic
open System.Threading.Tasks
open TorchSharp

/// Flat storage of a model's parameters. It owns its tensors; dispose it to release them.
[<Sealed>]
type ParameterStore internal (precision: Precision, device: torch.Device, slots: Slot list, segments: Segment list, length: int64)
    =
    let firstMoving = Slot.FirstMoving(slots, length)

    let mutable master: torch.Tensor | null =
        torch.zeros([| length |], dtype = torch.float32, device = device).DetachFromDisposeScope()

    let masterNow () : torch.Tensor =
        match master with
        | null -> raise (InvalidOperationException "the master weights are not here as a whole.")
        | master -> master

    let compute =
        match precision with
        | Fp32 -> masterNow().alias().DetachFromDisposeScope()
        | Bf16 -> torch.zeros([| length |], dtype = torch.bfloat16, device = device).DetachFromDisposeScope()

    let view (flat: torch.Tensor) (offset: int64) (slot: Slot) =
        use narrowed = flat.narrow (0, offset, slot.Spec.Count)
        narrowed.view (List.toArray slot.Spec.Shape)

    // Those that collect gradients stand from `first` on.
    let replica (collects: Slot -> bool) (first: int64) =
        let gradient = torch.zeros([| length - first |], dtype = compute.dtype, device = device).DetachFromDisposeScope()

        let leaves = Dictionary<string, torch.Tensor>()

        for slot in slots do
            let leaf = (view compute slot.Offset slot).DetachFromDisposeScope()

            if collects slot then
                leaf.requires_grad <- true
                use gradientView = view gradient (slot.Offset - first) slot
                // Autograd adds into a gradient that is already there, so the flat tensor receives it.
                leaf.grad <- gradientView

            leaves.Add(slot.Spec.Name, leaf)

        new Replica(leaves, List.filter collects slots, first, gradient)

    let ofMoving () = replica (fun slot -> slot.Movement <> Stays) firstMoving
    let own = ofMoving ()

    /// fp32, flat, all parameters. Errors: InvalidOperationException after `ReleaseMaster`.
    member _.Master: torch.Tensor = masterNow ()

    /// The copy that the model computes with: `Master` itself in fp32.
    member _.Compute = compute

    /// The weights that compute, with the store's own gradient.
    member _.Own: Replica = own

    /// Gradient of the flat range [FirstMoving, Length), in the precision of the model.
    member _.Gradient = own.Gradient

    /// Where what moves begins in flat memory; before it all stays.
    member _.FirstMoving = firstMoving
    /// Elements of flat memory, gaps between parameters included.
    member _.Length = length
    /// Of `Compute`.
    member _.Precision = precision
    /// Where the memory is.
    member _.Device = device
    /// Each parameter's place, in the order of memory.
    member _.Slots = slots

    /// The ranges that an update may change, in order.
    member _.Segments = segments

    /// The weights that a model's functions take: views of `Compute` that collect gradients where they move.
    member _.Weights: Weights = own.Weights

    /// Weights of the same memory with another gradient; the caller owns them.
    member _.Replica() : Replica = ofMoving ()

    /// The same, where every parameter collects a gradient, whatever moves.
    member internal _.WholeReplica() : Replica = replica (fun _ -> true) 0L

    /// The fp32 view of a parameter in `Master`; the caller owns it.
    member _.MasterOf(name: string) : torch.Tensor =
        match slots |> List.tryFind (fun slot -> slot.Spec.Name = name) with
        | Some slot -> view (masterNow ()) slot.Offset slot
        | None -> raise (KeyNotFoundException $"the model has no parameter {name}.")

    /// Renews the computing copy from the master weights.
    member _.Refresh() : unit =
        if precision = Bf16 then
            use _ = torch.no_grad ()
            compute.copy_ (masterNow ()) |> ignore

    /// Lets go of all memory, where the weights are kept elsewhere; the layout stays.
    member _.Release() : unit =
        (own :> IDisposable).Dispose()
        compute.Dispose()

        match master with
        | null -> ()
        | whole -> whole.Dispose()

        master <- null

    /// Lets go of the master weights of a store in bf16, where processes hold them in slices.
    member _.ReleaseMaster() : unit =
        if precision = Bf16 then
            (masterNow ()).Dispose()
            master <- null

    /// Releases its tensors. Views that `Weights` gave are gone with them.
    member store.Dispose() : unit = store.Release()

    interface IDisposable with
        member store.Dispose() = store.Release()

/// Laying out a store, filling it, counting it.
module Parameters =

    /// Whether weight decay applies: to parameters of two axes or more (`Matrices`), or to every one (open_lm's habit).
    type Decay =
        /// Parameters of two dimensions or more
        | Matrices
        /// Every parameter, as open_lm does
        | All

    // Staying parameters first, so that the gradient covers one range; then the ones of which rows stay, then decayed, then not.
    let private order (decay: Decay) (movement: ParameterSpec -> Movement) (spec: ParameterSpec) =
        match movement spec with
        | Stays -> 0
        | MovesFromRow _ -> 1
        | Moves -> if decay = All || spec.Shape.Length >= 2 then 2 else 3

    // Each parameter starts on a border of 64 elements: products of the same numbers then have the same bits wherever the
    // parameter stands, and vector instructions load whole lines.
    let private alignment = 64L

    let private aligned (offset: int64) = (offset + alignment - 1L) / alignment * alignment

    /// How many elements of a parameter move: its last ones.
    let internal movingOf (spec: ParameterSpec) (movement: Movement) : int64 =
        match movement with
        | Stays -> 0L
        | Moves -> spec.Count
        | MovesFromRow row -> spec.Count - row * (spec.Count / spec.Shape.Head)

    let private segmentsOf (decay: Decay) (slots: Slot list) =
        let pieces =
            slots
            |> List.map (fun slot ->
                let moving = movingOf slot.Spec slot.Movement

                {
                    Start = slot.Offset + slot.Spec.Count - moving
                    Length = moving
                    Decays = (decay = All || slot.Spec.Shape.Length >= 2)
                })
            |> List.filter (fun piece -> piece.Length > 0L)

        let join merged (piece: Segment) =
            match merged with
            | last :: rest when aligned (last.Start + last.Length) = piece.Start && last.Decays = piece.Decays ->
                // The zeros between them have no gradient and stay zero.
                { last with Length = piece.Start + piece.Length - last.Start } :: rest
            | _ -> piece :: merged

        pieces |> List.fold join [] |> List.rev

    /// Where parameters stand in flat memory, each on a border of 64 elements: their places, the ranges that move, and the length of
    /// the whole. Errors: ArgumentException for a name given twice.
    let layout
        (decay: Decay)
        (movement: ParameterSpec -> Movement)
        (specs: ParameterSpec list)
        : Slot list * Segment list * int64 =
        match specs |> List.countBy _.Name |> List.tryFind (fun (_, count) -> count > 1) with
        | Some(name, _) -> invalidArg (nameof specs) $"the parameter {name} is given twice."
        | None -> ()

        let place (offset, slots) (spec: ParameterSpec) =
            aligned (offset + spec.Count), { Spec = spec; Offset = offset; Movement = movement spec } :: slots

        let length, reversed = specs |> List.sortBy (order decay movement) |> List.fold place (0L, [])

        let slots = List.rev reversed
        slots, segmentsOf decay slots, length

    /// Lays parameters out in flat memory, all zero. Errors: ArgumentException for a name given twice.
    let allocate
        (precision: Precision)
        (device: torch.Device)
        (decay: Decay)
        (movement: ParameterSpec -> Movement)
        (specs: ParameterSpec list)
        : ParameterStore =
        let slots, segments, length = layout decay movement specs
        new ParameterStore(precision, device, slots, segments, length)

    /// Writes a parameter's starting values to memory that has room for them.
    let private write (stream: Random.Stream) (spec: ParameterSpec) (address: nativeint) : unit =
        let block = 65536L
        let own = Random.named spec.Name stream

        Parallel.For(
            0L,
            (spec.Count + block - 1L) / block,
            fun i ->
                let start = (address + nativeint (4L * i * block)).ToPointer()
                let part = Span<float32>(start, int (min block (spec.Count - i * block)))
                let stream = Random.numbered i own

                match spec.Init with
                | Zeros -> part.Clear()
                | Ones -> part.Fill 1.0f
                | TruncatedNormal deviation -> Random.fillTruncatedNormal deviation stream part
                | Uniform bound ->
                    for j = 0 to part.Length - 1 do
                        part[j] <- float32 (bound * (2.0 * Random.uniform stream (int64 j) - 1.0))
        )
        |> ignore

    /// The starting values of a parameter, a pure function of the stream and the parameter's name; blocks of 65,536 values are
    /// independent streams, so that they are drawn in parallel and come out the same on any machine.
    let initialValues (stream: Random.Stream) (spec: ParameterSpec) : float32[] =
        let values = Array.zeroCreate<float32>(int spec.Count)
        use pinned = fixed values
        write stream spec (NativeInterop.NativePtr.toNativeInt pinned)
        values

    /// Copies values into a parameter of the master weights (any element type, any device). Call `Refresh` when all are set.
    /// Errors: ShapeException.
    let set (store: ParameterStore) (name: string) (values: torch.Tensor) : unit =
        use _ = torch.no_grad ()
        use target = store.MasterOf name
        Shape.require name (List.ofArray target.shape) values
        target.copy_ values |> ignore

    /// Fills every parameter with its starting values.
    let initialise (stream: Random.Stream) (store: ParameterStore) : unit =
        for slot in store.Slots do
            use scope = torch.NewDisposeScope()

            // On the host they are written where they stay: they may take more memory than there is twice.
            if store.Device.``type`` = DeviceType.CPU then
                use target = store.MasterOf slot.Spec.Name
                write stream slot.Spec (Dispatcher.dataPointer target)
            else
                let values = torch.empty (List.toArray slot.Spec.Shape, dtype = torch.float32)
                write stream slot.Spec (Dispatcher.dataPointer values)
                set store slot.Spec.Name values

        store.Refresh()

    /// Parameters in all.
    let count (store: ParameterStore) : int64 = store.Slots |> List.sumBy (fun slot -> slot.Spec.Count)

    /// Parameters that move, counting only the moving rows.
    let moving (store: ParameterStore) : int64 = store.Slots |> List.sumBy (fun slot -> movingOf slot.Spec slot.Movement)
