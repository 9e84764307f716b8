/// Head and cross-entropy together, over some targets at a time: the gradient is formed where the logits are, and the logits of all
/// targets never exist at once.
module Hybrid.HeadLoss

open System
open System.Collections.Generic
open TorchSharp

/// What the objective asks of each target: weights [N] fp32 of −log p (0 where ignored), and of (log Σ exp)².
[<NoEquality; NoComparison>]
type internal HeadPlan =
    {
        /// Rows of the table that have a logit
        Rows: int64
        /// [N] int64, in range everywhere
        Targets: torch.Tensor
        /// [N] fp32
        Weights: torch.Tensor
        /// [N] fp32, or none
        NormaliserWeights: torch.Tensor option
        /// Filled by the function: −log p of each target, [N] fp32, detached
        CrossEntropy: torch.Tensor
    }

// A sixteenth of the targets keeps the logits' memory small. Fewer rows than 64, or than make half a million logits, cost more in calls
// than they save.
let internal rowsAtOnce (targets: int64) (rows: int64) : int64 = max ((targets + 15L) / 16L) (max 64L ((1L <<< 19) / max 1L rows))

/// The objective's sum over targets from hidden states [N, D] and the head's table [R, D].
type internal HeadFunction() =
    inherit torch.autograd.SingleTensorFunction<HeadFunction>()

    override _.Name = nameof HeadFunction

    override _.forward(ctx: torch.autograd.AutogradContext, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let hidden, whole, plan = arguments[0] :?> torch.Tensor, arguments[1] :?> torch.Tensor, arguments[2] :?> HeadPlan
        let table = whole.narrow (0L, 0L, plan.Rows)
        let n = hidden.shape[0]
        let hiddenGradient = torch.empty_like hidden
        let tableGradient = torch.zeros_like whole
        let target = tableGradient.narrow (0L, 0L, plan.Rows)
        let sum = torch.zeros (Array.empty<int64>, dtype = torch.float32, device = hidden.device)
        let step = rowsAtOnce n plan.Rows

        for first in 0L .. step .. n - 1L do
            use scope = torch.NewDisposeScope()
            let count = min step (n - first)
            let some (x: torch.Tensor) = x.narrow (0L, first, count)
            let h, weights = some hidden, (some plan.Weights).unsqueeze 1L
            let ids = (some plan.Targets).unsqueeze 1L
            let logits = torch.nn.functional.linear(h, table).``to`` torch.float32
            let logP = torch.nn.functional.log_softmax (logits, -1L)
            let crossEntropy = logP.gather(1L, ids).neg_()
            let weighted = crossEntropy.mul weights
            let mutable slope = weights

            match plan.NormaliserWeights with
            | Some z ->
                // log Σ exp = −log p + the target's logit; d (log Σ exp)² = 2 log Σ exp · softmax.
                let z = (some z).unsqueeze 1L
                let normaliser = crossEntropy.plus (logits.gather (1L, ids))
                weighted.plus_ (normaliser.square().mul_ z) |> ignore
                slope <- weights.plus (normaliser.mul_(z).mul_(Scalars.Of 2.0))
            | None -> ()

            sum.plus_ (weighted.sum ()) |> ignore
            (some plan.CrossEntropy).copy_(crossEntropy.squeeze 1L) |> ignore
            let gradient = logP.exp_().mul_(slope).scatter_add_(1L, ids, weights.neg ()).``to`` hidden.dtype
            (some hiddenGradient).copy_(gradient.mm table) |> ignore
            target.addmm_ (gradient.t (), h) |> ignore

        Fused.save ctx [ hiddenGradient; tableGradient ]
        sum.MoveToOuterDisposeScope()

    override _.backward(ctx: torch.autograd.AutogradContext, outer: torch.Tensor) : List<torch.Tensor> =
        use scope = torch.NewDisposeScope()
        use _ = outer
        let saved = ctx.get_saved_variables ()

        // Formed for a slope of 1; what comes from above is one factor. Nothing else uses the saved tensors.
        let scaled = [ for tensor in saved -> tensor.mul(outer.``to`` tensor.dtype).DetachFromDisposeScope() ]
        Fused.Returned.Keep(scaled, 1)

/// The weight of −log p for each kind and of the squared normaliser; nothing where a term is neither.
let private linear (objective: Objective) : (float32[] * float) option =
    let kinds = Array.zeroCreate<float32> 4
    let mutable normaliser = 0.0

    let known =
        objective.Terms
        |> List.forall (fun term ->
            match term.Measure with
            | CrossEntropyOf kind ->
                kinds[int kind] <- kinds[int kind] + float32 term.Weight
                true
            | SquaredNormaliser ->
                normaliser <- normaliser + term.Weight
                true
            | PerTarget _ -> false)

    if known then Some(kinds, normaliser) else None

/// An objective's value from hidden states after the final norm, x_BTD. Objectives made of cross-entropies and z-loss are computed
/// over some targets at a time; one with terms of its own from all logits. Errors: ShapeException.
let evaluate
    (objective: Objective)
    (config: ModelConfig)
    (vocabulary: Vocabulary)
    (weights: Weights)
    (batch: Batch)
    (x_BTD: torch.Tensor)
    : LossValue =
    match linear objective with
    | None -> x_BTD |> Decoder.head config weights vocabulary.Rows |> Loss.score vocabulary batch |> Loss.evaluate objective
    | Some(byKind, normaliser) ->
        use scope = torch.NewDisposeScope()
        let n = batch.Targets.numel ()
        let kinds = batch.Kinds.reshape n
        let perKind (values: float32[]) = (Host.floats [ 4L ] values).``to``(x_BTD.device).index_select(0L, kinds)

        let plan =
            {
                Rows = int64 vocabulary.Rows
                Targets = batch.Targets.reshape n
                Weights = perKind byKind
                NormaliserWeights =
                    if normaliser = 0.0 then
                        None
                    else
                        let z = float32 normaliser
                        Some(perKind [| z; z; z; 0.0f |])
                CrossEntropy = torch.zeros ([| n |], dtype = torch.float32, device = x_BTD.device)
            }

        let sum = HeadFunction.apply (x_BTD.reshape (n, -1L), Decoder.headTable config weights, plan)

        let parts =
            torch.stack
                [|
                    for kind in [ Kind.Text; Kind.Image; Kind.Structure ] ->
                        plan.CrossEntropy.mul(kinds.eq(Scalars.Of(int64 (int kind))).``to`` torch.float32).sum()
                |]

        { Objective = sum.MoveToOuterDisposeScope(); Parts = parts.MoveToOuterDisposeScope() }
