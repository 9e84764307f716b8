using System.Text.Json;

namespace Hybrid.Runner.Formats;

/// <summary>A row of a table: the file of a picture (or the picture itself) and its captions; or why there is none.</summary>
/// <param name="File">The name of the picture's file, or its key where the picture is in the table.</param>
/// <param name="Captions">The captions.</param>
/// <param name="Drop">Why the row cannot be used.</param>
/// <param name="Picture">The picture, where the table holds it.</param>
internal readonly record struct TableRow(string File, List<string> Captions, Drop? Drop = null, EncodedPicture? Picture = null)
{
    /// <summary>A row that cannot be used.</summary>
    public static TableRow Dropped(DropReason reason, string place, string detail = "") => new("", [], new Drop(reason, place, detail));
}

/// <summary>Rows of tables to pairs, whatever the table is written in.</summary>
internal static class TableRows
{
    /// <summary>Names of columns, best first.</summary>
    public static readonly string[] FileColumns =
        ["file", "file_name", "filename", "image", "path", "image_path", "image_file", "image_name", "file_path", "filepath", "img", "img_path"];

    /// <summary>Names of columns, best first; "name" is a caption only where no other is there.</summary>
    public static readonly string[] TextColumns = ["caption", "text", "captions", "txt", "sentence", "sentences", "description", "title", "name"];

    /// <summary>The pairs of rows, each key once.</summary>
    public static IEnumerable<PairEvent> Pairs(IEnumerable<TableRow> rows, Func<string, string?> find, PairReading reading)
    {
        HashSet<string> seen = new(StringComparer.Ordinal);
        TableRow? waiting = null;
        foreach (TableRow row in rows)
        {
            if (waiting is { } before)
            {
                if (reading.AllCaptions && row.Drop is null && row.Picture is null && row.File == before.File)
                {
                    before.Captions.AddRange(row.Captions.Where(caption => !before.Captions.Contains(caption)));
                    continue;
                }

                yield return Pair(before, find, seen, reading);
            }

            waiting = row;
        }

        if (waiting is { } last)
        {
            yield return Pair(last, find, seen, reading);
        }
    }

    /// <summary>The row that a JSON object is: any of the columns, spelt in small letters or not.</summary>
    public static TableRow OfJson(JsonElement record, string place)
    {
        if (record.ValueKind != JsonValueKind.Object)
        {
            return TableRow.Dropped(DropReason.BadRecord, place, "it is no JSON object");
        }

        try
        {
            string? file = FileColumns.Select(column => Member(record, column) is { ValueKind: JsonValueKind.String } value ? value.GetString() : null)
                .FirstOrDefault(value => !string.IsNullOrEmpty(value));
            List<string> captions = TextColumns.Select(column => Member(record, column) is null ? [] : SampleGroups.Captions(record, Spelt(record, column)))
                .FirstOrDefault(found => found.Count > 0) ?? [];
            return file is null ? TableRow.Dropped(DropReason.MissingPicture, place, "no column names a picture") : new TableRow(file, captions);
        }
        catch (InvalidOperationException e)
        {
            // Text within JSON is decoded when it is looked at.
            return TableRow.Dropped(DropReason.BadRecord, place, e.Message);
        }
    }

    private static JsonElement? Member(JsonElement record, string name) =>
        record.TryGetProperty(name, out JsonElement value) || record.TryGetProperty(name.ToUpperInvariant(), out value) ? value : null;

    private static string Spelt(JsonElement record, string name) => record.TryGetProperty(name, out _) ? name : name.ToUpperInvariant();

    private static PairEvent Pair(TableRow row, Func<string, string?> find, HashSet<string> seen, PairReading reading)
    {
        if (row.Drop is { } drop)
        {
            return new PairEvent(null, drop);
        }

        try
        {
            if (!seen.Add(row.File))
            {
                return PairEvent.Dropped(DropReason.DuplicateKey, row.File);
            }

            EncodedPicture? picture = row.Picture ?? (find(row.File) is { } path ? new EncodedPicture(path) : null);
            return picture is null ? PairEvent.Dropped(DropReason.MissingPicture, row.File)
                : row.Captions.Count == 0 && !reading.Uncaptioned ? PairEvent.Dropped(DropReason.MissingCaption, row.File)
                : new PairEvent(new PicturePair(row.File, picture, row.Captions), null);
        }
        catch (DropException e)
        {
            return PairEvent.Dropped(e.Reason, row.File, e.Message);
        }
    }
}
