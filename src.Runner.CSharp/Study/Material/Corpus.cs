using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Study;

/// <summary>A scene of World: what it is called, by one caption and by several, what it looks like, and its codes that stand for words.</summary>
internal sealed record WorldPair(string Caption, string LongCaption, byte[] Picture, int[] WordCodes, int[] ToldCodes);

/// <summary>World's data for a study: scenes in both kinds of codes, and text packed into rows.</summary>
internal static class Corpus
{
    private const int Batch = 256;

    /// <summary>Pictures are 64 × 64.</summary>
    public const int Side = 64;

    /// <summary>Rows of the text table: World's words, up to a multiple of 64.</summary>
    public static int TextRows => (WorldVocabulary.words.Length + 63) / 64 * 64;

    /// <summary>Documents one after the other, an end mark after each, cut into rows: endless.</summary>
    public static IEnumerable<long[]> Rows(Split split, int length, long seed)
    {
        var pending = new List<long>();
        for (long index = 0; ; index++)
        {
            foreach (int id in WorldVocabulary.encode(World.document(seed, split, index)))
                pending.Add(id);
            pending.Add(WorldVocabulary.endId);
            while (pending.Count >= length)
            {
                yield return [.. pending.Take(length)];
                pending.RemoveRange(0, length);
            }
        }
    }

    /// <summary>The scenes of a range of a split.</summary>
    public static WorldPair[] Scenes(Split split, long seed, long first, int count)
    {
        var scenes = new WorldPair[count];
        Parallel.For(0, count, i =>
        {
            (string caption, Scene scene) = World.scene(seed, split, first + i);
            scenes[i] = new WorldPair(caption, World.longCaption(seed, split, first + i), WorldPicture.render(scene), WorldWords.encode(scene), WorldWords.Told.encode(scene));
        });
        return scenes;
    }

    /// <summary>Scenes in the image tokenizer's codes.</summary>
    public static Pair[] Encode(WorldPair[] scenes, PictureTokenizer tokenizer, Action<long> done, CancellationToken stop)
    {
        var pairs = new Pair[scenes.Length];
        for (int first = 0; first < scenes.Length; first += Batch)
        {
            stop.ThrowIfCancellationRequested();
            WorldPair[] batch = scenes[first..Math.Min(first + Batch, scenes.Length)];
            int[][] codes = tokenizer.Encode([.. batch.Select(scene => scene.Picture)], Side, Side);
            for (int i = 0; i < batch.Length; i++)
                pairs[first + i] = Tokens(batch[i], codes[i]);
            done(first + batch.Length);
        }

        return pairs;
    }

    /// <summary>Scenes in codes that stand for words.</summary>
    public static Pair[] InWords(WorldPair[] scenes) => [.. scenes.Select(scene => Tokens(scene, scene.WordCodes))];

    /// <summary>Scenes told in sentences.</summary>
    public static Pair[] InSentences(WorldPair[] scenes) => [.. scenes.Select(scene => Tokens(scene, scene.ToldCodes))];

    /// <summary>The pictures of codes that stand for words.</summary>
    public static IReadOnlyList<Picture> DrawWords(int[][] codes) =>
        [.. codes.Select(picture => new Picture(Side, Side, WorldWords.decode(picture)))];

    private static Pair Tokens(WorldPair scene, int[] codes) =>
        new(WorldVocabulary.encode(scene.Caption), WorldVocabulary.encode(scene.LongCaption), codes);
}
