/// One step of training: gradients added up over micro-batches as sums, clipped by their global norm, checked, and one AdamW update
/// over flat memory.
namespace Hybrid

open System
open TorchSharp

/// AdamW and clipping.
type OptimizerConfig =
    {
        Betas: float * float
        Epsilon: float
        WeightDecay: float
        Decay: Parameters.Decay
        /// Largest global gradient norm; none when absent
        ClipNorm: float option
    }

/// How the processes of a run share the state of a step (ZeRO; Rajbhandari et al. 2020, arXiv:1910.02054).
[<NoEquality; NoComparison>]
type Sharing =
    {
        Exchange: IExchange
        /// 0: each process keeps all; 1: moments, and in bf16 the fp32 master weights, in slices; 2: gradients too; 3: all weights of
        /// blocks too
        Stage: int
        /// The range that has a gradient, in the order in which a backward pass leaves it whole
        Buckets: Bucket list
    }

    /// One process, which keeps all.
    static member Alone: Sharing = { Exchange = Exchange.alone; Stage = 0; Buckets = [] }

    /// Whether each process keeps a slice of the moments.
    member s.Sliced = s.Exchange.Size > 1 && s.Stage >= 1

    /// Whether each process keeps a slice of the weights themselves.
    member s.SlicesWeights = s.Exchange.Size > 1 && s.Stage >= 3

    /// Whether the fp32 weights are there in slices only.
    member s.SlicesMaster(precision: Precision) = s.SlicesWeights || (s.Sliced && precision = Bf16)

    /// Whether each process keeps a slice of the gradients.
    member s.SlicesGradients = s.Exchange.Size > 1 && s.Stage >= 2

/// A piece of flat memory that one update goes over, in each of the tensors that it needs.
[<NoEquality; NoComparison>]
type Piece =
    {
        Segment: Segment
        /// Its place among the packed elements of all segments
        Place: int64
        Weights: torch.Tensor
        Gradient: torch.Tensor
        First: torch.Tensor
        Second: torch.Tensor
    }

