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
        if (file.Shape is not [_, >= 2 and <= int.MaxValue] || file.FortranOrder || file.StoredType is not ("<i8" or "<i4" or "<u2"))
        {
            string order = file.FortranOrder ? " in Fortran order" : "";
            string found = $"{file.StoredType} {Shape.show(file.Shape)}{order}";
            file.Dispose();
            throw new InputException($"{path} holds {found}; sequences are int64 or int32 [N, L] in C order, L at least 2.");
        }
    }

    public long Count => file.Shape[0];

    public int Length => (int)file.Shape[1];

    public string Name { get; }

    public long[] Row(long place, long position)
    {
        int[] row = new int[Length];
        file.ReadRow(place, row);
        return Array.ConvertAll(row, id => (long)id);
    }

    public void Dispose() => file.Dispose();
}
