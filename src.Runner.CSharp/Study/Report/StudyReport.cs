using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>The report of a study: the answer and the claims first, then each figure and table with the paper's finding beside it.</summary>
internal static class StudyReport
{
    public static Page Build(StudyData data, string machine)
    {
        Claim[] beyond = data.OtherClaims();
        IEnumerable<IBlock?> blocks =
        [
            new Text("The answer", data.Answer()),
            KeyNumbers(data),
            new Claims("The paper's claims", data.PapersClaims()),
            beyond.Length > 0 ? new Claims("Beyond the paper", beyond) : null,
            .. Twins(data),
            StudyFigures.Alignment(data),
            Nearest(data),
            data.Aligned.Length > 0 ? StudyFigures.AlignedStart(data) : null,
            .. Forgotten(data),
            BeyondFigures.TextRatio(data),
            BeyondFigures.Words(data),
            BeyondFigures.Guidance(data),
            .. DiagnosisFigures.All(data),
            StudyPictures.ByArm(data),
            StudyPictures.ByGuidance(data),
            .. data.Material.Origins(),
            Costs(data),
            Protocol(data, machine),
            new Code(StudyPlan.toJson(data.Plan).ToJsonString(new() { WriteIndented = true })),
        ];
        return new Page(
            "Does language pre-training help image tokens?",
            $"The study of Zhang et al., “Pre-trained Language Models Do Not Help Auto-regressive Text-to-Image Generation”, on {data.Material.Name}: preset {data.Plan.Preset}, {data.Seconds / 60:F1} minutes on {machine}. The verdicts speak of this scale and these data.",
            [.. blocks.OfType<IBlock>()]);
    }

    private static IEnumerable<IBlock> Twins(StudyData data)
    {
        if (data.Pretrained.Length > 0 && data.Random.Length > 0)
        {
            yield return StudyFigures.Perplexity(data);
            yield return StudyFigures.ByKind(data);
            yield return StudyFigures.Raw(data);
        }

        if (data.Of("image-pretrained").Length > 0)
            yield return StudyFigures.ImageOnly(data);
    }

    private static IEnumerable<IBlock> Forgotten(StudyData data)
    {
        if (data.Pretrained.Length == 0 || data.Pretrained[0].Evaluations[0].Probes is null)
            yield break;
        if (data.Tasks.Count > 0)
        {
            yield return StudyFigures.Forgetting(data);
            yield return Forgetting(data);
        }

        if (data.CompletionsBefore.Length > 0)
            yield return Completions(data);
    }

    private static KeyNumbers KeyNumbers(StudyData data)
    {
        Claim[] claims = data.PapersClaims();
        int Count(Verdict verdict) => claims.Count(claim => claim.Verdict == verdict);
        string Perplexity(ArmResult[] arms) => arms.Length == 0 ? "–" : $"{Math.Exp(arms.Average(arm => arm.Evaluations[^1].Total)):F2}";
        string Distance(string arm) => data.Values(arm, ArmMeasure.Pictures) is { Length: > 0 } values ? number(3, values.Select(Math.Exp).Average()) : "–";
        return new KeyNumbers(
            [
                new KeyNumber("The paper's claims that hold", $"{Count(Verdict.Holds)} of {claims.Length}", $"{Count(Verdict.DoesNotHold)} do not, {Count(Verdict.Undecided)} undecided"),
                new KeyNumber("Perplexity, pre-trained", Perplexity(data.Pretrained), "held-out, all tokens"),
                new KeyNumber("Perplexity, random", Perplexity(data.Random), "held-out, all tokens"),
                new KeyNumber("Distance of pictures", $"{Distance("twin-pretrained")} / {Distance("twin-random")}", "pre-trained / random, Fréchet distance of thumbnails"),
            ]);
    }

    private static Table Nearest(StudyData data) =>
        table(
            "Words nearest to the most used codes",
            ["code", "nearest words by cosine", "words that go with it in the captions"],
            data.Alignment.Nearest);

