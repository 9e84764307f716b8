using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>A model beside another one: how far its weights are from the other's, and how their losses differ on the same sequences.</summary>
internal sealed record ModelComparison
{
    public required string Path { get; init; }

    /// <summary>Null where the other has other parameters.</summary>
    public WeightChanges? Distance { get; init; }

    /// <summary>
    /// Nats per token by which the model's loss is above the other's, with the interval over sequences, by kind; null where the other has another vocabulary.
    /// </summary>
    public IReadOnlyDictionary<string, Statistics.Interval>? Difference { get; init; }

    /// <summary>
    /// Compares a model and its losses with another one that is opened for it. Errors: InputException where neither weights nor losses
    /// can be compared; OperationCanceledException when asked to stop.
    /// </summary>
    public static ModelComparison Of(
        Model model, IReadOnlyList<SequenceLoss> losses, ISequenceSource source, ModelFile other, Progress progress, CancellationToken stop)
    {
        bool alike = SameParameters(model, other), sameIds = SameIds(model.Vocabulary, other);
        if (!alike && !sameIds)
        {
            throw new InputException(
                $"{other.Path} cannot be compared with: it has other parameters ({Architecture.Describe(other.Config)}) and another vocabulary ({other.Vocabulary.TextRows} text rows, {other.Vocabulary.ImageCodes} image codes).");
        }

        WeightChanges? distance = alike ? Diagnosis.WeightDistance(model, other.Load) : null;
        return new()
        {
            Path = other.Path,
            Distance = distance,
            Difference = sameIds ? Differences(losses, OtherLosses(model.Vocabulary, source, other, progress, stop)) : null,
        };
    }

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson() => new()
    {
        ["path"] = Path,
        ["distance"] = Distance is null ? null : new Dictionary<string, object>
        {
            ["all"] = ToJson(Distance.Whole),
            ["groups"] = Distance.Groups.Select(ToJson).ToArray(),
            ["layers"] = Distance.Layers.Select(ToJson).ToArray(),
        },
        ["difference"] = Difference?.ToDictionary(kind => kind.Key, kind => EvaluationDetails.ToJson(kind.Value)),
    };

    private static Dictionary<string, object> ToJson(WeightChange change) => new()
    {
        ["group"] = change.Group,
        ["layer"] = change.Layer,
        ["parameters"] = change.Parameters,
        ["distance"] = change.Distance,
        ["cosine"] = change.Cosine,
        ["norm"] = change.Norm,
        ["start_norm"] = change.StartNorm,
    };

    private static Dictionary<string, Statistics.Interval> Differences(IReadOnlyList<SequenceLoss> own, IReadOnlyList<SequenceLoss> other)
    {
        (string Name, Func<SequenceLoss, double> Sum, Func<SequenceLoss, long> Count)[] kinds =
        [
            ("total", loss => loss.Text + loss.Image + loss.Structure, loss => loss.TextCount + loss.ImageCount + loss.StructureCount),
            ("text", loss => loss.Text, loss => loss.TextCount),
            ("image", loss => loss.Image, loss => loss.ImageCount),
            ("structure", loss => loss.Structure, loss => loss.StructureCount),
        ];
        return kinds.ToDictionary(kind => kind.Name, kind => Intervals.Ratio(
            0,
            Evaluation.Resamples,
            [.. own.Zip(other, (a, b) => kind.Sum(a) - kind.Sum(b))],
            [.. own.Select(loss => (double)kind.Count(loss))]));
    }

    private static List<SequenceLoss> OtherLosses(Vocabulary vocabulary, ISequenceSource source, ModelFile other, Progress progress, CancellationToken stop)
    {
        using Model model = other.Open(new Layout { Device = TorchLibrary.Device, Frozen = true }, vocabulary);
        using Stage stage = progress.Stage($"evaluate {System.IO.Path.GetFileName(System.IO.Path.TrimEndingDirectorySeparator(other.Path))}", source.Count);
        return Evaluation.Losses(model, source, long.MaxValue, model.Losses, stop, stage.Report);
    }

    /// <summary>Whether the other has the model's parameters in their shapes; its tables may have fewer rows.</summary>
    private static bool SameParameters(Model model, ModelFile other)
    {
        IReadOnlyList<ParameterShape> own = Architecture.Parameters(model.Config);
        Dictionary<string, long[]> there = Architecture.Parameters(other.Config).ToDictionary(parameter => parameter.Name, parameter => parameter.Shape);
        return own.Count == there.Count && own.All(parameter => there.TryGetValue(parameter.Name, out long[]? shape)
            && (shape.SequenceEqual(parameter.Shape)
                || (TensorNames.IsTable(parameter.Name) && shape[0] <= parameter.Shape[0] && shape[1] == parameter.Shape[1])));
    }

    /// <summary>Whether the other gives the same ids the same meaning; a table that does not say how it is laid out does where it is large enough.</summary>
    private static bool SameIds(Vocabulary vocabulary, ModelFile other) =>
        other.Vocabulary.Equals(vocabulary) || (other.Vocabulary.ImageCodes == 0 && other.Config.Rows >= vocabulary.Rows);
}
