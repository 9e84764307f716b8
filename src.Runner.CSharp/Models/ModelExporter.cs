using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Writes a model in the form of another program into a folder, tensor by tensor. Errors: InputException.</summary>
internal sealed class ModelExporter
{
    private const string OpenLmWeights = "epoch_1.pt";

    private readonly ModelFile model;
    private readonly string folder;
    private readonly string elementType;
    private readonly Action<TensorSource> begun;
    private readonly List<string> notes = [];

    /// <summary>Prepares to write.</summary>
    /// <param name="model">The model.</param>
    /// <param name="folder">A folder that is there and empty.</param>
    /// <param name="elementType">fp32, bf16, fp16 or keep.</param>
    /// <param name="begun">Is told of every tensor whose turn comes.</param>
    public ModelExporter(ModelFile model, string folder, string elementType, Action<TensorSource> begun) =>
        (this.model, this.folder, this.elementType, this.begun) = (model, folder, elementType, begun);

    /// <summary>The family that a Hugging Face directory got, such as llama; empty otherwise.</summary>
    public string Family { get; private set; } = "";

    /// <summary>What a person should know of the result.</summary>
    public IReadOnlyList<string> Notes => notes;

    private TensorExport Tensors => new(model, Wanted);

    private torch.ScalarType? Wanted => elementType switch
    {
        "fp32" => torch.ScalarType.Float32,
        "bf16" => torch.ScalarType.BFloat16,
        "fp16" => torch.ScalarType.Float16,
        _ => null,
    };

    /// <summary>A directory for Hugging Face's transformers: config.json, weights in files of at most <paramref name="shardSize"/> bytes, tokenizer.</summary>
    public void HuggingFace(long shardSize)
    {
        string stored = TensorType.Of(Wanted ?? model.TypeOf("tok_embeddings.weight")).Name;
        (int? begin, int? end) = Marks();
        ExportedDescription description = Exports.HuggingFace(model.Config, model.Vocabulary, begin, end, stored);
        if (description.Json is null)
        {
            throw new InputException(
                $"no model of Hugging Face's transformers computes what {model.Path} does, so there is no form of it that they could open. What speaks against each:\n  {string.Join("\n  ", description.Reasons)}");
        }

        Family = description.Family;
        if (Family == "openlm")
        {
            notes.Add("transformers has no code of its own for this model; the directory is in the form of DCLM's releases, which the open_lm package opens.");
        }
        else if (model.Config.Position.IsInterleavedRotary)
        {
            notes.Add("rows of queries and keys were reordered for a rotation of halves, as transformers computes it: the same model.");
        }

        File.WriteAllText(Path.Combine(folder, Checkpoint.Description), description.Json);
        JsonObject generation = new() { ["_from_model_config"] = true, ["bos_token_id"] = begin, ["eos_token_id"] = end };
        File.WriteAllText(Path.Combine(folder, "generation_config.json"), generation.ToJsonString(Indented) + "\n");
        WriteShards([.. Tensors.HuggingFace(Family)], shardSize);
        if (model.TokenizerPath is { } tokenizer)
        {
            notes.AddRange(TokenizerFiles.Write(tokenizer, model.Vocabulary, model.Config.Positions, folder));
        }

        new Companions(null, ImageTokenizers.Beside(model)).CopyTo(folder);
    }

    /// <summary>open_lm's epoch_1.pt and model.json, with the tokenizers beside them; the file names its run <paramref name="name"/>.</summary>
    public void OpenLm(string name)
    {
        ExportedDescription description = Exports.OpenLm(model.Config, model.Vocabulary);
        if (description.Json is null)
        {
            throw new InputException(
                $"open_lm has no words for the model in {model.Path}: {string.Join("; ", description.Reasons)}.");
        }

        File.WriteAllText(Path.Combine(folder, ModelFiles.OpenLmDescription), description.Json);
        TensorExport tensors = Tensors;
        TorchWriter.Write(
            Path.Combine(folder, OpenLmWeights), 1, name, [.. tensors.OpenLm().Concat(tensors.Frequencies()).Select(Watched)], [.. tensors.SecondNames()]);
        new Companions(model.TokenizerPath, ImageTokenizers.Beside(model)).CopyTo(folder);
    }

    /// <summary>A checkpoint of this program without optimizer. Weights are fp32.</summary>
    public void Hybrid()
    {
        if (elementType is "bf16" or "fp16")
        {
            throw new InputException($"a checkpoint of hybrid holds fp32 weights, which training goes on from; --dtype {elementType} is for the other formats.");
        }

        if (Architecture.Parameters(model.Config).Any(parameter => model.TypeOf(parameter.Name) == torch.ScalarType.Float64))
        {
            notes.Add("fp64 weights were rounded to fp32.");
        }

        Checkpoint.WriteModel(
            folder, model.Config, model.Vocabulary, TensorExport.Checkpoint(model).Select(Watched), new Companions(model.TokenizerPath, ImageTokenizers.Beside(model)));
    }

    private static JsonSerializerOptions Indented { get; } = new() { WriteIndented = true };

    /// <summary>The ids that begin and end a text: those of the source's own configuration, or else of its tokenizer.</summary>
    private (int? Begin, int? End) Marks()
    {
        if (model.TokenizerPath is null)
        {
            return (null, model.EndOfText >= 0 ? model.EndOfText : null);
        }

        using HuggingFaceTokenizer tokenizer = HuggingFaceTokenizer.Open(model.TokenizerPath);
        int? Within(int? id) => id < model.Vocabulary.TextRows ? id : null;
        return (Within(tokenizer.BeginId), model.EndOfText >= 0 ? model.EndOfText : Within(tokenizer.EndId));
    }

    private void WriteShards(TensorSource[] tensors, long shardSize)
    {
        List<List<TensorSource>> shards = [[]];
        long filled = 0;
        foreach (TensorSource tensor in tensors)
        {
            if (shards[^1].Count > 0 && filled + tensor.Bytes > shardSize)
            {
                shards.Add([]);
                filled = 0;
            }

            shards[^1].Add(tensor);
            filled += tensor.Bytes;
        }

        Dictionary<string, string> metadata = new() { ["format"] = "pt" };
        if (shards.Count == 1)
        {
            SafeTensorsWriter.Write(Path.Combine(folder, Checkpoint.Weights), shards[0].Select(Watched), metadata);
            return;
        }

        JsonObject places = [];
        for (int i = 0; i < shards.Count; i++)
        {
            string name = string.Create(CultureInfo.InvariantCulture, $"model-{i + 1:00000}-of-{shards.Count:00000}.safetensors");
            SafeTensorsWriter.Write(Path.Combine(folder, name), shards[i].Select(Watched), metadata);
            foreach (TensorSource tensor in shards[i])
            {
                places[tensor.Name] = name;
            }
        }

        JsonObject index = new() { ["metadata"] = new JsonObject { ["total_size"] = tensors.Sum(tensor => tensor.Bytes) }, ["weight_map"] = places };
        File.WriteAllText(Path.Combine(folder, Checkpoint.Weights + ".index.json"), index.ToJsonString(Indented) + "\n");
    }

    private TensorSource Watched(TensorSource tensor) => tensor with
    {
        Load = () =>
        {
            begun(tensor);
            return tensor.Load();
        },
    };
}
