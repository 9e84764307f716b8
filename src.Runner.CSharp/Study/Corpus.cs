using Hybrid.Api;

namespace Hybrid.Runner.Study;

/// <summary>A captioned picture as tokens.</summary>
public sealed record Pair(int[] Caption, int[] Codes);

/// <summary>World's data for a study: captioned pictures through the image tokenizer, and text packed into rows.</summary>
public sealed class Corpus
{
    private const int Batch = 256;

    /// <summary>Pictures are 64 × 64.</summary>
    public const int Side = 64;

    private Corpus(Pair[] train, Pair[] heldOut, long[][] heldOutTexts)
    {
        Train = train;
        HeldOut = heldOut;
        HeldOutTexts = heldOutTexts;
    }

    public Pair[] Train { get; }

    public Pair[] HeldOut { get; }

    /// <summary>Rows of held-out text, for the loss on text.</summary>
    public long[][] HeldOutTexts { get; }

    /// <summary>Rows of the text table: World's words, up to a multiple of 64.</summary>
    public static int TextRows => (WorldVocabulary.words.Length + 63) / 64 * 64;

    /// <summary>Captions and codes of both splits, and the held-out text.</summary>
    public static Corpus Build(
        Plan plan, (string Caption, byte[] Picture)[] trainScenes, PictureTokenizer tokenizer, long seed, Action<long> done, CancellationToken stop)
    {
        Pair[] train = Encode(trainScenes, tokenizer, done, stop);
        Pair[] heldOut = Encode(Scenes(Split.HeldOut, seed, 0, plan.HeldOutPairs), tokenizer, n => done(plan.TrainPairs + n), stop);
        long[][] texts = [.. Rows(Split.HeldOut, plan.TextPositions, seed).Take(plan.HeldOutTexts)];
        return new Corpus(train, heldOut, texts);
    }

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

    /// <summary>The pictures of a range of a split.</summary>
    public static (string Caption, byte[] Picture)[] Scenes(Split split, long seed, long first, int count)
    {
        var scenes = new (string, byte[])[count];
        Parallel.For(0, count, i =>
        {
            Tuple<string, byte[]> pair = World.pair(seed, split, first + i);
            scenes[i] = (pair.Item1, pair.Item2);
        });
        return scenes;
    }

    private static Pair[] Encode(
        (string Caption, byte[] Picture)[] scenes, PictureTokenizer tokenizer, Action<long> done, CancellationToken stop)
    {
        var pairs = new Pair[scenes.Length];
        for (int first = 0; first < scenes.Length; first += Batch)
        {
            stop.ThrowIfCancellationRequested();
            (string Caption, byte[] Picture)[] batch = scenes[first..Math.Min(first + Batch, scenes.Length)];
            int[][] codes = tokenizer.Encode([.. batch.Select(scene => scene.Picture)], Side, Side);
            for (int i = 0; i < batch.Length; i++)
                pairs[first + i] = new Pair(WorldVocabulary.encode(batch[i].Caption), codes[i]);
            done(first + batch.Length);
        }

        return pairs;
    }
}
