using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>What the looks into the twins show: where the loss is, how text and image pull, what moves, where attention goes.</summary>
internal static class DiagnosisFigures
{
    /// <summary>All that can be shown of the arms that were looked into.</summary>
    public static IEnumerable<IBlock> All(StudyData data)
    {
        ArmResult[] arms = [.. data.Arms.Where(arm => arm.Diagnosis is not null)];
        if (arms.Length == 0)
            yield break;
        yield return Places(data, arms);
        yield return ByCaption(arms);
        if (data.Pretrained.Length > 0 && data.Random.Length > 0)
            yield return Leak(data);
        yield return Gradients(arms);
        yield return Distance(arms);
        yield return Attention(arms);
        yield return Codes(arms);
    }

    private static Figure Places(StudyData data, ArmResult[] arms)
    {
        (int rows, int columns) = data.Material.Pictures(PictureCodes.Learned).Grid;
        string[] Numbers(int count) => [.. Enumerable.Range(1, count).Select(i => $"{i}")];
        ArmResult[] learned = [.. arms.Where(arm => arm.Diagnosis!.ImageByPlace.Length == rows * columns)];
        return new Figure(
            "beyond-places", "Image loss by place in the picture", "Beyond", "",
            $"Held-out loss of each code of the {rows} × {columns} grid at the end, first seed; codes are predicted row by row.",
            [
                .. learned.Select(arm => (IPanel)heat(
                    arm.Plan, "nats", "row", Numbers(rows), "column", Numbers(columns), arm.Diagnosis!.ImageByPlace)),
            ]);
    }

    private static Figure ByCaption(ArmResult[] arms)
    {
        static string Bucket(int[] edges, int i) =>
            i == 0 ? (edges.Length == 0 ? "all" : $"under {edges[0]}") : i == edges.Length ? $"{edges[^1]} and more" : $"{edges[i - 1]} to {edges[i] - 1}";
        IEnumerable<Point> Points(Func<ArmDiagnosis, double[]> values) =>
            from arm in arms.Select((result, series) => (result, series))
            from bucket in values(arm.result.Diagnosis!).Select((value, i) => (value, i))
            where double.IsFinite(bucket.value)
            select new Point($"{Bucket(arm.result.Diagnosis!.CaptionEdges, bucket.i)} tokens", arm.result.Plan, bucket.value, bucket.value, bucket.value, arm.series);
        return new Figure(
            "beyond-captions", "Loss by length of the caption", "Beyond", "", "Held-out losses at the end, first seed.",
            [
                new PointPanel("Image tokens", axis("nats a token"), [.. Points(d => d.ImageByCaption)], []),
                new PointPanel("Text tokens", axis("nats a token"), [.. Points(d => d.TextByCaption)], []),
            ]);
    }

    private static Figure Leak(StudyData data)
    {
        Curve Of(ArmResult[] arms, string name, int series, Func<ArmEvaluation, double> value) => StudyFigures.HeldOut(arms, name, series, value);
        CurvePanel Panel(string title, Func<ArmEvaluation, double> value) => new(
            title, axis("tokens seen"), axis("nats a token"),
            [Of(data.Pretrained, "pre-trained", StudyFigures.Pretrained, value), Of(data.Random, "random", StudyFigures.Random, value)], []);
        return new Figure(
            "beyond-leak", "Probability that leaks to the other kind", "Beyond", "",
            "Held-out loss over the whole vocabulary minus the loss among the ids of the target's own kind: −ln of the probability that the right kind gets. Mean over seeds.",
            [Panel("Image tokens", e => e.Image - e.ImageWithin), Panel("Text tokens", e => e.Text - e.TextWithin)]);
    }

    private static Figure Gradients(ArmResult[] arms) => new(
        "beyond-gradients", "Do text and image pull the same way?", "Beyond", "",
        $"Cosine of the gradients of the mean text and the mean image loss on held-out sequences, the noise of few sequences taken out, first seed. All parameters at the end: {string.Join(", ", arms.Select(arm => $"{arm.Plan} {number(2, arm.Diagnosis!.GradientCosine[0].Values[^1])}"))}.",
        [
            .. arms.Select(arm => Over(arm, arm.Plan, "cosine", arm.Diagnosis!.GradientCosine)),
        ]);

    private static Figure Distance(ArmResult[] arms) => new(
        "beyond-distance", "How far the weights move", "Beyond", "",
        "Distance from the start relative to its length, by layer, first seed: the pre-trained twin from the pre-trained model (old rows of the tables only), the random one from its random start.",
        Lines(arms, "‖w − w₀‖ / ‖w₀‖", look => look.WeightDistance, _ => []));

    private static Figure Attention(ArmResult[] arms) => new(
        "beyond-attention", "Do image tokens look at the text?", "Beyond", "",
        "Share of attention from the positions at which image codes are predicted to text tokens, mean over heads, first seed; dotted: attention spread evenly.",
        Lines(arms, "share of attention", look => look.AttentionToText, look => [level("spread evenly", look.EvenAttention)]));

    private static Table Codes(ArmResult[] arms)
    {
        IReadOnlyList<string> Row(string name, CodeStatistics use) => [name, $"{use.Used:N0}", number(4, use.Perplexity), number(3, use.FromReal)];
        return table(
            "Use of the codebook",
            ["pictures", "codes used", "2^entropy", "bits from real ones"],
            [
                Row("real, held out", arms[0].Diagnosis!.Real),
                .. arms.Select(arm => Row($"predicted by {arm.Plan}", arm.Diagnosis!.Predicted)),
                .. arms.Where(arm => arm.Diagnosis!.Drawn is not null).Select(arm => Row($"drawn by {arm.Plan}", arm.Diagnosis!.Drawn!)),
            ]);
    }

    /// <summary>A panel for each arm; what has one name has one colour in all of them.</summary>
    private static IPanel[] Lines(ArmResult[] arms, string label, Func<ArmDiagnosis, Followed[]> followed, Func<ArmDiagnosis, Mark[]> marks)
    {
        List<string> names = [.. arms.SelectMany(arm => followed(arm.Diagnosis!)).Select(line => line.Name).Distinct()];
        return
        [
            .. arms.Select(arm => new CurvePanel(
                arm.Plan, axis("tokens seen"), axis(label),
                [.. followed(arm.Diagnosis!).Select(line => curve(line.Name, names.IndexOf(line.Name), StudyFigures.Tokens(arm, arm.Diagnosis!.Steps), line.Values))],
                marks(arm.Diagnosis!))),
        ];
    }

    /// <summary>A matrix of groups of parameters against evaluations.</summary>
    private static HeatPanel Over(ArmResult arm, string title, string label, Followed[] followed)
    {
        string[] steps = [.. arm.Diagnosis!.Steps.Select(step => $"{step}")];
        return centred(0, heat(title, label, "parameters", [.. followed.Select(line => line.Name)], "step", steps, [.. followed.SelectMany(line => line.Values)]));
    }
}
