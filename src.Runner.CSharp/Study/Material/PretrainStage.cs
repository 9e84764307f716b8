using System.Diagnostics;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>Pre-trains the language model on World's text, which never repeats.</summary>
internal static class PretrainStage
{
    private const int ReadEvery = 20;

    public static Model Train(
        Plan plan, ModelConfig config, WorldProbes probes, bool halfPrecision, Stage progress, CancellationToken stop, out PretrainResult result)
    {
        long began = Stopwatch.GetTimestamp();
        Budget budget = plan.Pretraining;
        Schedule schedule = Hybrid.Study.schedule(budget);
        Model model = Model.Random(
            config, VocabularyModule.plainText(config.Rows), new Layout { HalfPrecision = halfPrecision, Device = TorchLibrary.Device }, plan.Seed);
        using var trainer = new Trainer(model, Trainer.Optimizer(0.9, 0.95, 1e-8, 0.1, 1.0), Trainer.Objective(1, 0, 0, 0), new Training { Team = TorchLibrary.TeamFor(budget.Batch) });
        using IEnumerator<long[]> rows =
            Corpus.Rows(Split.Train, plan.TextPositions, WorldMaterial.DataSeed).GetEnumerator();
        var curve = new double[budget.Steps];
        var pending = new List<StepResult>();
        for (int step = 0; step < budget.Steps; step++)
        {
            stop.ThrowIfCancellationRequested();
            var sequences = new long[budget.Batch][];
            for (int i = 0; i < sequences.Length; i++)
            {
                rows.MoveNext();
                sequences[i] = rows.Current;
            }

            Batch[] batches = trainer.Batches(sequences);
            pending.Add(trainer.Step(batches, Compose.LearningRate(schedule, step)));
            BatchFeed.Release(batches);
            if (pending.Count == ReadEvery || step + 1 == budget.Steps)
            {
                for (int i = 0; i < pending.Count; i++)
                {
                    using StepResult read = pending[i];
                    using torch.Tensor parts = read.Parts.cpu();
                    curve[step + 1 - pending.Count + i] = parts.data<float>()[0] / read.Counts[0];
                }

                pending.Clear();
                progress.Report(step + 1, new Metrics
                {
                    Loss = curve[step],
                    Tokens = (long)(step + 1) * budget.Batch * (plan.TextPositions - 1),
                });
            }
        }

        result = new PretrainResult(curve, probes.TextLoss(model), Stopwatch.GetElapsedTime(began).TotalSeconds);
        return model;
    }
}
