using Hybrid.Api;
using Hybrid.Runner.Distribution;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>A run that is under way: its loop, its checkpoints and its evaluations.</summary>
internal sealed class TrainRun(
    TrainPlan plan, RunDirectory run, Model model, Trainer trainer, ISequenceSource source, ISequenceSource? heldOut, Companions companions, Checkpoint? resumed, ProcessGroup group)
{
    private readonly int interruptedExit = RunStoppedException.CodeOr(plan.Config.InterruptedExit);
    private readonly PeakShare peak = new(
        Architecture.FlopsPerToken(model.Config, source.Length), plan.Layout(TorchLibrary.Device).HalfPrecision ? torch.bfloat16 : torch.float32, group.Size);

    private long tokens;
    private StepMetrics? last;

    /// <summary>
    /// From a step to the end; <paramref name="begun"/> is the step at which the run in this directory began. Errors: RunStoppedException
    /// when asked to stop, after saving; InputException where what is there cannot be saved, or goes on making no sense.
    /// </summary>
    public TrainOutcome Carry(int firstStep, int begun, Progress progress, CancellationToken stop)
    {
        using RunSaver saver = new(plan, run, model, trainer, companions, resumed, begun, group);
        bool whole;
        Evaluation? evaluation = null;
        using (Stage stage = progress.Stage("train", plan.Config.Schedule.Steps, firstStep))
        {
            if (plan.Rewinds && saver.Saved < 0)
            {
                saver.Save(firstStep);
            }

            if (saver.Saved == firstStep && firstStep > begun && Measures(firstStep))
            {
                // The run was cut off between a checkpoint and what is measured at it.
                Evaluate(firstStep, saver, progress, stop);
            }

            (whole, int done) = Steps(firstStep, saver, stage, progress, stop);
            if (done > saver.Saved)
            {
                saver.Save(done);
            }

            if (whole && heldOut is not null)
            {
                evaluation = Evaluate(done, saver, progress, stop);
                whole = evaluation is not null;
            }

            saver.Finish();
        }

        if (!whole)
        {
            run.Log($"stopped after step {saver.Saved}; --resume auto goes on");
            Terminal.Say($"saved {saver.Directory}; the same command with --resume auto goes on");
            throw new RunStoppedException(interruptedExit, stop);
        }

        run.Log("done");
        return new(run.Root, saver.Directory, last, evaluation);
    }

    /// <summary>The steps, however often the run goes back on its way; whether it came to the end, and the steps that are done.</summary>
    private (bool Whole, int Done) Steps(int firstStep, RunSaver saver, Stage stage, Progress progress, CancellationToken stop)
    {
        while (true)
        {
            TrainingLoop loop = new(trainer, plan, source, saver.Spikes.PassedOver, group)
            {
                Measured = step => Record(step, saver.Spikes, stage),
                CheckpointWanted = saver.Due,
                CheckpointDue = step =>
                {
                    saver.Save(step);
                    if (Measures(step))
                    {
                        Evaluate(step, saver, progress, stop);
                    }
                },
                NotFinite = run.Keep,
                Between = done => peak.Between(firstStep, done, plan.Config.Schedule.Steps),
                Share = peak.Of,
            };
            try
            {
                return (loop.Run(firstStep, stop), loop.Done);
            }
            catch (LossSpikeException spike)
            {
                firstStep = saver.GoBack(spike);
            }
        }
    }

    /// <summary>Whether a run measures held-out data at the checkpoint of a step that is not its last: not where one is due by the clock.</summary>
    private bool Measures(int step) => step % plan.Config.CheckpointEvery == 0 && step < plan.Config.Schedule.Steps;

    private void Record(StepMetrics step, LossSpikes spikes, Stage stage)
    {
        run.Add(spikes.Look(step));
        last = step;
        tokens += step.Counts.Sum();
        if (step.Skipped)
        {
            run.Log($"step {step.Step}: the gradient was not finite; the update was left out");
        }

        stage.Report(step.Step + 1, new Metrics { Loss = step.Loss, Text = Shown(step.Text), Image = Shown(step.Image), Structure = Shown(step.Structure), Tokens = tokens, Share = step.ShareOfPeak, Memory = step.MemoryBytes });
    }

    private static double? Shown(double value) => double.IsFinite(value) ? value : null;

    /// <summary>The losses on held-out data, written down where they are not yet; null where there are none or the run is to stop.</summary>
    private Evaluation? Evaluate(int step, RunSaver saver, Progress progress, CancellationToken stop)
    {
        if (heldOut is null)
        {
            return null;
        }

        try
        {
            using Stage stage = progress.Stage("held out", heldOut.Count);
            Evaluation evaluation = group.Size == 1
                ? Evaluation.Of(model, heldOut, long.MaxValue, stop, stage.Report)
                : SharedEvaluation.Of(model, heldOut, group, whole: plan.Config.Distribution.Zero >= 3, stage.Report);
            saver.Measured(step, evaluation.Total.Loss.Mean);
            if (!run.Evaluated(step))
            {
                run.Add(step, evaluation);
                run.Log($"step {step}: held-out loss {evaluation.Total.Loss.Mean:0.0000} nats (text {evaluation.Text.Loss.Mean:0.0000}, image {evaluation.Image.Loss.Mean:0.0000})");
            }

            return evaluation;
        }
        catch (OperationCanceledException) when (stop.IsCancellationRequested)
        {
            return null;
        }
    }
}
