using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>What the paper left open: more text, codes with meaning, guidance.</summary>
internal static class BeyondFigures
{
    private static readonly (string Arm, string Name)[] Ratios =
        [("twin", "as the paper"), ("weight", "text weighs six times"), ("replay", "half of all is text"), ("long", "long captions")];

    /// <summary>What is kept, and what is transferred, by the share of text; null where no such arm was run.</summary>
    public static Figure? TextRatio(StudyData data)
    {
        (string Arm, string Name)[] run = [.. Ratios.Where(ratio => data.Of(ratio.Arm + "-pretrained").Length > 0)];
        if (run.Length < 2)
            return null;
        Point[] kept =
        [
            .. from ratio in run
               from task in data.Material.Abilities.Select((name, i) => (Name: name, Series: i))
               let after = data.After(task.Name, ratio.Arm + "-pretrained")
               select new Point(ratio.Name, task.Name, after.Mean, after.Low, after.High, task.Series),
        ];
        Point[] helped =
        [
            .. from ratio in run
               let difference = data.Difference(ArmMeasure.Image, ratio.Arm + "-pretrained", ratio.Arm + "-random")
               where !double.IsNaN(difference.Mean)
               select Interval(ratio.Name, "image loss, pre-trained − random", difference, 0),
        ];
        return new Figure(
            "beyond-text-ratio", "More text", "Beyond",
            "The paper's second explanation: image tokens outnumber text tokens 30 to 1, so that text is soon forgotten and brings nothing.",
            "Left: what the pre-trained model still knows at the end (95 % over items). Right: whether it is then ahead of its random twin on image tokens (95 % over seeds); left of zero it helps.",
            [
                new PointPanel("Right answers at the end", axis("share"), kept, []),
                new PointPanel("Held-out image loss", axis("nats a token"), helped, [moment("no difference", 0)]),
            ]);
    }

    /// <summary>Codes that stand for words; null where they were not run.</summary>
    public static Figure? Words(StudyData data)
    {
        if (data.Of("told-random").Length == 0)
            return null;
        CurvePanel Panel(string title, params (string Arm, string Name)[] starts) => new(
            title, axis("tokens seen"), axis("nats a token"),
            [.. starts.Where(start => data.Of(start.Arm).Length > 0).Select((start, i) => StudyFigures.HeldOut(data.Of(start.Arm), start.Name, i, e => e.Image))], []);
        (string Label, string Arm, string Against)[] pairs =
        [
            ("learned codes", "twin-pretrained", "twin-random"), ("words in a grid", "words-pretrained", "words-random"),
            ("words in sentences", "told-pretrained", "told-random"), ("… known at the start", "told-tied", "told-random"),
        ];
        Point[] points =
        [
            .. from pair in pairs
               from measure in new[] { ArmMeasure.ImageOnTheWay, ArmMeasure.Image }
               let difference = data.Difference(measure, pair.Arm, pair.Against)
               where double.IsFinite(difference.Mean)
               select Interval(pair.Label, measure.IsImage ? "at the end" : "on the way", difference, measure.IsImage ? 4 : 3),
        ];
        return new Figure(
            "beyond-words", "Codes with meaning", "Beyond",
            "The paper's first explanation: image tokens have no meaning that text tokens have. Codes that stand for words have.",
            "Left: held-out image loss when each code stands for a word, in a grid of cells or in sentences. Right: pre-trained minus random, mean over the evaluations and at the end (95 % over seeds); left of zero pre-training helps.",
            [
                Panel("Words in a grid", ("words-pretrained", "pre-trained"), ("words-random", "random")),
                Panel("Words in sentences", ("told-pretrained", "pre-trained"), ("told-random", "random"), ("told-tied", "pre-trained, knows the words")),
                new PointPanel("What pre-training brings", axis("nats a token"), points, [moment("no difference", 0)]),
            ]);
    }

    /// <summary>The distance of drawn pictures by strength of guidance; null where no arm can be guided.</summary>
    public static Figure? Guidance(StudyData data)
    {
        ArmResult[] guided = [.. data.Arms.Where(arm => arm.Drawings is { Guidance.Length: > 1 } drawings && drawings.Distance.All(double.IsFinite))];
        if (guided.Length == 0)
            return null;
        return new Figure(
            "guidance", "Pictures by strength of guidance", "",
            "", $"Fréchet distance between {guided[0].Drawings!.Pictures} drawn pictures and as many real ones, in thumbnails of {PictureDistance.Side} × {PictureDistance.Side} pixels; lower is closer. Strength 1 is no guidance.",
            [
                new CurvePanel("Distance to real pictures", axis("strength"), axis("Fréchet distance of thumbnails"),
                    [.. guided.Select((arm, i) => curve($"{arm.Plan}, seed {arm.Seed}", i, arm.Drawings!.Guidance, arm.Drawings.Distance))], []),
            ]);
    }

    private static Point Interval(string label, string name, Statistics.Interval interval, int series) => new(
        label, name, interval.Mean, double.IsNaN(interval.Low) ? interval.Mean : interval.Low, double.IsNaN(interval.High) ? interval.Mean : interval.High, series);
}
