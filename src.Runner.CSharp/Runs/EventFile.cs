using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Runs;

/// <summary>
/// What metrics.jsonl and evaluations.jsonl of a run hold, once more as an event file for TensorBoard. It is made from these lines
/// and from nothing else: when a run goes on from an earlier step, another one takes its place, with the steps that count.
/// </summary>
internal sealed partial class EventFile
{
    private const string Start = "events.out.tfevents.", End = ".hybrid", HeldOut = "heldOut/";
    private static int written;
    private readonly string run, folder;
    private double time;

    /// <summary>Writes what a run holds so far into a folder, the run's own where none is given. Errors: IOException, UnauthorizedAccessException.</summary>
    public EventFile(string run, string? folder = null)
    {
        (this.run, this.folder) = (run, folder ?? run);
        File = Again();
    }

    /// <summary>The file, which grows.</summary>
    public LineFile File { get; private set; }

    /// <summary>Whether a folder has event files of ours.</summary>
    public static bool In(string folder) => Directory.Exists(folder) && Files(folder).Any();

    /// <summary>Begins anew from what the run holds now. Errors: IOException, UnauthorizedAccessException.</summary>
    public void Restart() => File = Again();

    /// <summary>Adds a line of the metrics or of the evaluations.</summary>
    public void Add(string line, bool heldOut = false)
    {
        time = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() / 1e3;
        if (Record(line, heldOut ? HeldOut : "") is { } record)
        {
            File.Add(record);
        }
    }

    /// <summary>The file as a whole, then the end of those before it: a reader finds each step once at any moment.</summary>
    private LineFile Again()
    {
        string[] before = [.. Files(folder)];
        long now = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
        // Readers take files in the order of their names.
        string name = string.Create(
            CultureInfo.InvariantCulture, $"{Start}{now:0000000000}.{Interlocked.Increment(ref written):00000}.{Environment.ProcessId}.{Environment.MachineName}{End}");
        string path = Path.Combine(folder, name), metrics = Path.Combine(run, "metrics.jsonl");
        time = System.IO.File.Exists(metrics) ? new DateTimeOffset(System.IO.File.GetLastWriteTimeUtc(metrics)).ToUnixTimeSeconds() : now;
        AtomicFile.Write(path, stream =>
        {
            stream.Write(EventRecord.Version(time));
            foreach (byte[] record in Records())
            {
                stream.Write(record);
            }
        });
        foreach (string old in before)
        {
            System.IO.File.Delete(old);
        }

        return new LineFile(path);
    }

    /// <summary>The records of the lines on disk by their steps, those of an alignment's controls behind their names.</summary>
    private IEnumerable<byte[]> Records()
    {
        using IEnumerator<string> evaluations = Lines("evaluations.jsonl").GetEnumerator();
        bool more = evaluations.MoveNext();
        foreach (string line in Lines("metrics.jsonl"))
        {
            for (; more && StepOf(evaluations.Current) <= StepOf(line); more = evaluations.MoveNext())
            {
                if (Record(evaluations.Current, HeldOut) is { } measured)
                {
                    yield return measured;
                }
            }

            if (Record(line, "") is { } record)
            {
                yield return record;
            }
        }

        for (; more; more = evaluations.MoveNext())
        {
            if (Record(evaluations.Current, HeldOut) is { } measured)
            {
                yield return measured;
            }
        }

        foreach (string path in Directory.EnumerateFiles(run, "metrics.*.jsonl").Order(StringComparer.Ordinal))
        {
            string name = Path.GetFileName(path);
            foreach (string line in Lines(name))
            {
                if (Record(line, name["metrics.".Length..^".jsonl".Length] + "/") is { } record)
                {
                    yield return record;
                }
            }
        }
    }

    private IEnumerable<string> Lines(string name)
    {
        string path = Path.Combine(run, name);
        if (!System.IO.File.Exists(path))
        {
            yield break;
        }

        using StreamReader reader = new(new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete));
        while (reader.ReadLine() is { } line)
        {
            yield return line;
        }
    }

    /// <summary>The step of a line, by its digits; what has none comes at once and is left out.</summary>
    private static long StepOf(string line) =>
        StepPattern().Match(line) is { Success: true } found && long.TryParse(found.Groups[1].Value, NumberStyles.None, CultureInfo.InvariantCulture, out long step) ? step : -1;

    [GeneratedRegex("\"step\"\\s*:\\s*(\\d+)")]
    private static partial Regex StepPattern();

    /// <summary>The numbers of a line as a record; null where it is cut off, no such object, or has no number.</summary>
    private byte[]? Record(string line, string prefix)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(line);
            JsonElement root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty("step", out JsonElement given)
                || given.ValueKind != JsonValueKind.Number || !given.TryGetInt64(out long step) || step < 0)
            {
                return null;
            }

            List<(string, float)> numbers = [];
            foreach (JsonProperty property in root.EnumerateObject())
            {
                switch (property.Name)
                {
                    case "step":
                        break;
                    case "time":
                        time = property.Value.ValueKind == JsonValueKind.Number ? property.Value.GetDouble() : time;
                        break;
                    default:
                        Find(numbers, prefix + (prefix.Length == 0 ? Tag(property.Name, root) : property.Name), property.Value);
                        break;
                }
            }

            return numbers.Count == 0 ? null : EventRecord.Scalars(time, step, numbers);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or FormatException)
        {
            return null;
        }
    }

    /// <summary>The losses of a step by kind stand together, as those on held-out data do.</summary>
    private static string Tag(string name, JsonElement root) => name switch
    {
        "loss" when root.GetProperty(name).ValueKind == JsonValueKind.Number => "loss/total",
        "text" or "image" or "structure" => "loss/" + name,
        _ => name,
    };

    private static void Find(List<(string, float)> found, string tag, JsonElement value)
    {
        switch (value.ValueKind)
        {
            case JsonValueKind.Number:
                found.Add((tag, (float)value.GetDouble()));
                break;
            case JsonValueKind.True or JsonValueKind.False:
                found.Add((tag, value.ValueKind == JsonValueKind.True ? 1 : 0));
                break;
            case JsonValueKind.Object:
                foreach (JsonProperty property in value.EnumerateObject())
                {
                    Find(found, $"{tag}/{property.Name}", property.Value);
                }

                break;
        }
    }

    private static IEnumerable<string> Files(string folder) =>
        Directory.Exists(folder) ? Directory.EnumerateFiles(folder, $"{Start}*{End}").Order(StringComparer.Ordinal) : [];
}
