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

/// Moments of every moving parameter, flat and packed in the order of the store's segments; owns its tensors. `gradients` is the
/// precision in which micro-batches add up: in Bf16 the gradient of a store in bf16 is the only one there is.
[<Sealed>]
type OptimizerState(store: ParameterStore, gradients: Precision) =
    let length = store.Segments |> List.sumBy _.Length

    let flat () = torch.zeros([| length |], dtype = torch.float32, device = store.Device).DetachFromDisposeScope()

    let first, second = flat (), flat ()

    let steps = torch.zeros([| 1L |], dtype = torch.float32, device = store.Device).DetachFromDisposeScope()

    let skipped = torch.zeros([| 1L |], dtype = torch.float32, device = store.Device).DetachFromDisposeScope()

    let own = store.Precision = gradients || store.Precision = Fp32

    // The store's own gradient, or a second buffer in fp32, to which micro-batches are added.
    let gradient =
        if own then
            store.Gradient.alias().DetachFromDisposeScope()
        else
            torch
                .zeros([| store.Length - store.FirstMoving |], dtype = torch.float32, device = store.Device)
                .DetachFromDisposeScope()

    let starts = store.Segments |> List.scan (fun at segment -> at + segment.Length) 0L

    let pieces =
        [
            for segment, at in List.zip store.Segments starts[.. store.Segments.Length - 1] ->
                let piece (flat: torch.Tensor) (start: int64) = flat.narrow(0, start, segment.Length).DetachFromDisposeScope()

                segment,
                piece store.Master segment.Start,
                piece gradient (segment.Start - store.FirstMoving),
                piece first at,
                piece second at
        ]

    /// A state whose gradients add up in fp32.
    new(store: ParameterStore) = new OptimizerState(store, Fp32)

    /// First moments, flat.
    member _.First = first

    /// Second moments, flat.
    member _.Second = second

    /// Updates made, an fp32 scalar as AdamW's kernel wants it.
    member _.Steps = steps

    /// Updates left out because the gradient was not finite.
    member _.Skipped = skipped

    /// Gradient of the range [FirstMoving, Length), over the micro-batches so far.
    member _.Gradient = gradient

    /// Whether `Gradient` is the store's own memory.
    member _.OwnGradient = own

    /// Each segment with its views of weights, gradient and moments.
    member _.Pieces = pieces

    interface IDisposable with
        member _.Dispose() =
            for _, a, b, c, d in pieces do
                for tensor in [ a; b; c; d ] do
                    tensor.Dispose()

            for tensor in [ first; second; steps; skipped; gradient ] do
                tensor.Dispose()

module Step =

    // Flat memory in bf16 meets fp32 this many values at a time: torch widens what it is given as a whole first, and that would be
    // another copy of the gradient. On a CPU a piece stays in its cache; a GPU wants fewer calls.
    let private ranges (flat: torch.Tensor) : (int64 * int64) list =
        let length = flat.shape[0]
        let atOnce = if flat.device_type = DeviceType.CPU then 1L <<< 20 else 1L <<< 26
        [ for start in 0L .. atOnce .. length - 1L -> start, min atOnce (length - start) ]

    /// Sets all gradients to zero.
    let zero (store: ParameterStore) (state: OptimizerState) : unit =
        store.Gradient.zero_ () |> ignore

        if not state.OwnGradient then
            state.Gradient.zero_ () |> ignore

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
    let collect (store: ParameterStore) (state: OptimizerState) (gradient: torch.Tensor) : unit =
        let own = obj.ReferenceEquals(gradient, store.Gradient)

        if not own || not state.OwnGradient then
            use _ = torch.no_grad ()

            for start, count in ranges gradient do
                use _ = torch.NewDisposeScope()
                let part (flat: torch.Tensor) = flat.narrow (0L, start, count)
                (part state.Gradient).plus_(part gradient) |> ignore

            gradient.zero_ () |> ignore

    /// `backward` with the store's weights, and `collect`.
    let accumulate
        (store: ParameterStore)
        (state: OptimizerState)
        (globalCount: int64)
        (loss: Weights -> LossValue)
        : torch.Tensor =
        let parts = backward globalCount loss store.Weights
        collect store state store.Gradient
        parts

    /// Norms of a gradient's parts in fp32.
    let private norms (gradient: torch.Tensor) : torch.Tensor list =
        if gradient.dtype = torch.float32 then
            [ gradient.norm () ]
        else
            [
                for start, count in ranges gradient do
                    use _ = torch.NewDisposeScope()
                    gradient.narrow(0L, start, count).``to``(torch.float32).norm().MoveToOuterDisposeScope()
            ]

    /// The global norm of the gradient of what moves, a scalar fp32 tensor.
    let gradientNorm (state: OptimizerState) : torch.Tensor =
        match state.Pieces |> List.collect (fun (_, _, gradient, _, _) -> norms gradient) with
        | [] -> state.Steps.squeeze().mul(Scalars.Of(0.0))
        | [ norm ] -> norm
        | norms -> torch.stack(List.toArray norms).norm()

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

    /// Clips, checks and updates; returns the gradient's norm before clipping (a scalar tensor that the caller owns). Where the norm
    /// is not finite nothing changes and `Skipped` counts up. No value is read back to the host. `lap` is told of its
    /// parts.
    let updateBy
        (lap: Phase -> unit)
        (config: OptimizerConfig)
        (learningRate: float)
        (store: ParameterStore)
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
            for _, _, gradient, _, _ in state.Pieces do
                scale |> Option.iter (fun scale -> gradient.mul_ scale |> ignore)

            lap Phase.Clip

            for decays, pieces in state.Pieces |> List.groupBy (fun (segment, _, _, _, _) -> segment.Decays) do
                pieces
                |> List.map (fun (_, weights, gradient, first, second) -> weights, gradient, first, second)
                |> adamW config learningRate state skip decays
        else
            lap Phase.Clip

            for segment, weights, gradient, first, second in state.Pieces do
                for start, count in ranges gradient do
                    use scope = torch.NewDisposeScope()
                    let part (flat: torch.Tensor) = flat.narrow (0L, start, count)
                    let wide = (part gradient).``to`` torch.float32
                    scale |> Option.iter (fun scale -> wide.mul_ scale |> ignore)
                    adamW config learningRate state skip segment.Decays [ part weights, wide, part first, part second ]

        state.Steps.sub_ skip |> ignore
        state.Skipped.plus_ skip |> ignore
        lap Phase.Optimizer
        store.Refresh()
        lap Phase.Cast
        norm.MoveToOuterDisposeScope()

    /// `updateBy` with nobody told.
    let update (config: OptimizerConfig) (learningRate: float) (store: ParameterStore) (state: OptimizerState) : torch.Tensor =
        updateBy ignore config learningRate store state
