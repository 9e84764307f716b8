namespace Hybrid.Runner;

/// <summary>The tokenizers that stand beside a model's weights, so that it can read captions and show pictures; null where not known.</summary>
public sealed record Companions(string? TextTokenizer, string? ImageTokenizer)
{
    /// <summary>The model's own text tokenizer, and what the first training data that are a folder of shards bring.</summary>
    public static Companions Of(string? textTokenizer, IEnumerable<string> data)
    {
        string? Beside(string name) => data.Select(folder => Path.Combine(folder, name)).FirstOrDefault(File.Exists);
        return new(textTokenizer ?? Beside(Checkpoint.Tokenizer), Beside(ImageTokenizers.FileName));
    }

    /// <summary>Adds copies of them to a snapshot; <paramref name="folder"/> is empty or ends with a slash.</summary>
    internal void AddTo(Snapshot snapshot, string folder)
    {
        if (TextTokenizer is not null)
        {
            snapshot.AddCopy(folder + Checkpoint.Tokenizer, TextTokenizer);
        }

        if (ImageTokenizer is not null)
        {
            snapshot.AddCopy(folder + ImageTokenizers.FileName, ImageTokenizer);
        }
    }

    /// <summary>Copies them into a directory.</summary>
    public void CopyTo(string directory)
    {
        Copy(TextTokenizer, Checkpoint.Tokenizer);
        Copy(ImageTokenizer, ImageTokenizers.FileName);

        void Copy(string? from, string name)
        {
            if (from is not null)
            {
                File.WriteAllBytes(Path.Combine(directory, name), File.ReadAllBytes(from));
            }
        }
    }
}
