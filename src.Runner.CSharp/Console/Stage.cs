using System.Globalization;

namespace Hybrid.Runner;

/// <summary>
/// A piece of work with a known number of steps. Reporting costs a lock and a few copies; nothing is formatted until
/// something is about to be shown. Disposing it says how it ended.
/// </summary>
internal sealed class Stage : IDisposable
{
    // Columns below which words are shortened, and of the shortest bar that says anything.
    private const int Narrow = 80, ShortestBar = 5;
    private static readonly TimeSpan window = TimeSpan.FromSeconds(10);

    private readonly Lock gate = new();
    private readonly Progress owner;
    private readonly Func<TimeSpan> clock;
    private readonly TimeSpan began;
    private readonly long first;

    // Two moments, of which the older is dropped, bound the span that the speed is measured over.
    private (TimeSpan Time, long Step, long Tokens) older;
    private (TimeSpan Time, long Step, long Tokens) newer;
    private long step;
    private Metrics metrics;
    private bool disposed;
    private bool expected;

    internal Stage(Progress owner, string name, long total, long start, Func<TimeSpan> clock)
    {
        (this.owner, Name, Total, first, step, this.clock) = (owner, name, total, start, start, clock);
        began = clock();
        older = newer = (began, start, 0);
    }

    public string Name { get; }

    /// <summary>The number of steps; 0 where it is not known.</summary>
    public long Total { get; private set; }

    /// <summary>Says how many steps there will be, as far as can be told by now.</summary>
    public void Expect(long total)
    {
        lock (gate)
        {
            (Total, expected) = (total, true);
        }
    }

    internal (TimeSpan Time, long Step) LastLine { get; set; }

    /// <summary>Says how many steps are done.</summary>
    public void Report(long done, Metrics now = default)
    {
        TimeSpan time = clock();
        lock (gate)
        {
            (step, metrics) = (done, now);
            if (time - newer.Time >= window)
            {
                (older, newer) = (newer, (time, done, now.Tokens ?? 0));
            }
        }

        owner.Reported(this, time, done);
    }

    public void Dispose()
    {
        if (!disposed)
        {
            disposed = true;
            owner.Ended(this);
        }
    }

    /// <summary>
    /// The stage in one line of at most <paramref name="width"/> characters: what matters least is left out first, the bar before
    /// all else.
    /// </summary>
    internal string Line(int width, bool bar)
    {
        var (done, now, _, stepsPerSecond, tokensPerSecond) = Snapshot();
        bool known = Total > 0;
        TimeSpan? left = known && stepsPerSecond > 0 && done < Total ? TimeSpan.FromSeconds((Total - done) / stepsPerSecond) : null;

        // In the order of the line, each with its rank: the least one matters most.
        (int Rank, string? Text)[] parts =
        [
            (0, known ? $"{100 * Math.Min(done, Total) / Total,3} %" : null),
            (known ? 4 : 0, known ? $"{done}{(expected ? " of about " : "/")}{Total}" : $"{done}"),
            (2, left is { } time ? (width < Narrow ? Short(time) : Duration(time)) + " left" : null),
            (1, now.Loss is { } loss ? "loss " + Nats(loss) : null),
            (6, now.Text is { } text ? "text " + Nats(text) : null),
            (5, now.Image is { } image ? "image " + Nats(image) : null),
            (7, now.Structure is { } structure ? "structure " + Nats(structure) : null),
            (3, tokensPerSecond > 0 ? Rate(tokensPerSecond) + " tokens/s" : null),
            (8, now.Share is { } share ? string.Create(CultureInfo.InvariantCulture, $"{100 * share:0} % of peak") : null),
            (9, now.Memory is { } memory ? Bytes(memory) : null),
            (now.Loss is null ? 1 : 10, now.Note),
        ];

        int longest = Math.Max(8, width / 3);
        string name = Name.Length <= longest ? Name : Name[..(longest - 1)] + "…";
        int taken = name.Length;
        bool[] shown = new bool[parts.Length];
        foreach (int i in Enumerable.Range(0, parts.Length).Where(i => !string.IsNullOrEmpty(parts[i].Text)).OrderBy(i => parts[i].Rank))
        {
            if (taken + 2 + parts[i].Text!.Length <= width)
            {
                (shown[i], taken) = (true, taken + 2 + parts[i].Text!.Length);
            }
        }

        int barWidth = Math.Min(width < 120 ? 10 : 20, width - taken - 2);
        string line = name;
        if (bar && known && barWidth >= ShortestBar)
        {
            int filled = (int)(barWidth * Math.Min(done, Total) / Total);
            line += "  " + new string('━', filled) + new string('─', barWidth - filled);
        }

        line += string.Concat(parts.Where((_, i) => shown[i]).Select(part => "  " + part.Text));
        return line.Length <= width ? line : line[..Math.Max(0, width)];
    }

