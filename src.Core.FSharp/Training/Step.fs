/// One step of training: gradients added up over micro-batches as sums, clipped by their global norm, checked, and one AdamW update
/// over flat memory.
namespace Hybrid

open System
open TorchSharp

/// The parts of a step: zero, accumulate, update; and the same over the processes of a run.
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

        let value =
            use _ = Derivative.Await()
            loss weights

        try
            value.Objective.mul(Scalars.Of(1.0 / float (max 1L globalCount))).backward()
        with error ->
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(Fused.Returned.Cause error)

        Fused.Returned.Release()
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
