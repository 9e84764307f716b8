using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>A run that is under way: its loop, its checkpoints and its evaluations.</summary>
internal sealed class TrainRun(
    TrainPlan plan, RunDirectory run, Model model, Trainer trainer, ISequenceSource source, ISequenceSource? heldOut, Companions companions, Checkpoint? resumed)
{
    private readonly string configuration = RunDirectory.Hash(plan);
    private int saved = resumed?.State.Step ?? -1;
    private string savedAt = resumed?.Directory ?? "";
    private long tokens;
    private StepMetrics? last;

    /// <summary>From a step to the end. Errors: OperationCanceledException when asked to stop, after saving.</summary>
    public TrainOutcome Carry(int firstStep, Progress progress, CancellationToken stop)
    {
        if (resumed is not null && !InOwnFolder(resumed.Directory))
        {
            // The first checkpoint of a run that goes on from another one's is its own.
            saved = -1;
        }

        bool whole;
        using (Stage stage = progress.Stage("train", plan.Config.Schedule.Steps, firstStep))
        {
            TrainingLoop loop = new(trainer, plan, source)
            {
                Measured = step => Record(step, stage),
                CheckpointDue = step =>
                {
                    Save(step);
                    Evaluate(step, progress, stop);
                },
            };
            whole = loop.Run(firstStep, stop);
            run.Flush();
            if (loop.Done > saved)
            {
                Save(loop.Done);
            }

            if (whole && heldOut is not null)
            {
                Evaluation evaluation = Evaluate(loop.Done, progress, stop)!;
                run.Log("done");
                return new(run.Root, savedAt, last, evaluation);
            }
        }

        if (!whole)
        {
            run.Log($"stopped after step {saved}; --resume auto goes on");
            Terminal.Say($"saved {savedAt}; the same command with --resume auto goes on");
            throw new OperationCanceledException(stop);
        }

        run.Log("done");
        return new(run.Root, savedAt, last, null);
    }

    private bool InOwnFolder(string directory) =>
        Path.GetFullPath(directory).StartsWith(run.Root + Path.DirectorySeparatorChar, StringComparison.Ordinal);

    private void Record(StepMetrics step, Stage stage)
    {
        run.Add(step);
        last = step;
        tokens += step.Counts.Sum();
        if (step.Skipped)
        {
            run.Log($"step {step.Step}: the gradient was not finite; the update was left out");
        }

        stage.Report(step.Step + 1, new Metrics { Loss = step.Loss, Text = Shown(step.Text), Image = Shown(step.Image), Structure = Shown(step.Structure), Tokens = tokens });
    }

    private static double? Shown(double value) => double.IsFinite(value) ? value : null;

    private void Save(int step)
    {
        run.Flush();
        savedAt = run.Checkpoints.At(step);
        Checkpoint.Write(
            savedAt, model, trainer, new(step, (long)step * plan.Config.Sequences, plan.Config.Seed, configuration, trainer.StateLayout), companions);
        run.Checkpoints.Advance(step);
        saved = step;
        run.Log($"step {step}: saved {savedAt}");
    }

    private Evaluation? Evaluate(int step, Progress progress, CancellationToken stop)
    {
        if (heldOut is null)
        {
            return null;
        }

        using Stage stage = progress.Stage("held out", heldOut.Count);
        Evaluation evaluation = Evaluation.Of(model, heldOut, long.MaxValue, stop, stage.Report);
        run.Add(step, evaluation);
        run.Log($"step {step}: held-out loss {evaluation.Total.Loss.Mean:0.0000} nats (text {evaluation.Text.Loss.Mean:0.0000}, image {evaluation.Image.Loss.Mean:0.0000})");
        return evaluation;
    }
}
