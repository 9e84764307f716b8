using System.Diagnostics;
using Hybrid.Api;
using Hybrid.Runner.Distribution;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// The steps of a run. What a step measures stays on the device until several are read together, so that no step waits for the
/// host.
/// </summary>
/// <param name="trainer">Takes the steps.</param>
/// <param name="plan">The schedule, the order, the size of steps.</param>
/// <param name="source">Where sequences come from.</param>
/// <param name="passedOver">Sequences that the run left out before these steps.</param>
/// <param name="group">The processes that share each step; null for one alone.</param>
internal sealed class TrainingLoop(Trainer trainer, TrainPlan plan, ISequenceSource source, long passedOver = 0, ProcessGroup? group = null)
{
    private const int LargestSkippedRow = 20, MostPending = 64;
    private static readonly TimeSpan readingInterval = TimeSpan.FromMilliseconds(500);

    private readonly List<(int Step, double Rate, StepResult Result)> pending = [];
    private int skippedInARow;

    /// <summary>What each step measured, in order, some steps late.</summary>
    public Action<StepMetrics> Measured { get; init; } = _ => { };

    /// <summary>Whether a checkpoint is due after some steps beside those that the plan names; asked at each.</summary>
    public Func<int, bool> CheckpointWanted { get; init; } = _ => false;

    /// <summary>Is given what the steps saw whose gradients were not finite, before the run ends because of them.</summary>
    public Action<NotFiniteSteps> NotFinite { get; init; } = _ => { };

    /// <summary>Called with the number of steps done when a checkpoint is due; everything before it has been measured.</summary>
    public Action<int> CheckpointDue { get; init; } = _ => { };

    /// <summary>Called with the steps that are done when nothing waits to be measured, now and then.</summary>
    public Action<int> Between { get; init; } = _ => { };

    /// <summary>The share of the device's matrix peak that so many tokens a second are, where it is known.</summary>
    public Func<double, double?> Share { get; init; } = _ => null;

    /// <summary>The steps that are done.</summary>
    public int Done { get; private set; }

    /// <summary>
    /// Runs from a step to the plan's last, or until asked to stop, and returns whether it came to the end. Errors: InputException
    /// after 20 updates in a row without a finite gradient.
    /// </summary>
    public bool Run(int firstStep, CancellationToken stop)
    {
        int steps = plan.Config.Schedule.Steps;
        Done = firstStep;
        using BatchFeed feed = new(source, plan, trainer.Share(plan.Config.MicroBatch), trainer.Device, firstStep, steps, passedOver: passedOver, group: group);
        long clock = Stopwatch.GetTimestamp();
        try
        {
            bool stopping = Agreed(stop.IsCancellationRequested, false, false).Stop;
            while (Done < steps && !stopping)
            {
                group?.At(Done);
                Batch[] batches = feed.Next();
                double rate = Compose.LearningRate(plan.Config.Schedule, Done);
                try
                {
                    pending.Add((Done, rate, trainer.Step(batches, rate)));
                }
                finally
                {
                    BatchFeed.Release(batches);
                }

                Done++;
                (stopping, bool wanted, bool reading) = Agreed(
                    stop.IsCancellationRequested, CheckpointWanted(Done), Stopwatch.GetElapsedTime(clock) >= readingInterval);
                bool due = (wanted || Done % plan.Config.CheckpointEvery == 0) && Done < steps;
                if (due || pending.Count >= MostPending || reading)
                {
                    Read(ref clock);
                    Between(Done);
                    clock = Stopwatch.GetTimestamp();
                }

                if (due)
                {
                    CheckpointDue(Done);
                    // It takes its time: who asked to stop meanwhile does not wait for another step.
                    stopping = Agreed(stop.IsCancellationRequested, false, false).Stop;
                    clock = Stopwatch.GetTimestamp();
                }
            }

            Read(ref clock);
            return Done >= steps;
        }
        finally
        {
            foreach (var (_, _, result) in pending)
            {
                ((IDisposable)result).Dispose();
            }

            pending.Clear();
        }
    }

    /// <summary>Whether any process is asked to stop, and what rank 0 finds due by its clock: all do the same after the same step.</summary>
    private (bool Stop, bool Save, bool Read) Agreed(bool stop, bool save, bool read)
    {
        if (group is null or { Size: 1 })
        {
            return (stop, save, read);
        }

        double Flag(bool value) => value ? 1 : 0;
        double[] sums = group.Exchange.Sum([Flag(stop), Flag(save && group.Leads), Flag(read && group.Leads)]);
        return (sums[0] > 0, sums[1] > 0, sums[2] > 0);
    }

    private void Read(ref long clock)
    {
        if (pending.Count == 0)
        {
            return;
        }

        float[] values;
        using (torch.no_grad())
        using (torch.NewDisposeScope())
        {
            torch.Tensor[] rows = [.. pending.Select(step => torch.cat([step.Result.Parts, step.Result.Norm.reshape(1)]))];
            values = [.. torch.stack(rows).cpu().data<float>()];
        }

        double seconds = Stopwatch.GetElapsedTime(clock).TotalSeconds;
        clock = Stopwatch.GetTimestamp();
        double rate = pending.Sum(step => step.Result.Counts.Sum()) / Math.Max(seconds, 1e-9);
        (double? share, long? memory) = (Share(rate), DeviceMemory.Used());
        foreach (var ((step, learningRate, result), i) in pending.Select((step, i) => (step, i)))
        {
            double[] sums = [values[4 * i], values[4 * i + 1], values[4 * i + 2]];
            IReadOnlyList<long> counts = result.Counts;
            StepMetrics metrics = new()
            {
                Step = step,
                Loss = sums.Sum() / counts.Sum(),
                Text = sums[0] / counts[0],
                Image = sums[1] / counts[1],
                Structure = sums[2] / counts[2],
                Counts = counts,
                LearningRate = learningRate,
                GradientNorm = values[4 * i + 3],
                TokensPerSecond = rate,
                ShareOfPeak = share,
                MemoryBytes = memory,
            };
            skippedInARow = metrics.Skipped ? skippedInARow + 1 : 0;
            Measured(metrics);
            ((IDisposable)result).Dispose();
        }

        pending.Clear();
        if (skippedInARow >= LargestSkippedRow)
        {
            NotFiniteSteps found = NotFiniteSteps.Of(source, plan, Done - 1, skippedInARow, passedOver);
            NotFinite(found);
            throw new InputException(found.Sentence);
        }
    }
}
