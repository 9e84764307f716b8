using System.Globalization;

namespace Hybrid.Runner.Formats;

/// <summary>What every shard of a folder says of its tokens; it stands in the metadata of each.</summary>
/// <param name="TextVocabulary">The size of the text tokenizer's vocabulary.</param>
/// <param name="ImageVocabulary">The number of image codes, at most 65,536.</param>
/// <param name="GridHeight">Rows of codes of a picture.</param>
/// <param name="GridWidth">Columns of codes of a picture.</param>
/// <param name="ImageSize">Width and height of the pictures in pixels.</param>
/// <param name="Crop">How pictures were brought to that size.</param>
/// <param name="TextTokenizer">SHA-256 of the text tokenizer.</param>
/// <param name="ImageTokenizer">SHA-256 of the image tokenizer.</param>
public sealed record ShardInfo(
    int TextVocabulary,
    int ImageVocabulary,
    int GridHeight,
    int GridWidth,
    int ImageSize,
    string Crop,
    string TextTokenizer,
    string ImageTokenizer)
{
    private const string Format = "hybrid.tokens.1";

    /// <summary>Codes of a picture.</summary>
    public int Codes => GridHeight * GridWidth;

    internal IReadOnlyDictionary<string, string> ToMetadata() => new Dictionary<string, string>
    {
        ["format"] = Format,
        ["text_vocabulary"] = Text(TextVocabulary),
        ["image_vocabulary"] = Text(ImageVocabulary),
        ["grid_height"] = Text(GridHeight),
        ["grid_width"] = Text(GridWidth),
        ["image_size"] = Text(ImageSize),
        ["crop"] = Crop,
        ["text_tokenizer_sha256"] = TextTokenizer,
        ["image_tokenizer_sha256"] = ImageTokenizer,
    };

    internal static ShardInfo FromMetadata(string path, IReadOnlyDictionary<string, string> metadata)
    {
        string Value(string key) => metadata.TryGetValue(key, out string? value)
            ? value
            : throw new InputException($"{path} is not a token shard: its metadata has no {key}.");
        int Number(string key, int most) => int.TryParse(Value(key), NumberStyles.None, CultureInfo.InvariantCulture, out int number) && number >= 1 && number <= most
            ? number
            : throw new InputException($"{path}: the metadata {key} is \"{FileErrors.Show(Value(key))}\"; it must be a whole number from 1 to {most}.");
        if (Value("format") != Format)
        {
            throw new InputException($"{path} has the format \"{FileErrors.Show(Value("format"))}\"; {Format} is read here.");
        }

        return new ShardInfo(
            Number("text_vocabulary", 1 << 30), Number("image_vocabulary", 1 << 16), Number("grid_height", 1 << 14), Number("grid_width", 1 << 14),
            Number("image_size", 1 << 20), Value("crop"), Value("text_tokenizer_sha256"), Value("image_tokenizer_sha256"));
    }

    private static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);
}

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
        manifest.Add(new ShardEntry(name, count, ShardManifest.Hash(System.IO.Path.Combine(manifest.Folder, name)), source, Made));
    }

    private string Name(int which) => string.Create(CultureInfo.InvariantCulture, $"{prefix}-{which:D6}.safetensors");
}
