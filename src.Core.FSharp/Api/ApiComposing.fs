/// The C# door to composing: a description by its keys, a decoder by its parts, an objective by its terms, and training what was put
/// together.
namespace Hybrid.Api

open System
open System.Collections.Generic
open System.Runtime.CompilerServices
open TorchSharp
open Hybrid

/// Sums and multiples of tensors. TorchSharp's own `a + b` and `2 * a` make a number that the garbage collector may release while torch
/// still reads it; these do not.
[<Extension; AbstractClass; Sealed>]
type TensorArithmetic private () =

    /// a + b, broadcast.
    [<Extension>]
    static member Plus(a: torch.Tensor, b: torch.Tensor) : torch.Tensor = a.plus b

    /// a + value, element by element.
    [<Extension>]
    static member Plus(a: torch.Tensor, value: float) : torch.Tensor = a.plus value

    /// a · value, element by element.
    [<Extension>]
    static member Times(a: torch.Tensor, value: float) : torch.Tensor = a.mul (Scalars.Of value)

/// A description that is set key by key. `Config` is what it comes to.
[<Sealed>]
type ModelOptions
    /// The keys of a description, to be changed.
    (start: ModelConfig) =
    let mutable config = start

    /// open_lm's decoder: as wide as its heads together, a gated feed-forward layer of about 8/3 D, rotation, its own head.
    new(width: int, layers: int, heads: int, rows: int, positions: int) =
        ModelOptions(ModelConfig.openLm width layers heads rows positions)

    /// The description. What is set later does not change it.
    member _.Config: ModelConfig = config

    /// D, width of the residual stream.
    member _.Width
        with get (): int = config.Width
        and set (value: int) = config <- { config with Width = value }

    /// L, blocks.
    member _.Layers
        with get (): int = config.Layers
        and set (value: int) = config <- { config with Layers = value }

    /// H, query heads.
    member _.Heads
        with get (): int = config.Heads
        and set (value: int) = config <- { config with Heads = value }

    /// Key and value heads, which divides H.
    member _.KeyValueHeads
        with get (): int = config.KeyValueHeads
        and set (value: int) = config <- { config with KeyValueHeads = value }

    /// C, width of a head.
    member _.HeadWidth
        with get (): int = config.HeadWidth
        and set (value: int) = config <- { config with HeadWidth = value }

    /// F, width of the feed-forward layer.
    member _.FeedForwardWidth
        with get (): int = config.FeedForwardWidth
        and set (value: int) = config <- { config with FeedForwardWidth = value }

    /// Rows of the embedding table, and of the head.
    member _.Rows
        with get (): int = config.Rows
        and set (value: int) = config <- { config with Rows = value }

    /// Positions that the model is made for.
    member _.Positions
        with get (): int = config.Positions
        and set (value: int) = config <- { config with Positions = value }

    /// Of blocks and before the head: `Norm.RmsNorm` and the like.
    member _.Norm
        with get (): Norm = config.Norm
        and set (value: Norm) = config <- { config with Norm = value }

    /// ε within the root of every norm.
    member _.NormEpsilon
        with get (): float = config.NormEpsilon
        and set (value: float) = config <- { config with NormEpsilon = value }

    /// Norms on the whole of q and of k.
    member _.QkNorm
        with get (): bool = config.QkNorm
        and set (value: bool) = config <- { config with QkNorm = value }

    /// A norm on the embeddings.
    member _.PostEmbedNorm
        with get (): bool = config.PostEmbedNorm
        and set (value: bool) = config <- { config with PostEmbedNorm = value }

    /// How positions enter attention: `Position.Rotary` and the like.
    member _.Position
        with get (): Position = config.Position
        and set (value: Position) = config <- { config with Position = value }

    /// θ, from which the pairs' frequencies follow.
    member _.RotaryBase
        with get (): float = config.RotaryBase
        and set (value: float) = config <- { config with RotaryBase = value }

    /// R, the first dimensions of each head that rotate.
    member _.RotaryWidth
        with get (): int = config.RotaryWidth
        and set (value: int) = config <- { config with RotaryWidth = value }

    /// How rotation is slowed down: `RotaryScaling.NoScaling`, `RotaryScaling.NewLinearScaling(4)` and the like.
    member _.RotaryScaling
        with get (): RotaryScaling = config.RotaryScaling
        and set (value: RotaryScaling) = config <- { config with RotaryScaling = value }

    /// Positions that a query sees, its own included; 0: all before it.
    member _.Window
        with get (): int = config.Window
        and set (value: int) = config <- { config with Window = value }

    /// What stands in a block beside attention: `FeedForward.SwiGlu` and the like.
    member _.FeedForward
        with get (): FeedForward = config.FeedForward
        and set (value: FeedForward) = config <- { config with FeedForward = value }

    /// Attention and feed-forward layer read the same residual stream.
    member _.ParallelResidual
        with get (): bool = config.ParallelResidual
        and set (value: bool) = config <- { config with ParallelResidual = value }

    /// Biases of the projections to q, k and v.
    member _.QkvBias
        with get (): bool = config.QkvBias
        and set (value: bool) = config <- { config with QkvBias = value }

    /// Bias of attention's output projection.
    member _.OutBias
        with get (): bool = config.OutBias
        and set (value: bool) = config <- { config with OutBias = value }

    /// Biases of the feed-forward layer.
    member _.FeedForwardBias
        with get (): bool = config.FeedForwardBias
        and set (value: bool) = config <- { config with FeedForwardBias = value }

    /// The head is the embedding table.
    member _.Tied
        with get (): bool = config.Tied
        and set (value: bool) = config <- { config with Tied = value }

    /// Where the table was extended: its sizes before each extension, growing. The head multiplies these parts one by one.
    member _.ExtendedAt
        with get (): IReadOnlyList<int> = List.toArray config.ExtendedAt
        and set (value: IReadOnlyList<int>) = config <- { config with ExtendedAt = List.ofSeq value }

