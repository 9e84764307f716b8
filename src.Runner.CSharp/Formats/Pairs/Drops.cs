using System.Collections.Concurrent;

namespace Hybrid.Runner.Formats;

/// <summary>Why something was dropped.</summary>
internal enum DropReason
{
    /// <summary>A picture has no caption, or an empty one.</summary>
    MissingCaption,

    /// <summary>A caption has no picture, or its picture's file is absent or cannot be read.</summary>
    MissingPicture,

    /// <summary>A key stands in its source a second time.</summary>
    DuplicateKey,

    /// <summary>A caption is not UTF-8.</summary>
    BadUtf8,

    /// <summary>A record is not the JSON, the table row or the list of ids that it should be.</summary>
    BadRecord,

    /// <summary>A tar ends early; what came before was read.</summary>
    TruncatedTar,

    /// <summary>A picture cannot be decoded.</summary>
    BadPicture,

    /// <summary>A picture claims more pixels, or a file, line or member more bytes, than are read.</summary>
    TooLarge,

    /// <summary>A name leads out of its source, or stands for a link.</summary>
    UnsafePath,

    /// <summary>A caption has more tokens than are wanted.</summary>
    LongText,

    /// <summary>A source cannot be read at all, or not to its end.</summary>
    BadSource,

    /// <summary>A ready sequence is not as long as the first one.</summary>
    OtherLength,
}

/// <summary>Something that was dropped.</summary>
/// <param name="Reason">Why.</param>
/// <param name="Key">The key, or the line or place, within its source.</param>
/// <param name="Detail">What was found there, in a few words; empty where the reason says it all.</param>
internal sealed record Drop(DropReason Reason, string Key, string Detail = "");

/// <summary>An input that is left out, and why.</summary>
internal sealed class DropException(DropReason reason, string message) : InputException(message)
{
    public DropReason Reason => reason;
}

/// <summary>What was dropped, counted by reason. Safe for use by several threads.</summary>
internal sealed class DropCounts
{
    private readonly ConcurrentDictionary<DropReason, long> counts = new();
    private readonly ConcurrentDictionary<DropReason, string> examples = new();

    /// <summary>How often each reason came up; reasons that did not are left out.</summary>
    public IReadOnlyDictionary<DropReason, long> Counts => counts;

    /// <summary>For each reason that came up, where it did first.</summary>
    public IReadOnlyDictionary<DropReason, string> Examples => examples;

    /// <summary>All that was dropped.</summary>
    public long Total => counts.Values.Sum();

    /// <summary>What was dropped for people: each reason on a line of its own after a line break; empty where nothing was.</summary>
    public static string Text(IEnumerable<KeyValuePair<DropReason, long>> counts, IReadOnlyDictionary<DropReason, string> examples) => string.Concat(
        from count in counts
        orderby count.Value descending, count.Key
        select $"\ndropped {count.Value:N0}: {count.Key}{(examples.TryGetValue(count.Key, out string? first) ? $", first {first}" : "")}");

    /// <summary>The same of these.</summary>
    public string Said => Text(Counts, Examples);

    /// <summary>Counts one.</summary>
    /// <param name="reason">Why.</param>
    /// <param name="where">The source and the key, line or reason.</param>
    public void Add(DropReason reason, string where)
    {
        counts.AddOrUpdate(reason, 1, (_, count) => count + 1);
        examples.TryAdd(reason, where);
    }
}
