/// A moving average of a model's weights, flat over what moves.
namespace Hybrid

open System
open TorchSharp

/// The exponential moving average of the weights that move, fp32, packed like the moments (with those of this process's slices alone where
/// processes share them). It begins as the weights are; after each update that was made, average ← decay · average + (1 − decay) ·
/// weights. It owns its tensors; dispose it to release them.
[<Sealed>]
type MovingAverage
    /// Begins as the weights are; `decay` is in [0, 1).
    (state: OptimizerState, decay: float) =
    let flat = state.First.clone().DetachFromDisposeScope()

    let pieces =
        [
            for piece, at in Flat.packed (fun (piece: Piece) -> piece.Segment.Length) state.Pieces ->
                piece, flat.narrow(0, at, piece.Segment.Length).DetachFromDisposeScope()
        ]

    do
        use _ = torch.no_grad ()

        for piece, average in pieces do
            average.copy_ piece.Weights |> ignore

    /// The average, flat and packed.
    member _.Flat = flat

    /// The average of a piece.
    member _.Of(piece: Piece) : torch.Tensor = pieces |> List.find (fun (own, _) -> own.Place = piece.Place) |> snd

    /// Takes the weights in. `norm` is what the update gave (a scalar tensor): where it is not finite no update was made, and the
    /// average stays as it is. Nothing is read back to the host.
    member _.Update(norm: torch.Tensor) : unit =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let share = norm.isfinite().``to``(torch.float32).mul(Scalars.Of(1.0 - decay))

        for piece, average in pieces do
            average.lerp_ (piece.Weights, share) |> ignore

    interface IDisposable with
        member _.Dispose() =
            for _, average in pieces do
                average.Dispose()

            flat.Dispose()
