using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>The files of a run's checkpoint: weights, moments, the moving average where there is one, the description, the tokenizers.</summary>
internal static class TrainingSnapshot
{
    /// <summary>Takes a snapshot of a model and its trainer; whatever it held before is forgotten.</summary>
    public static void Take(Snapshot snapshot, Model model, Trainer trainer, Companions companions)
    {
        snapshot.Clear();
        string description = Descriptions.Write(model.Config, model.Vocabulary);
        torch.Tensor weights = snapshot.Copy("weights", model.Store.Master);
        snapshot.Add(Checkpoint.Weights, Parameters(model, (slot, shape) =>
        {
            using torch.Tensor part = weights.narrow(0, slot.Offset, slot.Spec.Count);
            return part.view(shape);
        }));
        snapshot.Add(Checkpoint.Optimizer, trainer.State);
        snapshot.Add(Checkpoint.Description, description);
        companions.AddTo(snapshot, "");
        if (trainer.Average is { } average)
        {
            // A folder that is a model itself, so that whatever takes a model takes this one.
            torch.Tensor flat = snapshot.Copy("average", average.Flat);
            snapshot.Add(Checkpoint.Average + Checkpoint.Weights, Parameters(model, (slot, _) => average.Parameter(slot.Spec.Name, weights, flat)));
            snapshot.Add(Checkpoint.Average + Checkpoint.Description, description);
            companions.AddTo(snapshot, Checkpoint.Average);
        }
    }

    private static IEnumerable<TensorSource> Parameters(Model model, Func<Slot, long[], torch.Tensor> values) => model.Store.Slots.Select(slot =>
    {
        long[] shape = [.. slot.Spec.Shape];
        return new TensorSource(slot.Spec.Name, torch.ScalarType.Float32, shape, () => values(slot, shape));
    });
}
