using Hybrid.Api;
using Hybrid.Runner.Distribution;

namespace Hybrid.Runner;

/// <summary>Where a run is to be, what it goes on from, and its plan with what an earlier part of the same run has settled on.</summary>
internal sealed record TrainPlace(RunDirectory Run, Checkpoint? Checkpoint, TrainPlan Plan)
{
    /// <summary>The same place for all processes: rank 0 finds it, and tells the others. Errors: ConfigurationException, InputException.</summary>
    public static TrainPlace Of(TrainPlan plan, string directory, string? resume, ProcessGroup group)
    {
        if (group.Size == 1)
        {
            return Found(plan, directory, resume);
        }

        if (group.Leads)
        {
            TrainPlace found = Found(plan, directory, resume);
            group.Tell(found.Checkpoint?.Directory ?? "");
            group.Tell(found.Plan.Json);
            return found;
        }

        string from = group.Tell("");
        plan = new(Descriptions.Training("the plan of rank 0", group.Tell(""), []));
        return new(RunDirectory.Shared(directory, group.Rank), from.Length == 0 ? null : Checkpoint.Open(from), plan);
    }

    private static TrainPlace Found(TrainPlan plan, string directory, string? resume)
    {
        switch (resume)
        {
            case null:
                return new(RunDirectory.New(directory), null, plan);
            case "auto" or "must":
                return Placed(RunDirectory.Existing(directory), run =>
                {
                    Checkpoint? newest = run.Checkpoints.Newest(bytes: true);
                    return newest is null && resume == "must"
                        ? throw new InputException($"--resume must: {directory} has no whole checkpoint to go on from.")
                        : (newest, newest is null ? plan : Same(plan, run));
                });
            default:
                Checkpoint given = Checkpoint.Open(Checkpoints.Resolve(resume), bytes: true);
                if (given.State.Position - given.State.PassedOver != (long)given.State.Step * plan.Config.Sequences)
                {
                    throw new ConfigurationException($"batch.sequences: the run of {given.Directory} saw another number of sequences a step; it must stay as it was.");
                }

                string own = Path.GetFullPath(directory) + Path.DirectorySeparatorChar;
                if (!Path.GetFullPath(given.Directory).StartsWith(own, StringComparison.Ordinal))
                {
                    return new(RunDirectory.New(directory), given, plan);
                }

                return Placed(RunDirectory.Existing(directory), same => (given, Same(plan, same)));
        }
    }

    /// <summary>Lets go of a directory again where what is to happen in it is refused.</summary>
    private static TrainPlace Placed(
        RunDirectory run, Func<RunDirectory, (Checkpoint? Checkpoint, TrainPlan Plan)> look)
    {
        try
        {
            (Checkpoint? checkpoint, TrainPlan plan) = look(run);
            return new(run, checkpoint, plan);
        }
        catch
        {
            run.Dispose();
            throw;
        }
    }

    /// <summary>The plan of a run that goes on: what it leaves open is as the run has it, and the rest must be the same.</summary>
    private static TrainPlan Same(TrainPlan plan, RunDirectory run)
    {
        string text = Files.Text(run.RunFile, "the configuration of the run");
        TrainPlan begun = new(Descriptions.Training(run.RunFile, text, []));
        plan = plan.Following(begun);

        // Where a run started from, when it saves, what it keeps in memory and how it is watched may change. A run of an earlier version has its defaults.
        IReadOnlyList<string> differences = RunConfiguration.Differences(begun.Json, plan.Json, ["model", "checkpoint", "memory", "spikes", "interruption", "distribution"]);
        return differences.Count == 0
            ? plan
            : throw new ConfigurationException(
                $"the run in {run.Root} was begun with another configuration and cannot go on with this one:\n  {string.Join("\n  ", differences)}\nA new run with another --out can take its checkpoint: --resume {run.Root}.");
    }
}
