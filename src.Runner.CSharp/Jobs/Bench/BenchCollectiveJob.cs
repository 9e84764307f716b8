using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Distribution;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>How fast the processes of a launcher exchange memory: bytes of a message over the time that a call takes.</summary>
internal static class BenchCollectiveJob
{
    private const int WarmUp = 3, MostChecked = 1 << 23;

    /// <summary>Measures each call by length. Errors: ConfigurationException where there is one process only.</summary>
    public static JsonObject Run(BenchCollectiveCommand command, ProcessGroup group, CancellationToken stop)
    {
        if (group.Collective is not { } collective)
        {
            throw new ConfigurationException("one process has nobody to exchange with; start several: mpirun -np 2 --bind-to none hybrid bench collective");
        }

        ElementType type = command.HalfPrecision ? ElementType.BFloat16 : ElementType.Float32;
        (string Name, Action<nint, long, ElementType> Call)[] calls =
        [
            ("all_reduce", collective.AllReduce), ("reduce_scatter", collective.ReduceScatter), ("all_gather", collective.AllGather),
            ("broadcast", (data, count, kind) => collective.Broadcast(data, count, kind, 0)),
        ];
        foreach (long bytes in command.Bytes)
        {
            Check(collective, Math.Clamp(bytes / type.Bytes(), 1, MostChecked), type);
        }

        JsonObject result = new()
        {
            ["engine"] = collective.Name,
            ["processes"] = collective.Size,
            ["type"] = command.HalfPrecision ? "bf16" : "fp32",
        };
        foreach (var (name, call) in calls)
        {
            JsonObject speeds = [];
            foreach (long bytes in command.Bytes)
            {
                stop.ThrowIfCancellationRequested();
                long count = Math.Max(1, bytes / type.Bytes());
                using torch.Tensor memory = torch.zeros(count, dtype: command.HalfPrecision ? torch.bfloat16 : torch.float32, device: TorchLibrary.Device);
                double seconds = Seconds(group, () => call(Dispatcher.dataPointer(memory), count, type), command.Seconds);
                speeds[Words(bytes)] = Math.Round(count * type.Bytes() / seconds / 1e9, 6);
            }

            result[$"{name}_gb_per_second"] = speeds;
        }

        return result;
    }

    /// <summary>Makes each call once on values whose sums are known. Errors: InputException where something else comes out.</summary>
    private static void Check(ICollective collective, long count, ElementType type)
    {
        using var scope = torch.NewDisposeScope();
        torch.ScalarType dtype = type == ElementType.BFloat16 ? torch.bfloat16 : torch.float32;
        torch.Tensor places = torch.arange(count, dtype: torch.int64, device: TorchLibrary.Device);
        torch.Tensor Of(int rank) => places.add(rank).remainder(2).to(dtype);
        torch.Tensor sum = places.mul(0).to(torch.float32);
        for (int rank = 0; rank < collective.Size; rank++)
        {
            sum.add_(Of(rank).to(torch.float32));
        }

        // Above, bf16 has no room for the sums.
        const int most = 256;
        bool summable = type != ElementType.BFloat16 || collective.Size <= most;
        var (start, length) = Slices.range(collective.Size, collective.Rank, count);
        torch.Tensor own = Of(collective.Rank), others = Of(0);
        for (int rank = 1; rank < collective.Size; rank++)
        {
            var (at, part) = Slices.range(collective.Size, rank, count);
            others.narrow(0, at, part).copy_(Of(rank).narrow(0, at, part));
        }

        Expect("all-reduce", Called(collective.AllReduce, own), sum.to(dtype), summable);
        Expect("reduce-scatter", Called(collective.ReduceScatter, own).narrow(0, start, length), sum.to(dtype).narrow(0, start, length), summable);
        Expect("all-gather", Called(collective.AllGather, own), others, true);
        Expect("broadcast", Called((data, n, kind) => collective.Broadcast(data, n, kind, collective.Size - 1), own), Of(collective.Size - 1), true);

        torch.Tensor Called(Action<nint, long, ElementType> call, torch.Tensor values)
        {
            torch.Tensor memory = values.clone();
            call(Dispatcher.dataPointer(memory), count, type);
            MatrixPeak.Synchronize(TorchLibrary.Device);
            return memory;
        }

        void Expect(string call, torch.Tensor found, torch.Tensor wanted, bool known)
        {
            if (known && !found.eq(wanted).all().item<bool>())
            {
                throw new InputException($"{collective.Name}: {call} of {count} elements of {dtype} gave a wrong result on rank {collective.Rank}; do not train with this installation.");
            }
        }
    }

    /// <summary>Seconds of a call, over as many as all processes make within a time.</summary>
    private static double Seconds(ProcessGroup group, Action call, double most)
    {
        int calls = 1;
        Stopwatch clock = new();
        for (int i = 0; i < WarmUp; i++)
        {
            call();
        }

        while (true)
        {
            group.Barrier();
            clock.Restart();
            for (int i = 0; i < calls; i++)
            {
                call();
            }

            MatrixPeak.Synchronize(TorchLibrary.Device);
            group.Barrier();
            double seconds = clock.Elapsed.TotalSeconds;
            if (!group.Any(seconds < most))
            {
                return seconds / calls;
            }

            calls *= 2;
        }
    }

    private static string Words(long bytes) => bytes switch
    {
        >= 1L << 30 when bytes % (1L << 30) == 0 => Text(bytes >> 30) + " GiB",
        >= 1L << 20 when bytes % (1L << 20) == 0 => Text(bytes >> 20) + " MiB",
        >= 1L << 10 when bytes % (1L << 10) == 0 => Text(bytes >> 10) + " KiB",
        _ => Text(bytes) + " B",
    };

    private static string Text(long number) => number.ToString(CultureInfo.InvariantCulture);
}
