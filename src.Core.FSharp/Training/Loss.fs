/// The loss, split by kind of token. Everything is a sum over targets beside a count: parts add over micro-batches and processes
/// and are divided once, by the global count; no mean of means exists.
namespace Hybrid

open System
open TorchSharp

/// A batch with its logits, flat over its N targets.
[<NoEquality; NoComparison>]
type Scored =
    {
        /// Which ids are of which kind
        Vocabulary: Vocabulary
        /// [N, V] fp32
        Logits: torch.Tensor
        /// [N] int64
        Targets: torch.Tensor
        /// [N] int64, a `Kind` each
        Kinds: torch.Tensor
        /// −log p of each target over the whole vocabulary, [N] fp32; 0 where ignored
        CrossEntropy: torch.Tensor
    }

/// What a term measures: a value for each target, 0 where it does not apply.
[<NoEquality; NoComparison>]
type Measure =
    /// −log p of the targets of one kind
    | CrossEntropyOf of Kind
    /// (log Σ exp logits)² of every target that is not ignored
    | SquaredNormaliser
    /// Any other value, [N] fp32; it needs the logits of all targets at once
    | PerTarget of (Scored -> torch.Tensor)

/// A term of an objective.
[<NoEquality; NoComparison>]
type Term =
    {
        /// For reports
        Name: string
        /// By which its values are multiplied
        Weight: float
        /// A value for each target
        Measure: Measure
    }

/// What training minimises: terms that add. The sum over all targets is divided by the global count of targets that are not
/// ignored, whatever the terms.
[<NoEquality; NoComparison>]
type Objective =
    {
        /// In the order in which they were added
        Terms: Term list
    }

    /// The terms of `a`, then those of `b`.
    static member (+)(a: Objective, b: Objective) = { Terms = a.Terms @ b.Terms }

/// The value of a batch: sums, not yet divided.
[<NoEquality; NoComparison>]
type LossValue =
    {
        /// The objective's sum, differentiable, a scalar
        Objective: torch.Tensor
        /// Cross-entropy sums of text, image and structure targets, [3] fp32, detached; their sum is the total
        Parts: torch.Tensor
    }

