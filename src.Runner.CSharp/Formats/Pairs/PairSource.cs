namespace Hybrid.Runner.Formats;

/// <summary>What a source holds.</summary>
internal enum PairSourceKind
{
    /// <summary>Pictures and captions.</summary>
    Pairs,

    /// <summary>Ready sequences of ids, as open_lm's tars have them.</summary>
    Tokens,
}

/// <summary>One source of picture–caption pairs: a webdataset tar, a table, or a folder of pictures with captions beside them.</summary>
internal sealed class PairSource
{
    private static readonly string[] TableNames = ["captions", "metadata"];
    private const int MostDepth = 32;
    private readonly Func<PairReading, IEnumerable<PairEvent>> read;

    private PairSource(string path, PairSourceKind kind, Func<PairReading, IEnumerable<PairEvent>> read) => (Path, Kind, this.read) = (System.IO.Path.GetFullPath(path), kind, read);

    /// <summary>The full path of the tar, table or folder.</summary>
    public string Path { get; }

    /// <summary>What it holds.</summary>
    public PairSourceKind Kind { get; }

    /// <summary>
    /// The sources that a path stands for: a tar, packed or not; a table (.jsonl, .csv, .tsv, .parquet) beside its pictures; COCO's
    /// annotations (.json); a folder with such tables (captions.*, metadata.*, captions_*.json), or else with tars, or else with Parquet
    /// tables, or else with pictures and a .txt or .json of the same name beside each, in it or in folders below. Sources are listed in
    /// ordinal order. Errors: <see cref="InputException"/> when it is none of these.
    /// </summary>
    /// <param name="path">The file or folder.</param>
    /// <param name="imageRoot">Where the pictures are that tables name, or null: beside them.</param>
    public static IReadOnlyList<PairSource> Open(string path, string? imageRoot = null)
    {
        if (imageRoot is not null && !Directory.Exists(imageRoot))
        {
            throw new InputException($"{imageRoot} is no folder; --image-root is where the pictures are.");
        }

        try
        {
            if (Directory.Exists(path))
            {
                IReadOnlyList<PairSource> found = OfFolder(path, imageRoot, 0);
                return found.Count > 0 ? found : throw new InputException($"{path} has no captions.jsonl, captions.csv or captions.tsv, no tar, no Parquet table and no picture.");
            }

            return File.Exists(path)
                ? [OfFile(path, imageRoot) ?? throw new InputException($"{path} is neither a .tar, a table (.jsonl, .csv, .tsv, .parquet), a .json of captions nor a folder.")]
                : throw new InputException($"{path} does not exist.");
        }
        catch (Exception e) when (FileErrors.Explain(e, path) is { } refusal)
        {
            throw refusal;
        }
    }

    /// <summary>What the source says, in its order, the same each time. Nothing in it ends the reading of the rest.</summary>
    public IEnumerable<PairEvent> Read(PairReading reading) => read(reading);

    /// <summary>
    /// What tells whether the source is still the one that it was: bytes and time of the last change; of a folder, of all files in it.
    /// </summary>
    public (long Bytes, DateTime Changed) Stamp()
    {
        FileSystemInfo[] files = Directory.Exists(Path) ? [.. new DirectoryInfo(Path).EnumerateFiles()] : [new FileInfo(Path)];
        return (files.Sum(file => ((FileInfo)file).Length), files.Length == 0 ? default : files.Max(file => file.LastWriteTimeUtc));
    }

    private static PairSource? OfFile(string path, string? imageRoot)
    {
        string name = System.IO.Path.GetFileName(path).ToLowerInvariant();
        if (TarMembers.IsTar(name))
        {
            return OfTar(path);
        }

        PicturePaths paths = new(imageRoot ?? System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(path)) ?? "");
        if (CaptionTable.IsTable(path))
        {
            return new(path, PairSourceKind.Pairs, reading => CaptionTable.Pairs(path, paths.Find, reading));
        }

        if (name.EndsWith(".parquet", StringComparison.Ordinal))
        {
            // img2dataset's table beside a tar says what became of each address; the pictures and captions are in the tar.
            string tar = System.IO.Path.ChangeExtension(path, ".tar");
            return File.Exists(tar) ? OfTar(tar) : new(path, PairSourceKind.Pairs, reading => ParquetTable.Pairs(path, paths.Find, reading));
        }

