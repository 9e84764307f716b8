using System.Diagnostics;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>
/// Aligns image-code embeddings with the frozen text embeddings of the pre-trained model, on true captions, on shuffled ones, and on true
/// ones with random text embeddings, and asks whether the words nearest to a code are words that go with it.
/// </summary>
internal sealed class AlignmentStage(Plan plan, IMaterial material)
{
    private const int NearestWords = 5;
    private const int LeastUses = 20;
    private const int ReadEvery = 20;
    private const int MostCodes = 1024;
    private const int ShownCodes = 10;
    private const long Seed = 11;

    private readonly CodedPictures pictures = material.Pictures(PictureCodes.Learned);

    private enum Control
    {
        None,
        ShuffledCaptions,
        RandomTexts,
    }

    public sealed record Outcome(AlignmentFindings Result, torch.Tensor Images);

    public Outcome Run(torch.Tensor initial, Stage progress, CancellationToken stop)
    {
        long began = Stopwatch.GetTimestamp();
        // Rows that only pad the text table belong to no word.
        using torch.Tensor texts = material.Pretrained["tok_embeddings.weight"].narrow(0, 0, material.Words).to(torch.float32);
        using torch.Tensor random = AlignmentTables.RandomTexts(texts, Seed);
        Aligned own = Train(texts, initial, Control.None, progress, stop);
        Aligned shuffled = Train(texts, initial, Control.ShuffledCaptions, progress, stop);
        Aligned unmeaning = Train(random, initial, Control.RandomTexts, progress, stop);
        shuffled.Images.Dispose();
        unmeaning.Images.Dispose();
        (int Code, HashSet<int> Words)[] favoured = Favoured();
        var result = new AlignmentFindings(
            own.Losses, [.. own.Steps.Select(s => s.Temperature)], own.Accuracies,
            shuffled.Losses, shuffled.Accuracies, unmeaning.Losses, unmeaning.Accuracies,
            own.HeldOut, shuffled.HeldOut, unmeaning.HeldOut,
            [.. favoured.Select(f => Share(own.Nearest[f.Code], f.Words))],
            [.. favoured.Select(f => Share(shuffled.Nearest[f.Code], f.Words))],
            [.. favoured.Take(ShownCodes).Select(f => Shown(f.Code, own.Nearest[f.Code], f.Words))],
            Stopwatch.GetElapsedTime(began).TotalSeconds);
        return new Outcome(result, own.Images);
    }

    private sealed record Aligned(AlignmentStep[] Steps, int[][] Nearest, torch.Tensor Images, HeldOutRetrieval HeldOut)
    {
        public double[] Losses => [.. Steps.Select(s => s.Loss)];

        public double[] Accuracies => [.. Steps.Select(s => s.Accuracy)];
    }

    private Aligned Train(torch.Tensor texts, torch.Tensor initial, Control control, Stage progress, CancellationToken stop)
    {
        Budget budget = plan.Alignment;
        using var aligner = new Aligner(texts, initial, new AlignerOptions { LearningRate = budget.LearningRate });
        var done = new List<AlignmentStep>();
        Pair[] train = pictures.Train;
        for (int step = 0; step < budget.Steps; step++)
        {
            stop.ThrowIfCancellationRequested();
            var captions = new int[budget.Batch][];
            var codes = new int[budget.Batch][];
            for (int i = 0; i < budget.Batch; i++)
            {
                long position = (long)step * budget.Batch + i;
                long place = Compose.Place(train.Length, Seed, true, position);
                codes[i] = train[place].Codes;
                captions[i] = train[control == Control.ShuffledCaptions ? AlignmentTables.OtherCaption(train.Length, Seed, place) : place].Caption;
            }

            aligner.Step(captions, codes);
            if (done.Count + ReadEvery == step + 1 || step + 1 == budget.Steps)
                done.AddRange(aligner.Read());
            progress.Report((int)control * budget.Steps + step + 1, done.Count > 0 ? new Metrics { Loss = done[^1].Loss } : default);
        }

        Retrieval found = aligner.Retrieve(
            [.. pictures.HeldOut.Select(pair => pair.Caption)], [.. pictures.HeldOut.Select(pair => pair.Codes)], Seed);
        Statistics.Interval own = found.PictureToText;
        return new Aligned(
            [.. done], aligner.Nearest(NearestWords), aligner.Images, new HeldOutRetrieval(own.Mean, own.Low, own.High, found.Chance));
    }

    /// <summary>For each code used often enough, the words that occur with it at least half as often again as with pictures at large.</summary>
    private (int Code, HashSet<int> Words)[] Favoured()
    {
        var uses = new int[pictures.Vocabulary.ImageCodes];
        var overall = new Dictionary<int, int>();
        (int[] Words, int[] Codes)[] pairs = [.. pictures.Train.Select(pair => (pair.Caption.Distinct().ToArray(), pair.Codes.Distinct().ToArray()))];
        foreach ((int[] words, int[] codes) in pairs)
        {
            foreach (int word in words)
                overall[word] = overall.GetValueOrDefault(word) + 1;
            foreach (int code in codes)
                uses[code]++;
        }

        // Codes of a large codebook are too many to count with all words: the most used ones speak for the others.
        Dictionary<int, Dictionary<int, int>> together = Enumerable.Range(0, uses.Length)
            .Where(code => uses[code] >= LeastUses).OrderByDescending(code => uses[code]).Take(MostCodes)
            .ToDictionary(code => code, _ => new Dictionary<int, int>());
        foreach ((int[] words, int[] codes) in pairs)
        {
            foreach (int code in codes)
            {
                if (together.TryGetValue(code, out Dictionary<int, int>? with))
                {
                    foreach (int word in words)
                        with[word] = with.GetValueOrDefault(word) + 1;
                }
            }
        }

        double count = pairs.Length;
        bool Favours(int code, int word, int times) =>
            overall[word] >= LeastUses && times / (double)uses[code] > 1.5 * overall[word] / count;
        return
        [
            .. from entry in together
               let words = entry.Value.Where(word => Favours(entry.Key, word.Key, word.Value))
                   .OrderByDescending(word => word.Value / (double)overall[word.Key]).Select(word => word.Key).ToHashSet()
               where words.Count > 0
               orderby uses[entry.Key] descending, entry.Key
               select (entry.Key, words),
        ];
    }

    private static double Share(int[] nearest, HashSet<int> words) => nearest.Count(words.Contains) / (double)nearest.Length;

    private string[] Shown(int code, int[] nearest, HashSet<int> words) =>
    [
        $"code {code}",
        string.Join(", ", nearest.Select(id => material.Say([id]))),
        string.Join(", ", words.Take(6).Select(id => material.Say([id]))),
    ];
}
