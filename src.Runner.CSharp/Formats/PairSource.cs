using System.Collections.Concurrent;

namespace Hybrid.Runner.Formats;

/// <summary>A picture, still encoded, and what is said of it.</summary>
/// <param name="Key">Its name within its source.</param>
/// <param name="Image">The bytes of the picture's file.</param>
/// <param name="Captions">Its captions, at least one; the first is the one to use where one is wanted.</param>
public sealed record PicturePair(string Key, byte[] Image, IReadOnlyList<string> Captions)
{
    /// <summary>The first caption.</summary>
    public string Caption => Captions[0];
}

/// <summary>Why something was dropped.</summary>
public enum DropReason
{
    /// <summary>A picture has no caption, or an empty one.</summary>
    MissingCaption,

    /// <summary>A caption has no picture, or its picture's file is absent or cannot be read.</summary>
    MissingPicture,

    /// <summary>A key stands in its source a second time.</summary>
    DuplicateKey,

    /// <summary>A caption is not UTF-8.</summary>
    BadUtf8,

    /// <summary>A record is not the JSON or the table row that it should be.</summary>
    BadRecord,

    /// <summary>A tar ends early; what came before was read.</summary>
    TruncatedTar,

    /// <summary>A picture cannot be decoded.</summary>
    BadPicture,
}

/// <summary>What was dropped, counted by reason. Safe for use by several threads.</summary>
public sealed class DropCounts
{
    private readonly ConcurrentDictionary<DropReason, long> counts = new();
    private readonly ConcurrentDictionary<DropReason, string> examples = new();

    /// <summary>How often each reason came up; reasons that did not are left out.</summary>
    public IReadOnlyDictionary<DropReason, long> Counts => counts;

    /// <summary>For each reason that came up, where it did first.</summary>
    public IReadOnlyDictionary<DropReason, string> Examples => examples;

    /// <summary>All that was dropped.</summary>
    public long Total => counts.Values.Sum();

    /// <summary>Counts one.</summary>
    /// <param name="reason">Why.</param>
    /// <param name="where">The source and the key, line or reason.</param>
    public void Add(DropReason reason, string where)
    {
        counts.AddOrUpdate(reason, 1, (_, count) => count + 1);
        examples.TryAdd(reason, where);
    }
}

/// <summary>One source of picture–caption pairs: a webdataset tar, a table, or a folder of pictures with captions beside them.</summary>
public sealed class PairSource
{
    private static readonly string[] Tables = ["captions.jsonl", "captions.csv", "captions.tsv", "metadata.jsonl", "metadata.csv"];
    private readonly Func<DropCounts, IEnumerable<PicturePair>> read;

    private PairSource(string path, Func<DropCounts, IEnumerable<PicturePair>> read)
    {
        Path = path;
        this.read = read;
    }

    /// <summary>The tar, table or folder.</summary>
    public string Path { get; }

    /// <summary>
    /// The sources that a path stands for: a tar; a table (.jsonl, .csv, .tsv) beside its pictures; a folder with captions.jsonl,
    /// captions.csv or captions.tsv (or metadata.* as Hugging Face names them), or else with tars, or else with pictures and a .txt or
    /// .json of the same name beside each. Sources are listed in ordinal order. Errors: <see cref="InputException"/> when it is
    /// none of these.
    /// </summary>
    public static IReadOnlyList<PairSource> Open(string path)
    {
        if (Directory.Exists(path))
        {
            return OpenFolder(path);
        }

        if (!File.Exists(path))
        {
            throw new InputException($"{path} does not exist.");
        }

        return System.IO.Path.GetExtension(path).ToLowerInvariant() switch
        {
            ".tar" => [OfTar(path)],
            ".jsonl" or ".csv" or ".tsv" => [OfTable(path)],
            _ => throw new InputException($"{path} is neither a .tar, a table (.jsonl, .csv, .tsv) nor a folder."),
        };
    }

    /// <summary>The pairs, in the source's order. What is dropped is counted; nothing in the source ends the reading of the rest.</summary>
    public IEnumerable<PicturePair> Read(DropCounts drops) => read(drops);

    private static IReadOnlyList<PairSource> OpenFolder(string folder)
    {
        try
        {
            string[] tables = [.. Tables.Select(name => System.IO.Path.Combine(folder, name)).Where(File.Exists)];
            if (tables.Length > 0)
            {
                return [.. tables.Select(OfTable)];
            }

            string[] tars = [.. Directory.EnumerateFiles(folder, "*.tar").Order(StringComparer.Ordinal)];
            if (tars.Length > 0)
            {
                return [.. tars.Select(OfTar)];
            }

            return Directory.EnumerateFiles(folder).Any(file => SampleGroups.IsPicture(WebDataset.Split(System.IO.Path.GetFileName(file)).Extension))
                ? [OfFolder(folder)]
                : throw new InputException($"{folder} has no {Tables[0]}, {Tables[1]} or {Tables[2]}, no tar and no picture.");
        }
        catch (Exception e) when (FileErrors.Explain(e, folder) is { } refusal)
        {
            throw refusal;
        }
    }

    private static PairSource OfTar(string path) => new(path, drops =>
        SampleGroups.Pairs(path, TarMembers.Read(path, SampleGroups.IsWanted, reason => drops.Add(DropReason.TruncatedTar, $"{path}: {reason}")), drops));

    private static PairSource OfTable(string path) => new(path, drops => CaptionTable.Pairs(path, drops));

    private static PairSource OfFolder(string folder) => new(folder, drops => SampleGroups.Pairs(folder, FilesOf(folder, drops), drops));

    private static IEnumerable<(string Name, byte[] Bytes)> FilesOf(string folder, DropCounts drops)
    {
        foreach (string file in Directory.EnumerateFiles(folder).Order(StringComparer.Ordinal))
        {
            string name = System.IO.Path.GetFileName(file);
            if (!SampleGroups.IsWanted(name))
            {
                continue;
            }

            byte[] bytes;
            try
            {
                bytes = File.ReadAllBytes(file);
            }
            catch (Exception e) when (FileErrors.Explain(e, file) is { } refusal)
            {
                drops.Add(SampleGroups.IsPicture(WebDataset.Split(name).Extension) ? DropReason.MissingPicture : DropReason.MissingCaption, refusal.Message);
                continue;
            }

            yield return (name, bytes);
        }
    }
}