        return name.EndsWith(".json", StringComparison.Ordinal) || name.EndsWith(".json.gz", StringComparison.Ordinal)
            ? new(path, PairSourceKind.Pairs, reading => CocoAnnotations.Pairs(path, imageRoot, reading))
            : null;
    }

    private static PairSource OfTar(string path) => new(
        path, TokenTars.Is(path) ? PairSourceKind.Tokens : PairSourceKind.Pairs, reading => SampleGroups.OfTar(path, reading));

    private static IReadOnlyList<PairSource> OfFolder(string folder, string? imageRoot, int depth)
    {
        string[] files = [.. Directory.EnumerateFiles(folder).Where(file => System.IO.Path.GetFileName(file)[0] != '.').Order(StringComparer.Ordinal)];
        IEnumerable<PairSource> Sources(IEnumerable<string> paths) => paths.Select(path => OfFile(path, imageRoot)).OfType<PairSource>();
        string[] tables = [.. files.Where(IsCaptions), .. Annotations(folder)];
        if (tables.Length > 0)
        {
            return [.. Sources(tables)];
        }

        string[] tars = [.. files.Where(TarMembers.IsTar)];
        if (tars.Length > 0)
        {
            return [.. Sources(tars)];
        }

        // img2dataset's files: 00000.parquet says what became of each address, the folder 00000 has the pictures with their captions.
        string[] parquet = [.. files.Where(file => file.EndsWith(".parquet", StringComparison.OrdinalIgnoreCase) && !HasCaptions(System.IO.Path.ChangeExtension(file, null)))];
        if (parquet.Length > 0)
        {
            return [.. Sources(parquet)];
        }

        List<PairSource> found = [];
        if (files.Any(file => SampleGroups.IsPicture(WebDataset.Split(System.IO.Path.GetFileName(file)).Extension)))
        {
            found.Add(new(folder, PairSourceKind.Pairs, reading => SampleGroups.Group(FilesOf(folder, reading))));
        }

        // Links between folders may lead round in a circle.
        IEnumerable<string> below = depth == MostDepth ? [] : Directory.EnumerateDirectories(folder)
            .Where(inner => System.IO.Path.GetFileName(inner)[0] != '.' && new DirectoryInfo(inner).LinkTarget is null).Order(StringComparer.Ordinal);
        found.AddRange(below.SelectMany(inner => OfFolder(inner, imageRoot, depth + 1)));
        return found;
    }

    /// <summary>Whether a file is captions.* or metadata.* of a kind of table, or COCO's captions_*.json.</summary>
    private static bool IsCaptions(string file)
    {
        string name = System.IO.Path.GetFileName(file).ToLowerInvariant(), stem = name.Split('.')[0];
        bool isTable = CaptionTable.IsTable(file) || name.EndsWith(".parquet", StringComparison.Ordinal);
        bool isJson = name.EndsWith(".json", StringComparison.Ordinal) && (stem.StartsWith("captions_", StringComparison.Ordinal) || stem is "captions" or "dataset");
        return (isTable && TableNames.Contains(stem)) || isJson;
    }

    private static IEnumerable<string> Annotations(string folder)
    {
        string annotations = System.IO.Path.Combine(folder, "annotations");
        return Directory.Exists(annotations) ? Directory.EnumerateFiles(annotations, "captions_*.json").Order(StringComparer.Ordinal) : [];
    }

    private static bool HasCaptions(string folder) => Directory.Exists(folder)
        && Directory.EnumerateFiles(folder).Take(64).Any(file => WebDataset.Split(System.IO.Path.GetFileName(file)).Extension is "txt" or "json" or "caption");

    private static IEnumerable<SampleGroups.SampleFile> FilesOf(string folder, PairReading reading)
    {
        string[] files = [.. Directory.EnumerateFiles(folder).Where(file => SampleGroups.Most(System.IO.Path.GetFileName(file)) >= 0)];

        // By key first: "a-1.jpg" stands between "a.jpg" and "a.txt" in the order of names.
        Array.Sort(files, (a, b) =>
        {
            string left = System.IO.Path.GetFileName(a), right = System.IO.Path.GetFileName(b);
            int keys = string.CompareOrdinal(WebDataset.Split(left).Key, WebDataset.Split(right).Key);
            return keys != 0 ? keys : string.CompareOrdinal(left, right);
        });
        PicturePaths paths = new(folder);
        for (int i = 0; i < files.Length; i++)
        {
            reading.Fraction = (double)i / files.Length;
            string name = System.IO.Path.GetFileName(files[i]), full = System.IO.Path.GetFullPath(files[i]);
            long length = new FileInfo(full).Length, most = SampleGroups.Most(name);
            yield return paths.LeadsOut(full) ? new(name, null, new Drop(DropReason.UnsafePath, name, "it is a link that leads out of the folder"))
                : length > most ? new(name, null, new Drop(DropReason.TooLarge, name, $"{length:N0} bytes"))
                : new(name, new EncodedPicture(full), null);
        }
    }
}
