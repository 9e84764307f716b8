namespace Hybrid.Runner.Formats;

/// <summary>Ready sequences of ids, by row.</summary>
public interface ISequenceFile : IDisposable
{
    /// <summary>The file's path.</summary>
    string Path { get; }

    /// <summary>The number of rows.</summary>
    long Count { get; }

    /// <summary>The ids of a row, none negative. Errors: <see cref="InputException"/> for an id that is none.</summary>
    int[] Row(long index);
}

/// <summary>Opens files of ready sequences.</summary>
public static class SequenceFiles
{
    /// <summary>
    /// Opens a .npy of int64, int32 or uint16 [N, L] (mapped), or a webdataset tar as open_lm writes it (read whole): members
    /// txt with a Python list, json or json.gz with a JSON list. As open_lm reads them, anything in a list that is not a number
    /// is id 0, and a negative number n is vocabularySize + n. Errors: <see cref="InputException"/>.
    /// </summary>
    public static ISequenceFile Open(string path, int vocabularySize) =>
        path.EndsWith(".tar", StringComparison.OrdinalIgnoreCase) ? TarSequences.Open(path, vocabularySize) : new NpySequences(NpyFile.Open(path), vocabularySize);

    /// <summary>In the place of a vocabulary's size: ids as they stand in the file, negative ones too.</summary>
    internal const int AnyIds = 0;

    internal static int Id(long id, int vocabularySize, string path, string where)
    {
        if (vocabularySize == AnyIds && id is >= int.MinValue and <= int.MaxValue)
        {
            return (int)id;
        }

        long positive = id < 0 ? id + vocabularySize : id;
        return positive >= 0 && positive < vocabularySize
            ? (int)positive
            : throw new InputException($"{path}: {where} holds the id {id}, outside the vocabulary of {vocabularySize}.");
    }
}

/// <summary>The rows of a .npy.</summary>
internal sealed class NpySequences : ISequenceFile
{
    private readonly NpyFile file;
    private readonly int vocabularySize;

    public NpySequences(NpyFile file, int vocabularySize)
    {
        this.file = file;
        this.vocabularySize = vocabularySize;
        if (file.Shape.Length != 2 || file.FortranOrder || file.StoredType is not ("<i8" or "<i4" or "<u2") || file.Shape[1] > int.MaxValue)
        {
            file.Dispose();
            throw new InputException($"{file.Path} holds {file.StoredType} {Shape.show(file.Shape)}; sequences are <i8, <i4 or <u2 [N, L] in C order.");
        }
    }

    public string Path => file.Path;

    public long Count => file.Shape[0];

    public int[] Row(long index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, Count);
        int[] row = new int[file.Shape[1]];
        file.ReadRow(index, row);
        for (int i = 0; i < row.Length; i++)
        {
            if ((uint)row[i] >= (uint)vocabularySize)
            {
                row[i] = SequenceFiles.Id(row[i], vocabularySize, Path, $"row {index}, column {i}");
            }
        }

        return row;
    }

    public void Dispose() => file.Dispose();
}
