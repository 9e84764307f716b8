using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>What a path is: a model, a run, a checkpoint, tensors, tokens, or a description of a model or a run.</summary>
internal static class InspectJob
{
    public static void Run(InspectCommand command)
    {
        JsonObject found = Inspect(command.Path);
        if (command.Json)
        {
            Console.Out.WriteLine(found.ToJsonString(Json.Options));
        }
        else
        {
            Print(found, "");
        }
    }

    /// <summary>What there is to say about a path. Errors: InputException where it is nothing known.</summary>
    internal static JsonObject Inspect(string path)
    {
        if (Directory.Exists(path))
        {
            return File.Exists(Path.Combine(path, "run.json")) ? Run(path)
                : File.Exists(Path.Combine(path, Checkpoint.Description)) || ModelFiles.OpenLmWeights(path) is not null ? Model(path)
                : TensorFiles.Holds(path) ? Tensors(path)
                : Tokens(path);
        }

        if (!File.Exists(path))
        {
            throw new InputException($"there is nothing at {path}.");
        }

        return Path.GetExtension(path).ToLowerInvariant() switch
        {
            ".json" => Description(path),
            ".npy" => Array(path),
            ".tar" => Tar(path),
            _ => Tensors(path),
        };
    }

    private static JsonObject Run(string path)
    {
        JsonObject found = new() { ["kind"] = "a run", ["path"] = path };
        Checkpoint? newest = new Checkpoints(path).Newest();
        if (newest is not null)
        {
            found["step"] = newest.State.Step;
            found["checkpoint"] = newest.Directory;
            string tokenizer = Path.Combine(newest.Directory, ImageTokenizers.FileName);
            bool ofTokenizer = !File.Exists(Path.Combine(newest.Directory, Checkpoint.Description)) && File.Exists(tokenizer);
            found[ofTokenizer ? "tokenizer" : "model"] = ofTokenizer ? Tensors(tokenizer) : Model(newest.Directory);
        }

        string metrics = Path.Combine(path, "metrics.jsonl");
        if (File.Exists(metrics) && File.ReadLines(metrics).LastOrDefault() is { Length: > 0 } last)
        {
            found["metrics"] = Parse(metrics, last);
        }

        found["configuration"] = Parse(path, Files.Text(Path.Combine(path, "run.json"), "the configuration of the run"));
        return found;
    }

    private static JsonObject Model(string path)
    {
        using ModelFile file = ModelFiles.Open(path);
        JsonObject found = new() { ["kind"] = file.Kind, ["path"] = path };
        Describe(found, file.Config, file.Vocabulary);
        found["tokenizer"] = file.TokenizerPath;
        found["shapes"] = Shapes(Architecture.Parameters(file.Config).Select(parameter => (parameter.Name, Shape.show(parameter.Shape))));
        return found;
    }

    private static JsonObject Description(string path)
    {
        string text = Files.Text(path, "the description");
        if (Parse(path, text) is JsonObject training && training.ContainsKey("imageSize"))
        {
            ImageTrainPlan plan = ImageTrainPlan.Parse(path, text, []);
            return new()
            {
                ["kind"] = "the configuration of an image tokenizer's training",
                ["path"] = path,
                ["parameters"] = plan.Parameters,
                ["stride"] = plan.Stride,
                ["configuration"] = Parse(path, plan.Json),
            };
        }

        if (Parse(path, text) is JsonObject root && root.ContainsKey("schedule") && root.ContainsKey("data"))
        {
            TrainPlan plan = TrainJob.ReadPlan(path, []);
            JsonObject run = new() { ["kind"] = "the configuration of a training run", ["path"] = path, ["configuration"] = Parse(path, plan.Json) };
            ModelConfig trained = TrainStart.Describe(plan, null);
            run["memory_bytes"] = StepMemory(
                plan.Config.MicroBatch, plan.Config.Length - 1, (half, way) => plan.Memory(trained, half, way, TorchLibrary.TeamFor(plan.Config.MicroBatch).Size, plan.Config.Length - 1));
            return run;
        }

        if (Parse(path, text) is JsonObject tokenizer && tokenizer.ContainsKey("added_tokens") && tokenizer["model"] is JsonObject algorithm
            && algorithm["vocab"] is JsonObject or JsonArray)
        {
            int entries = algorithm["vocab"] is JsonObject pieces ? pieces.Count : algorithm["vocab"]!.AsArray().Count;
            return new() { ["kind"] = "a text tokenizer", ["path"] = path, ["algorithm"] = algorithm["type"]?.ToString(), ["entries"] = entries };
        }

        ModelDescription model = ModelDescription.Read(path);
        JsonObject found = new() { ["kind"] = "the description of a model", ["path"] = path };
        Describe(found, model.Config, model.Vocabulary ?? new Vocabulary(model.Config.Rows, 0));
        return found;
    }

