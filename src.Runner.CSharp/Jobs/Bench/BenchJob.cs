using System.Diagnostics;
using System.Text.Json.Nodes;
using Hybrid.Runner.Distribution;

namespace Hybrid.Runner;

/// <summary>Measures how fast this machine does something: a job of its own for each action.</summary>
internal static class BenchJob
{
    /// <summary>Carries a measurement out and says what came out. Errors: InputException.</summary>
    public static void Run(BenchPrepareCommand command, CancellationToken stop) => Say(command, BenchPrepareJob.Run(command, stop));

    /// <inheritdoc cref="Run(BenchPrepareCommand, CancellationToken)"/>
    public static void Run(BenchTrainCommand command, CancellationToken stop)
    {
        UseThreads(command.Threads);
        using ProcessGroup group = ProcessGroup.Open(new(TimeSpan.FromSeconds(30), TimeSpan.FromMinutes(10)), stop);
        Say(command, BenchTrainJob.Run(command, group, stop), group);
    }

    /// <inheritdoc cref="Run(BenchPrepareCommand, CancellationToken)"/>
    public static void Run(BenchCollectiveCommand command, CancellationToken stop)
    {
        using ProcessGroup group = ProcessGroup.Open(new(TimeSpan.FromSeconds(30), TimeSpan.FromMinutes(10)), stop);
        Say(command, BenchCollectiveJob.Run(command, group, stop), group);
    }

    /// <inheritdoc cref="Run(BenchPrepareCommand, CancellationToken)"/>
    public static void Run(BenchGenerateCommand command, CancellationToken stop)
    {
        UseThreads(command.Threads);
        Say(command, BenchGenerateJob.Run(command, stop));
    }

    /// <inheritdoc cref="Run(BenchPrepareCommand, CancellationToken)"/>
    public static void Run(BenchLoadCommand command, CancellationToken stop) => Say(command, BenchLoadJob.Run(command, stop));

    /// <summary>
    /// How often a piece of work was done, by several threads at once for a time. <paramref name="work"/> gets a number that counts up
    /// over all threads; its sum of amounts is given back with the time that passed.
    /// </summary>
    /// <param name="threads">How many threads work.</param>
    /// <param name="seconds">After how long no new piece is begun.</param>
    /// <param name="work">One piece of work; the amounts that it dealt with.</param>
    /// <param name="stop">Ends the measurement.</param>
    public static (double Seconds, long Pieces, long[] Amounts) Measure(int threads, double seconds, Func<long, long[]> work, CancellationToken stop)
    {
        work(0); // code is compiled and caches are filled before the clock starts
        Lock gate = new();
        long next = -1, pieces = 0;
        long[] sums = [];
        Exception? failure = null;
        Stopwatch clock = Stopwatch.StartNew();
        void Repeat()
        {
            try
            {
                long done = 0;
                long[] own = [];
                do
                {
                    long[] amounts = work(Interlocked.Increment(ref next));
                    own = own.Length == 0 ? amounts : [.. own.Zip(amounts, (a, b) => a + b)];
                    done++;
                }
                while (clock.Elapsed.TotalSeconds < seconds && !stop.IsCancellationRequested);

                lock (gate)
                {
                    pieces += done;
                    sums = sums.Length == 0 ? own : [.. sums.Zip(own, (a, b) => a + b)];
                }
            }
            catch (InputException error)
            {
                failure = error;
            }
        }

        Thread[] all = [.. Enumerable.Range(0, threads).Select(_ => new Thread(Repeat))];
        Array.ForEach(all, thread => thread.Start());
        Array.ForEach(all, thread => thread.Join());
        stop.ThrowIfCancellationRequested();
        return failure is null ? (clock.Elapsed.TotalSeconds, pieces, sums) : throw failure;
    }

    /// <summary>The middle one of some values, or the mean of the two in the middle.</summary>
    public static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }

    private static void UseThreads(int? threads)
    {
        if (threads is { } count)
        {
            TorchSharp.torch.set_num_threads(count);
        }
    }

    private static void Say(ICommand command, JsonObject result, ProcessGroup? group = null)
    {
        if (group is { Leads: false })
        {
            return;
        }

        result["peak_rss_bytes"] = PeakMemory();
        Console.Out.WriteLine(command.Json ? result.ToJsonString(Json.Options) : Said(result));
    }

    private static long PeakMemory()
    {
        using Process process = Process.GetCurrentProcess();
        return process.PeakWorkingSet64;
    }

    private static string Said(JsonObject result)
    {
        List<string> lines = [];
        foreach (var (name, value) in result)
        {
            switch (value)
            {
                case JsonObject measured:
                    lines.AddRange(measured.Select(figure => Line($"{name} {figure.Key}", figure.Value)));
                    break;
                default:
                    lines.Add(Line(name, value));
                    break;
            }
        }

        return string.Join('\n', lines);
    }

    private static string Line(string name, JsonNode? value) => $"{name.Replace('_', ' '),-40} {Figure(name, value)}";

    private static string Figure(string name, JsonNode? value)
    {
        if (value is not JsonValue number || !number.TryGetValue(out double figure))
        {
            return value?.ToString() ?? "none";
        }

        return name switch
        {
            _ when name.EndsWith("_bytes", StringComparison.Ordinal) => Text(figure / 1e6, "N0") + " MB",
            _ when name.EndsWith("flops_per_second", StringComparison.Ordinal) || name.EndsWith("_flops", StringComparison.Ordinal) => Text(figure / 1e9, "N0") + " GFLOP/s",
            _ when name.StartsWith("share_", StringComparison.Ordinal) || name.EndsWith("_share", StringComparison.Ordinal) => Text(100 * figure, "0.0") + " %",
            _ when name.Contains("gb_per_second", StringComparison.Ordinal) => Text(figure, "0.000") + " GB/s",
            _ when name.EndsWith("seconds", StringComparison.Ordinal) && figure < 1 => Text(1000 * figure, "0.00") + " ms",
            _ => Text(figure, figure is > -100 and < 100 && figure != Math.Floor(figure) ? "0.00" : "N0"),
        };
    }

    private static string Text(double figure, string format) => figure.ToString(format, System.Globalization.CultureInfo.InvariantCulture);
}
