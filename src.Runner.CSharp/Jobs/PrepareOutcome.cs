using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>What a folder of shards holds after a preparation, and what was left out of it, earlier calls included.</summary>
internal sealed class PrepareOutcome(string folder, ShardInfo info)
{
    private readonly SortedDictionary<DropReason, long> dropped = [];
    private readonly SortedDictionary<DropReason, string> examples = [];

    /// <summary>Pairs in all shards.</summary>
    public long Pairs { get; private set; }

    /// <summary>Pairs that this call added.</summary>
    public long New { get; set; }

    /// <summary>Ids of the captions of all pairs.</summary>
    public long TextTokens { get; private set; }

    /// <summary>Image codes of all pairs.</summary>
    public long ImageTokens => Pairs * info.Codes;

    /// <summary>The number of shards.</summary>
    public int Shards { get; private set; }

    /// <summary>What was dropped, by reason.</summary>
    public IReadOnlyDictionary<DropReason, long> Dropped => dropped;

    /// <summary>Takes in what was dropped of a source that was read now.</summary>
    public void Include(DropCounts drops)
    {
        Add(drops.Counts);
        foreach ((DropReason reason, string where) in drops.Examples)
        {
            examples.TryAdd(reason, where);
        }
    }

    /// <summary>Takes in what was dropped of the sources of shards that were there already.</summary>
    public void Include(IEnumerable<ShardEntry> there)
    {
        foreach (ShardEntry entry in there)
        {
            Add(entry.Dropped ?? new Dictionary<DropReason, long>());
        }
    }

    /// <summary>Counts what stands in the shards. Errors: InputException where one is damaged.</summary>
    public void Count(IReadOnlyList<ShardEntry> shards)
    {
        Shards = shards.Count;
        if (Shards == 0)
        {
            return;
        }

        using ShardReader reader = ShardReader.Open(folder);
        Pairs = reader.Count;
        for (long i = 0; i < reader.Count; i++)
        {
            TextTokens += reader.TextLength(i);
        }
    }

    /// <summary>The object for machines.</summary>
    public object ToJson() => new
    {
        Shards,
        Pairs,
        New,
        TextTokens,
        ImageTokens,
        Grid = new[] { info.GridHeight, info.GridWidth },
        info.TextVocabulary,
        info.ImageVocabulary,
        Dropped = dropped.ToDictionary(count => count.Key.ToString(), count => count.Value),
        Examples = examples.ToDictionary(example => example.Key.ToString(), example => example.Value),
    };

    /// <summary>The same for a person.</summary>
    public string ToText()
    {
        List<string> lines =
        [
            $"{Pairs:N0} pairs in {Shards} shards ({New:N0} new), {TextTokens:N0} text tokens and {ImageTokens:N0} image tokens",
            $"{info.TextVocabulary:N0} text rows, {info.ImageVocabulary:N0} image codes, {info.GridHeight} × {info.GridWidth} codes a picture",
        ];
        return string.Join('\n', lines) + DroppedText();
    }

    /// <summary>What was dropped, each reason on a line of its own after a line break; empty where nothing was.</summary>
    public string DroppedText() => string.Concat(
        from count in dropped
        orderby count.Value descending
        select $"\ndropped {count.Value:N0}: {count.Key}{(examples.TryGetValue(count.Key, out string? first) ? $", first {first}" : "")}");

    private void Add(IReadOnlyDictionary<DropReason, long> counts)
    {
        foreach ((DropReason reason, long count) in counts)
        {
            dropped[reason] = dropped.GetValueOrDefault(reason) + count;
        }
    }
}
