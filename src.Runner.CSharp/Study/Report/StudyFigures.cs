using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>The paper's figures, as the study finds them.</summary>
internal static class StudyFigures
{
    public const double Smoothing = 0.95;
    public const int Pretrained = 0, Random = 1, Aligned = 2, Shuffled = 3, Unmeaning = 4;

    public static Figure Perplexity(StudyData data) => new(
        "fig3-perplexity", "Perplexity of the twins", "Fig. 3",
        "The pre-trained model and its random twin reach the same perplexity.",
        $"Training perplexity, EMA {Smoothing}, mean and range over {Seeds(data.Pretrained.Length)}; points are held-out.",
        [
            Panel("All tokens", "perplexity", log: true, [.. Twins(data, a => a.Total, e => e.Total)]),
        ]);

    public static Figure ByKind(StudyData data) => new(
        "fig4-loss-by-kind", "Loss by kind of token", "Fig. 4",
        "The image loss is the same; the text loss is lower at first for the pre-trained model, and the gap is soon gone.",
        $"Training loss, EMA {Smoothing}, mean and range over {Seeds(data.Pretrained.Length)}; points are held-out.",
        [
            Panel("Image tokens", "nats a token", false, [.. Twins(data, a => a.Image, e => e.Image, false)]),
            Panel("Text tokens", "nats a token", false, [.. Twins(data, a => a.Text, e => e.Text, false)]),
        ]);

    public static Figure Raw(StudyData data)
    {
        static Curve Of(ArmResult arm, string name, int series, Func<ArmResult, double[]> values) =>
            exponential(smoothable(0, curve(name, series, Tokens(arm, Enumerable.Range(1, arm.Total.Length)), values(arm))));
        CurvePanel Panel(string title, Func<ArmResult, double[]> values) => new(
            title, axis("tokens seen"), logAxis("perplexity"),
            [Of(data.Pretrained[0], "pre-trained", Pretrained, values), Of(data.Random[0], "random", Random, values)], []);
        return new Figure(
            "fig3-fig4-raw", "Perplexity at every step", "Fig. 3, 4",
            "The paper's curves are smoothed; these are not, unless the reader moves the slider.",
            $"Training perplexity of each step, seed {data.Pretrained[0].Seed}.",
            [Panel("All tokens", a => a.Total), Panel("Text tokens", a => a.Text), Panel("Image tokens", a => a.Image)]);
    }

    public static Figure ImageOnly(StudyData data)
    {
        ArmResult[] full = data.Of("image-pretrained"), random = data.Of("image-random");
        var curves = new List<Curve>
        {
            HeldOut(full, "pre-trained, all", Pretrained, e => e.Image), HeldOut(random, "random, all", Random, e => e.Image),
        };
        curves.AddRange(data.Frozen.Select((preset, i) =>
            dashed(HeldOut(data.Of(StudyArms.frozenName(preset)), preset, 2 + i, e => e.Image))));
        Point[] points =
        [
            .. data.Frozen.Select((preset, i) =>
            {
                Statistics.Interval gap = data.Difference(preset);
                ArmResult arm = data.Of(StudyArms.frozenName(preset))[0];
                return new Point(
                    $"{preset} ({100.0 * arm.Moving / arm.Parameters:F0} %)", "frozen − fully tuned", -gap.Mean, -gap.High, -gap.Low, 2 + i);
            }),
        ];
        return new Figure(
            "fig6-image-only", "Image tokens alone, and frozen configurations", "Fig. 6",
            "On image tokens alone the twins are still the same, and no frozen configuration reaches the fully tuned loss.",
            $"Held-out image loss over {Seeds(full.Length)}; right: how far each frozen configuration ends above the fully tuned model (95 % interval over sequences), with its share of moving parameters.",
            [
                new CurvePanel("Held-out loss", axis("tokens seen"), axis("nats a token"), curves, []),
                new PointPanel("Distance to the fully tuned model", axis("nats a token"), points, [moment("fully tuned", 0)]),
            ]);
    }

    public static Figure Alignment(StudyData data)
    {
        AlignmentFindings r = data.Alignment;
        double[] steps = [.. Enumerable.Range(1, r.Loss.Length).Select(i => (double)i)];
        CurvePanel Of(string title, string label, params Curve[] curves) =>
            new(title, axis("step"), axis(label), curves, title == "Loss" ? [level($"ln {data.Plan.Alignment.Batch}", Math.Log(data.Plan.Alignment.Batch))] : []);
        return new Figure(
            "fig7-alignment", "Aligning image codes with text", "Fig. 7",
            "The contrastive loss plateaus; the text tokens nearest to an image code are noise; the aligned start brings nothing.",
            $"Loss from {number(3, r.Loss[0])} to {number(3, r.Loss[^1])} nats on true captions, to {number(3, r.ShuffledLoss[^1])} on shuffled ones, to {number(3, r.RandomLoss[^1])} with random text embeddings; {data.Plan.Alignment.Batch} pairs a step, frozen text embeddings. Of held-out pictures {Found(r.HeldOut)} have their own caption nearest, {Found(r.ShuffledHeldOut)} after shuffled captions, {Found(r.RandomHeldOut)} with random text embeddings; guessing gives {r.HeldOut.Chance:P1}.",
            [
                Of("Loss", "nats", curve("true captions", Pretrained, steps, r.Loss), dashed(curve("shuffled captions", Shuffled, steps, r.ShuffledLoss)),
                    dashed(curve("random text embeddings", Unmeaning, steps, r.RandomLoss))),
                Of("Temperature", "scale of the cosines", curve("true captions", Pretrained, steps, r.Temperature)),
                Of("Own caption nearest", "share of pictures", curve("true captions", Pretrained, steps, r.Accuracy),
                    dashed(curve("shuffled captions", Shuffled, steps, r.ShuffledAccuracy)), dashed(curve("random text embeddings", Unmeaning, steps, r.RandomAccuracy))),
            ]);
    }

