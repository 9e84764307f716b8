using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>Sequences composed from a folder of token shards as they are read.</summary>
internal sealed class ShardSequences : ISequenceSource
{
    private readonly ShardReader reader;
    private readonly PairComposer composer;

    /// <summary>Opens a folder of shards. Errors: InputException where they are damaged or were made for a larger vocabulary.</summary>
    public ShardSequences(string path, Vocabulary vocabulary, PairComposer composer)
    {
        (Name, this.composer) = (path, composer);
        reader = ShardReader.Open(path);
        try
        {
            ShardInfo info = reader.Info;
            if (info.TextVocabulary > vocabulary.TextRows || info.ImageVocabulary > vocabulary.ImageCodes)
            {
                throw new InputException(
                    $"{path} was made with {info.TextVocabulary} text tokens and {info.ImageVocabulary} image codes; the vocabulary has {vocabulary.TextRows} text rows and {vocabulary.ImageCodes} image codes.");
            }

            int limit = composer.CaptionLimit(info.Codes), longest = 0;
            long cut = 0;
            for (long i = 0; i < reader.Count; i++)
            {
                int caption = reader.TextLength(i);
                longest = Math.Max(longest, caption);
                cut += caption > limit ? 1 : 0;
            }

            Length = composer.Length(longest, info.Codes);
            if (cut > 0)
            {
                Losses = [$"{path}: {cut:N0} of {reader.Count:N0} captions are longer than the {limit} tokens that fit beside {info.Codes} codes in {Length} positions; they lose their ends"];
                Terminal.Warn(Losses.Single());
            }
        }
        catch
        {
            reader.Dispose();
            throw;
        }
    }

    public long Count => reader.Count;

    public int Length { get; }

    public string Name { get; }

    public IEnumerable<string> Losses { get; } = [];

    public (int Height, int Width)? Grid => (reader.Info.GridHeight, reader.Info.GridWidth);

    /// <summary>Whether a folder holds token shards; open_lm's folders of tars have a manifest of the same name.</summary>
    public static bool IsShards(string path) =>
        File.Exists(Path.Combine(path, ShardManifest.FileName)) && Directory.EnumerateFiles(path, "*.safetensors").Any();

    public long[] Row(long place, long position)
    {
        (int[] caption, int[] codes) = reader.Pair(place);
        try
        {
            return composer.Compose(Length, position, caption, codes);
        }
        catch (InputException error)
        {
            throw new InputException($"{Name}, pair {place}: {error.Message}", error);
        }
    }

    public void Dispose() => reader.Dispose();
}
