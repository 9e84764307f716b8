using System.Diagnostics;
using System.Text.Json.Nodes;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>How fast tokens are drawn, over the whole vocabulary, behind prompts of one length.</summary>
internal static class BenchGenerateJob
{
    private const int UsualNew = 256, LeastRounds = 3;
    private static readonly TimeSpan warmUp = TimeSpan.FromSeconds(4); // until the runtime has compiled what is hot once more

    /// <summary>Draws the same sequences several times and takes the median. Errors: InputException.</summary>
    public static JsonObject Run(BenchGenerateCommand command, CancellationToken stop)
    {
        torch.Device device = TorchLibrary.Device;
        (Model opened, int positions, int usualBatch) = BenchModels.Open(command.Shape, new Layout { HalfPrecision = command.Shape.HalfPrecision, Device = device, Frozen = true });
        using Model model = opened;
        int batch = command.Batch ?? usualBatch, count = command.New ?? Math.Min(UsualNew, positions - command.PromptLength);
        if (count < 1 || command.PromptLength + count > positions)
        {
            throw new ConfigurationException($"--prompt-length {command.PromptLength} and --new {count} do not fit in the model's {positions} positions.");
        }

        int[][] prompts = [.. BenchModels.Sequences(model.Vocabulary, batch, command.PromptLength, seed: 0).Select(row => Array.ConvertAll(row, id => (int)id))];
        int[]? unconditional = command.Guidance == 1 ? null : [prompts[0][0]];
        Drawing drawing = new() { TopK = command.TopK, Guidance = command.Guidance, Lookahead = command.Lookahead };
        long passes = 0;
        double Round()
        {
            long begun = Stopwatch.GetTimestamp();
            passes = model.Continue(prompts, count, -1, unconditional, drawing, _ => stop.ThrowIfCancellationRequested()).Passes;
            return Stopwatch.GetElapsedTime(begun).TotalSeconds;
        }

        double seconds = Median(Round);
        return new()
        {
            ["model"] = command.Shape.Model?.Path ?? command.Shape.Size ?? "small",
            ["device"] = device.ToString(),
            ["precision"] = command.Shape.HalfPrecision ? "bf16" : "fp32",
            ["threads"] = torch.get_num_threads(),
            ["parameters"] = model.ParameterCount,
            ["batch"] = batch,
            ["positions"] = positions,
            ["prompt_length"] = command.PromptLength,
            ["new_tokens"] = count,
            ["top_k"] = command.TopK,
            ["guidance"] = command.Guidance,
            ["lookahead"] = command.Lookahead,
            ["passes"] = passes,
            ["tokens_per_second"] = batch * count / seconds,
            ["milliseconds_per_step"] = 1e3 * seconds / count,
            ["gpu_memory_bytes"] = device.type == DeviceType.CUDA ? GpuMemory.Read()?.Used : null,
        };
    }

    private static double Median(Func<double> round)
    {
        long start = Stopwatch.GetTimestamp();
        do
        {
            round();
        }
        while (Stopwatch.GetElapsedTime(start) < warmUp);

        List<double> seconds = [];
        start = Stopwatch.GetTimestamp();
        while (seconds.Count < LeastRounds || Stopwatch.GetElapsedTime(start) < warmUp)
        {
            seconds.Add(round());
        }

        return BenchJob.Median(seconds);
    }
}
