using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>The paper's figures, as the study finds them.</summary>
public static class StudyFigures
{
    private const double Smoothing = 0.95;
    private const int Pretrained = 0, Random = 1, Aligned = 2, Shuffled = 3;

    public static Figure Perplexity(StudyData data) => new(
        "fig3-perplexity", "Perplexity of the twins", "Fig. 3",
        "The pre-trained model and its random twin reach the same perplexity.",
        $"Training perplexity, EMA {Smoothing}, mean and range over {data.Pretrained.Length} seeds; points are held-out.",
        [
            Panel("All tokens", "perplexity", data.Plan.Twins, data.Plan.Positions, log: true,
                [.. Twin(data.Pretrained, "pre-trained", Pretrained, a => a.Total, e => e.Total, data),
                 .. Twin(data.Random, "random", Random, a => a.Total, e => e.Total, data)]),
        ]);

    public static Figure ByKind(StudyData data) => new(
        "fig4-loss-by-kind", "Loss by kind of token", "Fig. 4",
        "The image loss is the same; the text loss is lower at first for the pre-trained model, and the gap is soon gone.",
        $"Training loss, EMA {Smoothing}, mean and range over {data.Pretrained.Length} seeds; points are held-out.",
        [
            Panel("Image tokens", "nats a token", data.Plan.Twins, data.Plan.Positions, false,
                [.. Twin(data.Pretrained, "pre-trained", Pretrained, a => a.Image, e => e.Image, data, false),
                 .. Twin(data.Random, "random", Random, a => a.Image, e => e.Image, data, false)]),
            Panel("Text tokens", "nats a token", data.Plan.Twins, data.Plan.Positions, false,
                [.. Twin(data.Pretrained, "pre-trained", Pretrained, a => a.Text, e => e.Text, data, false),
                 .. Twin(data.Random, "random", Random, a => a.Text, e => e.Text, data, false)]),
        ]);

    public static Figure ImageOnly(StudyData data)
    {
        ArmResult[] full = data.Of(true, Start.FromPretrained, "all"), random = data.Of(true, Start.FromRandom, "all");
        var curves = new List<Curve>
        {
            HeldOut(full, "pre-trained, all", Pretrained, data), HeldOut(random, "random, all", Random, data),
        };
        curves.AddRange(StudyData.Frozen.Select((preset, i) =>
            dashed(HeldOut(data.Of(true, Start.FromPretrained, preset), preset, 2 + i, data))));
        Point[] points =
        [
            .. StudyData.Frozen.Select((preset, i) =>
            {
                Statistics.Interval gap = data.Difference(full, preset);
                ArmResult arm = data.Of(true, Start.FromPretrained, preset)[0];
                return new Point(
                    $"{preset} ({100.0 * arm.Moving / arm.Parameters:F0} %)", "frozen − fully tuned", -gap.Mean, -gap.High, -gap.Low, 2 + i);
            }),
        ];
        return new Figure(
            "fig6-image-only", "Image tokens alone, and frozen configurations", "Fig. 6",
            "On image tokens alone the twins are still the same, and no frozen configuration reaches the fully tuned loss.",
            $"Held-out image loss over {full.Length} seeds; right: how far each frozen configuration ends above the fully tuned model (95 % interval over sequences), with its share of moving parameters.",
            [
                new CurvePanel("Held-out loss", axis("tokens seen"), axis("nats a token"), curves, []),
                new PointPanel("Distance to the fully tuned model", axis("nats a token"), points, [moment("fully tuned", 0)]),
            ]);
    }

    public static Figure Alignment(StudyData data)
    {
        AlignmentResult r = data.Alignment;
        double[] steps = [.. Enumerable.Range(1, r.Loss.Length).Select(i => (double)i)];
        CurvePanel Of(string title, string label, params Curve[] curves) =>
            new(title, axis("step"), axis(label), curves, title == "Loss" ? [level($"ln {data.Plan.Alignment.Batch}", Math.Log(data.Plan.Alignment.Batch))] : []);
        return new Figure(
            "fig7-alignment", "Aligning image codes with text", "Fig. 7",
            "The contrastive loss plateaus; the text tokens nearest to an image code are noise; the aligned start brings nothing.",
            $"Loss from {number(3, r.Loss[0])} to {number(3, r.Loss[^1])} nats on true captions, to {number(3, r.ShuffledLoss[^1])} on shuffled ones; {data.Plan.Alignment.Batch} pairs a step, frozen text embeddings.",
            [
                Of("Loss", "nats", curve("true captions", Pretrained, steps, r.Loss), dashed(curve("shuffled captions", Shuffled, steps, r.ShuffledLoss))),
                Of("Temperature", "scale of the cosines", curve("true captions", Pretrained, steps, r.Temperature)),
                Of("Own caption nearest", "share of pictures", curve("true captions", Pretrained, steps, r.Accuracy), dashed(curve("shuffled captions", Shuffled, steps, r.ShuffledAccuracy))),
            ]);
    }

