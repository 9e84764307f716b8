using System.Globalization;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Writes token shards: safetensors files with image_codes U16 [N, K], text_ids I32 (flat) and text_offsets I64 [N + 1], each
/// whole or absent, listed in the folder's manifest once it is whole. One writer serves one thread; writers of several threads
/// share a manifest and have their own prefixes.
/// </summary>
internal sealed class ShardWriter : IDisposable
{
    private readonly ShardManifest manifest;
    private readonly ShardInfo info;
    private readonly int pairsPerShard;
    private readonly string prefix;
    private readonly string? source;
    private readonly ushort[] narrow;
    private SafeTensorsWriter? writer;
    private SafeTensorsWriter.Column<ushort>? codes;
    private SafeTensorsWriter.Column<int>? text;
    private SafeTensorsWriter.Column<long>? offsets;
    private int number;

    /// <summary>Begins to write. Numbers of shards go on after those of the same prefix in the manifest.</summary>
    public ShardWriter(ShardManifest manifest, ShardInfo info, int pairsPerShard, string prefix = "shard", string? source = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(pairsPerShard);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(info.ImageVocabulary, 1 << 16);
        this.manifest = manifest;
        this.info = info;
        this.pairsPerShard = pairsPerShard;
        this.prefix = prefix;
        this.source = source;
        narrow = new ushort[info.Codes];
        HashSet<string> taken = [.. manifest.Entries.Select(entry => entry.File)];
        while (taken.Contains(Name(number)))
        {
            number++;
        }
    }

    /// <summary>Pairs that were added, those of the unfinished shard included.</summary>
    public long Count { get; private set; }

    /// <summary>How far the source was read; the manifest's line of the shard that is finished next says so.</summary>
    public ShardMaking? Made { get; set; }

    /// <summary>Adds a pair. Errors: ArgumentException when a code or id is outside its vocabulary or the codes do not fill the grid.</summary>
    public void Add(ReadOnlySpan<int> textIds, ReadOnlySpan<int> imageCodes)
    {
        if (imageCodes.Length != narrow.Length)
        {
            throw new ArgumentException($"A picture of {imageCodes.Length} codes does not fill the grid of {info.GridHeight} × {info.GridWidth}.", nameof(imageCodes));
        }

        for (int i = 0; i < narrow.Length; i++)
        {
            narrow[i] = (uint)imageCodes[i] < (uint)info.ImageVocabulary
                ? (ushort)imageCodes[i]
                : throw new ArgumentException($"The image code {imageCodes[i]} is outside 0 to {info.ImageVocabulary - 1}.", nameof(imageCodes));
        }

        foreach (int id in textIds)
        {
            if ((uint)id >= (uint)info.TextVocabulary)
            {
                throw new ArgumentException($"The text id {id} is outside 0 to {info.TextVocabulary - 1}.", nameof(textIds));
            }
        }

        Begin();
        codes!.Append(narrow);
        text!.Append(textIds);
        offsets!.Append([text.Rows]);
        Count++;
        if (codes.Rows == pairsPerShard)
        {
            Roll();
        }
    }

    /// <summary>Writes what was added since the last whole shard.</summary>
    /// <param name="evenEmpty">Whether a shard is written where nothing was added: it says that its source was read.</param>
    public void Finish(bool evenEmpty = false)
    {
        if (evenEmpty)
        {
            Begin();
        }

        if (writer is not null)
        {
            Roll();
        }
    }

    /// <summary>Drops what was added since the last whole shard, unless <see cref="Finish"/> was called.</summary>
    public void Dispose() => writer?.Dispose();

    private void Begin()
    {
        if (writer is null)
        {
            writer = new SafeTensorsWriter(System.IO.Path.Combine(manifest.Folder, Name(number)));
            codes = writer.AddColumn<ushort>("image_codes", info.Codes);
            text = writer.AddColumn<int>("text_ids");
            offsets = writer.AddColumn<long>("text_offsets");
            offsets.Append([0L]);
        }
    }

    private void Roll()
    {
        string name = Name(number++);
        long count = codes!.Rows;
        writer!.Finish(info.ToMetadata());
        writer = null;
        manifest.Add(new ShardEntry(name, count, Files.Sha256(System.IO.Path.Combine(manifest.Folder, name)), source, Made));
    }

    private string Name(int which) => string.Create(CultureInfo.InvariantCulture, $"{prefix}-{which:D6}.safetensors");
}
