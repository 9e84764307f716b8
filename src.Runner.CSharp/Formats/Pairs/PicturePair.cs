namespace Hybrid.Runner.Formats;

/// <summary>A picture, still encoded, and what is said of it.</summary>
/// <param name="Key">Its name within its source.</param>
/// <param name="Image">The picture.</param>
/// <param name="Captions">Its captions, at least one unless pictures without any were asked for; the first is the one to use where one is wanted.</param>
internal sealed record PicturePair(string Key, EncodedPicture Image, IReadOnlyList<string> Captions);

/// <summary>What a source says next: a pair, or something that was dropped.</summary>
/// <param name="Pair">The pair, or null.</param>
/// <param name="Drop">What was dropped, where there is no pair.</param>
internal readonly record struct PairEvent(PicturePair? Pair, Drop? Drop)
{
    /// <summary>Something that was dropped.</summary>
    public static PairEvent Dropped(DropReason reason, string key, string detail = "") => new(null, new Drop(reason, key, detail));
}

/// <summary>How a source is read.</summary>
internal sealed class PairReading
{
    private double fraction;

    /// <summary>Whether rows of a table that follow each other and name one picture are captions of it, and no duplicates.</summary>
    public bool AllCaptions { get; init; }

    /// <summary>Whether pictures without captions are taken as well.</summary>
    public bool Uncaptioned { get; init; }

    /// <summary>The share of the source that was read, from 0 to 1. Any thread may ask.</summary>
    public double Fraction
    {
        get => Volatile.Read(ref fraction);
        internal set => Volatile.Write(ref fraction, value);
    }
}
