using System.Globalization;
using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>Details of an evaluation as tables for a person.</summary>
internal static class DetailsText
{
    // Places one by one up to here; after that ranges, each twice as long as the one before.
    private const int SinglePlaces = 4;

    public static string Of(EvaluationDetails details)
    {
        List<string> lines = [];
        LossPlaces places = details.Places;
        Leaks(lines, details);
        Table(lines, "image loss by row of the picture", places.ImageRows, i => $"row {i}");
        if (details.Grid is null && places.Image.Targets > 0)
        {
            Table(lines, "image loss by place in the picture (--grid H W gives rows)", places.Image);
        }

        Table(lines, "text loss by place in the caption", places.Text);
        Table(lines, "image loss by length of the caption", places.ImageByCaption, i => Bucket(places.CaptionEdges, i));
        Table(lines, "text loss by length of the caption", places.TextByCaption, i => Bucket(places.CaptionEdges, i));
        Table(lines, "loss by mark", places.Marks, i => Marks[i]);
        Codes(lines, details);
        Gradients(lines, details);
        Attention(lines, details);
        return string.Join('\n', lines);
    }

    public static string Of(ModelComparison comparison)
    {
        List<string> lines = [];
        if (comparison.Difference is { } difference)
        {
            Heading(lines, $"loss less that of {comparison.Path}, nats/token");
            foreach (var (kind, interval) in difference.Where(kind => !double.IsNaN(kind.Value.Mean)))
            {
                lines.Add($"{kind,-26}{Show(interval)}");
            }
        }
        else
        {
            lines.AddRange(["", $"{comparison.Path} has another vocabulary: its losses are not compared."]);
        }

        if (comparison.Distance is { } distance)
        {
            Heading(lines, $"{"distance from it",-26}{"|w - w0|/|w0|",14}{"cosine",10}{"|w|",10}{"parameters",16}");
            foreach (WeightChange change in distance.Groups.Append(distance.Whole))
            {
                lines.Add($"{change.Group,-26}{Number(change.Distance),14}{Number(change.Cosine),10}{Number(change.Norm),10}{change.Parameters,16:N0}");
            }
        }
        else
        {
            lines.AddRange(["", $"{comparison.Path} has other parameters: the weights have no distance from it."]);
        }

        return string.Join('\n', lines);
    }

    private static string[] Marks { get; } = ["<doc>", "</doc>", "<text>", "</text>", "<image>", "</image>"];

    private static void Leaks(List<string> lines, EvaluationDetails details)
    {
        Heading(lines, $"{"leak to other kinds",-26}{"nats/token",-28}{"share of probability",24}");
        (string Name, Statistics.Interval Leak)[] kinds =
        [
            ("text", details.Leak(loss => loss.Text - loss.TextWithin, loss => loss.TextCount)),
            ("image", details.Leak(loss => loss.Image - loss.ImageWithin, loss => loss.ImageCount)),
        ];
        foreach (var (name, leak) in kinds.Where(kind => !double.IsNaN(kind.Leak.Mean)))
        {
            // The mean of −log p is not −log of the mean: this is 1 − the geometric mean of p.
            lines.Add($"{name,-26}{Show(leak),-28}{Percent(1 - Math.Exp(-leak.Mean)),24}");
        }
    }

    private static void Table(List<string> lines, string title, PlaceSums sums, Func<int, string> name)
    {
        if (sums.Targets == 0)
        {
            return;
        }

        Heading(lines, title);
        lines.Add($"{"",-26}{"nats/token",12}{"within",12}{"leak",12}{"tokens",16}");
        for (int i = 0; i < sums.Count.Length; i++)
        {
            if (sums.Count[i] > 0)
            {
                Row(lines, name(i), sums, i, i + 1);
            }
        }
    }

    private static void Table(List<string> lines, string title, PlaceSums sums)
    {
        if (sums.Targets == 0)
        {
            return;
        }

        Heading(lines, title);
        lines.Add($"{"",-26}{"nats/token",12}{"within",12}{"leak",12}{"tokens",16}");
        int length = sums.Count.Length;
        for (int first = 0, last; first < length; first = last)
        {
            last = Math.Min(length, first < SinglePlaces ? first + 1 : 2 * first);
            Row(lines, last == first + 1 ? $"{first}" : $"{first} to {last - 1}", sums, first, last);
        }
    }

