/// Named parameters as places in flat memory, and the views of it that collect gradients.
namespace Hybrid

open System
open System.Collections.Generic
open TorchSharp

/// A model's weights as its functions see them: a lookup by name. Names are open_lm's.
type Weights = string -> torch.Tensor

/// How a parameter starts.
type Init =
    /// Normal with this deviation, truncated at three deviations
    | TruncatedNormal of deviation: float
    /// Uniform in [−bound, bound)
    | Uniform of bound: float
    /// All 0
    | Zeros
    /// All 1
    | Ones

/// One named parameter.
type ParameterSpec =
    {
        /// As open_lm has it, or its author
        Name: string
        /// Lengths of its axes, rows first
        Shape: int64 list
        /// What it starts from
        Init: Init
    }

    /// Numbers in it.
    member s.Count = List.fold (*) 1L s.Shape

/// Tables for rotating queries and keys: cos and sin [T, 1, C] in the model's element type.
[<NoEquality; NoComparison>]
type Rotation =
    {
        /// [T, 1, C]
        Cosine: torch.Tensor
        /// [T, 1, C]
        Sine: torch.Tensor
    }

/// What of a parameter moves in training.
type Movement =
    /// All of it
    | Moves
    /// Nothing of it
    | Stays
    /// Rows from this one on move; the rows before it stay, bit for bit
    | MovesFromRow of int64

/// The precision of the forward and backward pass. Master weights and moments are fp32 in both.
type Precision =
    /// float32
    | Fp32
    /// bfloat16: float32's range, 8 bits of precision
    | Bf16

/// A range of flat memory that moves as one piece.
type Segment =
    {
        /// Its first element
        Start: int64
        /// Its elements
        Length: int64
        /// Whether weight decay applies
        Decays: bool
    }

/// A parameter's place in flat memory.
type Slot =
    {
        /// Its name and shape
        Spec: ParameterSpec
        /// Its first element
        Offset: int64
        /// What of it moves
        Movement: Movement
    }

    /// Where the parameters that move begin in flat memory of this length: what stays comes first.
    static member FirstMoving(slots: Slot list, length: int64) : int64 =
        slots
        |> List.filter (fun slot -> slot.Movement <> Stays)
        |> List.fold (fun first slot -> min first slot.Offset) length

/// What the names of a model's parameters say.
module internal ParameterName =

    /// Whether it is a table with a row for each id: the embedding table or the head.
    let isTable (name: string) : bool = name = "tok_embeddings.weight" || name = "output.weight"

    /// The block that a parameter belongs to; −1 for those of embedding, final norm and head.
    let block (name: string) : int =
        if name.StartsWith("layers.", StringComparison.Ordinal) then
            int (name.Split('.')[1])
        else
            -1

/// Places in flat memory, and passes over it.
module internal Flat =

    /// Things that stand behind each other, each with where it begins.
    let packed (length: 'a -> int64) (things: 'a list) : ('a * int64) list =
        things |> List.mapFold (fun at thing -> (thing, at), at + length thing) 0L |> fst

    /// The ranges in which flat memory of one element type meets another: torch widens what it is given as a whole first, and that would
    /// be another copy. On a CPU a range stays in its cache; a GPU wants fewer calls.
    let ranges (flat: torch.Tensor) : (int64 * int64) list =
        let length = flat.shape[0]
        let atOnce = if flat.device_type = DeviceType.CPU then 1L <<< 20 else 1L <<< 26
        [ for start in 0L .. atOnce .. length - 1L -> start, min atOnce (length - start) ]

    /// target += source, of any element types. Without autograd.
    let add (target: torch.Tensor) (source: torch.Tensor) : unit =
        for start, count in ranges source do
            use _ = torch.NewDisposeScope()
            let part (flat: torch.Tensor) = flat.narrow (0L, start, count)
            (part target).plus_(part source) |> ignore

/// Weights of a store with a gradient of their own, flat like the store's, so that several threads go backward at once. It owns its
/// tensors; dispose it to release them.
[<Sealed>]
type Replica internal (leaves: Dictionary<string, torch.Tensor>, moving: Slot list, first: int64, flat: torch.Tensor | null) =
    let mutable gradient = flat

    let overlapping (start: int64) (length: int64) =
        moving |> List.filter (fun slot -> slot.Offset < start + length && slot.Offset + slot.Spec.Count > start)

    // What the backward pass left of a loose gradient, parameter by parameter.
    let takeLoose (target: torch.Tensor) (start: int64) (length: int64) =
        for slot in overlapping start length do
            let leaf = leaves[slot.Spec.Name]

            match leaf.grad with
            | null -> ()
            | grad ->
                let from, last = max start slot.Offset, min (start + length) (slot.Offset + slot.Spec.Count)

                Flat.add
                    (target.narrow (0L, from - start, last - from))
                    (grad.reshape(-1L).narrow(0L, from - slot.Offset, last - from))

                if last = slot.Offset + slot.Spec.Count then
                    leaf.grad <- null

    /// The weights that a model's functions take: views of the store's `Compute` that collect gradients where they move.
    member _.Weights: Weights =
        fun name ->
            match leaves.TryGetValue name with
            | true, leaf -> leaf
            | _ -> raise (KeyNotFoundException $"the model has no parameter {name}.")

    /// Whether there is a parameter of this name.
    member _.Has(name: string) : bool = leaves.ContainsKey name

    /// Flat, in the precision of the model. Errors: InvalidOperationException once it is loose.
    member _.Gradient: torch.Tensor =
        match gradient with
        | null -> raise (InvalidOperationException "the gradient is not kept in flat memory.")
        | flat -> flat

    /// Keeps no gradient in flat memory from now on: each backward pass leaves tensors of its own until `Take` has them.
    member _.Loosen() : unit =
        match gradient with
        | null -> ()
        | flat ->
            for slot in moving do
                leaves[slot.Spec.Name].grad <- null

            flat.Dispose()
            gradient <- null

    /// Adds the gradient of a range of the store's flat memory to `target`, a tensor of that length, and sets it to zero. Ranges of a
    /// loose gradient are taken in the order of their place.
    member _.Take(target: torch.Tensor, start: int64, length: int64) : unit =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()

        match gradient with
        | null -> takeLoose target start length
        | flat ->
            let part = flat.narrow (0L, start - first, length)
            Flat.add target part
            part.zero_ () |> ignore

    interface IDisposable with
        member _.Dispose() =
            for leaf in leaves.Values do
                leaf.Dispose()

            match gradient with
            | null -> ()
            | flat -> flat.Dispose()
