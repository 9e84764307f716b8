using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>Ready sequences in a .npy file: int64 or int32 [N, L], mapped into memory.</summary>
internal sealed class ArraySequences : ISequenceSource
{
    private readonly IDisposable file;

    /// <summary>Opens a file. Errors: InputException unless it holds integers [N, L], L at least 2.</summary>
    public ArraySequences(string path)
    {
        Name = path;
        file = NpyFile.Open(path);
    }

    public long Count => 0;

    public int Length => 0;

    public string Name { get; }

    public long[] Row(long place, long position) => throw new NotSupportedException();

    public void Dispose() => file.Dispose();
}
