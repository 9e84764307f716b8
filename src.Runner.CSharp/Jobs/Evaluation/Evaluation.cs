using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>A loss in nats per token with its 95 % interval over sequences, and the tokens it is over.</summary>
internal sealed record KindLoss(Statistics.Interval Loss, long Count)
{
    public double Perplexity => Math.Exp(Loss.Mean);

    public double[] Interval => [Loss.Low, Loss.High];
}

/// <summary>Losses by kind of token over a set of sequences.</summary>
internal sealed record Evaluation
{
    internal const int Resamples = 1000;

    public required long Sequences { get; init; }

    public required KindLoss Total { get; init; }

    public required KindLoss Text { get; init; }

    public required KindLoss Image { get; init; }

    public required KindLoss Structure { get; init; }

    /// <summary>Text targets scored among the text rows only.</summary>
    public required KindLoss TextWithin { get; init; }

    /// <summary>Image targets scored among the image codes only.</summary>
    public required KindLoss ImageWithin { get; init; }

    /// <summary>
    /// Scores sequences of a source, all or the first <paramref name="limit"/>. Errors: InputException for ids outside the table;
    /// OperationCanceledException when asked to stop.
    /// </summary>
    public static Evaluation Of(Model model, ISequenceSource source, long limit, CancellationToken stop, Action<long, Metrics>? report = null) =>
        Of(Losses(model, source, limit, model.Losses, stop, report));

    /// <summary>
    /// The losses of each sequence of a source, all or the first <paramref name="limit"/>, as <paramref name="score"/> gives them for
    /// some rows, which it takes so many of at a time. Errors: those of <see cref="Of(Model, ISequenceSource, long, CancellationToken, Action{long, Metrics}?)"/>.
    /// </summary>
    internal static List<SequenceLoss> Losses(
        Model model,
        ISequenceSource source,
        long limit,
        Func<long[][], int, SequenceLoss[]> score,
        CancellationToken stop,
        Action<long, Metrics>? report)
    {
        long count = Math.Min(limit, source.Count);
        int batch = BatchSize(model, source.Length);
        List<SequenceLoss> losses = [];
        for (long first = 0; first < count; first += batch)
        {
            stop.ThrowIfCancellationRequested();
            long[][] rows = [.. Enumerable.Range(0, (int)Math.Min(batch, count - first)).Select(i => source.Row(first + i, first + i))];
            try
            {
                losses.AddRange(score(rows, batch));
            }
            catch (InputException error)
            {
                throw new InputException($"{source.Name}, sequences {first} to {first + rows.Length - 1}: {error.Message}", error);
            }

            report?.Invoke(losses.Count, new Metrics { Loss = Mean(losses, Sum, Count), Tokens = losses.Sum(Count) });
        }

        return losses;
    }

    /// <summary>Sums up the losses of sequences.</summary>
    public static Evaluation Of(IReadOnlyList<SequenceLoss> losses) => new()
    {
        Sequences = losses.Count,
        Total = Kind(losses, Sum, Count),
        Text = Kind(losses, loss => loss.Text, loss => loss.TextCount),
        Image = Kind(losses, loss => loss.Image, loss => loss.ImageCount),
        Structure = Kind(losses, loss => loss.Structure, loss => loss.StructureCount),
        TextWithin = Kind(losses, loss => loss.TextWithin, loss => loss.TextCount),
        ImageWithin = Kind(losses, loss => loss.ImageWithin, loss => loss.ImageCount),
    };

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object> ToJson()
    {
        (string Name, KindLoss Loss)[] kinds = [("total", Total), ("text", Text), ("image", Image), ("structure", Structure)];
        (string Name, KindLoss Loss)[] within = [("text", TextWithin), ("image", ImageWithin)];
        return new()
        {
            ["loss"] = kinds.ToDictionary(kind => kind.Name, kind => kind.Loss.Loss.Mean),
            ["count"] = kinds.ToDictionary(kind => kind.Name, kind => kind.Loss.Count),
            ["perplexity"] = kinds.ToDictionary(kind => kind.Name, kind => kind.Loss.Perplexity),
            ["interval"] = kinds.ToDictionary(kind => kind.Name, kind => kind.Loss.Interval),
            ["within"] = new Dictionary<string, object>
            {
                ["loss"] = within.ToDictionary(kind => kind.Name, kind => kind.Loss.Loss.Mean),
                ["perplexity"] = within.ToDictionary(kind => kind.Name, kind => kind.Loss.Perplexity),
                ["interval"] = within.ToDictionary(kind => kind.Name, kind => kind.Loss.Interval),
            },
            ["sequences"] = Sequences,
        };
    }

    /// <summary>A table for a person.</summary>
    public string ToText()
    {
        List<string> lines = [$"{"",-16}{"nats/token",-28}{"perplexity",12}{"tokens",14}"];
        (string Name, KindLoss Loss)[] rows =
        [
            ("total", Total), ("text", Text), ("  within text", TextWithin), ("image", Image), ("  within image", ImageWithin), ("structure", Structure),
        ];
        foreach (var (name, loss) in rows.Where(row => row.Loss.Count > 0))
        {
            string interval = Report.interval(loss.Loss.Mean, loss.Loss.Low, loss.Loss.High);
            lines.Add($"{name,-16}{interval,-28}{Report.number(4, loss.Perplexity),12}{loss.Count,14:N0}");
        }

        return string.Join('\n', lines);
    }

    private static double Sum(SequenceLoss loss) => loss.Text + loss.Image + loss.Structure;

    private static long Count(SequenceLoss loss) => loss.TextCount + loss.ImageCount + loss.StructureCount;

    private static double Mean(IReadOnlyList<SequenceLoss> losses, Func<SequenceLoss, double> sum, Func<SequenceLoss, long> count) =>
        losses.Sum(sum) / losses.Sum(count);

    private static KindLoss Kind(IReadOnlyList<SequenceLoss> losses, Func<SequenceLoss, double> sum, Func<SequenceLoss, long> count)
    {
        double[] counts = [.. losses.Select(loss => (double)count(loss))];
        return new(Intervals.Ratio(0, Resamples, [.. losses.Select(sum)], counts), (long)counts.Sum());
    }

    /// <summary>So many sequences that their logits stay around a quarter of a gigabyte.</summary>
    private static int BatchSize(Model model, int length) =>
        (int)Math.Clamp((1L << 26) / ((long)model.Vocabulary.Rows * Math.Max(1, length)), 1, 64);
}
