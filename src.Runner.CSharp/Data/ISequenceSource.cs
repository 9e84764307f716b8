namespace Hybrid.Runner;

/// <summary>Sequences of one length, by their place. Any thread may read.</summary>
internal interface ISequenceSource : IDisposable
{
    /// <summary>How many there are.</summary>
    long Count { get; }

    /// <summary>Tokens of each.</summary>
    int Length { get; }

    /// <summary>What this is, for messages: a path.</summary>
    string Name { get; }

    /// <summary>Sentences on what the composition cost, captions that lose their ends; none where nothing is lost.</summary>
    IEnumerable<string> Losses => [];

    /// <summary>Rows and columns of a picture's codes, where the tokens say so.</summary>
    (int Height, int Width)? Grid => null;

    /// <summary>
    /// The tokens at a place. <paramref name="position"/> is where the sequence stands in the run: what is drawn anew each time
    /// (a dropped caption) is a function of it. Errors: InputException naming file and entry.
    /// </summary>
    long[] Row(long place, long position);
}
