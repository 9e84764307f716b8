/// A moving average of a model's weights, flat over what moves.
namespace Hybrid

open System
open TorchSharp

/// The exponential moving average of the weights that move, fp32, packed like the moments. It begins as the weights are; after each update
/// that was made, average ← decay · average + (1 − decay) · weights. It owns its tensors; dispose it to release them.
[<Sealed>]
type MovingAverage(store: ParameterStore, decay: float) =
    let starts = store.Segments |> List.scan (fun at segment -> at + segment.Length) 0L

    let flat =
        torch.zeros([| List.last starts |], dtype = torch.float32, device = store.Device).DetachFromDisposeScope()

    let pieces =
        [
            for segment, at in List.zip store.Segments starts[.. store.Segments.Length - 1] ->
                store.Master.narrow(0, segment.Start, segment.Length).DetachFromDisposeScope(),
                flat.narrow(0, at, segment.Length).DetachFromDisposeScope()
        ]

    // Where a parameter and the average meet: within the parameter, within the average, and how many elements.
    let meetings (slot: Slot) =
        [
            for segment, at in List.zip store.Segments starts[.. store.Segments.Length - 1] do
                let first = max slot.Offset segment.Start
                let last = min (slot.Offset + slot.Spec.Count) (segment.Start + segment.Length)

                if first < last then
                    first - slot.Offset, at + first - segment.Start, last - first
        ]

    let slotOf (name: string) = store.Slots |> List.find (fun slot -> slot.Spec.Name = name)

    do
        use _ = torch.no_grad ()

        for weights, average in pieces do
            average.copy_ weights |> ignore

    member _.Decay = decay

    /// The average, flat over what moves.
    member _.Flat = flat

    /// Takes the weights in. `norm` is what the update gave (a scalar tensor): where it is not finite no update was made, and the
    /// average stays as it is. Nothing is read back to the host.
    member _.Update(norm: torch.Tensor) : unit =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let share = norm.isfinite().``to``(torch.float32).mul(Scalars.Of(1.0 - decay))

        for weights, average in pieces do
            average.lerp_ (weights, share) |> ignore

    /// A parameter's average from copies of the flat weights and of the flat average (on one device): what does not move is as the weights
    /// have it. The caller owns it.
    member _.Parameter(name: string, master: torch.Tensor, average: torch.Tensor) : torch.Tensor =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let slot = slotOf name
        let values = master.narrow(0, slot.Offset, slot.Spec.Count).clone()

        for within, at, count in meetings slot do
            values.narrow(0, within, count).copy_(average.narrow (0, at, count)) |> ignore

        values.view(List.toArray slot.Spec.Shape).MoveToOuterDisposeScope()

    /// Puts a parameter's average back, given in the parameter's shape and fp32, on any device.
    member _.Set(name: string, values: torch.Tensor) : unit =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let slot = slotOf name
        Shape.require name slot.Spec.Shape values
        let whole = values.reshape [| -1L |]

        for within, at, count in meetings slot do
            flat.narrow(0, at, count).copy_(whole.narrow (0, within, count)) |> ignore

    interface IDisposable with
        member _.Dispose() =
            for weights, average in pieces do
                weights.Dispose()
                average.Dispose()

            flat.Dispose()
