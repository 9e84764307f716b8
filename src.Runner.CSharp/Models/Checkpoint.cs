using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Where a run stands when a checkpoint is written.</summary>
/// <param name="Step">Steps that are done.</param>
/// <param name="Position">Sequences that were seen.</param>
/// <param name="Seed">The seed of the run.</param>
/// <param name="Configuration">SHA-256 of the resolved configuration.</param>
/// <param name="Layout">The optimizer's layout; moments of another one do not fit.</param>
public sealed record CheckpointState(int Step, long Position, long Seed, string Configuration, string Layout);

/// <summary>The tokenizers that stand beside a model's weights, so that it can read captions and show pictures; null where not known.</summary>
public sealed record Companions(string? TextTokenizer, string? ImageTokenizer)
{
    /// <summary>The model's own text tokenizer, and what the first training data that are a folder of shards bring.</summary>
    public static Companions Of(string? textTokenizer, IEnumerable<string> data)
    {
        string? Beside(string name) => data.Select(folder => Path.Combine(folder, name)).FirstOrDefault(File.Exists);
        return new(textTokenizer ?? Beside(Checkpoint.Tokenizer), Beside(ImageTokenizers.FileName));
    }

    /// <summary>Copies them into a directory.</summary>
    public void CopyTo(string directory)
    {
        Copy(TextTokenizer, Checkpoint.Tokenizer);
        Copy(ImageTokenizer, ImageTokenizers.FileName);

        void Copy(string? from, string name)
        {
            if (from is not null)
            {
                File.WriteAllBytes(Path.Combine(directory, name), File.ReadAllBytes(from));
            }
        }
    }
}

/// <summary>
/// A checkpoint: a directory with model.safetensors, optimizer.safetensors, config.json, state.json and, where they are known, the
/// text and the image tokenizer. It is written aside, flushed and renamed, so that its name stands for something whole.
/// </summary>
public sealed class Checkpoint
{
    public const string Weights = "model.safetensors", Optimizer = "optimizer.safetensors", Description = "config.json", StateFile = "state.json", Tokenizer = "tokenizer.json";

    private Checkpoint(string directory, CheckpointState state) => (Directory, State) = (directory, state);

    public string Directory { get; }

    public CheckpointState State { get; }

    /// <summary>Writes a checkpoint of a model, with the moments of its trainer where it has one. An older one of the same name is replaced.</summary>
    public static void Write(string directory, Model model, Trainer? trainer, CheckpointState state, Companions companions) =>
        Write(
            directory,
            state,
            aside =>
            {
                WriteWeights(Path.Combine(aside, Weights), model);
                if (trainer is not null)
                {
                    SafeTensorsWriter.Write(Path.Combine(aside, Optimizer), trainer.State.Select(pair => (pair.Key, pair.Value)));
                }

                File.WriteAllText(Path.Combine(aside, Description), Descriptions.Write(model.Config, model.Vocabulary));
                companions.CopyTo(aside);
            });

    /// <summary>Writes a checkpoint of files that <paramref name="fill"/> puts into a folder. An older one of the same name is replaced.</summary>
    public static void Write(string directory, CheckpointState state, Action<string> fill) =>
        AtomicFile.WriteFolder(
            directory,
            aside =>
            {
                fill(aside);
                File.WriteAllText(Path.Combine(aside, StateFile), Text(state, aside));
            },
            replace: true);

    /// <summary>Fills a folder with a checkpoint of a model without optimizer, at step 0.</summary>
    internal static void WriteModel(string folder, ModelConfig config, Vocabulary vocabulary, IEnumerable<TensorSource> tensors, Companions companions)
    {
        SafeTensorsWriter.Write(Path.Combine(folder, Weights), tensors);
        File.WriteAllText(Path.Combine(folder, Description), Descriptions.Write(config, vocabulary));
        companions.CopyTo(folder);
        File.WriteAllText(Path.Combine(folder, StateFile), Text(new CheckpointState(0, 0, 0, "", ""), folder));
    }

    /// <summary>
    /// Opens a checkpoint and checks that its files are there in full. Errors: InputException that says what is torn or missing.
    /// </summary>
    public static Checkpoint Open(string directory)
    {
        string path = Path.Combine(directory, StateFile);
        string text = Files.Text(path, "the state of the checkpoint");
        try
        {
            using JsonDocument document = JsonDocument.Parse(text);
            JsonElement root = document.RootElement;
            foreach (JsonProperty file in root.GetProperty("files").EnumerateObject())
            {
                FileInfo there = new(Path.Combine(directory, Path.GetFileName(file.Name)));
                long length = file.Value.GetInt64();
                if (!there.Exists || there.Length != length)
                {
                    string found = there.Exists ? $"has {there.Length} bytes" : "is missing";
                    throw new InputException($"the checkpoint {directory} is not whole: {file.Name} {found}, {length} bytes were written.");
                }
            }

            string Word(string name) => root.GetProperty(name).GetString() ?? "";
            return new(
                directory,
                new(root.GetProperty("step").GetInt32(), root.GetProperty("position").GetInt64(), root.GetProperty("seed").GetInt64(), Word("configuration"), Word("layout")));
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
        {
            throw new InputException($"{path} is not the state of a checkpoint: {error.Message}", error);
        }
    }

    /// <summary>
    /// Puts the moments back into a trainer. Errors: InputException where the checkpoint has none, or they belong to another layout.
    /// </summary>
    public void Restore(Trainer trainer)
    {
        string path = Path.Combine(Directory, Optimizer);
        if (!File.Exists(path))
        {
            throw new InputException($"{Directory} holds a model only, without {Optimizer}: a run cannot go on from it, but it can start from it as model.checkpoint.");
        }

        if (State.Layout != trainer.StateLayout)
        {
            throw new InputException($"the moments in {path} belong to a model that moves other parameters; a run can start from it as model.checkpoint, but not go on.");
        }

        using ITensorFile file = SafeTensorsFile.Open(path);
        trainer.Restore((name, target) =>
        {
            if (!file.Entries.TryGetValue(name, out TensorEntry? entry) || !entry.Shape.SequenceEqual(target.shape))
            {
                string found = entry is null ? "is missing" : $"is {Shape.show(entry.Shape)}";
                throw new InputException($"{path}: the tensor {name} {found}, must be {Shape.show(target.shape)}.");
            }

            TensorReading.Into(file, name, target);
        });
    }

    private static void WriteWeights(string path, Model model)
    {
        Dictionary<string, torch.Tensor> views = model.Names.ToDictionary(name => name, model.Values);
        try
        {
            SafeTensorsWriter.Write(path, views.Select(pair => (pair.Key, pair.Value)));
        }
        finally
        {
            foreach (torch.Tensor view in views.Values)
            {
                view.Dispose();
            }
        }
    }

    private static string Text(CheckpointState state, string aside)
    {
        JsonObject files = [];
        foreach (FileInfo file in new DirectoryInfo(aside).GetFiles().OrderBy(file => file.Name, StringComparer.Ordinal))
        {
            files[file.Name] = file.Length;
        }

        JsonObject json = new()
        {
            ["step"] = state.Step,
            ["position"] = state.Position,
            ["seed"] = state.Seed,
            ["configuration"] = state.Configuration,
            ["layout"] = state.Layout,
            ["files"] = files,
        };
        return json.ToJsonString(new JsonSerializerOptions { WriteIndented = true });
    }
}
