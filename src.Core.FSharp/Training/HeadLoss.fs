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
        /// Columns of the logits, at least `Rows`; those after them stand for nothing
        Columns: int64
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

/// The gradient of some targets' logits [n, R], which may take their memory; `some` picks these targets. Adds the objective to `sum`.
let private gradientOf
    (plan: HeadPlan)
    (some: torch.Tensor -> torch.Tensor)
    (logits: torch.Tensor)
    (sum: torch.Tensor)
    : torch.Tensor =
    let columns = logits.shape[1]

    if Kernels.takes logits && columns = plan.Rows then
        let value =
            Kernels.crossEntropy
                logits
                (some plan.Targets)
                (some plan.Weights)
                (Option.map some plan.NormaliserWeights)
                (some plan.CrossEntropy)

        sum.plus_ value |> ignore
        logits
    else
        let weights, ids = (some plan.Weights).unsqueeze 1L, (some plan.Targets).unsqueeze 1L
        let wide = logits.``to`` torch.float32

        if columns > plan.Rows then
            wide.narrow(1L, plan.Rows, columns - plan.Rows).fill_(Scalars.Of(-infinity)) |> ignore

        let logP = torch.nn.functional.log_softmax (wide, -1L)
        let crossEntropy = logP.gather(1L, ids).neg_()
        let weighted = crossEntropy.mul weights
        let mutable slope = weights

        match plan.NormaliserWeights with
        | Some z ->
            // log Σ exp = −log p + the target's logit; d (log Σ exp)² = 2 log Σ exp · softmax.
            let z = (some z).unsqueeze 1L
            let normaliser = crossEntropy.plus (wide.gather (1L, ids))
            weighted.plus_ (normaliser.square().mul_ z) |> ignore
            slope <- weights.plus (normaliser.mul_(z).mul_(Scalars.Of 2.0))
        | None -> ()

        sum.plus_ (weighted.sum ()) |> ignore
        (some plan.CrossEntropy).copy_(crossEntropy.squeeze 1L) |> ignore
        logP.exp_().mul_(slope).scatter_add_(1L, ids, weights.neg ()).``to`` logits.dtype

/// The first `columns` rows of a table, zeros where it has fewer.
let private lengthened (columns: int64) (table: torch.Tensor) : torch.Tensor =
    let missing = columns - table.shape[0]

    if missing <= 0L then
        table.narrow (0L, 0L, columns)
    else
        torch.cat ([| table; table.new_zeros ([| missing; table.shape[1] |]) |], 0L)

/// The objective's sum over targets from hidden states [N, D] and the head's table [R, D].
type internal HeadFunction() =
    inherit torch.autograd.SingleTensorFunction<HeadFunction>()

    override _.Name = nameof HeadFunction

    override _.forward(ctx: torch.autograd.AutogradContext, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let hidden, whole, plan = arguments[0] :?> torch.Tensor, arguments[1] :?> torch.Tensor, arguments[2] :?> HeadPlan
        let columns = plan.Columns
        let table = lengthened columns whole
        let n = hidden.shape[0]
        let hiddenGradient = torch.empty_like hidden
        let tableGradient = whole.new_zeros [| max columns whole.shape[0]; whole.shape[1] |]
        let target = tableGradient.narrow (0L, 0L, columns)
        let sum = torch.zeros (Array.empty<int64>, dtype = torch.float32, device = hidden.device)
        let step = rowsAtOnce n plan.Rows

        for first in 0L .. step .. n - 1L do
            use scope = torch.NewDisposeScope()
            let some (x: torch.Tensor) = x.narrow (0L, first, min step (n - first))
            let h = some hidden
            let gradient = gradientOf plan some (torch.nn.functional.linear (h, table)) sum
            (some hiddenGradient).copy_(gradient.mm table) |> ignore
            target.addmm_ (gradient.t (), h) |> ignore

        Fused.save ctx [ hiddenGradient; tableGradient.narrow (0L, 0L, whole.shape[0]) ]
        sum.MoveToOuterDisposeScope()

    override _.backward(ctx: torch.autograd.AutogradContext, outer: torch.Tensor) : List<torch.Tensor> =
        Fused.Returned.Of(
            outer,
            2,
            1,
            fun () ->
                // Formed for a slope of 1; what comes from above is one factor.
                [ for tensor in ctx.get_saved_variables () -> tensor.mul (outer.``to`` tensor.dtype) ]
        )

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

/// `evaluate` with the number of the logits' columns rounded up to a multiple of `border`, which changes no value beyond rounding.
let evaluateWithin
    (border: int64)
    (objective: Objective)
    (config: ModelConfig)
    (vocabulary: Vocabulary)
    (weights: Weights)
    (batch: Batch)
    (x: torch.Tensor)
    : LossValue =
    match (if Derivative.Composed then None else linear objective) with
    | None ->
        use scope = torch.NewDisposeScope()

        let value =
            x |> Decoder.head config weights vocabulary.Rows |> Loss.score vocabulary batch |> Loss.evaluate objective

        {
            Objective = value.Objective.MoveToOuterDisposeScope()
            Parts = value.Parts.MoveToOuterDisposeScope()
        }
    | Some(byKind, normaliser) ->
        use scope = torch.NewDisposeScope()
        let n = batch.Targets.numel ()
        let kinds = batch.Kinds.reshape n
        let perKind (values: float32[]) = (Host.floats [ 4L ] values |> Host.onto x.device).index_select(0L, kinds)

        let plan =
            {
                Rows = int64 vocabulary.Rows
                Columns = (int64 vocabulary.Rows + border - 1L) / border * border
                Targets = batch.Targets.reshape n
                Weights = perKind byKind
                NormaliserWeights =
                    if normaliser = 0.0 then
                        None
                    else
                        let z = float32 normaliser
                        Some(perKind [| z; z; z; 0.0f |])
                CrossEntropy = torch.zeros ([| n |], dtype = torch.float32, device = x.device)
            }

        let sum = HeadFunction.apply (x.reshape (n, -1L), Decoder.headTable config weights, plan)

        let parts =
            torch.stack
                [|
                    for kind in Vocabulary.counted ->
                        plan.CrossEntropy.mul(kinds.eq(Scalars.Of(int64 (int kind))).``to`` torch.float32).sum()
                |]

        { Objective = sum.MoveToOuterDisposeScope(); Parts = parts.MoveToOuterDisposeScope() }

/// An objective's value from hidden states after the final norm, x_BTD or those of packed rows, x_ND. Objectives made of
/// cross-entropies and z-loss are computed over some targets at a time; one with terms of its own from all logits. Errors:
/// ShapeException.
let evaluate
    (objective: Objective)
    (config: ModelConfig)
    (vocabulary: Vocabulary)
    (weights: Weights)
    (batch: Batch)
    (x: torch.Tensor)
    : LossValue =
    // The matrix units of a GPU want rows that start at multiples of 16 bytes, and tables seldom have such a number of rows.
    let border = if x.device_type = DeviceType.CUDA then 64L else 1L
    evaluateWithin border objective config vocabulary weights batch x
