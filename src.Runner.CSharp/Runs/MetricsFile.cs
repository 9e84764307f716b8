using System.Text;
using System.Text.Json;

namespace Hybrid.Runner.Runs;

/// <summary>
/// A file of JSON lines that may still be written: one object for each step, its numbers as columns by their dotted names (a list's by
/// their places). A line that is cut off or no such object is left out and counted. Where a step occurs again, because a run went on
/// from an earlier one, what followed its first occurrence is forgotten.
/// </summary>
internal sealed class MetricsFile(string path)
{
    private const int LongestLine = 1 << 20, MostColumns = 200, LongestList = 4, Deepest = 4, LargestPart = 1 << 26, KeptBefore = 64;
    private readonly SortedDictionary<string, List<double>> columns = new(StringComparer.Ordinal);
    private readonly List<double> steps = [];
    private long offset;
    private byte[] before = [];

    /// <summary>The steps of the lines, rising.</summary>
    public IReadOnlyList<double> Steps => steps;

    /// <summary>The names of the columns that hold a number somewhere.</summary>
    public IEnumerable<string> Names => columns.Keys;

    /// <summary>Lines that were left out.</summary>
    public int Skipped { get; private set; }

    /// <summary>Whether the file ends within a line.</summary>
    public bool Torn { get; private set; }

    /// <summary>Rises whenever lines that were there before are not any more.</summary>
    public int Generation { get; private set; }

    public bool Any => steps.Count > 0;

    /// <summary>A column, NaN where a line has no such number; empty where no line has.</summary>
    public IReadOnlyList<double> Column(string name) => columns.TryGetValue(name, out List<double>? column) ? column : [];

    /// <summary>The last number of a column; NaN where there is none.</summary>
    public double Last(string name) => Column(name).LastOrDefault(double.IsFinite, double.NaN);

    /// <summary>Reads what has come since the last time.</summary>
    public void Read()
    {
        try
        {
            using FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            if (!Continues(file))
            {
                Forget();
            }

            while (ReadPart(file))
            {
                // A long file is taken in parts.
            }
        }
        catch (Exception error) when (error is FileNotFoundException or DirectoryNotFoundException)
        {
            if (offset > 0)
            {
                Forget();
            }
        }
        catch (EndOfStreamException)
        {
            // It was made shorter in this moment; the next reading sees it.
        }
    }

    /// <summary>Takes the lines of a part of the file; whether there may be another part.</summary>
    private bool ReadPart(FileStream file)
    {
        byte[] fresh = new byte[Math.Min(file.Length - offset, LargestPart)];
        file.Position = offset;
        file.ReadExactly(fresh);
        bool last = fresh.Length < LargestPart;
        int start = 0;
        for (int end; start < fresh.Length && (end = Array.IndexOf(fresh, (byte)'\n', start)) >= 0; start = end + 1)
        {
            Skipped += Take(fresh.AsMemory(start, end - start)) ? 0 : 1;
        }

        // A last line that is whole but for its end counts; of half a line the rest may come yet.
        Torn = last && start < fresh.Length && !Take(fresh.AsMemory(start));
        int consumed = Torn || (!last && start > 0) ? start : fresh.Length;
        offset += consumed;
        before = [.. before.Concat(fresh.AsSpan(Math.Max(0, consumed - KeptBefore), Math.Min(consumed, KeptBefore)).ToArray()).TakeLast(KeptBefore)];
        return !last;
    }

    private bool Continues(FileStream file)
    {
        if (file.Length < offset)
        {
            return false;
        }

        byte[] there = new byte[before.Length];
        file.Position = offset - before.Length;
        file.ReadExactly(there);
        return there.AsSpan().SequenceEqual(before);
    }

    private void Forget()
    {
        columns.Clear();
        steps.Clear();
        (offset, before, Skipped, Torn) = (0, [], 0, false);
        Generation++;
    }

    /// <summary>Adds a line; false where it is none.</summary>
    private bool Take(ReadOnlyMemory<byte> line)
    {
        if (line.Span.IndexOfAnyExcept(" \t\r"u8) < 0)
        {
            return true;
        }

        try
        {
            if (line.Length > LongestLine)
            {
                return false;
            }

            using JsonDocument document = JsonDocument.Parse(line, new JsonDocumentOptions { MaxDepth = 16 });
            JsonElement root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty("step", out JsonElement given)
                || given.ValueKind != JsonValueKind.Number || !given.TryGetDouble(out double step) || !double.IsFinite(step))
            {
                return false;
            }

            List<(string Name, double Number)> found = [];
            foreach (JsonProperty property in root.EnumerateObject())
            {
                if (property.Name != "step")
                {
                    Find(found, property.Name, property.Value, 1);
                }
            }

            Rewind(step);
            found.ForEach(each => Put(each.Name, each.Number));
            steps.Add(step);
            foreach (List<double> column in columns.Values)
            {
                if (column.Count < steps.Count)
                {
                    column.Add(double.NaN);
                }
            }

            return true;
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or DecoderFallbackException)
        {
            return false;
        }
    }

    private static void Find(List<(string, double)> found, string name, JsonElement value, int depth)
    {
        switch (value.ValueKind)
        {
            case JsonValueKind.Number when value.TryGetDouble(out double number) && double.IsFinite(number):
                found.Add((name, number));
                break;
            case JsonValueKind.True or JsonValueKind.False:
                found.Add((name, value.ValueKind == JsonValueKind.True ? 1 : 0));
                break;
            case JsonValueKind.Object when depth < Deepest:
                foreach (JsonProperty property in value.EnumerateObject())
                {
                    Find(found, $"{name}.{property.Name}", property.Value, depth + 1);
                }

                break;
            case JsonValueKind.Array when depth < Deepest && value.GetArrayLength() <= LongestList:
                int place = 0;
                foreach (JsonElement item in value.EnumerateArray())
                {
                    Find(found, $"{name}.{place++}", item, depth + 1);
                }

                break;
        }
    }

    private void Put(string name, double number)
    {
        if (!columns.TryGetValue(name, out List<double>? column))
        {
            if (columns.Count >= MostColumns)
            {
                return;
            }

            columns[name] = column = [.. Enumerable.Repeat(double.NaN, steps.Count)];
        }

        // Of a key that is given twice the last one counts.
        if (column.Count > steps.Count)
        {
            column[^1] = number;
        }
        else
        {
            column.Add(number);
        }
    }

    private void Rewind(double step)
    {
        if (steps.Count == 0 || step > steps[^1])
        {
            return;
        }

        int kept = steps.FindIndex(known => known >= step);
        steps.RemoveRange(kept, steps.Count - kept);
        foreach (List<double> column in columns.Values)
        {
            column.RemoveRange(kept, column.Count - kept);
        }

        Generation++;
    }
}
