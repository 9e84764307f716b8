using Hybrid.Api;
using Hybrid.Runner.Distribution;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>The files of a run's checkpoint: weights, moments, the moving average where there is one, the description, the tokenizers.</summary>
internal static class TrainingSnapshot
{
    /// <summary>Takes a snapshot of a model and its trainer; whatever it held before is forgotten.</summary>
    public static void Take(Snapshot snapshot, Model model, Trainer trainer, Companions companions, ProcessGroup group)
    {
        using var scope = torch.NewDisposeScope();
        snapshot.Clear();
        if (trainer.StateIsSliced)
        {
            snapshot.Add(MomentShards.Name(group.Rank, group.Size), MomentShards.Of(trainer));
        }
        else if (group.Leads)
        {
            snapshot.Add(Checkpoint.Optimizer, trainer.State);
        }

        // What processes hold in slices all of them gather, and the first one writes.
        torch.Tensor weights = Whole(snapshot, "weights", trainer.StateIsSliced ? trainer.HostWeights() : null) ?? snapshot.Copy("weights", model.Store.Master);
        torch.Tensor? average = Whole(snapshot, "average", trainer.HostAverage());
        if (!group.Leads)
        {
            return;
        }

        string description = Descriptions.Write(model.Config, model.Vocabulary);
        snapshot.Add(Checkpoint.Weights, Parameters(model, weights));
        snapshot.Add(Checkpoint.Description, description);
        companions.AddTo(snapshot, "");
        if (average is not null)
        {
            // A folder that is a model itself, so that whatever takes a model takes this one.
            snapshot.Add(Checkpoint.Average + Checkpoint.Weights, Parameters(model, average));
            snapshot.Add(Checkpoint.Average + Checkpoint.Description, description);
            companions.AddTo(snapshot, Checkpoint.Average);
        }
    }

    private static torch.Tensor? Whole(Snapshot snapshot, string name, torch.Tensor? gathered)
    {
        using (gathered)
        {
            return gathered is null ? null : snapshot.Copy(name, gathered);
        }
    }

    private static IEnumerable<TensorSource> Parameters(Model model, torch.Tensor flat) => model.Store.Slots.Select(slot =>
    {
        long[] shape = [.. slot.Spec.Shape];
        return new TensorSource(slot.Spec.Name, torch.ScalarType.Float32, shape, () =>
        {
            using torch.Tensor part = flat.narrow(0, slot.Offset, slot.Spec.Count);
            return part.view(shape);
        });
    });
}