/// Moments of what moves, flat and packed in the order of the store's segments; of a process's own slices alone where `sharing` says so.
/// It owns its tensors. `gradients` is the precision in which micro-batches add up: in Bf16 the gradient of a store in bf16 is the only
/// one there is.
[<Sealed>]
type OptimizerState(store: ParameterStore, gradients: Precision, sharing: Sharing) =
    let owned =
        if sharing.Sliced then
            Exchange.owned sharing.Exchange.Size sharing.Exchange.Rank sharing.Buckets
        else
            [ store.FirstMoving, store.Length - store.FirstMoving ]

    let ranges = Exchange.pieces store.Segments owned
    let length = ranges |> List.sumBy (fun (piece, _) -> piece.Length)
    let keptLength = owned |> List.sumBy snd

    let flat (length: int64) (dtype: torch.ScalarType) =
        torch.zeros([| length |], dtype = dtype, device = store.Device).DetachFromDisposeScope()

    let first, second = flat length torch.float32, flat length torch.float32
    let steps, skipped = flat 1L torch.float32, flat 1L torch.float32

    let own = not sharing.SlicesGradients && (store.Precision = gradients || store.Precision = Fp32)

    // The store's own gradient, or a second buffer, to which micro-batches are added.
    let gradient =
        if own then
            store.Gradient.alias().DetachFromDisposeScope()
        else
            let dtype = if gradients = Bf16 && store.Precision = Bf16 then torch.bfloat16 else torch.float32
            flat (if sharing.SlicesGradients then keptLength else store.Length - store.FirstMoving) dtype

    // Where each of the process's ranges begins among them all.
    let keptStarts = owned |> List.scan (fun at (_, length) -> at + length) 0L

    let kept (flat: torch.Tensor) (start: int64) (length: int64) =
        let (from, _), at =
            List.zip owned keptStarts[.. owned.Length - 1]
            |> List.find (fun ((s, l), _) -> start >= s && start + length <= s + l)

        flat.narrow (0L, at + start - from, length)

    // The master weights of other processes' slices are of no use here, but for those in fp32 that compute.
    let master, frozen =
        if sharing.SlicesMaster store.Precision then
            use _ = torch.no_grad ()
            let master = flat keptLength torch.float32

            for (start, length), at in List.zip owned keptStarts[.. owned.Length - 1] do
                use target = master.narrow (0L, at, length)
                use source = store.Master.narrow (0L, start, length)
                target.copy_ source |> ignore

            use still = store.Master.narrow (0L, 0L, store.FirstMoving)
            let frozen = still.clone().DetachFromDisposeScope()

            if not sharing.SlicesWeights then
                store.ReleaseMaster()

            Some master, Some frozen
        else
            None, None

    let weights (start: int64) (length: int64) =
        match master with
        | Some master -> kept master start length
        | None -> store.Master.narrow (0L, start, length)

    let gradientOf (start: int64) (length: int64) =
        if sharing.SlicesGradients then
            kept gradient start length
        else
            gradient.narrow (0L, start - store.FirstMoving, length)

    let pieces =
        let starts = ranges |> List.scan (fun at (piece, _) -> at + piece.Length) 0L

        [
            for (segment, place), at in List.zip ranges starts[.. ranges.Length - 1] ->
                {
                    Segment = segment
                    Place = place
                    Weights = (weights segment.Start segment.Length).DetachFromDisposeScope()
                    Gradient = (gradientOf segment.Start segment.Length).DetachFromDisposeScope()
                    First = first.narrow(0L, at, segment.Length).DetachFromDisposeScope()
                    Second = second.narrow(0L, at, segment.Length).DetachFromDisposeScope()
                }
        ]

    do
        if sharing.SlicesGradients then
            store.Own.Loosen()

    /// A state of one process.
    new(store: ParameterStore, gradients: Precision) = new OptimizerState(store, gradients, Sharing.Alone)

    /// A state of one process whose gradients add up in fp32.
    new(store: ParameterStore) = new OptimizerState(store, Fp32, Sharing.Alone)

    member _.Sharing = sharing

    /// First moments, flat.
    member _.First = first

    /// Second moments, flat.
    member _.Second = second

    /// Updates made, an fp32 scalar as AdamW's kernel wants it.
    member _.Steps = steps

    /// Updates left out because the gradient was not finite.
    member _.Skipped = skipped

    /// Gradient over the micro-batches so far: of the range [FirstMoving, Length), or of the process's slices of it.
    member _.Gradient = gradient

    /// The gradient of a range [start, start + length) of the store that this process keeps; the caller owns the view.
    member _.GradientOf(start: int64, length: int64) : torch.Tensor = gradientOf start length

    /// The fp32 weights of such a range; the caller owns the view.
    member _.WeightsOf(start: int64, length: int64) : torch.Tensor = weights start length

    /// The fp32 weights of the range [0, FirstMoving), which stay; the caller owns the view.
    member _.Frozen: torch.Tensor =
        match frozen with
        | Some frozen -> frozen.alias ()
        | None -> store.Master.narrow (0L, 0L, store.FirstMoving)

    /// Whether `Gradient` is the store's own memory.
    member _.OwnGradient = own

    /// Each piece of flat memory that this process updates.
    member _.Pieces = pieces

    interface IDisposable with
        member _.Dispose() =
            for piece in pieces do
                for tensor in [ piece.Weights; piece.Gradient; piece.First; piece.Second ] do
                    tensor.Dispose()

            for tensor in [ first; second; steps; skipped; gradient ] @ Option.toList master @ Option.toList frozen do
                tensor.Dispose()

