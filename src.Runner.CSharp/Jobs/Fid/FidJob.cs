using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>How far a set of generated pictures is from a set of real ones.</summary>
internal static class FidJob
{
    /// <summary>Carries the command out and writes the result to stdout. Errors: InputException.</summary>
    public static void Run(FidCommand command, CancellationToken stop)
    {
        using Progress progress = new();
        FidResult result = Measure(command, progress, stop);
        Console.Out.WriteLine(command.Json ? result.ToJson().ToJsonString(Json.Options) : result.Said);
    }

    /// <summary>Reads or extracts both sets and measures. Errors: InputException.</summary>
    public static FidResult Measure(FidCommand command, Progress progress, CancellationToken stop)
    {
        bool[] ready = [FeatureSet.IsFeatures(command.Real), FeatureSet.IsFeatures(command.Generated)];
        string[] pictures = [.. new[] { command.Real, command.Generated }.Where((_, i) => !ready[i])];
        foreach (string path in pictures)
        {
            if (!Path.Exists(path))
            {
                throw new InputException($"{path} does not exist.");
            }
        }

        if (pictures.Length > 0 && command.Extractor is null)
        {
            throw new InputException(
                $"{string.Join(" and ", pictures)}: pictures need --extractor F, the TorchScript file of a network that makes features of them (docs/pictures.md says which); features are .npy files [N, d].");
        }

        if (pictures.Length == 0 && command.SaveFeatures is not null)
        {
            throw new InputException("--save-features keeps features of pictures, and both sets are features already.");
        }

        if (command.SaveFeatures is { } folder)
        {
            Files.RequireFree(folder, "--save-features");
        }

        using FeatureExtractor? extractor = pictures.Length == 0 ? null
            : FeatureExtractor.Open(command.Extractor!, command.Entry, resized: command.Resize != "none", TorchLibrary.Device);
        JsonObject? extraction = extractor is null ? null : Extraction(command, extractor);
        using FeatureSet real = Open("real", command.Real, ready[0]);
        using FeatureSet generated = Open("generated", command.Generated, ready[1]);
        RequireOneExtraction(Origin(real, ready[0]), Origin(generated, ready[1]));
        return FidResult.Of(command, real, generated, extraction, progress, stop);

        FeatureSet Open(string role, string path, bool isReady)
        {
            if (isReady)
            {
                return FeatureSet.Read(role, path, command.Limit);
            }

            FeatureSet set = FeatureSet.Extract(role, path, command, extractor!, progress, stop);
            try
            {
                if (command.SaveFeatures is { } kept)
                {
                    set.Save(kept, role, extraction!);
                }

                return set;
            }
            catch
            {
                set.Dispose();
                throw;
            }
        }

        JsonObject? Origin(FeatureSet set, bool isReady) => isReady ? set.Origin["from"]?["extraction"] as JsonObject : extraction;
    }

    /// <summary>How features were made of pictures: two sets must agree in all of it.</summary>
    private static JsonObject Extraction(FidCommand command, FeatureExtractor extractor) => new()
    {
        ["extractor_sha256"] = extractor.Sha256,
        ["entry"] = extractor.Entry,
        ["crop"] = command.CenterCrop ? "center" : "none",
        ["pre_size"] = command.PreSize,
        ["pre_filter"] = command.PreSize is null ? null : command.PreFilter,
        ["resize"] = command.Resize switch
        {
            "clean" => "Pillow bicubic, antialiased, float32, clipped to [0, 255]",
            "lanczos" => "Pillow Lanczos, antialiased, float32, clipped to [0, 255]",
            "bilinear" => "torch bilinear, not antialiased, corners not aligned",
            _ => "none",
        },
        ["input_size"] = command.Resize == "none" ? null : command.InputSize,
        ["scale"] = command.Scale switch
        {
            "inception" => "(x - 128) / 128",
            "symmetric" => "2 x / 255 - 1",
            "unit" => "x / 255",
            _ => "x",
        },
    };

    private static void RequireOneExtraction(JsonObject? real, JsonObject? generated)
    {
        if (real is null || generated is null)
        {
            return;
        }

        foreach (string key in real.Select(entry => entry.Key).Union(generated.Select(entry => entry.Key)))
        {
            if (!JsonNode.DeepEquals(real[key], generated[key]))
            {
                throw new InputException(
                    $"the two sets were not extracted alike: {key} is {real[key]?.ToJsonString() ?? "null"} of the real set and {generated[key]?.ToJsonString() ?? "null"} of the generated one. Extract both with the same options.");
            }
        }
    }
}
