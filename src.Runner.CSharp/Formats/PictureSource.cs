namespace Hybrid.Runner.Formats;

/// <summary>One source of pictures, with captions or without: a tar, a folder, a table that names files, or one file.</summary>
public sealed class PictureSource
{
    private static readonly string[] Tables = [".jsonl", ".csv", ".tsv"];
    private readonly Func<DropCounts, IEnumerable<(string Name, byte[] Bytes)>> read;

    private PictureSource(string path, Func<DropCounts, IEnumerable<(string Name, byte[] Bytes)>> read)
    {
        Path = path;
        this.read = read;
    }

    /// <summary>The tar, folder, table or file.</summary>
    public string Path { get; }

    /// <summary>
    /// The sources that a path stands for: a picture; a tar of pictures among other files; a table (.jsonl, .csv, .tsv) that names
    /// pictures; a folder: its tars, and the pictures in it and in the folders below. Anything else is read as pairs are, and their
    /// captions are left aside. In ordinal order. Errors: <see cref="InputException"/> when it is none of these.
    /// </summary>
    public static IReadOnlyList<PictureSource> Open(string path)
    {
        if (Directory.Exists(path))
        {
            return OfFolder(path);
        }

        if (!File.Exists(path))
        {
            throw new InputException($"{path} does not exist.");
        }

        string extension = System.IO.Path.GetExtension(path).ToLowerInvariant();
        return IsPicture(path) ? [new(path, drops => OfFiles([path], drops))]
            : extension == ".tar" ? [OfTar(path)]
            : Tables.Contains(extension) ? [new(path, drops => CaptionTable.Pairs(path, drops, captions: false).Select(pair => (pair.Key, pair.Image)))]
            : [.. PairSource.Open(path).Select(pairs => new PictureSource(pairs.Path, drops => pairs.Read(drops).Select(pair => (pair.Key, pair.Image))))];
    }

    /// <summary>The pictures, still encoded, in the source's order. What cannot be read is counted and left out.</summary>
    public IEnumerable<(string Name, byte[] Bytes)> Read(DropCounts drops) => read(drops);

    private static bool IsPicture(string path) => SampleGroups.IsPicture(WebDataset.Split(System.IO.Path.GetFileName(path)).Extension)
        || SampleGroups.IsPicture(System.IO.Path.GetExtension(path).TrimStart('.').ToLowerInvariant());

    private static PictureSource OfTar(string path) => new(
        path,
        drops => TarMembers.Read(path, IsPicture, reason => drops.Add(DropReason.TruncatedTar, $"{path}: {reason}")));

    private static List<PictureSource> OfFolder(string folder)
    {
        try
        {
            EnumerationOptions below = new() { RecurseSubdirectories = true, AttributesToSkip = FileAttributes.System, IgnoreInaccessible = true };
            string[] files = [.. Directory.EnumerateFiles(folder, "*", below).Order(StringComparer.Ordinal)];
            string[] pictures = [.. files.Where(IsPicture)];
            List<PictureSource> sources = [.. files.Where(file => file.EndsWith(".tar", StringComparison.OrdinalIgnoreCase)).Select(OfTar)];
            if (pictures.Length > 0)
            {
                sources.Add(new(folder, drops => OfFiles(pictures, drops)));
            }

            return sources.Count > 0 ? sources : throw new InputException($"{folder} holds no picture (.jpg, .png, .webp) and no tar, nor do the folders below it.");
        }
        catch (Exception e) when (FileErrors.Explain(e, folder) is { } refusal)
        {
            throw refusal;
        }
    }

    private static IEnumerable<(string Name, byte[] Bytes)> OfFiles(IEnumerable<string> files, DropCounts drops)
    {
        foreach (string file in files)
        {
            byte[] bytes;
            try
            {
                bytes = File.ReadAllBytes(file);
            }
            catch (Exception e) when (FileErrors.Explain(e, file) is { } refusal)
            {
                drops.Add(DropReason.MissingPicture, refusal.Message);
                continue;
            }

            yield return (file, bytes);
        }
    }
}
