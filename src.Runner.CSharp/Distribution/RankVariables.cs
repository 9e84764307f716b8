using System.Globalization;

namespace Hybrid.Runner.Distribution;

/// <summary>Which process of how many this one is, as the launcher says by variables.</summary>
/// <param name="Rank">From 0.</param>
/// <param name="Size">Processes in all.</param>
/// <param name="LocalRank">Among those of this machine, from 0.</param>
/// <param name="LocalSize">Processes of this machine, where it is known, or 0.</param>
/// <param name="Source">The variables that say so.</param>
internal sealed record RankVariables(int Rank, int Size, int LocalRank, int LocalSize, string Source)
{
    private sealed record Names(string Rank, string Size, string LocalRank, string LocalSize);

    // What a user sets by hand goes before what a launcher sets. A batch script of Slurm has some of its variables without being a process of
    // a step; SLURM_STEP_NUM_TASKS is there in steps alone.
    private static readonly Names[] known =
    [
        new("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        new("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        new("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ];

    /// <summary>Whether Open MPI's or Slurm's launcher has started this process, so that MPI can begin.</summary>
    public bool ByMpi => Environment.GetEnvironmentVariable("OMPI_COMM_WORLD_SIZE") is { Length: > 0 } || Environment.GetEnvironmentVariable("PMIX_RANK") is { Length: > 0 };

    /// <summary>Whether a launcher of several processes has started this one.</summary>
    public static bool Launched => known.Any(names => !string.IsNullOrEmpty(Environment.GetEnvironmentVariable(names.Size)));

    /// <summary>What the environment says; null where this process is alone. Errors: ConfigurationException where it says nonsense.</summary>
    public static RankVariables? Read() => Read(Environment.GetEnvironmentVariable);

    /// <summary>The same of other variables.</summary>
    internal static RankVariables? Read(Func<string, string?> variable)
    {
        foreach (Names names in known)
        {
            string? rank = variable(names.Rank), size = variable(names.Size);
            if (string.IsNullOrEmpty(size) && (string.IsNullOrEmpty(rank) || names != known[0]))
            {
                continue;
            }

            int count = Number(names.Size, size, 1, 1 << 20);
            int own = Number(names.Rank, rank, 0, count - 1);
            string? local = variable(names.LocalRank);
            int localRank = string.IsNullOrEmpty(local) ? 0 : Number(names.LocalRank, local, 0, count - 1);

            // Slurm writes 2(x3) for two processes on each of three machines.
            string? together = variable(names.LocalSize)?.Split('(', ',')[0];
            int localSize = string.IsNullOrEmpty(together) ? 0 : Number(names.LocalSize, together, 1, count);
            return count == 1 ? null : new(own, count, localRank, localSize, $"{names.Rank} and {names.Size}");
        }

        return null;
    }

    private static int Number(string name, string? text, int least, int most) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int value) && value >= least && value <= most
            ? value
            : throw new ConfigurationException($"{name} is '{text}'; it must be a number from {least} to {most}. Launchers set it; unset it to train with one process.");
}
