using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Alignment;

/// <summary>Opening the pairs of token data: a folder of shards, or ready sequences. Pairs without a caption are left out, with a warning.</summary>
internal static class TokenPairs
{
    /// <summary>How many codes shards say that there are; 0 for anything else.</summary>
    public static int CodesOf(string path)
    {
        if (!Directory.Exists(path) || !ShardSequences.IsShards(path))
        {
            return 0;
        }

        using ShardReader reader = ShardReader.Open(path);
        return reader.Info.ImageVocabulary;
    }

    /// <summary>The pairs of a path. Errors: InputException where they are damaged, do not fit the vocabulary, or none has a caption.</summary>
    public static ITokenPairs Open(string path, Vocabulary vocabulary)
    {
        if (Directory.Exists(path) && ShardSequences.IsShards(path))
        {
            return new ShardPairs(path, vocabulary);
        }

        return new SequencePairs(TokenData.Open([path], vocabulary, new PairComposer(null, vocabulary)), vocabulary);
    }

    /// <summary>The places that have captions, of so many. Errors: InputException where none has.</summary>
    private static int[] Captioned(string name, long count, Func<int, bool> captioned)
    {
        if (count > int.MaxValue)
        {
            throw new InputException($"{name} holds {count} pairs, more than alignment takes; give it a part of them.");
        }

        int[] places = [.. Enumerable.Range(0, (int)count).Where(captioned)];
        if (places.Length == 0)
        {
            throw new InputException($"{name} holds no pair of a caption and a picture; alignment needs both.");
        }

        if (places.Length < count)
        {
            Terminal.Warn($"{name}: {count - places.Length:N0} of {count:N0} have no caption or no picture; they are left out");
        }

        return places;
    }

    private sealed class ShardPairs : ITokenPairs
    {
        private readonly ShardReader reader;
        private readonly int[] places;

        public ShardPairs(string path, Vocabulary vocabulary)
        {
            reader = ShardReader.Open(path);
            try
            {
                ShardInfo info = reader.Info;
                if (info.TextVocabulary > vocabulary.TextRows || info.ImageVocabulary > vocabulary.ImageCodes)
                {
                    throw new InputException(
                        $"{path} was made with {info.TextVocabulary} text tokens and {info.ImageVocabulary} image codes; the model has {vocabulary.TextRows} text rows and {vocabulary.ImageCodes} image codes.");
                }

                places = Captioned(path, reader.Count, i => reader.TextLength(i) > 0);
            }
            catch
            {
                reader.Dispose();
                throw;
            }
        }

        public int Count => places.Length;

        public string Name => reader.Folder;

        public int ImageCodes => reader.Info.ImageVocabulary;

        public (int[] Caption, int[] Codes) Pair(int index) => reader.Pair(places[index]);

        public void Dispose() => reader.Dispose();
    }

    private sealed class SequencePairs : ITokenPairs
    {
        private readonly ISequenceSource source;
        private readonly Vocabulary vocabulary;
        private readonly int[] places;

        public SequencePairs(ISequenceSource source, Vocabulary vocabulary)
        {
            (this.source, this.vocabulary) = (source, vocabulary);
            try
            {
                places = Captioned(source.Name, source.Count, i => Parts(i) is { Caption.Length: > 0, Codes.Length: > 0 });
            }
            catch
            {
                source.Dispose();
                throw;
            }
        }

        public int Count => places.Length;

        public string Name => source.Name;

        public int ImageCodes => 0;

        public (int[] Caption, int[] Codes) Pair(int index) => Parts(places[index]);

        public void Dispose() => source.Dispose();

        private (int[] Caption, int[] Codes) Parts(int place)
        {
            try
            {
                return Compose.Parts(vocabulary, source.Row(place, place));
            }
            catch (InputException error)
            {
                throw new InputException($"{source.Name}, sequence {place}: {error.Message}", error);
            }
        }
    }
}
