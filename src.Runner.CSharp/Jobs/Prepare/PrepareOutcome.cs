using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>What a folder of shards holds after a preparation, and what was left out of it, earlier calls included.</summary>
internal sealed class PrepareOutcome
{
    private readonly SortedDictionary<DropReason, long> dropped = [];
    private readonly SortedDictionary<DropReason, string> examples = [];
    private readonly ShardInfo? info;
    private readonly long before;

    /// <summary>Begins to count, from what is in the folder already.</summary>
    public PrepareOutcome(PrepareFolder folder, ShardInfo? info) => (this.info, before) = (info, folder.Manifest.Entries.Sum(entry => entry.Count));

    /// <summary>Pairs in all shards, or ready sequences.</summary>
    public long Pairs { get; private set; }

    /// <summary>Pairs that this call added.</summary>
    public long New => Pairs - before;

    /// <summary>Captions that lost their ends.</summary>
    public long Truncated { get; private set; }

    /// <summary>Ids of the captions of all pairs.</summary>
    public long TextTokens { get; private set; }

    /// <summary>Image codes of all pairs.</summary>
    public long ImageTokens => Pairs * (info?.Codes ?? 0);

    /// <summary>The number of shards.</summary>
    public int Shards { get; private set; }

    /// <summary>Pairs a second of this call.</summary>
    public double PairsPerSecond { get; private set; }

    /// <summary>What was dropped, by reason.</summary>
    public IReadOnlyDictionary<DropReason, long> Dropped => dropped;

    /// <summary>Counts what stands in the folder. Errors: InputException where a shard is damaged.</summary>
    public void Count(PrepareFolder folder, TimeSpan took)
    {
        IReadOnlyList<ShardEntry> entries = folder.Manifest.Entries;
        (Shards, Pairs) = (entries.Count, entries.Sum(entry => entry.Count));
        PairsPerSecond = took > TimeSpan.Zero ? New / took.TotalSeconds : 0;
        foreach (ShardMaking made in entries.Select(entry => entry.Made).OfType<ShardMaking>())
        {
            Truncated += made.Truncated;
            foreach ((DropReason reason, long count) in made.Dropped)
            {
                dropped[reason] = dropped.GetValueOrDefault(reason) + count;
            }
        }

        foreach ((DropReason reason, string where) in folder.Examples())
        {
            examples[reason] = where;
        }

        if (info is not null && Shards > 0)
        {
            using ShardReader reader = ShardReader.Open(folder.Manifest.Folder);
            for (long i = 0; i < reader.Count; i++)
            {
                TextTokens += reader.TextLength(i);
            }
        }
    }

    /// <summary>The object for machines.</summary>
    public object ToJson() => info is null
        ? new { Files = Shards, Sequences = Pairs, New, Dropped = Names(dropped), Examples = Names(examples) }
        : new
        {
            Shards,
            Pairs,
            New,
            TextTokens,
            ImageTokens,
            Grid = new[] { info.GridHeight, info.GridWidth },
            info.TextVocabulary,
            info.ImageVocabulary,
            Truncated,
            Dropped = Names(dropped),
            Examples = Names(examples),
            PairsPerSecond,
        };

    /// <summary>The same for a person.</summary>
    public string ToText()
    {
        List<string> lines = info is null
            ? [$"{Pairs:N0} sequences in {Shards} files ({New:N0} new)"]
            :
            [
                $"{Pairs:N0} pairs in {Shards} shards ({New:N0} new), {TextTokens:N0} text tokens and {ImageTokens:N0} image tokens",
                $"{info.TextVocabulary:N0} text rows, {info.ImageVocabulary:N0} image codes, {info.GridHeight} × {info.GridWidth} codes a picture",
            ];
        if (Truncated > 0)
        {
            lines.Add($"{Truncated:N0} captions lost their ends");
        }

        return string.Join('\n', lines) + DroppedText();
    }

    /// <summary>What was dropped, each reason on a line of its own after a line break; empty where nothing was.</summary>
    public string DroppedText() => DropCounts.Text(dropped, examples);

    private static Dictionary<string, T> Names<T>(SortedDictionary<DropReason, T> values) => values.ToDictionary(value => value.Key.ToString(), value => value.Value);
}
