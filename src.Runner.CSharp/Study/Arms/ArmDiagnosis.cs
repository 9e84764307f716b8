using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>A quantity that has a name, such as a layer's, at each evaluation.</summary>
internal sealed record Followed(string Name, double[] Values);

/// <summary>Use of the codebook: codes that occur, 2^entropy, and the Jensen-Shannon divergence from the real pictures, in bits.</summary>
internal sealed record CodeStatistics(int Used, double Perplexity, double FromReal);

/// <summary>
/// A look into an arm at each evaluation: cosine of the gradients of text and image loss (without the noise of few sequences), relative distance of the weights from their
/// start, and the attention mass that goes from image positions to text (beside that of attention spread evenly); and at the end held-out
/// losses by place and caption, over the whole vocabulary and within the kind, and the use of codes.
/// </summary>
internal sealed record ArmDiagnosis(
    int[] Steps, Followed[] GradientCosine, Followed[] WeightDistance, Followed[] AttentionToText, double EvenAttention,
    double[] ImageByPlace, double[] ImageLeakByPlace, double[] ImageByRow, int[] CaptionEdges, double[] ImageByCaption, double[] TextByCaption,
    CodeStatistics Real, CodeStatistics Predicted, CodeStatistics? Drawn);

/// <summary>Looks into an arm while it is trained.</summary>
internal sealed class Examination : IDisposable
{
    private const int GradientSequences = 32;
    private const int AttentionSequences = 8;
    private const int CaptionBuckets = 4;

    private readonly Model model;
    private readonly CodedPictures pictures;
    private readonly long[][] heldOut;
    private readonly Dictionary<string, torch.Tensor> start;
    private readonly List<int> steps = [];
    private readonly Trail gradients = new(), distances = new(), attention = new();
    private double even;

    /// <param name="pretrained">The weights before the table grew, or null for a model that starts as it is now.</param>
    public Examination(Model model, CodedPictures pictures, long[][] heldOut, IReadOnlyDictionary<string, torch.Tensor>? pretrained)
    {
        (this.model, this.pictures, this.heldOut) = (model, pictures, heldOut);
        start = model.Names.ToDictionary(name => name, name =>
        {
            if (pretrained is not null)
                return pretrained[name].alias();
            using torch.Tensor now = model.Values(name);
            return now.clone();
        });
    }

    /// <summary>Looks at the model after some steps.</summary>
    public void Look(int step)
    {
        steps.Add(step);
        GradientCosines cosines = Diagnosis.GradientCosine(model, heldOut[..Math.Min(GradientSequences, heldOut.Length)]);
        gradients.Add("all parameters", cosines.Whole.Corrected);
        foreach (GradientPair group in cosines.Groups)
            gradients.Add(group.Group, group.Corrected);
        WeightChanges changes = Diagnosis.WeightDistance(model, name => start[name].alias());
        distances.Add("all parameters", changes.Whole.Distance);
        foreach (WeightChange layer in changes.Layers)
            distances.Add($"layer {layer.Layer}", layer.Distance);
        foreach (WeightChange group in changes.Groups.Where(group => group.Layer < 0 && double.IsFinite(group.Distance)))
            distances.Add(group.Group, group.Distance);
        AttentionMasses masses = Diagnosis.AttentionToText(model, heldOut[..Math.Min(AttentionSequences, heldOut.Length)], pictures.Grid.Rows, pictures.Grid.Columns);
        even = masses.EvenText;
        foreach (LayerAttention layer in masses.Layers)
            attention.Add($"layer {layer.Layer}", layer.MeanText);
    }

    /// <summary>What was seen, with the losses by place of the model as it is now.</summary>
    /// <param name="drawn">Codes of pictures that the arm drew, or none.</param>
    public ArmDiagnosis Finish(IReadOnlyList<int[]> drawn)
    {
        int[] edges = Diagnosis.CaptionEdges(model.Vocabulary, heldOut, CaptionBuckets);
        DetailedLosses details = Diagnosis.Losses(model, heldOut, pictures.Grid.Rows, pictures.Grid.Columns, edges, 32);
        LossPlaces places = details.Places;
        int count = pictures.Vocabulary.ImageCodes;
        double[] real = Counts(pictures.HeldOut.Select(pair => pair.Codes), count);
        CodeStatistics Statistics(double[] weights)
        {
            CodeUse use = Diagnosis.CodesOf(weights);
            return new CodeStatistics(use.Used, use.Perplexity, Diagnosis.JensenShannon(weights, real));
        }

        return new ArmDiagnosis(
            [.. steps], gradients.All, distances.All, attention.All, even,
            places.Image.Loss, places.Image.Leak, places.ImageRows.Loss, edges, places.ImageByCaption.Loss, places.TextByCaption.Loss,
            Statistics(real), Statistics(details.Predicted.Probability), drawn.Count == 0 ? null : Statistics(Counts(drawn, count)));
    }

    public void Dispose()
    {
        foreach (torch.Tensor tensor in start.Values)
            tensor.Dispose();
    }

    private static double[] Counts(IEnumerable<int[]> codes, int count) => [.. Diagnosis.CodeCounts(codes, count).Select(n => (double)n)];

    /// <summary>Values by name, in the order in which the names came.</summary>
    private sealed class Trail
    {
        private readonly List<(string Name, List<double> Values)> all = [];

        public Followed[] All => [.. all.Select(entry => new Followed(entry.Name, [.. entry.Values]))];

        public void Add(string name, double value)
        {
            if (all.FirstOrDefault(entry => entry.Name == name).Values is not { } values)
                all.Add((name, values = []));
            values.Add(value);
        }
    }
}
