using System.Diagnostics;
using System.Text.Json.Nodes;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Where the time of a step goes. Threads that work side by side count each for its share.</summary>
/// <param name="device">A GPU is waited for after each part, so that parts do not overlap.</param>
internal sealed class StepProfile(torch.Device device)
{
    private static readonly string begin = PhaseModule.name(Phase.Begin);

    private readonly ThreadLocal<long> last = new();
    private readonly Lock gate = new();
    private readonly Dictionary<string, double> seconds = [];

    /// <summary>Whether parts are measured.</summary>
    public bool On { get; set; }

    /// <summary>To be told of each part when it is over.</summary>
    public void Lap(string phase)
    {
        if (!On)
        {
            return;
        }

        MatrixPeak.Synchronize(device);
        double took = Stopwatch.GetElapsedTime(last.Value).TotalSeconds;
        if (phase != begin)
        {
            lock (gate)
            {
                seconds[phase] = seconds.GetValueOrDefault(phase) + took;
            }
        }

        last.Value = Stopwatch.GetTimestamp();
    }

    /// <summary>Seconds of each part in one step.</summary>
    /// <param name="steps">How many steps were measured.</param>
    /// <param name="threads">How many threads did what is done side by side.</param>
    public JsonObject Parts(int steps, int threads)
    {
        string[] alone = [.. new[] { Phase.Gradients, Phase.Clip, Phase.Optimizer, Phase.Cast }.Select(PhaseModule.name)];
        JsonObject parts = [];
        foreach (var (phase, took) in seconds)
        {
            parts[phase + "_seconds"] = took / steps / (alone.Contains(phase) ? 1 : threads);
        }

        return parts;
    }
}
