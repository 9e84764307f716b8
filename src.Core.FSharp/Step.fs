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

/// Moments of every moving parameter, flat and packed in the order of the store's segments; owns its tensors.
[<Sealed>]
type OptimizerState(store: ParameterStore) =
    let length = store.Segments |> List.sumBy _.Length

    let flat () = torch.zeros([| length |], dtype = torch.float32, device = store.Device).DetachFromDisposeScope()

    let first, second = flat (), flat ()

    let steps = torch.zeros([| 1L |], dtype = torch.float32, device = store.Device).DetachFromDisposeScope()

    let skipped = torch.zeros([| 1L |], dtype = torch.float32, device = store.Device).DetachFromDisposeScope()

    // fp32 gradients: the store's own in fp32; a second buffer in bf16, where it also adds up micro-batches.
    let gradient =
        if store.Precision = Fp32 then
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

    /// First moments, flat.
    member _.First = first

    /// Second moments, flat.
    member _.Second = second

    /// Updates made, an fp32 scalar as AdamW's kernel wants it.
    member _.Steps = steps

    /// Updates left out because the gradient was not finite.
    member _.Skipped = skipped

    /// fp32 gradient of the range [FirstMoving, Length).
    member _.Gradient = gradient

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

    /// Sets all gradients to zero.
    let zero (store: ParameterStore) (state: OptimizerState) : unit =
        store.Gradient.zero_ () |> ignore

        if store.Precision = Bf16 then
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

        if not own || store.Precision = Bf16 then
            use _ = torch.no_grad ()
            state.Gradient.plus_ gradient |> ignore
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

    /// The global norm of the gradient of what moves, a scalar fp32 tensor.
    let gradientNorm (state: OptimizerState) : torch.Tensor =
        match state.Pieces with
        | [] -> state.Steps.squeeze().mul(Scalars.Of(0.0))
        | [ _, _, gradient, _, _ ] -> gradient.norm ()
        | pieces -> torch.stack([| for _, _, gradient, _, _ in pieces -> gradient.norm () |]).norm()

    /// Clips, checks and updates; returns the gradient's norm before clipping (a scalar tensor that the caller owns). Where the norm
    /// is not finite nothing changes and `Skipped` counts up. No value is read back to the host.
    let update (config: OptimizerConfig) (learningRate: float) (store: ParameterStore) (state: OptimizerState) : torch.Tensor =
        use _ = torch.no_grad ()
        use scope = torch.NewDisposeScope()
        let norm = gradientNorm state
        let skip = norm.isfinite().logical_not().``to``(torch.float32).reshape(1L)

        match config.ClipNorm with
        | Some limit ->
            let scale = norm.plus(1e-6).reciprocal().mul(Scalars.Of(limit)).clamp_max(Scalars.Of(1.0))

            for _, _, gradient, _, _ in state.Pieces do
                gradient.mul_ scale |> ignore
        | None -> ()

        state.Steps.plus_ 1.0 |> ignore

        for decays, pieces in state.Pieces |> List.groupBy (fun (segment, _, _, _, _) -> segment.Decays) do
            let column f = pieces |> List.map f

            Dispatcher.fusedAdamW
                (column (fun (_, weights, _, _, _) -> weights))
                (column (fun (_, _, gradient, _, _) -> gradient))
                (column (fun (_, _, _, first, _) -> first))
                (column (fun (_, _, _, _, second) -> second))
                (column (fun _ -> state.Steps.squeeze ()))
                learningRate
                config.Betas
                (if decays then config.WeightDecay else 0.0)
                config.Epsilon
                skip

        state.Steps.sub_ skip |> ignore
        state.Skipped.plus_ skip |> ignore
        store.Refresh()
        norm.MoveToOuterDisposeScope()
