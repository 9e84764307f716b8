namespace Hybrid.Runner;

/// <summary>Several sources as one, in order.</summary>
internal sealed class JoinedSequences : ISequenceSource
{
    private readonly IReadOnlyList<ISequenceSource> parts;
    private readonly long[] starts;

    /// <summary>Joins sources of one length. Errors: InputException where lengths differ or nothing is there.</summary>
    public JoinedSequences(IReadOnlyList<ISequenceSource> parts)
    {
        this.parts = parts;
        starts = new long[parts.Count];
        foreach (var (part, i) in parts.Select((part, i) => (part, i)))
        {
            starts[i] = Count;
            Count += part.Count;
            if (part.Length != parts[0].Length)
            {
                throw new InputException(
                    $"{part.Name} holds sequences of {part.Length} tokens, {parts[0].Name} of {parts[0].Length}; the sequences of one run must be of one length.");
            }
        }

        if (Count == 0)
        {
            throw new InputException($"{Name} holds no sequences.");
        }
    }

    public long Count { get; }

    public int Length => parts[0].Length;

    public IEnumerable<string> Losses => parts.SelectMany(part => part.Losses);

    public (int Height, int Width)? Grid => parts.All(part => part.Grid == parts[0].Grid) ? parts[0].Grid : null;

    public string Name => string.Join(", ", parts.Select(part => part.Name));

    public long[] Row(long place, long position)
    {
        int part = Array.BinarySearch(starts, place);
        part = part >= 0 ? part : ~part - 1;
        while (parts[part].Count <= place - starts[part])
        {
            part++;
        }

        return parts[part].Row(place - starts[part], position);
    }

    public void Dispose()
    {
        foreach (ISequenceSource part in parts)
        {
            part.Dispose();
        }
    }
}
