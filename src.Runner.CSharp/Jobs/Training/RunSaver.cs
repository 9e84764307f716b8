using System.Diagnostics;
using Hybrid.Api;
using Hybrid.Runner.Distribution;

namespace Hybrid.Runner;

/// <summary>
/// The checkpoints of a run: when they are due, written while steps go on, and which of them stay. The step waits only until weights and
/// moments are in host memory.
/// </summary>
internal sealed class RunSaver : IDisposable
{
    private readonly TrainPlan plan;
    private readonly RunDirectory run;
    private readonly Model model;
    private readonly Trainer trainer;
    private readonly Companions companions;
    private readonly CheckpointWriter writer;
    private readonly Snapshot snapshot = new();
    private readonly string configuration;
    private readonly int begun;
    private readonly ProcessGroup group;
    private readonly Lock gate = new();
    private readonly SortedDictionary<int, double> measured = [];
    private long last = Stopwatch.GetTimestamp();

    public RunSaver(TrainPlan plan, RunDirectory run, Model model, Trainer trainer, Companions companions, Checkpoint? resumed, int begun, ProcessGroup group)
    {
        this.group = group;
        (this.plan, this.run, this.model, this.trainer, this.companions, this.begun) = (plan, run, model, trainer, companions, begun);
        writer = new CheckpointWriter(plan.SavingDeadline, " (checkpoint.deadlineMinutes)");
        configuration = RunConfiguration.Hash(plan.Json);
        Spikes = new LossSpikes(plan, run);
        if (resumed is not null)
        {
            Spikes.Restore(resumed.State);
        }

        if (resumed is not null && run.Holds(resumed.Directory))
        {
            Saved = resumed.State.Step;
        }

        foreach (var (step, loss) in plan.Config.Saving.KeepBest ? run.HeldOutLosses() : new Dictionary<int, double>())
        {
            measured[step] = loss;
        }
    }

    public LossSpikes Spikes { get; }

    /// <summary>The step of the newest checkpoint, which may still be under way; −1 where there is none.</summary>
    public int Saved { get; private set; } = -1;

    /// <summary>Where the newest checkpoint is, or will be.</summary>
    public string Directory => Saved < 0 ? "" : run.Checkpoints.At(Saved);

    /// <summary>
    /// Whether a checkpoint is due by the clock. Errors: InputException where none could be written for longer than the deadline.
    /// </summary>
    public bool Due(int step)
    {
        writer.Check();
        return step > Saved && plan.SavingInterval is { } interval && Stopwatch.GetElapsedTime(last) >= interval;
    }

    /// <summary>Saves what is there after some steps; waits for the checkpoint before it, if that is still being written.</summary>
    public void Save(int step)
    {
        run.Flush();
        writer.Check();
        string attempt = NextAttempt();
        TrainingSnapshot.Take(snapshot, model, trainer, companions, group);
        CheckpointState state = Spikes.In(new(step, (long)step * plan.Config.Sequences + Spikes.PassedOver, plan.Config.Seed, configuration, trainer.StateLayout) { Begun = begun });
        (Saved, last) = (step, Stopwatch.GetTimestamp());
        string directory = Directory;
        SharedCheckpoint shared = new(directory, attempt, group, plan.SavingDeadline);
        if (!group.Leads)
        {
            writer.Begin(given => shared.Add(snapshot, given), waits: !plan.Config.Saving.Asynchronous);
            return;
        }

        writer.Begin(
            given =>
            {
                run.RequireThere();
                Checkpoint.Write(directory, state, aside => shared.Fill(aside, snapshot, given));

                // No step before the checkpoint may be missing from the metrics once the run can go on from it.
                run.Sync();
                run.Checkpoints.Advance(step);
                run.Log($"step {step}: saved {directory}");
                Remove();
            },
            waits: !plan.Config.Saving.Asynchronous);
    }

    /// <summary>
    /// The name of a new checkpoint, for all processes. When the others learn it, rank 0 is done with the one before, so that nobody waits
    /// for their parts of that.
    /// </summary>
    private string NextAttempt()
    {
        if (group.Leads)
        {
            writer.Free();
        }

        string attempt = group.Tell(Guid.NewGuid().ToString("N"));
        if (!group.Leads)
        {
            writer.Free();
        }

        return attempt;
    }

    /// <summary>Takes a held-out loss in, so that the checkpoint of that step may be the best.</summary>
    public void Measured(int step, double loss)
    {
        lock (gate)
        {
            measured[step] = loss;
        }
    }

    /// <summary>
    /// Goes back after a spike, to the newest whole checkpoint of those by steps, and returns its step. Errors: InputException where there
    /// is none.
    /// </summary>
    public int GoBack(LossSpikeException spike)
    {
        writer.Finish();
        string found = group.Tell(group.Leads ? run.Checkpoints.Newest(bytes: true, Regular)?.Directory ?? "" : "");
        Checkpoint newest = found.Length > 0 ? Checkpoint.Open(found)
            : throw new InputException($"{spike.Message}, and there is no whole checkpoint in {run.Root} to go back to.");
        newest.Restore(model, trainer);
        if (group.Leads)
        {
            run.Checkpoints.GoBack(newest.State.Step);
        }

        run.GoBack(newest.State.Step);
        Spikes.GoBack(spike, newest.State);
        Saved = newest.State.Step;
        lock (gate)
        {
            foreach (int step in measured.Keys.Where(step => step > newest.State.Step).ToArray())
            {
                measured.Remove(step);
            }
        }

        return newest.State.Step;
    }

    /// <summary>
    /// Whether a run has a checkpoint after some steps however often it is stopped: going back must not depend on when it was.
    /// </summary>
    private bool Regular(int step) => step == begun || step % plan.Config.CheckpointEvery == 0;

    /// <summary>
    /// Waits until everything is on the disk, trying until the deadline. Errors: InputException where it could not be put there.
    /// </summary>
    public void Finish()
    {
        writer.Finish();
        if (!group.Leads)
        {
            return;
        }

        writer.Begin(
            _ =>
            {
                run.Sync();
                Remove();
            },
            waits: true);
        writer.Finish();
    }

    public void Dispose()
    {
        writer.Dispose();
        snapshot.Dispose();
    }

    /// <summary>Names the best checkpoint, and removes those that need not stay; both again the next time where they fail.</summary>
    private void Remove()
    {
        try
        {
            if (plan.Config.Saving.KeepBest)
            {
                lock (gate)
                {
                    run.Checkpoints.Best(measured);
                }
            }

            if (plan.Removes)
            {
                run.Checkpoints.Remove(plan.Removable, step => plan.Rewinds && Regular(step));
            }
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            Terminal.Warn($"an older checkpoint could not be removed: {error.Message}");
        }
    }
}
