using System.Diagnostics;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>
/// Aligns image-code embeddings with the frozen text embeddings of the pre-trained model, once on true and once on shuffled captions,
/// and asks whether the words nearest to a code are words that go with it.
/// </summary>
public sealed class AlignmentStage(Plan plan, Corpus corpus, int codes)
{
    private const int NearestWords = 5;
    private const int LeastUses = 20;
    private const long Seed = 11;

    public sealed record Outcome(AlignmentResult Result, torch.Tensor Images);

    public Outcome Run(torch.Tensor texts, torch.Tensor initial, Stage progress, CancellationToken stop)
    {
        long began = Stopwatch.GetTimestamp();
        Budget budget = plan.Alignment;
        // Rows that only pad the text table belong to no word.
        using torch.Tensor words = texts.narrow(0, 0, WorldVocabulary.words.Length);
        texts = words;
        (AlignmentStep[] steps, int[][] nearest, torch.Tensor images) = Train(texts, initial, false, 0, progress, stop);
        (AlignmentStep[] shuffled, int[][] shuffledNearest, torch.Tensor unused) =
            Train(texts, initial, true, budget.Steps, progress, stop);
        unused.Dispose();
        (int Code, HashSet<int> Words)[] favoured = Favoured();
        var result = new AlignmentResult(
            [.. steps.Select(s => s.Loss)], [.. steps.Select(s => s.Temperature)], [.. steps.Select(s => s.Accuracy)],
            [.. shuffled.Select(s => s.Loss)], [.. shuffled.Select(s => s.Accuracy)],
            [.. favoured.Select(f => Share(nearest[f.Code], f.Words))],
            [.. favoured.Select(f => Share(shuffledNearest[f.Code], f.Words))],
            [.. favoured.Take(10).Select(f => Shown(f.Code, nearest[f.Code], f.Words))],
            Stopwatch.GetElapsedTime(began).TotalSeconds);
        return new Outcome(result, images);
    }

    private (AlignmentStep[] Steps, int[][] Nearest, torch.Tensor Images) Train(
        torch.Tensor texts, torch.Tensor initial, bool shuffled, int done, Stage progress, CancellationToken stop)
    {
        Budget budget = plan.Alignment;
        using var aligner = new Aligner(texts, initial, new AlignerOptions { LearningRate = budget.LearningRate });
        var steps = new AlignmentStep[budget.Steps];
        for (int step = 0; step < budget.Steps; step++)
        {
            stop.ThrowIfCancellationRequested();
            var captions = new int[budget.Batch][];
            var pictures = new int[budget.Batch][];
            for (int i = 0; i < budget.Batch; i++)
            {
                long position = (long)step * budget.Batch + i;
                pictures[i] = corpus.Train[Compose.Place(corpus.Train.Length, Seed, true, position)].Codes;
                // The control's captions come from an order of their own.
                captions[i] = corpus.Train[Compose.Place(corpus.Train.Length, shuffled ? Seed + 1 : Seed, true, position)].Caption;
            }

            aligner.Step(captions, pictures);
            steps[step] = aligner.Read()[0];
            progress.Report(done + step + 1, new Metrics { Loss = steps[step].Loss });
        }

        return (steps, aligner.Nearest(NearestWords), aligner.Images);
    }

    /// <summary>For each code used often enough, the words that occur with it at least half as often again as with pictures at large.</summary>
    private (int Code, HashSet<int> Words)[] Favoured()
    {
        int rows = WorldVocabulary.words.Length;
        var uses = new int[codes];
        var together = new int[codes, rows];
        var overall = new int[rows];
        foreach (Pair pair in corpus.Train)
        {
            int[] words = [.. pair.Caption.Distinct()];
            foreach (int word in words)
                overall[word]++;
            foreach (int code in pair.Codes.Distinct())
            {
                uses[code]++;
                foreach (int word in words)
                    together[code, word]++;
            }
        }

        double pairs = corpus.Train.Length;
        bool Favours(int code, int word) =>
            overall[word] >= LeastUses && together[code, word] / (double)uses[code] > 1.5 * overall[word] / pairs;
        return
        [
            .. from code in Enumerable.Range(0, codes)
               where uses[code] >= LeastUses
               let words = Enumerable.Range(0, rows).Where(word => Favours(code, word)).ToHashSet()
               where words.Count > 0
               orderby uses[code] descending
               select (code, words),
        ];
    }

    private static double Share(int[] nearest, HashSet<int> words) => nearest.Count(words.Contains) / (double)nearest.Length;

    private static string[] Shown(int code, int[] nearest, HashSet<int> words) =>
    [
        $"code {code}",
        string.Join(", ", nearest.Select(id => WorldVocabulary.words[id])),
        string.Join(", ", words.Take(6).Select(id => WorldVocabulary.words[id])),
    ];
}
