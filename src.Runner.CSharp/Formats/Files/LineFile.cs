using System.Text;

namespace Hybrid.Runner.Formats;

/// <summary>
/// A file that grows by whole lines or records. They wait in memory until they can be written: where a disk is full or away, none is lost,
/// doubled or cut off once it is back. Any thread may add and flush.
/// </summary>
internal sealed class LineFile(string path)
{
    private readonly Lock gate = new();
    private readonly MemoryStream waiting = new();

    // The length up to which lines are whole, where writing more of them failed in the middle.
    private long? whole;
    private bool synced = true;

    public string Path { get; } = path;

    /// <summary>Adds a line.</summary>
    public void Add(string line) => Add(Encoding.UTF8.GetBytes(line + "\n"));

    /// <summary>Adds a record.</summary>
    public void Add(ReadOnlySpan<byte> record)
    {
        lock (gate)
        {
            waiting.Write(record);
        }
    }

    /// <summary>
    /// Writes what waits; with <paramref name="toDisk"/> it is on the disk afterwards. Errors: IOException, UnauthorizedAccessException;
    /// the lines then wait on.
    /// </summary>
    public void Flush(bool toDisk = false)
    {
        lock (gate)
        {
            if (waiting.Length == 0 && (synced || !toDisk))
            {
                return;
            }

            using FileStream stream = new(Path, FileMode.OpenOrCreate, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete, 1);
            if (whole is { } length && stream.Length > length)
            {
                stream.SetLength(length);
            }

            whole = stream.Seek(0, SeekOrigin.End);
            synced = false;
            stream.Write(waiting.GetBuffer().AsSpan(0, (int)waiting.Length));
            if (toDisk)
            {
                stream.Flush(flushToDisk: true);
                synced = true;
            }

            whole = null;
            waiting.SetLength(0);
        }
    }
}