    public static Figure AlignedStart(StudyData data) => new(
        "fig7-aligned-start", "Starting from aligned embeddings", "Fig. 7",
        "Starting from aligned image embeddings brings nothing.",
        $"Held-out loss at the end: {End(data.Aligned, e => e.Total)} aligned, {End([.. data.Pretrained.Take(data.Aligned.Length)], e => e.Total)} pre-trained, over {data.Aligned.Length} seeds.",
        [
            new CurvePanel("All tokens", axis("tokens seen"), axis("nats a token"),
                [
                    Points(data.Pretrained, "pre-trained", Pretrained, e => e.Total, data.Plan.Twins, data.Plan.Positions),
                    Points(data.Aligned, "aligned", Aligned, e => e.Total, data.Plan.Twins, data.Plan.Positions),
                    Points(data.Random, "random", Random, e => e.Total, data.Plan.Twins, data.Plan.Positions),
                ], []),
        ]);

    public static Figure Forgetting(StudyData data)
    {
        Evaluation[][] runs = [.. data.Pretrained.Select(arm => arm.Evaluations)];
        double[] x = [.. runs[0].Select(e => Hybrid.Study.tokensAt(data.Plan.Twins, data.Plan.Positions - 1, e.Step))];
        Curve[] curves =
        [
            .. data.Before.Correct.Keys.Select((task, i) =>
                curve(task, i, x, [.. Enumerable.Range(0, x.Length).Select(k => runs.Average(run => run[k].Probes!.Correct[task].Average()))])),
        ];
        Mark chance = level("chance", data.Before.Chance.Values.Average());
        double[] text = [.. Enumerable.Range(0, x.Length).Select(k => runs.Average(run => run[k].Probes!.TextLoss))];
        return new Figure(
            "table1-forgetting", "What the pre-trained model forgets", "Table 1",
            "After 5B of 100B tokens knowledge and in-context learning are gone.",
            $"Knowledge from {data.Before.Correct[WorldProbes.Knowledge].Average():P0} to {Last(data, WorldProbes.Knowledge):P0}, in-context learning from {data.Before.Correct[WorldProbes.InContext].Average():P0} to {Last(data, WorldProbes.InContext):P0}; chance is {data.Before.Chance.Values.Average():P0}. Mean over {runs.Length} seeds.",
            [
                new CurvePanel("Accuracy of the probes", axis("tokens seen"), axis("share right"), curves, [chance]),
                new CurvePanel("Held-out text", axis("tokens seen"), axis("nats a word"), [curve("loss on text", 4, x, text)], []),
            ]);
    }

    public static Figure Pretraining(StudyData data)
    {
        double[] steps = [.. Enumerable.Range(1, data.Pretraining.Curve.Length).Select(i => (double)i)];
        return new Figure(
            "pretraining", "Pre-training on text", "", "",
            $"Held-out loss at the end {data.Pretraining.HeldOutText:F3} nats a word.",
            [
                new CurvePanel("World's text", axis("step"), axis("nats a word"),
                    [curve("training", Pretrained, steps, Statistics.ema(0.9, data.Pretraining.Curve))], []),
            ]);
    }

    private static string End(ArmResult[] arms, Func<Evaluation, double> value) => number(3, arms.Average(arm => value(arm.Evaluations[^1])));

    private static string First(ArmResult[] arms, Func<Evaluation, double> value) => number(3, arms.Average(arm => value(arm.Evaluations[1])));

    private static double Last(StudyData data, string task) => data.Pretrained.Average(arm => arm.Evaluations[^1].Probes!.Correct[task].Average());

    private static CurvePanel Panel(string title, string label, Budget budget, int positions, bool log, Curve[] curves) =>
        new(title, axis("tokens seen"), log ? logAxis(label) : axis(label), curves, []);

    /// <summary>An arm's smoothed training curve with its range over seeds, and its held-out points.</summary>
    private static IEnumerable<Curve> Twin(
        ArmResult[] arms, string name, int series, Func<ArmResult, double[]> curveOf, Func<Evaluation, double> pointOf,
        StudyData data, bool perplexity = true)
    {
        Func<double, double> show = perplexity ? Math.Exp : x => x;
        double[][] smooth = [.. arms.Select(arm => Statistics.ema(Smoothing, curveOf(arm)).Select(show).ToArray())];
        int length = smooth[0].Length;
        double[] x = [.. Enumerable.Range(1, length).Select(step => Hybrid.Study.tokensAt(data.Plan.Twins, data.Plan.Positions - 1, step))];
        double[] Over(Func<IEnumerable<double>, double> f) => [.. Enumerable.Range(0, length).Select(i => f(smooth.Select(s => s[i])))];
        yield return withBand(Over(v => v.Min()), Over(v => v.Max()), curve(name, series, x, Over(v => v.Average())));
        Curve points = Points(arms, name + ", held out", series, e => show(pointOf(e)), data.Plan.Twins, data.Plan.Positions);
        yield return dashed(points);
    }

    private static Curve HeldOut(ArmResult[] arms, string name, int series, StudyData data) =>
        Points(arms, name, series, e => e.Image, data.Plan.ImageOnly, 68);

    private static Curve Points(ArmResult[] arms, string name, int series, Func<Evaluation, double> value, Budget budget, int positions)
    {
        // The start, before any step, would flatten everything after it.
        Evaluation[] shown = [.. arms[0].Evaluations.Skip(1)];
        return curve(
            name, series,
            [.. shown.Select(e => Hybrid.Study.tokensAt(budget, positions - 1, e.Step))],
            [.. Enumerable.Range(1, shown.Length).Select(i => arms.Average(arm => value(arm.Evaluations[i])))]);
    }
}
