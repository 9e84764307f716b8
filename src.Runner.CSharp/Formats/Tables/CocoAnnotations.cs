using System.Text.Json;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Captions in one JSON file: COCO's annotations (images and annotations), Karpathy's splits (images with sentences), or an array of
/// objects as a table of JSON lines has them.
/// </summary>
internal static class CocoAnnotations
{
    private const long MostBytes = 1L << 30;

    /// <summary>The pairs of a file. Errors: <see cref="InputException"/> where it is none of these.</summary>
    public static IEnumerable<PairEvent> Pairs(string path, string? imageRoot, PairReading reading)
    {
        using JsonDocument document = Open(path);
        JsonElement root = document.RootElement;
        string[] folders = Folders(path, imageRoot);
        PicturePaths paths = new(imageRoot ?? Around(path));
        string? Find(string name) => folders.Select(folder => paths.Find(folder.Length == 0 ? name : Path.Combine(folder, name))).FirstOrDefault(found => found is not null);
        IEnumerable<TableRow> rows = root.ValueKind == JsonValueKind.Array ? Records(root, reading)
            : root.ValueKind == JsonValueKind.Object && root.TryGetProperty("images", out JsonElement images) && images.ValueKind == JsonValueKind.Array
                ? root.TryGetProperty("annotations", out JsonElement annotations) && annotations.ValueKind == JsonValueKind.Array
                    ? Coco(images, annotations, reading)
                    : Karpathy(images, reading)
                : throw new InputException($"{path} holds neither COCO's images and annotations nor an array of records.");
        foreach (PairEvent next in TableRows.Pairs(rows, name => PicturePaths.IsSafe(name) ? Find(name) : paths.Find(name), reading))
        {
            yield return next;
        }
    }

    /// <summary>The folder within which pictures are looked for: the file's, or the one above where the file's is called annotations.</summary>
    private static string Around(string path)
    {
        string folder = Path.GetDirectoryName(Path.GetFullPath(path)) ?? "";
        return IsAnnotations(folder) ? Path.GetDirectoryName(folder) ?? folder : folder;
    }

    private static bool IsAnnotations(string folder) => Path.GetFileName(folder).StartsWith("annotations", StringComparison.OrdinalIgnoreCase);

    /// <summary>Where a picture may be, relative to that folder: beside the file, or in a folder named as the file's split is.</summary>
    private static string[] Folders(string path, string? imageRoot)
    {
        string stem = Path.GetFileNameWithoutExtension(path), split = stem[(stem.IndexOf('_') + 1)..];
        string own = imageRoot is null && IsAnnotations(Path.GetDirectoryName(Path.GetFullPath(path)) ?? "")
            ? Path.GetFileName(Path.GetDirectoryName(Path.GetFullPath(path))!) : "";
        return [.. new[] { "", split, Path.Combine("images", split), "images", Path.Combine(own, split), own }.Distinct(StringComparer.Ordinal)];
    }

    private static JsonDocument Open(string path)
    {
        try
        {
            using Stream stream = Unpacking.Open(path, out FileStream file);
            return file.Length > MostBytes
                ? throw new InputException($"{path} has {file.Length:N0} bytes; annotations of at most {MostBytes:N0} are read.")
                : JsonDocument.Parse(stream);
        }
        catch (JsonException e)
        {
            throw new InputException($"{path} is not JSON: {e.Message}", e);
        }
        catch (Exception e) when (e is IOException or InvalidDataException)
        {
            throw new InputException($"{path} cannot be read: {e.Message}", e);
        }
    }

    private static IEnumerable<TableRow> Records(JsonElement records, PairReading reading)
    {
        int number = 0, count = Math.Max(1, records.GetArrayLength());
        foreach (JsonElement record in records.EnumerateArray())
        {
            reading.Fraction = (double)number++ / count;
            yield return TableRows.OfJson(record, $"record {number}");
        }
    }

    private static IEnumerable<TableRow> Coco(JsonElement images, JsonElement annotations, PairReading reading)
    {
        Dictionary<string, List<string>> captions = new(StringComparer.Ordinal);
        List<TableRow> broken = [];
        int number = 0;
        foreach (JsonElement annotation in annotations.EnumerateArray())
        {
            number++;
            if (Id(annotation, "image_id") is not { } id || Text(annotation, "caption") is not { } caption)
            {
                broken.Add(TableRow.Dropped(DropReason.BadRecord, $"annotation {number}", "it has no image_id or no caption"));
            }
            else
            {
                (captions.TryGetValue(id, out List<string>? list) ? list : captions[id] = []).Add(caption);
            }
        }

        int count = images.GetArrayLength();
        number = 0;
        HashSet<string> ids = new(StringComparer.Ordinal);
        foreach (JsonElement image in images.EnumerateArray())
        {
            reading.Fraction = (double)number++ / count;
            if (Id(image, "id") is not { } id || Text(image, "file_name") is not { Length: > 0 } file)
            {
                yield return TableRow.Dropped(DropReason.BadRecord, $"image {number}", "it has no id or no file_name");
            }
            else if (!ids.Add(id))
            {
                yield return TableRow.Dropped(DropReason.DuplicateKey, file, $"a second image with the id {FileErrors.Show(id)}");
            }
            else
            {
                yield return new TableRow(file, [.. captions.GetValueOrDefault(id, []).Select(caption => caption.Trim()).Where(caption => caption.Length > 0).Distinct()]);
            }
        }

        foreach (string id in captions.Keys.Where(id => !ids.Contains(id)))
        {
            yield return TableRow.Dropped(DropReason.MissingPicture, $"image_id {FileErrors.Show(id)}", "an annotation of an image that is not listed");
        }

        foreach (TableRow row in broken)
        {
            yield return row;
        }
    }

    private static IEnumerable<TableRow> Karpathy(JsonElement images, PairReading reading)
    {
        int number = 0, count = images.GetArrayLength();
        foreach (JsonElement image in images.EnumerateArray())
        {
            reading.Fraction = (double)number++ / count;
            string place = $"image {number}";
            TableRow row = TableRows.OfJson(image, place);

            // filepath is the folder here, filename the file in it.
            yield return row.Drop is null && Text(image, "filepath") is { Length: > 0 } folder && Text(image, "filename") is { Length: > 0 } name
                ? row with { File = $"{folder}/{name}" }
                : row;
        }
    }

    private static string? Id(JsonElement record, string key) =>
        record.ValueKind == JsonValueKind.Object && record.TryGetProperty(key, out JsonElement value) && value.ValueKind is JsonValueKind.Number or JsonValueKind.String
            ? value.ToString()
            : null;

    private static string? Text(JsonElement record, string key)
    {
        try
        {
            return record.ValueKind == JsonValueKind.Object && record.TryGetProperty(key, out JsonElement value) && value.ValueKind == JsonValueKind.String
                ? value.GetString()
                : null;
        }
        catch (InvalidOperationException)
        {
            return null;
        }
    }
}