/// Terms of objectives, and what they come to on a batch.
module Loss =

    let private masked (kind: Kind) (scored: Scored) (values_N: torch.Tensor) =
        values_N.mul (scored.Kinds.eq(Scalars.Of(int64 (int kind))).``to`` values_N.dtype)

    let private term (name: string) (measure: Measure) : Objective =
        { Terms = [ { Name = name; Weight = 1.0; Measure = measure } ] }

    /// A term of one's own: a value for each target, [N] fp32, 0 where a target is ignored.
    let perTarget (name: string) (value: Scored -> torch.Tensor) : Objective = term name (PerTarget value)

    /// The cross-entropy of one kind of target.
    let ofKind (kind: Kind) : Objective = term ((string kind).ToLowerInvariant()) (CrossEntropyOf kind)

    /// Cross-entropy of text targets.
    let text: Objective = ofKind Kind.Text

    /// Cross-entropy of image targets.
    let image: Objective = ofKind Kind.Image

    /// Cross-entropy of the six marks.
    let structure: Objective = ofKind Kind.Structure

    /// text + image + structure: the paper's loss.
    let total: Objective = text + image + structure

    /// (log Σ exp logits)² of every target that is not ignored: keeps the normaliser near 1.
    let zLoss: Objective = term "z" SquaredNormaliser

    let private valuesOf (measure: Measure) (scored: Scored) : torch.Tensor =
        match measure with
        | CrossEntropyOf kind -> masked kind scored scored.CrossEntropy
        | SquaredNormaliser ->
            let z = scored.Logits.logsumexp(-1L).square()
            z.mul (scored.Kinds.ne(Scalars.Of(int64 (int Kind.Ignored))).``to`` z.dtype)
        | PerTarget value -> value scored

    /// An objective with all its weights multiplied.
    let weighted (weight: float) (objective: Objective) : Objective =
        { Terms = objective.Terms |> List.map (fun term -> { term with Weight = term.Weight * weight }) }

    /// Flattens a batch beside its logits_BTV ([N, V] where its rows are packed) and computes the cross-entropy of every target.
    /// Errors: ShapeException.
    let score (vocabulary: Vocabulary) (batch: Batch) (logits_BTV: torch.Tensor) : Scored =
        Shape.require "logits" [ yield! batch.Targets.shape; int64 vocabulary.Rows ] logits_BTV
        use scope = torch.NewDisposeScope()
        let own (tensor: torch.Tensor) = tensor.MoveToOuterDisposeScope()
        let n = batch.Targets.numel ()
        let logits = logits_BTV.reshape(n, int64 vocabulary.Rows).``to`` torch.float32
        let kinds = batch.Kinds.reshape n
        let targets = batch.Targets.reshape n

        let ignoring = targets.masked_fill (kinds.eq (Scalars.Of(int64 (int Kind.Ignored))), Scalars.Of(-100L))

        {
            Vocabulary = vocabulary
            Logits = own logits
            Targets = own targets
            Kinds = own kinds
            CrossEntropy =
                torch.nn.functional.cross_entropy (logits, ignoring, ignore_index = -100L, reduction = torch.nn.Reduction.None)
                |> own
        }

    /// Sums of values [N] over the text, image and structure targets: [3].
    let sumsByKind (scored: Scored) (values_N: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()

        let sums = [| for kind in Vocabulary.counted -> (masked kind scored values_N).sum() |]

        torch.stack(sums).MoveToOuterDisposeScope()

    /// Evaluates an objective on a scored batch.
    let evaluate (objective: Objective) (scored: Scored) : LossValue =
        use scope = torch.NewDisposeScope()

        let values =
            objective.Terms
            |> List.map (fun term ->
                let sum = (valuesOf term.Measure scored).sum()
                if term.Weight = 1.0 then sum else sum.mul (Scalars.Of(term.Weight)))

        let zero () = torch.zeros (Array.empty<int64>, device = scored.Logits.device)

        let objective = if values.IsEmpty then zero () else values |> List.reduce (fun a b -> a.plus b)

        let parts = sumsByKind scored (scored.CrossEntropy.detach ())

        { Objective = objective.MoveToOuterDisposeScope(); Parts = parts.MoveToOuterDisposeScope() }

    /// −log p of each target among the ids of its own kind only, [N]; 0 where ignored. The difference to the cross-entropy over
    /// the whole vocabulary is −log of the probability given to the right kind.
    let withinModality (scored: Scored) : torch.Tensor =
        use scope = torch.NewDisposeScope()

        let own (kind: Kind) =
            let struct (first, count) = Vocabulary.columns scored.Vocabulary kind

            if count = 0L then
                torch.zeros_like scored.CrossEntropy
            else
                let z = scored.Logits.narrow(1, first, count).logsumexp(-1L)
                let target = scored.Logits.gather(1L, scored.Targets.unsqueeze 1L).squeeze 1
                masked kind scored (z.sub target)

        let values = Vocabulary.counted |> List.map own
        (values |> List.reduce (fun a b -> a.plus b)).MoveToOuterDisposeScope()

    /// Cross-entropy sums by sequence and kind, [B, 3], of a batch of B sequences.
    let bySequence (batch: Batch) (scored: Scored) : torch.Tensor =
        use scope = torch.NewDisposeScope()

        let sums =
            [| for kind in Vocabulary.counted -> (Sequence.byRow batch (masked kind scored scored.CrossEntropy)).sum 1L |]

        torch.stack(sums, 1L).MoveToOuterDisposeScope()

    /// exp of a mean loss in nats.
    let perplexity (nats: float) : float = Math.Exp nats