    private static void Describe(JsonObject found, ModelConfig config, Vocabulary vocabulary)
    {
        long parameters = Architecture.Parameters(config).Sum(parameter => parameter.Shape.Aggregate(1L, (product, length) => product * length));
        found["architecture"] = Architecture.Describe(config);
        found["parameters"] = parameters;
        found["vocabulary"] = new JsonObject { ["textRows"] = vocabulary.TextRows, ["imageCodes"] = vocabulary.ImageCodes, ["rows"] = config.Rows };
        found["flops_per_token"] = new JsonObject { ["training"] = Architecture.FlopsPerToken(config, config.Positions), ["positions"] = config.Positions };

        // Weights, gradient and two moments in fp32; with bf16 a second copy of the weights and of the gradient.
        JsonObject memory = new() { ["weights_fp32"] = 4 * parameters, ["training_fp32"] = 16 * parameters, ["training_bf16"] = 20 * parameters };
        memory["step"] = StepMemory(1, config.Positions, (half, way) => StepMemories.Of(config, half, new Training { Checkpointing = way }, 1, config.Positions));
        found["memory_bytes"] = memory;
    }

    /// <summary>What a step takes on a CPU, in both precisions and by each way of checkpointing.</summary>
    private static JsonObject StepMemory(int sequences, int positions, Func<bool, string, StepMemory> estimate)
    {
        JsonObject found = new() { ["sequences"] = sequences, ["positions"] = positions };
        foreach (bool half in (bool[])[false, true])
        {
            JsonObject ways = [];
            foreach (string way in StepMemories.Ways)
            {
                JsonObject parts = [];
                foreach (MemoryPart part in StepMemories.Parts(estimate(half, way)))
                {
                    parts[part.Name] = part.Bytes;
                }

                ways[way] = parts;
            }

            found[half ? "bf16" : "fp32"] = ways;
        }

        return found;
    }

    private static JsonObject Tensors(string path)
    {
        using ITensorFile file = TensorFiles.Open(path);
        JsonObject metadata = [];
        foreach (var (key, value) in file.Metadata)
        {
            metadata[key] = value;
        }

        return new()
        {
            ["kind"] = "named tensors",
            ["path"] = path,
            ["tensors"] = file.Entries.Count,
            ["parameters"] = file.Entries.Values.Aggregate(0L, (sum, entry) => entry.Count > long.MaxValue - sum ? long.MaxValue : sum + entry.Count),
            ["metadata"] = metadata,
            ["shapes"] = Shapes(file.Entries.Values.Select(entry => (entry.Name, $"{entry.Type} {Shape.show(entry.Shape)}"))),
        };
    }

    private static JsonObject Array(string path)
    {
        using NpyFile file = NpyFile.Open(path);
        return new() { ["kind"] = "an array", ["path"] = path, ["type"] = file.StoredType, ["shape"] = new JsonArray([.. file.Shape.Select(length => JsonValue.Create(length))]) };
    }

    private static JsonObject Tokens(string path)
    {
        // How the tokens will be used is not known here: any id is taken as it stands.
        Vocabulary any = new(1 << 28, 1 << 16);
        using ISequenceSource source = TokenData.Open([path], any, new PairComposer(null, any));
        return new() { ["kind"] = "token sequences", ["path"] = path, ["sequences"] = source.Count, ["length"] = source.Length };
    }

    /// <summary>Token sequences, or what kinds of files a tar of something else holds.</summary>
    private static JsonObject Tar(string path)
    {
        SortedDictionary<string, int> kinds = new(StringComparer.Ordinal);
        HashSet<string> samples = new(StringComparer.Ordinal);
        long Note(string member)
        {
            string name = Path.GetFileName(member);
            int dot = name.IndexOf('.');
            string kind = dot < 0 ? "" : name[dot..];
            kinds[kind] = kinds.GetValueOrDefault(kind) + 1;
            samples.Add(member[..^kind.Length]);
            return -1;
        }

        foreach (var _ in TarMembers.Read(path, Note, reason => throw new InputException($"{path} is not a whole tar file: {reason}.")))
        {
            // Names are all that is wanted.
        }

        if (kinds.Keys.All(kind => kind is ".txt" or ".json" or ".json.gz"))
        {
            return Tokens(path);
        }

        JsonObject files = [];
        foreach (var (kind, count) in kinds)
        {
            files[kind] = count;
        }

        return new() { ["kind"] = "a tar of samples", ["path"] = path, ["samples"] = samples.Count, ["files"] = files };
    }

    private static JsonObject Shapes(IEnumerable<(string Name, string Shape)> shapes)
    {
        JsonObject found = [];
        foreach (var (name, shape) in shapes)
        {
            found[name] = shape;
        }

        return found;
    }

    private static JsonNode? Parse(string path, string text)
    {
        try
        {
            // A text that is looked at only later, such as a key given twice, would fail there.
            JsonNode? node = JsonNode.Parse(text, documentOptions: new() { AllowDuplicateProperties = false });
            node?.ToJsonString();
            return node;
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            throw new InputException($"{path} is not valid JSON: {error.Message}", error);
        }
    }

    private static void Print(JsonObject found, string indent)
    {
        foreach (var (name, value) in found)
        {
            if (value is JsonObject inner)
            {
                Console.Out.WriteLine($"{indent}{name}");
                Print(inner, indent + "  ");
            }
            else
            {
                string text = value switch
                {
                    JsonValue number when number.TryGetValue(out long whole) => whole.ToString("N0", System.Globalization.CultureInfo.InvariantCulture),
                    JsonValue word when word.TryGetValue(out string? said) => said,
                    null => "none",
                    _ => value.ToJsonString(),
                };
                Console.Out.WriteLine($"{indent}{name,-18}  {text}");
            }
        }
    }
}
