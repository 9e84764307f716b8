using System.Globalization;
using System.Text.Json.Nodes;
using Microsoft.FSharp.Core;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Distances of two sets with the protocol that they belong to.</summary>
internal sealed record FidResult
{
    // The quantile of a 95 % interval.
    private const double Reach = 1.959963984540054;

    private readonly FidCommand command;
    private readonly FeatureSet real;
    private readonly FeatureSet generated;
    private readonly JsonObject? extraction;
    private readonly long width;
    private FrechetDistance? fid;
    private double fidError = double.NaN;
    private (double Limit, (double Share, double Distance)[] Points)? extrapolated;
    private KernelEstimate? kid;
    private KernelSubsets? subsets;
    private NeighbourShares? neighbours;

    private FidResult(FidCommand command, FeatureSet real, FeatureSet generated, JsonObject? extraction)
    {
        (this.command, this.real, this.generated, this.extraction) = (command, real, generated, extraction);
        (Real, Generated, width) = (real.Features.shape[0], generated.Features.shape[0], real.Features.shape[1]);
    }

    /// <summary>Samples of the real set.</summary>
    public long Real { get; }

    /// <summary>Samples of the generated set.</summary>
    public long Generated { get; }

    /// <summary>Measures what the command asks for. Errors: InputException where the sets do not fit each other or are too small.</summary>
    public static FidResult Of(FidCommand command, FeatureSet real, FeatureSet generated, JsonObject? extraction, Progress progress, CancellationToken stop)
    {
        Hybrid.Features.requireAlike(real.Features, generated.Features);
        FidResult result = new(command, real, generated, extraction);
        // Pairs of samples are work for a GPU where there is one.
        using var scope = torch.NewDisposeScope();
        torch.Tensor x = real.Features.to(TorchLibrary.Device), y = generated.Features.to(TorchLibrary.Device);
        Random.Stream stream = Random.named("fid", Random.ofSeed(command.Seed));
        long n = x.shape[0], m = y.shape[0];
        if (command.Measures.Contains("fid"))
        {
            using (progress.Stage("FID", 0))
            {
                (result.fid, result.fidError) = Frechet.withError(x, y);
            }

            stop.ThrowIfCancellationRequested();
            if (command.Extrapolate)
            {
                using (progress.Stage("FID at infinity", 0))
                {
                    if (Frechet.extrapolate(Random.named("extrapolate", stream), x, y) is { } found)
                    {
                        result.extrapolated = (found.Value.Item1, [.. found.Value.Item2.Select(point => (point.Item1, point.Item2))]);
                    }
                }

                stop.ThrowIfCancellationRequested();
            }
        }

        if (command.Measures.Contains("kid"))
        {
            result.kid = Counted("KID", (2 * n) + m, report => KernelDistance.unbiased(report, x, y));
            using Stage stage = progress.Stage("KID of subsets", command.Subsets);
            result.subsets = KernelDistance.subsets(
                FuncConvert.FromAction<int>(done =>
                {
                    stop.ThrowIfCancellationRequested();
                    stage.Report(done);
                }),
                Random.named("subsets", stream), command.Subsets, command.SubsetSize, x, y);
        }

        if (command.Measures.Contains("neighbours"))
        {
            if (Math.Min(n, m) > command.Neighbours)
            {
                result.neighbours = Counted("precision and recall", n + (2 * m), report => Neighbourhoods.measure(report, command.Neighbours, x, y));
            }
            else
            {
                Terminal.Warn($"precision and recall with {command.Neighbours} neighbours need more than {command.Neighbours} samples; they are left out");
            }
        }

        return result;

        T Counted<T>(string name, long total, Func<FSharpFunc<long, Unit>, T> measure)
        {
            using Stage stage = progress.Stage(name, total);
            long done = 0;
            return measure(FuncConvert.FromAction<long>(rows =>
            {
                stop.ThrowIfCancellationRequested();
                stage.Report(done += rows);
            }));
        }
    }

    /// <summary>What must be known before the numbers are believed.</summary>
    public IReadOnlyList<string> Notes
    {
        get
        {
            List<string> notes = [];
            long fewest = Math.Min(Real, Generated);
            if (fid is not null && fewest <= width)
            {
                notes.Add($"{fewest} samples are no more than the {width} dimensions: a covariance is singular and FID far too large. Compare only sets of the same sizes; KID has no such bias.");
            }
            else if (fid is not null && fewest < Frechet.fewSamples)
            {
                notes.Add($"FID of fewer than {Frechet.fewSamples:N0} samples is biased upwards, by about as much as models differ; compare only sets of the same sizes. KID has no such bias.");
            }

            if (fid is not null && Real != Generated)
            {
                notes.Add("the bias of FID depends on both sizes, which differ here.");
            }

            if (command.Extrapolate && fid is not null && extrapolated is null)
            {
                notes.Add("40 % of the smaller set are no more samples than dimensions; FID was not extrapolated.");
            }

            return notes;
        }
    }

