using System.Text.Json;

namespace Hybrid.Runner.Formats;

/// <summary>Tables of picture files and captions: JSON lines, or comma- or tab-separated values with a first line of names.</summary>
internal static class CaptionTable
{
    private static readonly string[] JsonLinesNames = [".jsonl", ".ndjson"], ValuesNames = [".csv", ".tsv"];

    /// <summary>Whether a file is such a table by its name, packed by gzip or not.</summary>
    public static bool IsTable(string path) => JsonLinesNames.Concat(ValuesNames).Contains(Extension(path));

    /// <summary>The pairs of a table whose pictures are found by <paramref name="find"/>.</summary>
    public static IEnumerable<PairEvent> Pairs(string path, Func<string, string?> find, PairReading reading) => TableRows.Pairs(
        JsonLinesNames.Contains(Extension(path)) ? JsonLines(path, reading) : Values(path, reading), find, reading);

    private static string Extension(string path) =>
        Path.GetExtension(Unpacking.IsPacked(path) ? Path.GetFileNameWithoutExtension(path) : path).ToLowerInvariant();

    private static IEnumerable<TableRow> JsonLines(string path, PairReading reading)
    {
        long number = 0;
        foreach (List<byte[]>? record in Records(path, separator: null, reading))
        {
            number++;
            string place = $"line {number}";
            if (record is null)
            {
                yield return TableRow.Dropped(DropReason.TooLarge, place, $"more than {SampleGroups.MostRecord:N0} bytes");
            }
            else if (!record[0].AsSpan().Trim(" \t"u8).IsEmpty)
            {
                yield return JsonLine(record[0], place);
            }
        }
    }

    private static TableRow JsonLine(byte[] line, string place)
    {
        if (SampleGroups.Decode(line) is not { } text)
        {
            return TableRow.Dropped(DropReason.BadUtf8, place);
        }

        try
        {
            using JsonDocument document = JsonDocument.Parse(text);
            return TableRows.OfJson(document.RootElement, place);
        }
        catch (JsonException e)
        {
            return TableRow.Dropped(DropReason.BadRecord, place, e.Message);
        }
    }

    private static IEnumerable<TableRow> Values(string path, PairReading reading)
    {
        byte separator = Extension(path) == ".tsv" ? (byte)'\t' : (byte)',';
        int fileColumn = -1, textColumn = -1;
        long number = 0;
        foreach (List<byte[]>? record in Records(path, separator, reading))
        {
            number++;
            string place = $"record {number}";
            if (number == 1)
            {
                List<string> names = (record ?? []).ConvertAll(field => (SampleGroups.Decode(field) ?? "").Trim().ToLowerInvariant());
                fileColumn = TableRows.FileColumns.Select(column => names.IndexOf(column)).FirstOrDefault(index => index >= 0, -1);
                textColumn = TableRows.TextColumns.Select(column => names.IndexOf(column)).FirstOrDefault(index => index >= 0, -1);
                if (fileColumn < 0 || (textColumn < 0 && !reading.Uncaptioned))
                {
                    throw new InputException(
                        $"{path}: its first line must name a column {string.Join(" or ", TableRows.FileColumns)} and a column {string.Join(" or ", TableRows.TextColumns)}.");
                }
            }
            else if (record is null)
            {
                yield return TableRow.Dropped(DropReason.TooLarge, place, $"more than {SampleGroups.MostRecord:N0} bytes");
            }
            else if (record is [{ Length: 0 }])
            {
                // A blank line.
            }
            else if (record.Count <= Math.Max(fileColumn, textColumn))
            {
                yield return TableRow.Dropped(DropReason.BadRecord, place, record.Count == 0 ? "its quotes have no end" : $"{record.Count} fields");
            }
            else if (SampleGroups.Decode(record[fileColumn]) is not { } file || SampleGroups.Decode(textColumn < 0 ? [] : record[textColumn]) is not { } text)
            {
                yield return TableRow.Dropped(DropReason.BadUtf8, place);
            }
            else if (file.Trim().Length == 0)
            {
                yield return TableRow.Dropped(DropReason.MissingPicture, place, "no picture is named");
            }
            else
            {
                yield return new TableRow(file.Trim(), text.Trim() is { Length: > 0 } caption ? [caption] : []);
            }
        }
    }

    /// <summary>
    /// The records of a table, as bytes, so that one that is not UTF-8 spoils no other: lines, or fields between tabs, or fields
    /// between commas of which some stand in double quotes and may then hold commas, line ends and doubled quotes. Null stands for a
    /// record that is too long, an empty list for a last one whose quotes have no end. Such a table may be packed.
    /// </summary>
    private static IEnumerable<List<byte[]>?> Records(string path, byte? separator, PairReading reading)
    {
        using Stream stream = new BufferedStream(Unpacking.Open(path, out FileStream file), 1 << 16);
        List<byte[]> record = [];
        List<byte> field = [];
        bool quoted = false, start = true, tooLong = false;
        long length = 0;
        int next = Next(stream, path);
        for (int current = next; current >= 0; current = next)
        {
            next = Next(stream, path);
            if (++length > SampleGroups.MostRecord && !tooLong)
            {
                // Quotes that are open this long are most likely a mistake: the next line is a record again.
                (tooLong, quoted) = (true, false);
                record.Clear();
                field = [];
            }

            if (quoted)
            {
                if (current != '"')
                {
                    field.Add((byte)current);
                }
                else if (next == '"')
                {
                    field.Add((byte)'"');
                    next = Next(stream, path);
                }
                else
                {
                    quoted = false;
                }
            }
            else if (current == '"' && start && separator == (byte)',' && !tooLong)
            {
                quoted = true;
                start = false;
            }
            else if (current == '\n' || (current == separator && !tooLong))
            {
                record.Add([.. field]);
                field.Clear();
                start = true;
                if (current == '\n')
                {
                    reading.Fraction = (double)file.Position / Math.Max(1, file.Length);
                    yield return tooLong ? null : record;
                    (record, tooLong, length) = ([], false, 0);
                }
            }
            else if ((current != '\r' || next != '\n') && !tooLong)
            {
                field.Add((byte)current);
                start = false;
            }
        }

        if (quoted)
        {
            yield return [];
        }
        else if (tooLong)
        {
            yield return null;
        }
        else if (record.Count > 0 || field.Count > 0)
        {
            record.Add([.. field]);
            yield return record;
        }
    }

    private static int Next(Stream stream, string path)
    {
        try
        {
            return stream.ReadByte();
        }
        catch (Exception e) when (e is IOException or InvalidDataException)
        {
            throw new InputException($"{path} cannot be read to its end: {e.Message}", e);
        }
    }
}
