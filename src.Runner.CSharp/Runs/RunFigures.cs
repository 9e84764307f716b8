using static Hybrid.Report;
using IPanel = Hybrid.Report.IPanel;

namespace Hybrid.Runner.Runs;

/// <summary>From which line of a run's metrics and of its evaluations on curves begin.</summary>
internal readonly record struct RunPosition(int Metrics, int Evaluations);

/// <summary>The curves of runs, one figure for what belongs together; what a run measures and no figure knows stands in the last one.</summary>
internal static class RunFigures
{
    private sealed record Measure(string Key, string Title, string Label, bool Log = false, bool Exponential = false, string? HeldOut = null, bool Steady = false);

    private sealed record Group(string Name, string Title, params Measure[] Measures);

    private static readonly Group optimisation = new(
        "optimisation", "Optimisation",
        new("learningRate", "Learning rate", "learning rate", Steady: true),
        new("gradNorm", "Norm of the gradient before clipping", "norm", Log: true));

    private static readonly Dictionary<RunKind, Group[]> groups = new()
    {
        [RunKind.Train] =
        [
            new("loss", "Loss by kind of token",
                new("loss", "All tokens", "nats a token", HeldOut: "loss.total"),
                new("image", "Image tokens", "nats a token", HeldOut: "loss.image"),
                new("text", "Text tokens", "nats a token", HeldOut: "loss.text"),
                new("structure", "Structure", "nats a token", HeldOut: "loss.structure")),
            new("perplexity", "Perplexity",
                new("loss", "All tokens", "perplexity", Log: true, Exponential: true, HeldOut: "loss.total"),
                new("image", "Image tokens", "perplexity", Log: true, Exponential: true, HeldOut: "loss.image")),
            optimisation,
            new("speed", "Speed",
                new("tokensPerSecond", "Tokens", "tokens a second"), new("shareOfPeak", "Share of the matrix peak", "share"),
                new("memoryBytes", "Memory", "bytes", Steady: true)),
        ],
        [RunKind.ImageTrain] =
        [
            new("reconstruction", "Reconstruction",
                new("psnr", "PSNR", "decibels", HeldOut: "psnr"), new("l1", "Mean absolute error", "L1", HeldOut: "l1"),
                new("l2", "Mean squared error", "L2", Log: true)),
            new("codebook", "Codebook",
                new("codesUsed", "Codes that occur in a step", "codes"), new("perplexity", "Perplexity of the codes", "codes"),
                new("commitment", "Distance of the vectors to their codes", "mean square", Log: true)),
            new("adversary", "Discriminator",
                new("generator", "Verdict on the reconstructions", "generator loss"), new("discriminator", "Hinge loss", "discriminator loss"),
                new("generatorWeight", "Weight of the verdict", "weight")),
            optimisation,
            new("speed", "Speed", new Measure("picturesPerSecond", "", "pictures a second")),
        ],
        [RunKind.Align] =
        [
            new("alignment", "Alignment",
                new("loss", "Contrastive loss", "nats"), new("accuracy", "Own caption nearest", "share of pictures"),
                new("temperature", "Temperature", "scale of the cosines", Steady: true)),
        ],
        [RunKind.Other] = [],
    };

    // What is no measure of its own: counts, flags, times.
    private static readonly string[] silent = ["counts.", "skipped", "seconds", "time", "loss.", "interval."];

    /// <summary>
    /// The figures of the runs of one kind, with the points from the given lines on. Which figures, panels and curves there are does not
    /// depend on where they begin. A curve's colour is that of its run on the page.
    /// </summary>
    public static IEnumerable<Figure> Of(RunKind kind, IReadOnlyList<(RunData Run, int Series, RunPosition From)> runs, double smoothing)
    {
        string prefix = kind switch { RunKind.Train => "train", RunKind.ImageTrain => "image", RunKind.Align => "align", _ => "run" };
        HashSet<string> shown = new(StringComparer.Ordinal);
        foreach (Group group in groups[kind])
        {
            shown.UnionWith(group.Measures.Select(measure => measure.Key));
            IPanel[] panels = [.. group.Measures.Select(measure => Panel(measure, runs, smoothing)).OfType<IPanel>()];
            if (panels.Length > 0)
            {
                yield return new Figure($"{prefix}-{group.Name}", group.Title, "", "", "", panels);
            }
        }

        string[] rest =
        [
            .. runs.SelectMany(run => run.Run.Metrics.Names).Distinct().Order(StringComparer.Ordinal)
                .Where(name => !shown.Contains(name) && !silent.Any(word => name.StartsWith(word, StringComparison.Ordinal))),
        ];
        IPanel[] others = [.. rest.Take(24).Select(name => Panel(new Measure(name, name, name), runs, smoothing)).OfType<IPanel>()];
        if (others.Length > 0)
        {
            yield return new Figure($"{prefix}-others", kind == RunKind.Other ? "Measures" : "Other measures", "", "", "", others);
        }
    }

    private static CurvePanel? Panel(Measure measure, IReadOnlyList<(RunData Run, int Series, RunPosition From)> runs, double smoothing)
    {
        List<Curve> curves = [];
        foreach (var (run, series, from) in runs)
        {
            if (Points(run.Metrics, measure.Key, from.Metrics) is var (steps, values))
            {
                Curve made = curve(run.Name, series, steps, values);
                curves.Add(Form(measure.Steady ? made : smoothable(smoothing, made)));
            }

            foreach (var (name, control) in run.Controls)
            {
                if (Points(control, measure.Key, from.Metrics) is var (same, controlled))
                {
                    Curve made = dashed(Form(curve($"{run.Name}, {name}", series, same, controlled)));
                    curves.Add(measure.Steady ? made : smoothable(smoothing, made));
                }
            }

            if (measure.HeldOut is { } key && Points(run.Evaluations, key, from.Evaluations) is var (at, heldOut))
            {
                curves.Add(dashed(Form(curve(run.Name + ", held out", series, at, heldOut))));
            }
        }

        return curves.Count == 0 ? null : new CurvePanel(measure.Title, axis("step"), measure.Log ? logAxis(measure.Label) : axis(measure.Label), curves, []);

        Curve Form(Curve curve) => measure.Exponential ? exponential(curve) : curve;
    }

    /// <summary>A column from a line on; null where the file has no number in it at all.</summary>
    private static (double[] Steps, double[] Values)? Points(MetricsFile file, string key, int from)
    {
        IReadOnlyList<double> column = file.Column(key);
        return column.Any(double.IsFinite) ? ([.. file.Steps.Skip(from)], [.. column.Skip(from)]) : null;
    }
}
