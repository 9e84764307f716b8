using Hybrid.Api;

namespace Hybrid.Runner.Study;

/// <summary>Everything a study found, as the report shows it.</summary>
public sealed record StudyData(
    Plan Plan, bool HalfPrecision, TokenizerResult Tokenizer, PretrainResult Pretraining, ProbeScores Before, string[] Prompts, string[] CompletionsBefore,
    ArmResult[] Arms, AlignmentResult Alignment, Samples[] Samples, double Seconds)
{
    /// <summary>Results of the arms of one start, by seed.</summary>
    public ArmResult[] Of(bool imageOnly, Start start, string trainable) =>
    [
        .. from arm in Hybrid.Study.twins(Plan).Concat(Hybrid.Study.imageOnly(Plan))
           where arm.ImageOnly == imageOnly && arm.Start == start && arm.Trainable == trainable
           let result = Arms.FirstOrDefault(result => result.Name == arm.Name)
           where result is not null
           select result,
    ];

    public ArmResult[] Pretrained => Of(false, Start.FromPretrained, "all");

    public ArmResult[] Random => Of(false, Start.FromRandom, "all");

    public ArmResult[] Aligned => Of(false, Start.FromAligned, "all");

    /// <summary>The verdict on every claim of the paper.</summary>
    public Report.Claim[] Claims()
    {
        static double[] Last(ArmResult[] arms, Func<Evaluation, double> value) => [.. arms.Select(arm => value(arm.Evaluations[^1]))];
        static double[] First(ArmResult[] arms, Func<Evaluation, double> value) => [.. arms.Select(arm => value(arm.Evaluations[1]))];
        double[] firstPretrained = First(Pretrained, e => e.Text), firstRandom = First(Random, e => e.Text);
        double firstGap = Statistics.mean(firstPretrained) - Statistics.mean(firstRandom);
        // The aligned start is run for the first seeds only where a plan says so: pairs are by seed.
        ArmResult[] paired = [.. Pretrained.Take(Aligned.Length)];
        var claims = new List<Report.Claim>
        {
            Hybrid.Study.twinsEnd(Last(Pretrained, e => e.Total), Last(Random, e => e.Total)),
            Hybrid.Study.imagePart(Last(Pretrained, e => e.Image), Last(Random, e => e.Image)),
            Hybrid.Study.textStart(Pretrained[0].Evaluations[1].Step, firstPretrained, firstRandom),
            Hybrid.Study.textEnd(firstGap, Last(Pretrained, e => e.Text), Last(Random, e => e.Text)),
        };
        // The paper speaks of knowledge and in-context learning; stories are shown but decide nothing.
        foreach (string task in new[] { WorldProbes.Knowledge, WorldProbes.InContext })
            claims.Add(Hybrid.Study.forgotten(task, Before.Chance[task], Accuracy(Before, task), After(task)));
        ArmResult[] full = Of(true, Start.FromPretrained, "all");
        claims.Add(Hybrid.Study.imageOnlyTwins(
            Last(full, e => e.Image), Last(Of(true, Start.FromRandom, "all"), e => e.Image)));
        claims.Add(Hybrid.Study.frozenNeverReach([.. Frozen.Select(preset => (preset, Difference(full, preset)))]));
        claims.Add(Hybrid.Study.plateau(Plan.Alignment.Batch, Alignment.Loss));
        claims.Add(Hybrid.Study.nearestAreNoise(Alignment.Hits, Alignment.ShuffledHits, Stream("nearest")));
        claims.Add(Hybrid.Study.alignedStart(Last(Aligned, e => e.Total), Last(paired, e => e.Total)));
        return [.. claims];
    }

    /// <summary>The frozen configurations.</summary>
    public static IReadOnlyList<string> Frozen { get; } = ["embedding-head", "+norms", "+first-half", "+ffn"];

    /// <summary>Accuracy on a task with its bootstrap interval over the items.</summary>
    public static Statistics.Interval Accuracy(ProbeScores scores, string task) =>
        Statistics.bootstrapMean(Stream(task), 2000, scores.Correct[task]);

    /// <summary>Accuracy after training: each item's mean over the seeds, with the interval over the items.</summary>
    public Statistics.Interval After(string task) =>
        Statistics.bootstrapMean(Stream(task), 2000, MeanByItem([.. Pretrained.Select(arm => arm.Evaluations[^1].Probes!.Correct[task])]));

    /// <summary>Final held-out image loss, fully tuned minus frozen, with its interval over sequences (of the same seeds).</summary>
    public Statistics.Interval Difference(ArmResult[] full, string preset)
    {
        ArmResult[] runs = Of(true, Start.FromPretrained, preset);
        double[] tuned = MeanByItem([.. full.Take(runs.Length).Select(arm => arm.FinalImageBySequence)]);
        double[] frozen = MeanByItem([.. runs.Select(arm => arm.FinalImageBySequence)]);
        return Statistics.bootstrapMean(Stream(preset), 2000, [.. tuned.Zip(frozen, (a, b) => a - b)]);
    }

    private static double[] MeanByItem(double[][] runs) =>
        [.. Enumerable.Range(0, runs[0].Length).Select(item => runs.Average(run => run[item]))];

    private static Hybrid.Random.Stream Stream(string name) => Hybrid.Random.named(name, Hybrid.Random.ofSeed(2024));
}
