namespace Hybrid

/// A part of a training step, for saying where its time goes. What watches a step is told of each part when it is over, on the thread
/// that did it.
[<RequireQualifiedAccess>]
type Phase =
    /// Nothing was done yet
    | Begin
    /// Rows of the table, learned positions and their norm
    | Embedding
    /// Norm, projections and attention of a block
    | Attention
    /// Norm and feed-forward layer of a block
    | FeedForward
    /// A whole block that is computed again in the backward pass
    | Block
    /// The final norm, head and loss, with their gradient
    | HeadAndLoss
    /// Gradients of what no other part names
    | Backward
    /// Gradients set to zero, and those of micro-batches added up
    | Gradients
    /// The gradient's norm, and its clipping
    | Clip
    /// Moments and master weights
    | Optimizer
    /// The computing copy of the weights
    | Cast

/// The names of the parts, for reports.
module Phase =

    /// Names for reports.
    let name (phase: Phase) : string =
        match phase with
        | Phase.Begin -> "begin"
        | Phase.Embedding -> "embedding"
        | Phase.Attention -> "attention"
        | Phase.FeedForward -> "feed_forward"
        | Phase.Block -> "blocks"
        | Phase.HeadAndLoss -> "head_and_loss"
        | Phase.Backward -> "backward"
        | Phase.Gradients -> "gradients"
        | Phase.Clip -> "clip"
        | Phase.Optimizer -> "optimizer"
        | Phase.Cast -> "cast"
