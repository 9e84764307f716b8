using System.Diagnostics;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Distribution;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>How fast steps of training are: forward, loss, backward, clip and AdamW, as `train` makes them.</summary>
internal static class BenchTrainJob
{
    private const int LeastWarmUp = 3;
    private static readonly TimeSpan warmUp = TimeSpan.FromSeconds(3); // until the runtime has compiled what is hot once more
    private const double LearningRate = 1e-4;

    /// <summary>Measures some steps. Errors: InputException.</summary>
    public static JsonObject Run(BenchTrainCommand command, ProcessGroup group, CancellationToken stop)
    {
        torch.Device device = TorchLibrary.Device;
        Layout layout = new() { HalfPrecision = command.Shape.HalfPrecision, Device = device };
        (Model opened, int positions, int usualBatch) = BenchModels.Open(command.Shape, layout);
        using Model model = opened;
        int batch = command.Batch ?? usualBatch, micro = Math.Min(command.MicroBatch ?? batch, batch);
        StepProfile profile = new(device);
        Training training = new() { Team = TorchLibrary.TeamFor(micro), Checkpointing = command.Checkpointing, Lap = profile.Lap };
        training.Sharing.Exchange = group.Exchange;
        training.Sharing.Zero = command.Zero;
        OptimizerConfig optimizer = Trainer.Optimizer(0.9, 0.95, 1e-8, 0.1, 1);
        Objective objective = Trainer.Objective(1, 1, 1, 0);

        // Inputs are all tokens but the last.
        long[][] sequences = BenchModels.Sequences(model.Vocabulary, batch, positions + 1, seed: group.Rank);
        double? alone = group.Size > 1 ? BenchJob.Median(Alone(model, optimizer, objective, command, sequences, micro, group, stop)) : null;
        using Trainer trainer = new(model, optimizer, objective, training);
        Batch[] batches = [.. sequences.Chunk(micro).SelectMany(trainer.Batches)];
        double[] seconds;
        JsonObject? parts = null;
        try
        {
            seconds = Steps(trainer, batches, device, command.Steps, group, stop);
            if (command.Profile)
            {
                profile.On = true;
                for (int i = 0; i < command.Steps; i++)
                {
                    stop.ThrowIfCancellationRequested();
                    ((IDisposable)trainer.Step(batches, LearningRate)).Dispose();
                }

                parts = profile.Parts(command.Steps, Math.Min(training.Team.Size, batches.Length));
                parts["data_beside_seconds"] = Composing(trainer, sequences, micro);
            }
        }
        finally
        {
            BatchFeed.Release(batches);
        }

        double step = BenchJob.Median(seconds), rate = (double)batch * group.Size * positions / step;
        double flops = Architecture.FlopsPerToken(model.Config, positions);
        double peak = MatrixPeak.Measure(command.Shape.HalfPrecision ? torch.bfloat16 : torch.float32, device);
        JsonObject result = new()
        {
            ["model"] = command.Shape.Model?.Path ?? command.Shape.Size ?? "small",
            ["device"] = device.ToString(),
            ["precision"] = command.Shape.HalfPrecision ? "bf16" : "fp32",
            ["threads"] = torch.get_num_threads(),
            ["parameters"] = model.ParameterCount,
            ["processes"] = group.Size,
            ["zero"] = group.Size > 1 ? command.Zero : null,
            ["batch"] = batch,
            ["micro_batch"] = micro,
            ["checkpointing"] = command.Checkpointing,
            ["positions"] = positions,
            ["steps"] = seconds.Length,
            ["step_seconds"] = step,
            ["tokens_per_second"] = rate,
            ["alone_tokens_per_second"] = alone is { } without ? (double)batch * group.Size * positions / without : null,
            ["scaling_efficiency"] = alone is { } apart ? apart / step : null,
            ["flop_per_token"] = flops,
            ["flops_per_second"] = rate * flops,
            ["matrix_peak_flops"] = peak,
            ["share_of_peak"] = rate * flops / peak / group.Size,
            ["gpu_memory_bytes"] = device.type == DeviceType.CUDA ? GpuMemory.Read()?.Used : null,
        };
        if (parts is not null)
        {
            result["profile"] = parts;
        }

        return result;
    }

    /// <summary>Seconds of steps that the processes make at the same time, each for itself: what sharing them costs shows beside it.</summary>
    private static double[] Alone(
        Model model, OptimizerConfig optimizer, Objective objective, BenchTrainCommand command, long[][] sequences, int micro, ProcessGroup group, CancellationToken stop)
    {
        using Trainer trainer = new(model, optimizer, objective, new Training { Team = TorchLibrary.TeamFor(micro), Checkpointing = command.Checkpointing });
        Batch[] batches = [.. sequences.Chunk(micro).SelectMany(trainer.Batches)];
        try
        {
            return Steps(trainer, batches, TorchLibrary.Device, command.Steps, group, stop);
        }
        finally
        {
            BatchFeed.Release(batches);
        }
    }

    /// <summary>Seconds that it takes to make a step's batches, which other threads do meanwhile when there are data.</summary>
    private static double Composing(Trainer trainer, long[][] sequences, int micro)
    {
        const int rounds = 5;
        long begun = Stopwatch.GetTimestamp();
        for (int i = 0; i < rounds; i++)
        {
            foreach (long[][] together in sequences.Chunk(micro))
            {
                BatchFeed.Release(trainer.Batches(together));
            }
        }

        return Stopwatch.GetElapsedTime(begun).TotalSeconds / rounds;
    }

    private static double[] Steps(Trainer trainer, Batch[] batches, torch.Device device, int steps, ProcessGroup group, CancellationToken stop)
    {
        List<double> seconds = [];
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; seconds.Count < steps; i++)
        {
            stop.ThrowIfCancellationRequested();
            // All processes make the same number of steps.
            bool counts = i >= LeastWarmUp && !group.Any(Stopwatch.GetElapsedTime(start) < warmUp);
            MatrixPeak.Synchronize(device);
            long begun = Stopwatch.GetTimestamp();
            ((IDisposable)trainer.Step(batches, LearningRate)).Dispose();
            MatrixPeak.Synchronize(device);
            if (counts)
            {
                seconds.Add(Stopwatch.GetElapsedTime(begun).TotalSeconds);
            }
        }

        return [.. seconds];
    }
}
