namespace Hybrid.Runner.Formats;

/// <summary>The pairs of a folder of token shards, memory-mapped. Safe for use by several threads.</summary>
public sealed class ShardReader : IDisposable
{
    private readonly List<SafeTensorsFile> files = [];
    private readonly List<long> starts = [0];

    private ShardReader(string folder, ShardManifest manifest)
    {
        Folder = folder;
        Manifest = manifest;
    }

    /// <summary>The folder.</summary>
    public string Folder { get; }

    /// <summary>The folder's manifest.</summary>
    internal ShardManifest Manifest { get; }

    /// <summary>What the shards say of their tokens.</summary>
    public ShardInfo Info { get; private set; } = null!;

    /// <summary>The number of pairs.</summary>
    public long Count => starts[^1];

    /// <summary>
    /// Opens every shard that the manifest lists, and checks shapes, counts, agreement of the metadata and offsets. The ids are
    /// checked pair by pair as they are read. Errors: <see cref="InputException"/>.
    /// </summary>
    public static ShardReader Open(string folder)
    {
        ShardManifest manifest = ShardManifest.Read(folder);
        ShardReader reader = new(folder, manifest);
        try
        {
            reader.OpenAll();
            return reader;
        }
        catch
        {
            reader.Dispose();
            throw;
        }
    }

    /// <summary>Compares the SHA-256 of every shard with the manifest's. Errors: <see cref="InputException"/>.</summary>
    public void Verify()
    {
        for (int i = 0; i < files.Count; i++)
        {
            string hash = Files.Sha256(files[i].Path), wanted = Manifest.Entries[i].Sha256;
            if (!string.Equals(hash, wanted, StringComparison.OrdinalIgnoreCase))
            {
                throw new InputException($"{files[i].Path} has the SHA-256 {hash} and {Manifest.Path} says {FileErrors.Show(wanted)}: the shard was changed or damaged.");
            }
        }
    }

    /// <summary>
    /// The text ids and the image codes of a pair. Errors: <see cref="InputException"/> when an id or a code is outside its
    /// vocabulary, ArgumentOutOfRangeException for a pair that is not there.
    /// </summary>
    public (int[] Text, int[] Codes) Pair(long index)
    {
        (SafeTensorsFile file, long row) = Find(index);
        ReadOnlySpan<long> bounds = file.AsInt64("text_offsets", row, 2);
        int[] text = file.AsInt32("text_ids", bounds[0], (int)(bounds[1] - bounds[0])).ToArray();
        for (int i = 0; i < text.Length; i++)
        {
            if ((uint)text[i] >= (uint)Info.TextVocabulary)
            {
                throw new InputException($"{file.Path}: text id {text[i]} of pair {row} is outside the vocabulary of {Info.TextVocabulary} (text_ids, element {bounds[0] + i}).");
            }
        }

        ReadOnlySpan<ushort> stored = file.AsUInt16("image_codes", row * Info.Codes, Info.Codes);
        int[] codes = new int[stored.Length];
        for (int i = 0; i < codes.Length; i++)
        {
            codes[i] = stored[i] < Info.ImageVocabulary
                ? stored[i]
                : throw new InputException($"{file.Path}: image code {stored[i]} of pair {row} is outside the vocabulary of {Info.ImageVocabulary} (image_codes, column {i}).");
        }

        return (text, codes);
    }

    /// <summary>The number of text ids of a pair.</summary>
    public int TextLength(long index)
    {
        (SafeTensorsFile file, long row) = Find(index);
        ReadOnlySpan<long> bounds = file.AsInt64("text_offsets", row, 2);
        return (int)(bounds[1] - bounds[0]);
    }

    /// <inheritdoc/>
    public void Dispose() => files.ForEach(file => file.Dispose());

    private void OpenAll()
    {
        ShardInfo? first = null;
        foreach (ShardEntry entry in Manifest.Entries)
        {
            SafeTensorsFile file = SafeTensorsFile.Open(System.IO.Path.Combine(Folder, entry.File));
            files.Add(file);
            ShardInfo info = ShardInfo.FromMetadata(file.Path, file.Metadata);
            first ??= info;
            if (info != first)
            {
                throw new InputException($"{file.Path} was made with other tokenizers, grid or size than {files[0].Path}; shards of one folder must agree.");
            }

            Check(file, entry.Count, info.Codes);
            starts.Add(starts[^1] + entry.Count);
        }

        Info = first ?? throw new InputException($"{Manifest.Path} lists no shard.");
    }

    private (SafeTensorsFile File, long Row) Find(long index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, Count);

        // The last shard that begins at or before the index; empty shards begin where the next one does.
        int low = 0, high = files.Count - 1;
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            (low, high) = starts[middle] <= index ? (middle, high) : (low, middle - 1);
        }

        return (files[low], index - starts[low]);
    }

    private static void Check(SafeTensorsFile file, long count, int codes)
    {
        Require(file, "image_codes", "U16", [count, codes]);
        Require(file, "text_offsets", "I64", [count + 1]);
        Require(file, "text_ids", "I32", null);
        long length = file.Entries["text_ids"].Shape[0], last = 0;
        const int chunk = 1 << 20;
        for (long start = 0; start <= count; start += chunk)
        {
            ReadOnlySpan<long> offsets = file.AsInt64("text_offsets", start, (int)Math.Min(chunk, count + 1 - start));
            for (int i = 0; i < offsets.Length; i++)
            {
                if (offsets[i] < last || offsets[i] - last > int.MaxValue || offsets[i] > length || (start + i == 0 && offsets[i] != 0))
                {
                    throw new InputException($"{file.Path}: text_offsets has {offsets[i]} at {start + i}; offsets go from 0 up to {length} and never down.");
                }

                last = offsets[i];
            }
        }

        if (last != length)
        {
            throw new InputException($"{file.Path}: text_offsets ends at {last} and text_ids has {length} elements.");
        }
    }

    private static void Require(SafeTensorsFile file, string name, string type, long[]? shape)
    {
        string found = file.StoredType(name);
        long[] actual = file.Entries[name].Shape;
        if (found != type || (shape is null ? actual.Length != 1 : !actual.SequenceEqual(shape)))
        {
            throw new InputException(
                $"{file.Path}: {name} is {found} {Shape.show(actual)}; the manifest and the metadata ask for {type} {(shape is null ? "with one axis" : Shape.show(shape))}.");
        }
    }
}