    /// <summary>The result in a few lines.</summary>
    public string Said
    {
        get
        {
            List<string> lines = [$"{Real:N0} real and {Generated:N0} generated pictures, features of width {width:N0}"];
            if (fid is { } distance)
            {
                lines.Add($"FID        {Number(distance.Distance)}{PlusMinus(fidError)}");
                if (extrapolated is { } line)
                {
                    lines.Add($"FID at ∞   {Number(line.Limit)}, from {string.Join(", ", line.Points.Select(point => $"{point.Share:P0} {Number(point.Distance)}"))}");
                }
            }

            if (kid is { } kernel)
            {
                lines.Add($"KID        {Number(kernel.Distance)}{PlusMinus(kernel.Error)}; {subsets!.Subsets} subsets of {subsets.Size}: {Number(subsets.Mean)}, deviation {Number(subsets.Deviation)}");
            }

            if (neighbours is { } shares)
            {
                lines.Add($"precision  {shares.Precision:F3}   recall    {shares.Recall:F3}");
                lines.Add($"density    {shares.Density:F3}   coverage  {shares.Coverage:F3}");
            }

            return string.Join('\n', lines.Concat(Notes.Select(note => "note: " + note)));
        }
    }

    /// <summary>The result for machines.</summary>
    public JsonObject ToJson()
    {
        JsonObject result = new()
        {
            ["fid"] = Finite(fid?.Distance),
            ["fid_error"] = Finite(fidError),
            ["fid_interval"] = Interval(fid?.Distance, fidError, least: 0.0),
            ["fid_means"] = Finite(fid?.Means),
            ["fid_covariances"] = Finite(fid?.Covariances),
            ["kid"] = Finite(kid?.Distance),
            ["kid_error"] = Finite(kid?.Error),
            ["kid_interval"] = Interval(kid?.Distance, kid?.Error ?? double.NaN),
            ["kid_subsets"] = subsets is null ? null : new JsonObject
            {
                ["mean"] = Finite(subsets.Mean),
                ["deviation"] = Finite(subsets.Deviation),
                ["subsets"] = subsets.Subsets,
                ["size"] = subsets.Size,
            },
            ["precision"] = Finite(neighbours?.Precision),
            ["recall"] = Finite(neighbours?.Recall),
            ["density"] = Finite(neighbours?.Density),
            ["coverage"] = Finite(neighbours?.Coverage),
            ["n"] = Generated,
            ["n_real"] = Real,
            ["n_generated"] = Generated,
        };
        if (extrapolated is { } line)
        {
            result["fid_infinity"] = Finite(line.Limit);
            result["fid_by_share"] = new JsonArray([.. line.Points.Select(point => new JsonObject { ["share"] = point.Share, ["fid"] = Finite(point.Distance) })]);
        }

        result["notes"] = new JsonArray([.. Notes.Select(note => JsonValue.Create(note))]);
        result["protocol"] = Protocol();
        return result;
    }

    private JsonObject Protocol() => new()
    {
        ["real"] = real.Origin.DeepClone(),
        ["generated"] = generated.Origin.DeepClone(),
        ["n_real"] = Real,
        ["n_generated"] = Generated,
        ["limit"] = command.Limit,
        ["seed"] = command.Seed,
        ["extractor"] = command.Extractor,
        ["extraction"] = extraction?.DeepClone(),
        ["width"] = width,
        ["covariance"] = "divided by n - 1 (ddof 1), float64; singular ones as they are, nothing added to diagonals",
        ["ddof"] = 1,
        ["kid"] = $"unbiased over all samples, kernel (x.y / {width} + 1)^3, float64",
        ["kid_subsets"] = command.Subsets,
        ["kid_subset_size"] = Math.Min(command.SubsetSize, Math.Min(Real, Generated)),
        ["neighbours"] = command.Neighbours,
    };

    private static string Number(double value) => value.ToString("G6", CultureInfo.InvariantCulture);

    private static string PlusMinus(double error) => double.IsFinite(error) ? $" ± {Number(Reach * error)}" : "";

    private static JsonNode? Finite(double? value) => value is { } number && double.IsFinite(number) ? JsonValue.Create(number) : null;

    private static JsonArray? Interval(double? value, double error, double least = double.NegativeInfinity) =>
        value is { } middle && double.IsFinite(error)
            ? [JsonValue.Create(Math.Max(least, middle - (Reach * error))), JsonValue.Create(middle + (Reach * error))]
            : null;
}