/// AdamW and clipping, set key by key. `Config` is what it comes to.
[<Sealed>]
type OptimizerOptions
    /// The keys of settings, to be changed.
    (start: OptimizerConfig) =

    /// What the study trains with: decays of 0.9 and 0.95, ε of 1e-8, weight decay of 0.1 on matrices, gradients clipped at 1.
    new() =
        OptimizerOptions
            {
                Betas = (0.9, 0.95)
                Epsilon = 1e-8
                WeightDecay = 0.1
                Decay = Parameters.Matrices
                ClipNorm = Some 1.0
            }

    /// Decay of the first moment, in [0, 1).
    member val Beta1 = fst start.Betas with get, set

    /// Decay of the second moment, in [0, 1).
    member val Beta2 = snd start.Betas with get, set

    /// Beside the root of the second moment.
    member val Epsilon = start.Epsilon with get, set

    /// Decoupled, times the learning rate.
    member val WeightDecay = start.WeightDecay with get, set

    /// Decay on every parameter, instead of on matrices only.
    member val DecayAll = (start.Decay = Parameters.All) with get, set

    /// Largest global gradient norm; 0: none.
    member val ClipNorm = Option.defaultValue 0.0 start.ClipNorm with get, set

    /// The settings as a trainer takes them.
    member o.Config: OptimizerConfig =
        {
            Betas = (o.Beta1, o.Beta2)
            Epsilon = o.Epsilon
            WeightDecay = o.WeightDecay
            Decay = if o.DecayAll then Parameters.All else Parameters.Matrices
            ClipNorm = if o.ClipNorm > 0.0 then Some o.ClipNorm else None
        }

/// The parts of a decoder as functions of tensors, to be put together in another way. They compute with the weights that they are given.
/// Dispose it to release its tables of rotation.
[<Sealed>]
type DecoderParts
    /// `weights` gives parameters by open_lm's names, `Model.Weights` or what `ComposedTrainer` hands over; sequences have `positions`
    /// positions.
    (config: ModelConfig, vocabulary: Vocabulary, weights: Func<string, torch.Tensor>, positions: int) =
    let weights: Weights = weights.Invoke
    let rotation = Decoder.rotation config weights 0L (int64 positions)

    /// Rows of the embedding table [B, T, D], with what the model adds to them, of tokens [B, T] int64.
    member _.Embed(tokens_BT: torch.Tensor) : torch.Tensor = Decoder.embed config weights tokens_BT

    /// Block `layer`, counted from 0: x + attention(norm x), then + feedForward(norm x), or both at once; [B, T, D].
    member _.Block(layer: int, x_BTD: torch.Tensor) : torch.Tensor = Decoder.block config weights rotation layer x_BTD

    /// The norm of a block that stands before its attention; [B, T, D].
    member _.AttentionNorm(layer: int, x_BTD: torch.Tensor) : torch.Tensor =
        Layers.norm config.Norm config.NormEpsilon weights $"layers.{layer}.attention_norm" x_BTD

    /// Causal attention of a block, without its norm and residual; [B, T, D].
    member _.Attention(layer: int, x_BTD: torch.Tensor) : torch.Tensor =
        Layers.attention config weights $"layers.{layer}.attention" rotation x_BTD

    /// The norm of a block that stands before its feed-forward layer; [B, T, D].
    member _.FeedForwardNorm(layer: int, x_BTD: torch.Tensor) : torch.Tensor =
        Layers.norm config.Norm config.NormEpsilon weights $"layers.{layer}.ffn_norm" x_BTD

    /// The feed-forward layer of a block, without its norm and residual; [B, T, D].
    member _.FeedForward(layer: int, x_BTD: torch.Tensor) : torch.Tensor =
        Layers.feedForward config weights $"layers.{layer}" x_BTD

    /// The norm before the head; [B, T, D].
    member _.FinalNorm(x_BTD: torch.Tensor) : torch.Tensor = Decoder.finalNorm config weights x_BTD

    /// Logits [B, T, V] of the rows that have an id.
    member _.Head(x_BTD: torch.Tensor) : torch.Tensor = Decoder.head config weights vocabulary.Rows x_BTD

    /// Logits [B, T, V] of tokens [B, T] int64, with another block in every layer: `block` is given the layer, counted from 0, and
    /// x [B, T, D]. Of all tensors only the logits are left; the caller owns them.
    member parts.Logits(tokens_BT: torch.Tensor, block: Func<int, torch.Tensor, torch.Tensor>) : torch.Tensor =
        use _ = torch.NewDisposeScope()
        let mutable x = parts.Embed tokens_BT

        for layer in 0 .. config.Layers - 1 do
            x <- block.Invoke(layer, x)

        (parts.FinalNorm x |> parts.Head).MoveToOuterDisposeScope()

    /// `Logits` with the model's own blocks: bit for bit those of `Model.Logits`.
    member parts.Logits(tokens_BT: torch.Tensor) : torch.Tensor = parts.Logits(tokens_BT, (fun layer x -> parts.Block(layer, x)))

    interface IDisposable with
        member _.Dispose() =
            match rotation with
            | Some tables ->
                tables.Cosine.Dispose()
                tables.Sine.Dispose()
            | None -> ()

