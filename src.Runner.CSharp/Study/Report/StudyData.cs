using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>Everything a study found, as the report shows it.</summary>
internal sealed record StudyData(
    Plan Plan, IMaterial Material, bool HalfPrecision, ArmProbes Before, string[] CompletionsBefore, IReadOnlyList<ArmResult> Arms,
    AlignmentFindings Alignment, double Seconds)
{
    private Claim[]? claims;

    /// <summary>The runs of an arm, by seed.</summary>
    public ArmResult[] Of(string arm) => [.. Arms.Where(result => result.Plan == arm)];

    public ArmResult[] Pretrained => Of("twin-pretrained");

    public ArmResult[] Random => Of("twin-random");

    public ArmResult[] Aligned => Of("twin-aligned");

    /// <summary>The tasks of the probes.</summary>
    public IReadOnlyList<string> Tasks => [.. Before.Correct.Keys];

    /// <summary>The frozen configurations whose arms were run.</summary>
    public IReadOnlyList<string> Frozen => [.. StudyArms.frozen.Where(preset => Of(StudyArms.frozenName(preset)).Length > 0)];

    /// <summary>The verdict on every claim: the paper's, those beyond it, and the plan's own.</summary>
    public Claim[] Claims() => claims ??= [.. Judge()];

    /// <summary>The claims that the paper makes.</summary>
    public Claim[] PapersClaims() => [.. Claims().Where(IsPapers)];

    /// <summary>The others.</summary>
    public Claim[] OtherClaims() => [.. Claims().Where(claim => !IsPapers(claim))];

    /// <summary>The question and its answer, in words.</summary>
    public string Answer() => StudyClaims.answer(new StudyClaims.Found(
        Material.Name, Math.Min(Pretrained.Length, Random.Length), Difference(ArmMeasure.Image), Verdict(ArmMeasure.Image), Difference(ArmMeasure.TextAtFirst),
        Difference(ArmMeasure.Text), Claims()));

    /// <summary>An arm's values of a measure, by seed; none where it was not measured.</summary>
    public double[] Values(string arm, ArmMeasure measure)
    {
        ArmResult[] runs = Of(arm);
        double[] Over(Func<ArmResult, double?> value)
        {
            double?[] values = [.. runs.Select(value)];
            return values.Any(v => v is null || double.IsNaN(v.Value)) ? [] : [.. values.Select(v => v!.Value)];
        }

        static ArmEvaluation Last(ArmResult run) => run.Evaluations[^1];
        if (measure is ArmMeasure.Task task)
            return Over(run => Last(run).Probes?.Correct.GetValueOrDefault(task.Item)?.Average());
        if (measure.IsLoss)
            return Over(run => Last(run).Total);
        if (measure.IsText)
            return Over(run => Last(run).Text);
        if (measure.IsImage)
            return Over(run => Last(run).Image);
        if (measure.IsTextAtFirst)
            return Over(run => run.Evaluations[1].Text);
        if (measure.IsImageAtFirst)
            return Over(run => run.Evaluations[1].Image);
        if (measure.IsImageOnTheWay)
            return Over(run => run.Evaluations.Skip(1).Average(e => e.Image));
        if (measure.IsCorpus)
            return Over(run => Last(run).Probes?.TextLoss);
        return Over(run => run.Drawings is { } drawings && drawings.Distance[0] > 0 ? Math.Log(drawings.Distance[0]) : null);
    }

    /// <summary>Accuracy on a task with its bootstrap interval over the items.</summary>
    public static Statistics.Interval Accuracy(ArmProbes scores, string task) =>
        Statistics.bootstrapMean(Stream(task), 2000, scores.Correct[task]);

    /// <summary>Accuracy of an arm after training: each item's mean over the seeds, with the interval over the items.</summary>
    public Statistics.Interval After(string task, string arm = "twin-pretrained") =>
        Statistics.bootstrapMean(Stream(task), 2000, MeanByItem([.. Of(arm).Select(run => run.Evaluations[^1].Probes!.Correct[task])]));

    /// <summary>Final held-out image loss, fully tuned minus frozen, with its interval over sequences (of the same seeds).</summary>
    public Statistics.Interval Difference(string preset)
    {
        ArmResult[] runs = Of(StudyArms.frozenName(preset)), full = Of("image-pretrained");
        double[] tuned = MeanByItem([.. full.Take(runs.Length).Select(arm => arm.FinalImageBySequence)]);
        double[] frozen = MeanByItem([.. runs.Select(arm => arm.FinalImageBySequence)]);
        return Statistics.bootstrapMean(Stream(preset), 2000, [.. tuned.Zip(frozen, (a, b) => a - b)]);
    }

    /// <summary>Pre-trained minus random twin, over the seeds.</summary>
    public Statistics.Interval Difference(ArmMeasure measure, string arm = "twin-pretrained", string against = "twin-random") =>
        Statistics.studentMean([.. Values(arm, measure).Zip(Values(against, measure), (a, b) => a - b)]);

    private Verdict Verdict(ArmMeasure measure) => ComparisonModule.judge(Rule.Same, ComparisonModule.margin(measure), Difference(measure));

    private static bool IsPapers(Claim claim) => claim.Source.StartsWith("Fig.", StringComparison.Ordinal) || claim.Source.StartsWith("Table", StringComparison.Ordinal);

    private IEnumerable<Claim> Judge()
    {
        Claim Compare(Comparison comparison) =>
            ComparisonModule.claim(comparison, Values(comparison.Arm, comparison.Measure), Values(comparison.Against, comparison.Measure));
        Claim[] compared = [.. Hybrid.Study.comparisons(Plan, [.. Material.Abilities]).Select(Compare)];
        Claim[] From(string source) => [.. compared.Where(claim => claim.Source == source)];
        IEnumerable<Claim> forgotten = Pretrained.Length == 0 ? [] : Material.Abilities.Select(task =>
            StudyClaims.forgotten(task, Before.Chance[task], Accuracy(Before, task), After(task)));
        Claim[] known =
        [
            .. From("Fig. 3"), .. From("Fig. 4"), .. forgotten, .. From("Fig. 6"),
            StudyClaims.frozenNeverReach([.. Frozen.Select(preset => (preset, Difference(preset)))]),
            StudyClaims.plateau(Plan.Alignment.Batch, Alignment.Loss),
            StudyClaims.nearestAreNoise(Alignment.Hits, Alignment.ShuffledHits, Stream("nearest")),
            .. From("Fig. 7"),
        ];
        return [.. known, .. compared.Where(claim => !IsPapers(claim))];
    }

    private static double[] MeanByItem(double[][] runs) => runs.Length == 0
        ? []
        : [.. Enumerable.Range(0, runs[0].Length).Select(item => runs.Average(run => run[item]))];

    private static Hybrid.Random.Stream Stream(string name) => Hybrid.Random.named(name, Hybrid.Random.ofSeed(2024));
}