    private static Table Forgetting(StudyData data)
    {
        string Show(Statistics.Interval i) => interval(i.Mean, i.Low, i.High);
        int middle = Middle(data);
        double P(string task) => Api.Intervals.McNemar(Pairs(data, task, 1, 0), Pairs(data, task, 0, 1));
        List<IReadOnlyList<string>> rows =
        [
            .. data.Tasks.Select(task => (IReadOnlyList<string>)
            [
                task, $"{data.Before.Chance[task]:F3}", Show(StudyData.Accuracy(data.Before, task)),
                $"{data.Pretrained[0].Evaluations[middle].Probes!.Correct[task].Average():F3}", Show(data.After(task)), number(2, P(task)),
            ]),
            [
                "held-out text, nats a token", "–", number(4, data.Before.TextLoss), number(4, data.Pretrained[0].Evaluations[middle].Probes!.TextLoss),
                number(4, data.Pretrained.Average(arm => arm.Evaluations[^1].Probes!.TextLoss)), "–",
            ],
        ];
        Table made = table(
            "What the model knew, before and after",
            ["task", "chance", "before", $"after {data.Pretrained[0].Evaluations[middle].Step} steps", "after", "p"],
            rows);
        return new Table(
            made.Title, "Table 1", "After 5B of 100B tokens knowledge and in-context learning are gone.",
            $"Accuracy with 95 % bootstrap intervals over items; after: mean over {StudyFigures.Seeds(data.Pretrained.Length)}; on the way: the first seed; p: McNemar's exact test of the first seed against before.", made.Header, made.Rows);
    }

    /// <summary>Items of a task that were answered so before and so by the first seed at the end.</summary>
    private static int Pairs(StudyData data, string task, double before, double after) =>
        data.Before.Correct[task].Zip(data.Pretrained[0].Evaluations[^1].Probes!.Correct[task]).Count(pair => pair.First == before && pair.Second == after);

    private static Table Completions(StudyData data) =>
        table(
            "Greedy completions before, on the way and after",
            ["prompt", "before", $"after {data.Pretrained[0].Evaluations[Middle(data)].Step} steps", "after (first seed)"],
            [
                .. data.Material.Prompts.Select((prompt, i) => (IReadOnlyList<string>)
                [
                    prompt, data.CompletionsBefore[i], data.Pretrained[0].CompletionsOnTheWay[i], data.Pretrained[0].Completions[i],
                ]),
            ]);

    /// <summary>The evaluation in the middle of a twin's.</summary>
    private static int Middle(StudyData data) => (data.Pretrained[0].Evaluations.Length - 1) / 2;

    private static Table Costs(StudyData data) =>
        table(
            "What it took",
            ["arm", "seeds", "steps", "tokens", "moving parameters", "FLOP", "tokens/s", "seconds"],
            [
                .. data.Arms.GroupBy(arm => arm.Plan).Select(arm => (IReadOnlyList<string>)
                [
                    arm.Key, $"{arm.Count()}", $"{arm.First().Total.Length:N0}", $"{arm.Sum(run => run.Cost.Tokens):N0}",
                    $"{arm.First().Moving:N0} of {arm.First().Parameters:N0}", number(3, arm.Sum(run => run.Cost.Flops)),
                    $"{arm.Average(run => run.Cost.TokensPerSecond):N0}", $"{arm.Sum(run => run.Cost.Seconds):N0}",
                ]),
            ]);

    private static Text Protocol(StudyData data, string machine)
    {
        Plan plan = data.Plan;
        ModelConfig model = data.Material.TextModel;
        string Say(string name, Budget b) => $"{name}: {b.Steps} steps of {b.Batch}, peak rate {b.LearningRate}, warm-up {b.WarmupSteps}.";
        return new Text(
            "How this was made",
            $"A decoder of {model.Layers} layers and width {model.Width}, pre-trained on text, was extended by {data.Material.Pictures(PictureCodes.Learned).Vocabulary.ImageCodes} image codes and trained on captioned pictures beside a twin that starts from random weights with the same seeds, data order and positions. "
            + (plan.Material is null ? Say("Pre-training", plan.Pretraining) + " " : "") + Say("Twins", plan.Twins) + " " + Say("Image only", plan.ImageOnly) + " " + Say("Alignment", plan.Alignment)
            + $" AdamW (0.9, 0.95), weight decay 0.1 on matrices, clip 1, cosine to a tenth. {data.Material.Pictures(PictureCodes.Learned).Train.Length:N0} training pairs, {data.Material.Pictures(PictureCodes.Learned).HeldOut.Length} held-out pairs. Intervals: 95 %, Student's t over seeds, bootstrap over items and sequences. Differences below {ComparisonModule.lossMargin:F4} nats (2 % of perplexity) count as none. Precision: {(data.HalfPrecision ? "bf16 with fp32 master weights" : "fp32")}. Machine: {machine}. Hash of the material: {data.Material.Key}. The whole plan follows.");
    }
}
