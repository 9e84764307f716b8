using Hybrid.Api;

namespace Hybrid.Runner.Soak;

/// <summary>What all runs of a soak share.</summary>
/// <param name="Config">The training configuration.</param>
/// <param name="Ranks">Processes of a run.</param>
/// <param name="Seed">The seed of the faults.</param>
/// <param name="Steps">Steps of a run.</param>
/// <param name="Interval">Steps from one checkpoint to the next.</param>
internal sealed record SoakSetting(string Config, int Ranks, long Seed, int Steps, int Interval)
{
    private const int FewestCheckpoints = 4;

    /// <summary>How long a process takes until it trains.</summary>
    public TimeSpan Start { get; init; }

    /// <summary>How long a run takes from there.</summary>
    public TimeSpan Run { get; init; }

    /// <summary>How long the steps from one checkpoint to the next take.</summary>
    public TimeSpan Checkpoint => Run * Interval / Steps;

    /// <summary>How long a process may take for anything before it counts as hung: far more than it needs on a machine that is busy with other work.</summary>
    public TimeSpan Patience => TimeSpan.FromSeconds(120) + 20 * (Start + Run);

    /// <summary>How soon the other ranks stop after one has died or hangs.</summary>
    public static TimeSpan RankLimit => TimeSpan.FromMinutes(1);

    /// <summary>Errors: ConfigurationException where the configuration is wrong, or its runs have too few checkpoints for faults between them.</summary>
    public static SoakSetting Of(string config, int ranks, long seed)
    {
        TrainPlan plan = TrainJob.ReadPlan(config, []);
        int steps = plan.Config.Schedule.Steps, every = plan.Config.CheckpointEvery;
        return steps < FewestCheckpoints * every
            ? throw new ConfigurationException($"{config}: a soak needs runs of at least {FewestCheckpoints} checkpoints; make checkpoint.everySteps at most {Math.Max(1, steps / FewestCheckpoints)} or schedule.steps at least {FewestCheckpoints * every}.")
            : new(config, ranks, seed, steps, every);
    }
}