/// A term of an objective, for a person.
[<Struct>]
type ObjectiveTerm =
    {
        /// text, image, structure, z, or the name of one's own
        Name: string
        /// By which its values are multiplied
        Weight: float
    }

/// Objectives: terms that add (`a + b`), each a value for every target.
[<AbstractClass; Sealed>]
type Losses private () =

    /// Cross-entropy of text targets, in nats.
    static member Text: Objective = Loss.text

    /// Cross-entropy of image targets, in nats.
    static member Image: Objective = Loss.image

    /// Cross-entropy of the six marks, in nats.
    static member Structure: Objective = Loss.structure

    /// Text, image and structure together: the paper's loss.
    static member Total: Objective = Loss.total

    /// (log Σ exp logits)² of every target that is not ignored: keeps the normaliser near 1.
    static member SquaredNormaliser: Objective = Loss.zLoss

    /// A term of one's own: a value for each target, [N] fp32, 0 where a target is ignored.
    static member PerTarget(name: string, value: Func<Scored, torch.Tensor>) : Objective = Loss.perTarget name value.Invoke

    /// An objective with all its weights multiplied.
    static member Weighted(weight: float, objective: Objective) : Objective = Loss.weighted weight objective

    /// What an objective is made of, in the order in which it was added.
    static member Terms(objective: Objective) : IReadOnlyList<ObjectiveTerm> =
        [| for term in objective.Terms -> { Name = term.Name; Weight = term.Weight } |]

    /// A batch beside its logits [B, T, V], with the cross-entropy of every target. Errors: ShapeException.
    static member Score(vocabulary: Vocabulary, batch: Batch, logits_BTV: torch.Tensor) : Scored =
        Loss.score vocabulary batch logits_BTV

    /// The sum of an objective over the targets of a batch, and the cross-entropy sums of each kind, not yet divided.
    static member Evaluate(objective: Objective, scored: Scored) : LossValue = Loss.evaluate objective scored

/// Training of a model that was put together by oneself: its logits are a function of weights by name and of a batch. Gradients over
/// micro-batches and AdamW, in one process and on one thread, but for torch's own. Dispose it to release the moments.
[<Sealed>]
type ComposedTrainer
    /// `logits` gives [B, T, V] from the weights that it is given and the inputs of a batch; the model stays the caller's.
    (model: Model, optimizer: OptimizerConfig, objective: Objective, logits: Func<Func<string, torch.Tensor>, Batch, torch.Tensor>)
    =
    let store = model.Store
    let state = new OptimizerState(store)

    let loss (batch: Batch) (weights: Weights) : LossValue =
        use _ = torch.NewDisposeScope()

        let value =
            logits.Invoke(Func<_, _> weights, batch) |> Loss.score model.Vocabulary batch |> Loss.evaluate objective

        {
            Objective = value.Objective.MoveToOuterDisposeScope()
            Parts = value.Parts.MoveToOuterDisposeScope()
        }

    /// One step over micro-batches of sequences: gradients of all of them, then one update.
    member _.Step(microBatches: IReadOnlyList<Batch>, learningRate: float) : StepResult =
        use _ = torch.NewDisposeScope()
        let counts = [| for kind in 0..2 -> microBatches |> Seq.sumBy (fun batch -> batch.Counts[kind]) |]
        Step.zero store state
        let parts = [| for batch in microBatches -> Step.accumulate store state (Array.sum counts) (loss batch) |]
        let norm = Step.update optimizer learningRate store state
        new StepResult(torch.stack(parts).sum(0L).MoveToOuterDisposeScope(), norm.MoveToOuterDisposeScope(), counts)

    interface IDisposable with
        member _.Dispose() = (state :> IDisposable).Dispose()
