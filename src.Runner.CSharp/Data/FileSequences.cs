using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>The ready sequences of one file: a .npy, or one of open_lm's tars.</summary>
internal sealed class FileSequences : ISequenceSource
{
    private readonly ISequenceFile file;

    /// <summary>Opens a file whose ids are those of a vocabulary. Errors: InputException.</summary>
    public FileSequences(string path, Vocabulary vocabulary)
    {
        file = SequenceFiles.Open(path, vocabulary.Rows);
        try
        {
            Length = file.Count > 0 ? file.Row(0).Length : throw new InputException($"{path} holds no sequences.");
            if (Length < 2)
            {
                throw new InputException($"{path} holds sequences of {Length} tokens; a sequence needs at least 2.");
            }
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    public long Count => file.Count;

    public int Length { get; }

    public string Name => file.Path;

    public long[] Row(long place, long position)
    {
        int[] row = file.Row(place);
        return row.Length == Length
            ? Array.ConvertAll(row, id => (long)id)
            : throw new InputException($"{Name}: sequence {place} has {row.Length} tokens, the first one {Length}; they must be equally many.");
    }

    public void Dispose() => file.Dispose();
}
