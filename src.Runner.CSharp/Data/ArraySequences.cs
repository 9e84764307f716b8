using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>Ready sequences in a .npy file: int64 or int32 [N, L], mapped into memory.</summary>
internal sealed class ArraySequences : ISequenceSource
{
    private readonly NpyFile file;

    /// <summary>Opens a file. Errors: InputException unless it holds integers [N, L], L at least 2.</summary>
    public ArraySequences(string path)
    {
        Name = path;
        file = NpyFile.Open(path);
    }

    public long Count => file.Shape[0];

    public int Length => (int)file.Shape[1];

    public string Name { get; }

    public long[] Row(long place, long position) => file.Row(place);

    public void Dispose() => file.Dispose();
}
