using System.Text.Json;

namespace Hybrid.Runner.Formats;

/// <summary>Tables of picture files and captions: JSON lines, or comma- or tab-separated values with a first line of names.</summary>
internal static class CaptionTable
{
    private static readonly string[] FileColumns = ["file", "file_name", "filename", "image", "path"];
    private static readonly string[] TextColumns = ["caption", "text", "captions", "name"];

    /// <summary>The pairs of a table. Without <paramref name="captions"/>, pictures that have none are taken too.</summary>
    public static IEnumerable<PicturePair> Pairs(string path, DropCounts drops, bool captions = true)
    {
        string folder = Path.GetDirectoryName(Path.GetFullPath(path)) ?? "";
        HashSet<string> seen = new(StringComparer.Ordinal);
        foreach ((string file, List<string> found) in
            path.EndsWith(".jsonl", StringComparison.OrdinalIgnoreCase) ? JsonLines(path, drops) : Values(path, drops, captions))
        {
            string where = $"{path}: {FileErrors.Show(file)}";
            if (!seen.Add(file))
            {
                drops.Add(DropReason.DuplicateKey, where);
            }
            else if (ReadPicture(folder, file) is not { } picture)
            {
                drops.Add(DropReason.MissingPicture, where);
            }
            else if (captions && found.Count == 0)
            {
                drops.Add(DropReason.MissingCaption, where);
            }
            else
            {
                yield return new PicturePair(file, picture, found);
            }
        }
    }

    /// <summary>The bytes of a picture below the folder; null when it is absent, empty, unreadable, or outside the folder.</summary>
    private static byte[]? ReadPicture(string folder, string file)
    {
        try
        {
            string full = Path.GetFullPath(Path.Combine(folder, file));
            bool inside = full.StartsWith(Path.TrimEndingDirectorySeparator(folder) + Path.DirectorySeparatorChar, StringComparison.Ordinal);
            return inside && File.Exists(full) && File.ReadAllBytes(full) is { Length: > 0 } bytes ? bytes : null;
        }
        catch (Exception e) when (FileErrors.Explain(e, file) is not null)
        {
            return null;
        }
    }

    private static IEnumerable<(string File, List<string> Captions)> JsonLines(string path, DropCounts drops)
    {
        long number = 0;
        foreach (List<byte[]> record in Records(path, separator: null, drops))
        {
            number++;
            if (record[0].AsSpan().Trim(" \t"u8).IsEmpty)
            {
                continue;
            }

            string where = $"{path}, line {number}";
            (string File, List<string> Captions)? pair = null;
            DropReason reason = SampleGroups.Decode(record[0]) is null ? DropReason.BadUtf8 : DropReason.BadRecord;
            try
            {
                using JsonDocument document = JsonDocument.Parse(record[0]);
                JsonElement line = document.RootElement;
                if (reason != DropReason.BadUtf8 && line.ValueKind == JsonValueKind.Object)
                {
                    string? file = FileColumns.Select(column => line.TryGetProperty(column, out JsonElement value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null)
                        .FirstOrDefault(value => !string.IsNullOrEmpty(value));
                    if (file is null)
                    {
                        reason = DropReason.MissingPicture;
                    }
                    else
                    {
                        // The first column that says something: "name" is a caption only where no other is there.
                        pair = (file, TextColumns.Select(column => SampleGroups.Captions(line, column)).FirstOrDefault(found => found.Count > 0) ?? []);
                    }
                }
            }
            catch (Exception e) when (e is JsonException or InvalidOperationException)
            {
                pair = null;
            }

            if (pair is { } found)
            {
                yield return found;
            }
            else
            {
                drops.Add(reason, where);
            }
        }
    }

    private static IEnumerable<(string File, List<string> Captions)> Values(string path, DropCounts drops, bool captions)
    {
        byte separator = path.EndsWith(".tsv", StringComparison.OrdinalIgnoreCase) ? (byte)'\t' : (byte)',';
        int fileColumn = -1, textColumn = -1;
        long number = 0;
        foreach (List<byte[]> record in Records(path, separator, drops))
        {
            number++;
            if (number == 1)
            {
                List<string> names = record.ConvertAll(field => (SampleGroups.Decode(field) ?? "").Trim().ToLowerInvariant());
                fileColumn = FileColumns.Select(column => names.IndexOf(column)).FirstOrDefault(index => index >= 0, -1);
                textColumn = TextColumns.Select(column => names.IndexOf(column)).FirstOrDefault(index => index >= 0, -1);
                if (fileColumn < 0 || (captions && textColumn < 0))
                {
                    throw new InputException($"{path}: its first line must name a column {string.Join(" or ", FileColumns)}{(captions ? $" and a column {string.Join(" or ", TextColumns)}" : "")}.");
                }

                continue;
            }

            if (record is [{ Length: 0 }])
            {
                continue;
            }

            string where = $"{path}, record {number}";
            if (record.Count <= Math.Max(fileColumn, textColumn))
            {
                drops.Add(DropReason.BadRecord, where);
            }
            else if (SampleGroups.Decode(record[fileColumn]) is not { } file || SampleGroups.Decode(textColumn < 0 ? [] : record[textColumn]) is not { } text)
            {
                drops.Add(DropReason.BadUtf8, where);
            }
            else
            {
                yield return (file, text.Trim() is { Length: > 0 } caption ? [caption] : []);
            }
        }
    }

    /// <summary>
    /// The records of a table, as bytes, so that one that is not UTF-8 spoils no other: lines, or fields between tabs, or fields
    /// between commas of which some stand in double quotes and may then hold commas, line ends and doubled quotes.
    /// </summary>
    private static IEnumerable<List<byte[]>> Records(string path, byte? separator, DropCounts drops)
    {
        using Stream stream = OpenTable(path);
        List<byte[]> record = [];
        List<byte> field = [];
        bool quoted = false, start = true;
        int next = stream.ReadByte();
        for (int current = next; current >= 0; current = next)
        {
            next = stream.ReadByte();
            if (quoted)
            {
                if (current != '"')
                {
                    field.Add((byte)current);
                }
                else if (next == '"')
                {
                    field.Add((byte)'"');
                    next = stream.ReadByte();
                }
                else
                {
                    quoted = false;
                }
            }
            else if (current == '"' && start && separator == (byte)',')
            {
                quoted = true;
                start = false;
            }
            else if (current == separator || current == '\n')
            {
                record.Add([.. field]);
                field.Clear();
                start = true;
                if (current == '\n')
                {
                    yield return record;
                    record = [];
                }
            }
            else if (current != '\r' || next != '\n')
            {
                field.Add((byte)current);
                start = false;
            }
        }

        if (quoted)
        {
            drops.Add(DropReason.BadRecord, $"{path}: the quotes of the last record have no end");
        }
        else if (record.Count > 0 || field.Count > 0)
        {
            record.Add([.. field]);
            yield return record;
        }
    }

    private static BufferedStream OpenTable(string path)
    {
        try
        {
            return new BufferedStream(new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1), 1 << 16);
        }
        catch (Exception e) when (FileErrors.Explain(e, path) is { } refusal)
        {
            throw refusal;
        }
    }
}
