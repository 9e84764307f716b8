using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>What lies behind the losses of a model: where they stand, what it predicts of the codes, how its gradients and attention are.</summary>
internal sealed record EvaluationDetails
{
    // Enough for quartiles of caption lengths.
    private const int CaptionSample = 4096, CaptionBuckets = 4;

    // Tokens whose activations are kept at a time for the gradients.
    private const int GradientTokens = 4096;

    /// <summary>Rows and columns of a picture's codes, where they are known.</summary>
    public required (int Height, int Width)? Grid { get; init; }

    /// <summary>Of each sequence of the source.</summary>
    public required IReadOnlyList<SequenceLoss> Losses { get; init; }

    public required LossPlaces Places { get; init; }

    public required PredictedCodes Predicted { get; init; }

    /// <summary>Sequences that gradients and attention are taken over.</summary>
    public required int Sample { get; init; }

    /// <summary>Null where text or image targets are missing.</summary>
    public GradientCosines? Gradients { get; init; }

    /// <summary>Null where no image codes are predicted.</summary>
    public AttentionMasses? Attention { get; init; }

    /// <summary>
    /// Measures a model on a source. Errors: InputException for ids outside the table, or pictures that do not fill the grid;
    /// OperationCanceledException when asked to stop.
    /// </summary>
    public static EvaluationDetails Of(Model model, ISequenceSource source, EvaluateCommand command, Progress progress, CancellationToken stop)
    {
        long[][] some = Spread(source, CaptionSample);
        (int Height, int Width)? grid = GridOf(command, source, model.Vocabulary, some);
        (int height, int width) = grid ?? (0, 0);
        int[] edges = Diagnosis.CaptionEdges(model.Vocabulary, some, CaptionBuckets);
        List<SequenceLoss> losses;
        LossPlaces? places = null;
        PredictedCodes? predicted = null;
        using (Stage stage = progress.Stage("evaluate", source.Count))
        {
            SequenceLoss[] Score(long[][] rows, int batch)
            {
                DetailedLosses part = Diagnosis.Losses(model, rows, height, width, edges, batch);
                places = places is null ? part.Places : places + part.Places;
                predicted = predicted is null ? part.Predicted : predicted + part.Predicted;
                return part.Sequences;
            }

            losses = Evaluation.Losses(model, source, long.MaxValue, Score, stop, stage.Report);
        }

        long[][] sample = Spread(source, command.Sample);
        bool pictures = places!.Image.Targets > 0, both = pictures && places.Text.Targets > 0;
        stop.ThrowIfCancellationRequested();
        AttentionMasses? attention = pictures
            ? Timed(progress, "attention", sample.Length, () => Diagnosis.AttentionToText(model, sample, height, width))
            : null;
        stop.ThrowIfCancellationRequested();
        int atOnce = Math.Clamp(GradientTokens / source.Length, 1, 16);
        GradientCosines? gradients = both
            ? Timed(progress, "gradients", sample.Length, () => Diagnosis.GradientCosine(model, sample, atOnce))
            : null;
        return new()
        {
            Grid = grid,
            Losses = losses,
            Places = places,
            Predicted = predicted!,
            Sample = sample.Length,
            Gradients = gradients,
            Attention = attention,
        };
    }

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson()
    {
        return new()
        {
            ["grid"] = Grid is { } grid ? new[] { grid.Height, grid.Width } : null,
            ["leak"] = new Dictionary<string, object>
            {
                ["text"] = ToJson(Leak(loss => loss.Text - loss.TextWithin, loss => loss.TextCount)),
                ["image"] = ToJson(Leak(loss => loss.Image - loss.ImageWithin, loss => loss.ImageCount)),
            },
            ["image"] = new Dictionary<string, object>
            {
                ["positions"] = ToJson(Places.Image),
                ["rows"] = ToJson(Places.ImageRows),
                ["columns"] = ToJson(Places.ImageColumns),
                ["by_caption"] = ToJson(Places.ImageByCaption),
            },
            ["text"] = new Dictionary<string, object> { ["positions"] = ToJson(Places.Text), ["by_caption"] = ToJson(Places.TextByCaption) },
            ["marks"] = ToJson(Places.Marks),
            ["caption_edges"] = Places.CaptionEdges,
            ["codes"] = Places.Image.Targets == 0 ? null : CodesJson(),
            ["sample"] = Sample,
            ["gradients"] = Gradients is null ? null : GradientsJson(Gradients),
            ["attention"] = Attention is null ? null : AttentionJson(Attention),
        };
    }

    /// <summary>The leak of one kind, −log of the probability on the right kind, with its interval over sequences.</summary>
    public Statistics.Interval Leak(Func<SequenceLoss, double> sum, Func<SequenceLoss, long> count) =>
        Intervals.Ratio(0, Evaluation.Resamples, [.. Losses.Select(sum)], [.. Losses.Select(loss => (double)count(loss))]);