    /// <summary>How the stage ended, with the last metrics.</summary>
    internal string LastWords()
    {
        var (done, now, seconds, _, _) = Snapshot();
        List<string> parts = [Total > 0 && done < Total ? $"{Name}: stopped at {done}/{Total} after {Duration(seconds)}" : $"{Name}: done in {Duration(seconds)}"];
        foreach (var (kind, value) in new[] { ("loss", now.Loss), ("text", now.Text), ("image", now.Image), ("structure", now.Structure) })
        {
            if (value is { } nats)
            {
                parts.Add($"{kind} {Nats(nats)}");
            }
        }

        if (now.Tokens is { } tokens && seconds.TotalSeconds > 0)
        {
            parts.Add(Rate(tokens / seconds.TotalSeconds) + " tokens/s");
        }

        return string.Join("  ", parts);
    }

    internal static string Duration(TimeSpan time) => time switch
    {
        { TotalSeconds: < 10 } => time.TotalSeconds.ToString("0.0", CultureInfo.InvariantCulture) + " s",
        { TotalMinutes: < 1 } => $"{(int)time.TotalSeconds} s",
        { TotalHours: < 1 } => $"{time.Minutes} min {time.Seconds:00} s",
        { TotalDays: < 1 } => $"{time.Hours} h {time.Minutes:00} min",
        _ => $"{(int)time.TotalDays} d {time.Hours:00} h",
    };

    /// <summary>A duration in at most six characters.</summary>
    internal static string Short(TimeSpan time) => time switch
    {
        { TotalMinutes: < 1 } => $"{(int)time.TotalSeconds}s",
        { TotalHours: < 1 } => $"{time.Minutes}m{time.Seconds:00}s",
        { TotalDays: < 1 } => $"{time.Hours}h{time.Minutes:00}m",
        _ => $"{(int)time.TotalDays}d{time.Hours:00}h",
    };

    private static string Bytes(long bytes) =>
        (bytes / 1e9).ToString(bytes < 100_000_000_000 ? "0.0" : "0", CultureInfo.InvariantCulture) + " GB";

    private static string Nats(double value) => double.IsFinite(value) ? value.ToString("0.000", CultureInfo.InvariantCulture) : "not finite";

    private static string Rate(double value) => value switch
    {
        >= 1e6 => (value / 1e6).ToString("0.00", CultureInfo.InvariantCulture) + "M",
        >= 1e4 => (value / 1e3).ToString("0.0", CultureInfo.InvariantCulture) + "k",
        _ => value.ToString("0", CultureInfo.InvariantCulture),
    };

    private (long Done, Metrics Now, TimeSpan Elapsed, double StepsPerSecond, double TokensPerSecond) Snapshot()
    {
        TimeSpan time = clock();
        lock (gate)
        {
            double seconds = (time - older.Time).TotalSeconds;
            double steps = seconds > 0 && step > first ? (step - older.Step) / seconds : 0;
            double tokens = seconds > 0 && metrics.Tokens is { } count ? (count - older.Tokens) / seconds : 0;
            return (step, metrics, time - began, steps, tokens);
        }
    }
}
