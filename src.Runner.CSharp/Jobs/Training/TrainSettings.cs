using System.Globalization;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>What a training configuration leaves to the machine: the precision, and what is kept for the backward pass.</summary>
internal static class TrainSettings
{
    /// <summary>Of memory that is only just free, this share may be taken.</summary>
    private const double ShareOfFree = 0.85;

    /// <summary>
    /// The plan with everything settled, for sequences of which the model reads <paramref name="positions"/> positions and a run of so many processes;
    /// <paramref name="words"/> say it for the log. Errors: ConfigurationException where no choice fits into memory.
    /// </summary>
    public static TrainPlan Settle(TrainPlan plan, Checkpoint? checkpoint, int positions, int processes, out string words)
    {
        ModelConfig model = TrainStart.Describe(plan, checkpoint);
        int threads = TorchLibrary.TeamFor(plan.Config.MicroBatch).Size;
        if (plan.PrecisionIsOpen)
        {
            plan = plan.WithPrecision(plan.HalfMayGain(model) && Precisions.HalfIsFaster());
        }

        if (plan.CheckpointingIsOpen)
        {
            try
            {
                plan = plan.WithFastest(model, threads, positions, TorchLibrary.Device, processes, plan.Budget ?? Free());
            }
            catch (InputException error) when (error is not ConfigurationException)
            {
                throw new ConfigurationException($"memory.checkpointing: {error.Message}");
            }
        }

        Training training = plan.Training;
        string precision = plan.Layout(TorchLibrary.Device).HalfPrecision ? $"bf16 with gradients in {(training.HalfGradients ? "bf16" : "fp32")}" : "fp32";
        double estimate = plan.Memory(model, threads, positions, TorchLibrary.Device, processes).Total / (double)(1L << 30);
        words = string.Create(CultureInfo.InvariantCulture, $"computes in {precision}, checkpointing {training.Checkpointing}; a step takes about {estimate:0.0} GiB");
        return plan;
    }

    /// <summary>Bytes that a step may take of what the machine has free, its processes all alike.</summary>
    private static long Free() => TorchLibrary.Device.type == DeviceType.CPU
        ? (long)(ShareOfFree * FreeMemory() / Math.Max(1, Distribution.RankVariables.Read()?.LocalSize ?? 1))
        : throw new ConfigurationException("memory.budgetGiB: is missing. How much memory a GPU has free cannot be asked here, so checkpointing auto needs to be told how much a step may take.");

    /// <summary>Bytes that the machine has free for this process.</summary>
    internal static long FreeMemory()
    {
        GCMemoryInfo memory = GC.GetGCMemoryInfo();
        long free = memory.TotalAvailableMemoryBytes - memory.MemoryLoadBytes;
        const string linux = "/proc/meminfo", key = "MemAvailable:";
        if (File.Exists(linux) && File.ReadLines(linux).FirstOrDefault(line => line.StartsWith(key, StringComparison.Ordinal)) is { } line
            && long.TryParse(line[key.Length..].Replace("kB", "", StringComparison.Ordinal), NumberStyles.Any, CultureInfo.InvariantCulture, out long kibibytes))
        {
            // What the kernel can make free, and no more than this process may have.
            free = Math.Min(kibibytes * 1024, memory.TotalAvailableMemoryBytes);
        }

        return free;
    }
}