    private static void Row(List<string> lines, string name, PlaceSums sums, int first, int last)
    {
        double full = sums.Full[first..last].Sum(), within = sums.Within[first..last].Sum();
        long count = sums.Count[first..last].Sum();
        if (count > 0)
        {
            lines.Add($"{name,-26}{Nats(full / count),12}{Nats(within / count),12}{Nats((full - within) / count),12}{count,16:N0}");
        }
    }

    private static void Codes(List<string> lines, EvaluationDetails details)
    {
        PredictedCodes predicted = details.Predicted;
        if (predicted.Count == 0)
        {
            return;
        }

        var sets = details.Codes();
        Heading(lines, $"{"codes",-26}{"used",12}{"bits",8}{"perplexity",12}{"most frequent",22}");
        foreach (var (name, use, _) in sets)
        {
            string label = name == "argmax" ? "most probable ones" : name == "predicted" ? "mean prediction" : name;
            string most = $"{use.MostFrequent} ({Percent(use.MostFrequentShare)})";
            lines.Add($"{label,-26}{$"{use.Used} of {use.Codes}",12}{Number(use.Entropy),8}{Number(use.Perplexity),12}{most,22}");
        }

        string Divergence(int set) => $"{Report.number(2, Diagnosis.JensenShannon(sets[0].Weights, sets[set].Weights))} bits";
        lines.Add($"Jensen-Shannon divergence of the mean prediction from the data {Divergence(2)}");
        lines.Add($"the most probable code is the right one at {Percent((double)predicted.Correct / predicted.Count)} of {predicted.Count:N0} places");
    }

    private static void Gradients(List<string> lines, EvaluationDetails details)
    {
        if (details.Gradients is not { } gradients)
        {
            return;
        }

        Heading(lines, $"gradients of text and image loss over {details.Sample} sequences");
        lines.Add($"{"",-22}{"",9}{"without",9}{"",10}{"",10}{"halves agree",20}");
        lines.Add($"{"",-22}{"cosine",9}{"noise",9}{"|text|",10}{"|image|",10}{"text",10}{"image",10}");
        foreach (GradientPair pair in gradients.Groups.Append(gradients.Whole))
        {
            lines.Add($"{pair.Group,-22}{Cosine(pair.Cosine),9}{Cosine(pair.Corrected),9}{Number(pair.FirstNorm),10}{Number(pair.SecondNorm),10}{Cosine(pair.FirstAgreement),10}{Cosine(pair.SecondAgreement),10}");
        }
    }

    private static void Attention(List<string> lines, EvaluationDetails details)
    {
        if (details.Attention is not { } attention)
        {
            return;
        }

        Heading(lines, $"attention where image codes are predicted, over {details.Sample} sequences");
        lines.Add($"{"mean over heads",-16}{"text",8}{"(most of a head)",18}{"marks",8}{"image",8}{"self",8}{"bits",8}");
        foreach (LayerAttention layer in attention.Layers)
        {
            string Mean(double[] heads) => Percent(heads.Average());
            lines.Add($"{$"layer {layer.Layer}",-16}{Mean(layer.Text),8}{Percent(layer.Text.Max()),18}{Mean(layer.Marks),8}{Mean(layer.Image),8}{Mean(layer.Self),8}{Number(layer.Entropy.Average()),8}");
        }

        lines.Add($"{"spread evenly",-16}{Percent(attention.EvenText),8}");
    }

    private static void Heading(List<string> lines, string text)
    {
        lines.Add("");
        lines.Add(text);
    }

    private static string Bucket(int[] edges, int bucket)
    {
        string last = bucket < edges.Length ? $"{edges[bucket] - 1}" : "";
        return edges.Length == 0 ? "any"
            : bucket == 0 ? $"up to {last} tokens"
            : bucket == edges.Length ? $"{edges[^1]} tokens and more"
            : edges[bucket - 1] == edges[bucket] - 1 ? $"{last} tokens"
            : $"{edges[bucket - 1]} to {last} tokens";
    }

    private static string Number(double value) => Report.number(4, value);

    private static string Nats(double value) => Fixed(4, value);

    private static string Cosine(double value) => Fixed(3, value);

    // Adding 0 makes of a negative 0, which rounding may leave, a plain one.
    private static string Fixed(int decimals, double value) => double.IsNaN(value)
        ? "–"
        : (Math.Round(value, decimals) + 0.0).ToString($"F{decimals}", CultureInfo.InvariantCulture).Replace('-', '−');

    private static string Percent(double share) => double.IsNaN(share) ? "–" : $"{Report.number(3, 100 * share)} %";

    private static string Show(Statistics.Interval interval) => Report.interval(interval.Mean, interval.Low, interval.High);
}