module Step =

    /// Sets all gradients to zero.
    let zero (store: ParameterStore) (state: OptimizerState) : unit =
        state.Gradient.zero_ () |> ignore

        if not state.OwnGradient && not state.Sharing.SlicesGradients then
            store.Gradient.zero_ () |> ignore

    /// Adds a micro-batch's gradient of objective ÷ globalCount to that of the weights, and returns its cross-entropy sums by kind,
    /// [3], which the caller owns. `loss` gives the micro-batch's value from the weights. Several threads may do so at once, each with
    /// a replica of its own.
    let backward (globalCount: int64) (loss: Weights -> LossValue) (weights: Weights) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let value = loss weights

        try
            value.Objective.mul(Scalars.Of(1.0 / float (max 1L globalCount))).backward()
        with error ->
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(Fused.Returned.Cause error)

        value.Parts.MoveToOuterDisposeScope()

    /// Adds a gradient that `backward` left, the store's or a replica's, to that of the state, and sets it to zero.
    let collect (store: ParameterStore) (state: OptimizerState) (replica: Replica) : unit =
        if not (obj.ReferenceEquals(replica, store.Own) && state.OwnGradient) then
            replica.Take(state.Gradient, store.FirstMoving, store.Length - store.FirstMoving)

    /// `backward` with the store's weights, and `collect`.
    let accumulate
        (store: ParameterStore)
        (state: OptimizerState)
        (globalCount: int64)
        (loss: Weights -> LossValue)
        : torch.Tensor =
        let parts = backward globalCount loss store.Weights
        collect store state store.Own
        parts

    /// Norms of a gradient's parts in fp32.
    let private norms (gradient: torch.Tensor) : torch.Tensor list =
        if gradient.dtype = torch.float32 then
            [ gradient.norm () ]
        else
            [
                for start, count in Flat.ranges gradient do
                    use _ = torch.NewDisposeScope()
                    gradient.narrow(0L, start, count).``to``(torch.float32).norm().MoveToOuterDisposeScope()
            ]

    /// The norm over all processes of gradients of which each has a slice with this norm.
    let private joined (exchange: IExchange) (norm: torch.Tensor) : torch.Tensor =
        // Squares of what an fp32 norm can be do not fit into fp32.
        let square = norm.``to``(torch.float64).square().reshape 1L
        exchange.Begin(fun () -> exchange.AllReduce square).Invoke()
        square.sqrt().``to``(torch.float32).squeeze()

    /// The global norm of the gradient of what moves, a scalar fp32 tensor.
    let gradientNorm (state: OptimizerState) : torch.Tensor =
        let own =
            match state.Pieces |> List.collect (fun piece -> norms piece.Gradient) with
            | [] -> state.Steps.squeeze().mul(Scalars.Of(0.0))
            | [ norm ] -> norm
            | norms -> torch.stack(List.toArray norms).norm()

        if state.Sharing.Sliced then joined state.Sharing.Exchange own else own

    /// Renews the weights that compute from the master weights: all of them, or where processes hold slices of these, each its own,
    /// which are gathered then.
    let publish (store: ParameterStore) (state: OptimizerState) : unit =
        let sharing = state.Sharing

        let gather (bucket: Bucket) () =
            use _ = torch.no_grad ()
            use _ = torch.NewDisposeScope()

            if store.Precision = Bf16 then
                let struct (start, length) = Slices.range sharing.Exchange.Size sharing.Exchange.Rank bucket.Length

                if length > 0L then
                    let target = store.Compute.narrow (0L, bucket.Start + start, length)
                    target.copy_ (state.WeightsOf(bucket.Start + start, length)) |> ignore

            sharing.Exchange.AllGather(store.Compute.narrow (0L, bucket.Start, bucket.Length))

        if sharing.Sliced then
            let gathered = [ for bucket in sharing.Buckets -> sharing.Exchange.Begin(Action(gather bucket)) ]

            for wait in gathered do
                wait.Invoke()
        else
            store.Refresh()

    /// AdamW over some pieces that share their decay; `skip` of 1 leaves everything as it is.
    let private adamW (config: OptimizerConfig) learningRate (state: OptimizerState) skip decays pieces : unit =
        let column f = pieces |> List.map f

        Dispatcher.fusedAdamW
            (column (fun (weights, _, _, _) -> weights))
            (column (fun (_, gradient, _, _) -> gradient))
            (column (fun (_, _, first, _) -> first))
            (column (fun (_, _, _, second) -> second))
            (column (fun _ -> state.Steps.squeeze ()))
            learningRate
            config.Betas
            (if decays then config.WeightDecay else 0.0)
            config.Epsilon
            skip

    // A bucket of the processes' slices, gathered into host memory.
    let private gatherInto
        (host: torch.Tensor)
        (store: ParameterStore)
        (sharing: Sharing)
        (fill: int64 -> torch.Tensor -> unit)
        (bucket: Bucket)
        =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let whole = torch.zeros ([| bucket.Length |], dtype = torch.float32, device = store.Device)
        let struct (start, length) = Slices.range sharing.Exchange.Size sharing.Exchange.Rank bucket.Length

        if length > 0L then
            fill (bucket.Start + start) (whole.narrow (0L, start, length))

        sharing.Exchange.AllGather whole
        sharing.Exchange.Ready()
        host.narrow(0L, bucket.Start, bucket.Length).copy_ whole |> ignore

    let private gather host store (sharing: Sharing) fill : unit =
        for bucket in sharing.Buckets do
            sharing.Exchange.Begin(fun () -> gatherInto host store sharing fill bucket).Invoke()

    /// All fp32 weights in the store's layout, in host memory; the caller owns them. All processes must ask together.
    let wholeWeights (store: ParameterStore) (state: OptimizerState) : torch.Tensor =
        use _ = torch.no_grad ()
        use scope = torch.NewDisposeScope()
        let host = torch.empty ([| store.Length |], dtype = torch.float32)

        if state.Sharing.SlicesMaster store.Precision then
            host.narrow(0L, 0L, store.FirstMoving).copy_ state.Frozen |> ignore

            gather host store state.Sharing (fun start target -> target.copy_ (state.WeightsOf(start, target.shape[0])) |> ignore)
        else
            host.copy_ store.Master |> ignore

        host.MoveToOuterDisposeScope()

    /// `wholeWeights` with the values that `part` has for each piece in the place of what moves.
    let whole (store: ParameterStore) (state: OptimizerState) (part: Piece -> torch.Tensor) : torch.Tensor =
        use _ = torch.no_grad ()
        use scope = torch.NewDisposeScope()
        let host = wholeWeights store state

        // Of each piece what lies in the range; the rest, which does not move, stays as it is.
        let fill (start: int64) (target: torch.Tensor) =
            for piece in state.Pieces do
                let first = max start piece.Segment.Start
                let last = min (start + target.shape[0]) (piece.Segment.Start + piece.Segment.Length)

                if first < last then
                    target
                        .narrow(0L, first - start, last - first)
                        .copy_((part piece).narrow(0L, first - piece.Segment.Start, last - first))
                    |> ignore

        if state.Sharing.Sliced then
            gather host store state.Sharing (fun start target ->
                target.copy_ (host.narrow (0L, start, target.shape[0])) |> ignore
                fill start target)
        else
            fill 0L host

        host.MoveToOuterDisposeScope()

    /// Puts a parameter's fp32 values, on any device, into what `part` has of it for the pieces that this process keeps.
    let setParameter
        (store: ParameterStore)
        (state: OptimizerState)
        (part: Piece -> torch.Tensor)
        (name: string)
        (values: torch.Tensor)
        : unit =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let slot = store.Slots |> List.find (fun slot -> slot.Spec.Name = name)
        Shape.require name slot.Spec.Shape values
        let whole = values.reshape -1L

        for piece in state.Pieces do
            let first = max slot.Offset piece.Segment.Start
            let last = min (slot.Offset + slot.Spec.Count) (piece.Segment.Start + piece.Segment.Length)

            if first < last then
                (part piece)
                    .narrow(0L, first - piece.Segment.Start, last - first)
                    .copy_(whole.narrow (0L, first - slot.Offset, last - first))
                |> ignore

    /// Clips, checks and updates; returns the gradient's norm before clipping (a scalar tensor that the caller owns). Where the norm
    /// is not finite nothing changes and `Skipped` counts up. No value is read back to the host. `lap` is told of its
    /// parts; `publish` renews the weights that compute.
    let updateBy
        (lap: Phase -> unit)
        (config: OptimizerConfig)
        (learningRate: float)
        (publish: unit -> unit)
        (state: OptimizerState)
        : torch.Tensor =
        use _ = torch.no_grad ()
        use scope = torch.NewDisposeScope()
        let norm = gradientNorm state
        let skip = norm.isfinite().logical_not().``to``(torch.float32).reshape(1L)

        let scale =
            config.ClipNorm
            |> Option.map (fun limit -> norm.plus(1e-6).reciprocal().mul(Scalars.Of(limit)).clamp_max(Scalars.Of(1.0)))

        state.Steps.plus_ 1.0 |> ignore

        if state.Gradient.dtype = torch.float32 then
            for piece in state.Pieces do
                scale |> Option.iter (fun scale -> piece.Gradient.mul_ scale |> ignore)

            lap Phase.Clip

            for decays, pieces in state.Pieces |> List.groupBy _.Segment.Decays do
                pieces
                |> List.map (fun piece -> piece.Weights, piece.Gradient, piece.First, piece.Second)
                |> adamW config learningRate state skip decays
        else
            lap Phase.Clip

            for piece in state.Pieces do
                for start, count in Flat.ranges piece.Gradient do
                    use scope = torch.NewDisposeScope()
                    let part (flat: torch.Tensor) = flat.narrow (0L, start, count)
                    let wide = (part piece.Gradient).``to`` torch.float32
                    scale |> Option.iter (fun scale -> wide.mul_ scale |> ignore)

                    adamW
                        config
                        learningRate
                        state
                        skip
                        piece.Segment.Decays
                        [ part piece.Weights, wide, part piece.First, part piece.Second ]

        state.Steps.sub_ skip |> ignore
        state.Skipped.plus_ skip |> ignore
        lap Phase.Optimizer
        publish ()
        lap Phase.Cast
        norm.MoveToOuterDisposeScope()

    /// `updateBy` with nobody told.
    let update (config: OptimizerConfig) (learningRate: float) (store: ParameterStore) (state: OptimizerState) : torch.Tensor =
        updateBy ignore config learningRate (fun () -> publish store state) state