    /// <summary>The use of codes by data, most probable codes and mean prediction.</summary>
    public (string Name, CodeUse Use, double[] Weights)[] Codes()
    {
        (string Name, double[] Weights)[] sets =
        [
            ("data", Array.ConvertAll(Predicted.Targets, count => (double)count)),
            ("argmax", Array.ConvertAll(Predicted.Argmax, count => (double)count)),
            ("predicted", Predicted.Probability),
        ];
        return [.. sets.Select(set => (set.Name, Diagnosis.CodesOf(set.Weights), set.Weights))];
    }

    internal static Dictionary<string, object> ToJson(Statistics.Interval interval) => new()
    {
        ["mean"] = interval.Mean,
        ["interval"] = new[] { interval.Low, interval.High },
    };

    private static Dictionary<string, object> ToJson(PlaceSums sums) => new()
    {
        ["count"] = sums.Count,
        ["loss"] = sums.Loss,
        ["within"] = sums.WithinLoss,
        ["leak"] = sums.Leak,
    };

    private static Dictionary<string, object> GradientsJson(GradientCosines gradients) => new()
    {
        ["text_count"] = gradients.FirstCount,
        ["image_count"] = gradients.SecondCount,
        ["all"] = ToJson(gradients.Whole),
        ["groups"] = gradients.Groups.Select(ToJson).ToArray(),
    };

    private static Dictionary<string, object> ToJson(GradientPair pair) => new()
    {
        ["group"] = pair.Group,
        ["layer"] = pair.Layer,
        ["parameters"] = pair.Parameters,
        ["cosine"] = pair.Cosine,
        ["corrected"] = pair.Corrected,
        ["text_norm"] = pair.FirstNorm,
        ["image_norm"] = pair.SecondNorm,
        ["text_agreement"] = pair.FirstAgreement,
        ["image_agreement"] = pair.SecondAgreement,
    };

    private static Dictionary<string, object> AttentionJson(AttentionMasses attention) => new()
    {
        ["queries"] = attention.Queries,
        ["even_text"] = attention.EvenText,
        ["even_text_by_row"] = attention.EvenTextByRow,
        ["layers"] = attention.Layers.Select(layer => new Dictionary<string, object>
        {
            ["layer"] = layer.Layer,
            ["text"] = layer.Text,
            ["marks"] = layer.Marks,
            ["image"] = layer.Image,
            ["self"] = layer.Self,
            ["entropy"] = layer.Entropy,
            ["text_by_row"] = layer.TextByRow,
        }).ToArray(),
    };

    private Dictionary<string, object> CodesJson()
    {
        var sets = Codes();
        Dictionary<string, object> json = sets.ToDictionary(set => set.Name, set => (object)new Dictionary<string, object>
        {
            ["codes"] = set.Use.Codes,
            ["used"] = set.Use.Used,
            ["entropy"] = set.Use.Entropy,
            ["perplexity"] = set.Use.Perplexity,
            ["most_frequent"] = set.Use.MostFrequent,
            ["most_frequent_share"] = set.Use.MostFrequentShare,
        });
        json["accuracy"] = (double)Predicted.Correct / Predicted.Count;
        json["divergence"] = sets.Skip(1).ToDictionary(set => set.Name, set => new Dictionary<string, object>
        {
            ["kullback_leibler"] = Diagnosis.KullbackLeibler(sets[0].Weights, set.Weights),
            ["jensen_shannon"] = Diagnosis.JensenShannon(sets[0].Weights, set.Weights),
        });
        return json;
    }

    private static T Timed<T>(Progress progress, string name, int sequences, Func<T> work)
    {
        using Stage stage = progress.Stage(name, sequences);
        T result = work();
        stage.Report(sequences);
        return result;
    }

    /// <summary>So many sequences, or all, evenly spread over a source.</summary>
    private static long[][] Spread(ISequenceSource source, int most)
    {
        long count = Math.Min(most, source.Count);
        return [.. Enumerable.Range(0, (int)count).Select(i => i * source.Count / count).Select(place => source.Row(place, place))];
    }

    /// <summary>The grid that was given, or that the tokens name. Errors: ConfigurationException where the pictures have another number of codes.</summary>
    private static (int Height, int Width)? GridOf(EvaluateCommand command, ISequenceSource source, Vocabulary vocabulary, long[][] some)
    {
        if (command.GridHeight is not { } height || command.GridWidth is not { } width)
        {
            return source.Grid;
        }

        int codes = Diagnosis.LongestPicture(vocabulary, some);
        return codes == 0 || (long)height * width == codes
            ? (height, width)
            : throw new ConfigurationException($"--grid {height} {width} has {(long)height * width} places; the pictures of {source.Name} have {codes} codes.");
    }
}