    private static string Found(HeldOutRetrieval held) => $"{held.Share:P1} [{100 * held.Low:F1}, {100 * held.High:F1}]";

    public static Figure AlignedStart(StudyData data) => new(
        "fig7-aligned-start", "Starting from aligned embeddings", "Fig. 7",
        "Starting from aligned image embeddings brings nothing.",
        $"Held-out loss at the end: {End(data.Aligned, e => e.Total)} aligned, {End([.. data.Pretrained.Take(data.Aligned.Length)], e => e.Total)} pre-trained, over {Seeds(data.Aligned.Length)}.",
        [
            new CurvePanel("All tokens", axis("tokens seen"), axis("nats a token"),
                [
                    HeldOut(data.Pretrained, "pre-trained", Pretrained, e => e.Total),
                    HeldOut(data.Aligned, "aligned", Aligned, e => e.Total),
                    HeldOut(data.Random, "random", Random, e => e.Total),
                ], []),
        ]);

    public static Figure Forgetting(StudyData data)
    {
        ArmResult first = data.Pretrained[0];
        ArmProbes[] scores = [.. first.Evaluations.Select(e => e.Probes!)];
        double[] x = Tokens(first, first.Evaluations.Select(e => e.Step));
        Curve[] curves = [.. data.Tasks.Select((task, i) => curve(task, i, x, [.. scores.Select(score => score.Correct[task].Average())]))];
        string Change(string task) => $"{task} from {data.Before.Correct[task].Average():P0} to {data.After(task).Mean:P0}";
        Mark[] chance = [.. data.Before.Chance.Values.Where(value => value > 0).Distinct().Select(value => level("chance", value)).Take(1)];
        double[] text = [.. scores.Select(score => score.TextLoss)];
        var panels = new List<IPanel> { new CurvePanel("Accuracy of the probes", axis("tokens seen"), axis("share right"), curves, chance) };
        if (text.All(double.IsFinite))
            panels.Add(new CurvePanel("Held-out text", axis("tokens seen"), axis("nats a token"), [curve("loss on text", 4, x, text)], []));
        return new Figure(
            "table1-forgetting", "What the pre-trained model forgets", "Table 1",
            "After 5B of 100B tokens knowledge and in-context learning are gone.",
            $"Right answers: {string.Join("; ", data.Material.Abilities.Select(Change))}, mean over {Seeds(data.Pretrained.Length)}. The curves are of the first seed.",
            panels);
    }

    /// <summary>The held-out values of an arm's evaluations, mean over its seeds; the start, before any step, would flatten what follows.</summary>
    public static Curve HeldOut(ArmResult[] arms, string name, int series, Func<ArmEvaluation, double> value)
    {
        if (arms.Length == 0)
            return curve(name, series, [], []);
        ArmEvaluation[] shown = [.. arms[0].Evaluations.Skip(1)];
        return curve(
            name, series, Tokens(arms[0], shown.Select(e => e.Step)),
            [.. Enumerable.Range(1, shown.Length).Select(i => arms.Average(arm => value(arm.Evaluations[i])))]);
    }

    /// <summary>Mean of the last evaluations.</summary>
    public static string End(ArmResult[] arms, Func<ArmEvaluation, double> value) =>
        arms.Length == 0 ? "–" : number(3, arms.Average(arm => value(arm.Evaluations[^1])));

    /// <summary>A number of seeds, for a sentence.</summary>
    public static string Seeds(int count) => count == 1 ? "one seed" : $"{count} seeds";

    /// <summary>Tokens that an arm has seen after some steps.</summary>
    public static double[] Tokens(ArmResult arm, IEnumerable<int> steps) => [.. steps.Select(step => arm.Cost.Tokens * step / arm.Total.Length)];

    private static CurvePanel Panel(string title, string label, bool log, Curve[] curves) =>
        new(title, axis("tokens seen"), log ? logAxis(label) : axis(label), curves, []);

    private static IEnumerable<Curve> Twins(
        StudyData data, Func<ArmResult, double[]> curveOf, Func<ArmEvaluation, double> pointOf, bool perplexity = true) =>
        [
            .. Twin(data.Pretrained, "pre-trained", Pretrained, curveOf, pointOf, perplexity),
            .. Twin(data.Random, "random", Random, curveOf, pointOf, perplexity),
        ];

    /// <summary>An arm's smoothed training curve with its range over seeds, and its held-out points.</summary>
    private static IEnumerable<Curve> Twin(
        ArmResult[] arms, string name, int series, Func<ArmResult, double[]> curveOf, Func<ArmEvaluation, double> pointOf, bool perplexity)
    {
        if (arms.Length == 0)
            yield break;
        Func<double, double> show = perplexity ? Math.Exp : x => x;
        double[][] smooth = [.. arms.Select(arm => Statistics.ema(Smoothing, curveOf(arm)).Select(show).ToArray())];
        int length = smooth[0].Length;
        double[] x = Tokens(arms[0], Enumerable.Range(1, length));
        double[] Over(Func<IEnumerable<double>, double> f) => [.. Enumerable.Range(0, length).Select(i => f(smooth.Select(s => s[i])))];
        yield return withBand(Over(v => v.Min()), Over(v => v.Max()), curve(name, series, x, Over(v => v.Average())));
        yield return dashed(HeldOut(arms, name + ", held out", series, e => show(pointOf(e))));
    }
}
