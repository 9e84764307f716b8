using System.Globalization;
using Hybrid.Api;
using static Hybrid.Report;

namespace Hybrid.Runner.Runs;

/// <summary>Where runs stand and what they have cost, and how their configurations differ.</summary>
internal static class RunTables
{
    /// <summary>The last values and costs of the runs of one kind.</summary>
    public static Table Last(RunKind kind, IReadOnlyList<RunData> runs, double smoothing)
    {
        string Smooth(RunData run, string key) => number(4, Smoothed(run.Metrics, key, smoothing));
        string mean = smoothing > 0 ? $" (EMA {smoothing.ToString(CultureInfo.InvariantCulture)})" : "";
        return kind switch
        {
            RunKind.Train => Rows(
                $"Language models: last values{mean} and costs",
                ["run", "steps", "loss", "image", "text", "held-out loss", "tokens", "time of the steps", "tokens/s", "FLOP"],
                run =>
                [
                    Steps(run), Smooth(run, "loss"), Smooth(run, "image"), Smooth(run, "text"), HeldOut(run), Count(Tokens(run)), Duration(Seconds(run)),
                    number(4, Tokens(run) / Seconds(run)), Flops(run),
                ]),
            RunKind.ImageTrain => Rows(
                $"Image tokenizers: last values{mean}",
                ["run", "steps", "PSNR, dB", "L1", "codes in a step", "held-out PSNR, dB", "held-out SSIM", "pictures/s"],
                run =>
                [
                    Steps(run), Smooth(run, "psnr"), Smooth(run, "l1"), number(4, run.Metrics.Last("codesUsed")), number(4, run.Evaluations.Last("psnr")),
                    number(3, run.Evaluations.Last("ssim")), Smooth(run, "picturesPerSecond"),
                ]),
            RunKind.Align => Rows(
                $"Alignments: last values{mean}",
                ["run", "steps", "loss", "own caption nearest", "temperature"],
                run => [Steps(run), Smooth(run, "loss"), Smooth(run, "accuracy"), number(4, run.Metrics.Last("temperature"))]),
            _ => Rows("Other runs", ["run", "steps"], run => [Steps(run)]),
        };

        Table Rows(string title, string[] header, Func<RunData, string[]> cells) =>
            table(title, header, [.. runs.Select(run => (IReadOnlyList<string>)[run.Name, .. cells(run)])]);
    }

    /// <summary>The keys that differ between the configurations of runs; null where none does.</summary>
    public static Table? Differences(string title, IReadOnlyList<RunData> runs)
    {
        RunData[] known = [.. runs.Where(run => run.Configuration is not null)];
        SortedDictionary<string, string>[] keys = [.. known.Select(run => run.Keys())];
        string[] differing = [.. keys.SelectMany(own => own.Keys).Distinct().Order(StringComparer.Ordinal).Where(key => keys.Select(own => own.GetValueOrDefault(key)).Distinct().Count() > 1)];
        return differing.Length == 0
            ? null
            : table(title, ["key", .. known.Select(run => run.Name)], [.. differing.Select(key => (IReadOnlyList<string>)[key, .. keys.Select(own => own.GetValueOrDefault(key) ?? "–")])]);
    }

    /// <summary>The steps that a run has made, and those that it is to make where its configuration says so.</summary>
    public static string Steps(RunData run)
    {
        double last = run.Metrics.Any ? run.Metrics.Steps[^1] + (run.Metrics.Steps[0] == 0 ? 1 : 0) : 0;
        string done = last.ToString("N0", CultureInfo.InvariantCulture);
        return run.Configuration is not null && run.Keys() is var keys
            && (keys.GetValueOrDefault("schedule.steps") ?? keys.GetValueOrDefault("configuration.steps")) is { } planned && long.TryParse(planned, CultureInfo.InvariantCulture, out long steps)
            ? $"{done} of {steps.ToString("N0", CultureInfo.InvariantCulture)}"
            : done;
    }

    /// <summary>Targets that a run has learnt from.</summary>
    public static double Tokens(RunData run) =>
        new[] { "counts.text", "counts.image", "counts.structure" }.Sum(key => run.Metrics.Column(key).Where(double.IsFinite).Sum());

    private static double Smoothed(MetricsFile file, string key, double smoothing) =>
        ReportCurves.ema(smoothing, 1, [.. file.Column(key)]).LastOrDefault(double.IsFinite, double.NaN);

    /// <summary>Seconds of the steps: their tokens over their speed.</summary>
    private static double Seconds(RunData run)
    {
        IReadOnlyList<double>[] counts = [.. new[] { "counts.text", "counts.image", "counts.structure" }.Select(run.Metrics.Column)];
        IReadOnlyList<double> rates = run.Metrics.Column("tokensPerSecond");
        double seconds = 0;
        for (int i = 0; i < rates.Count; i++)
        {
            double tokens = counts.Sum(column => i < column.Count && double.IsFinite(column[i]) ? column[i] : 0);
            seconds += rates[i] > 0 ? tokens / rates[i] : 0;
        }

        return seconds;
    }

    private static string HeldOut(RunData run)
    {
        double mean = run.Evaluations.Last("loss.total");
        return double.IsFinite(mean) ? interval(mean, run.Evaluations.Last("interval.total.0"), run.Evaluations.Last("interval.total.1")) : "–";
    }

    /// <summary>Training's FLOP by the model of the newest checkpoint; a dash where there is none.</summary>
    private static string Flops(RunData run)
    {
        try
        {
            string? checkpoint = Directory.Exists(Path.Combine(run.Path, "checkpoints")) ? new Checkpoints(run.Path).Newest()?.Directory : null;
            string description = Path.Combine(checkpoint ?? run.Path, Checkpoint.Description);
            if (File.Exists(description))
            {
                ModelConfig config = ModelDescription.Read(description).Config;
                return Count(Tokens(run) * Architecture.FlopsPerToken(config, config.Positions));
            }
        }
        catch (Exception error) when (error is InputException or IOException or UnauthorizedAccessException)
        {
            // A checkpoint that cannot be read leaves the cost unknown.
        }

        return "–";
    }

    private static string Count(double value) => value switch
    {
        0 => "–",
        >= 1e15 => value.ToString("0.00e0", CultureInfo.InvariantCulture),
        >= 1e12 => number(3, value / 1e12) + " T",
        >= 1e9 => number(3, value / 1e9) + " G",
        >= 1e6 => number(3, value / 1e6) + " M",
        _ => value.ToString("N0", CultureInfo.InvariantCulture),
    };

    private static string Duration(double seconds) => seconds switch
    {
        0 => "–",
        < 100 => number(3, seconds) + " s",
        < 6000 => number(3, seconds / 60) + " min",
        _ => number(3, seconds / 3600) + " h",
    };
}
