using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// A checkpoint: a directory with model.safetensors, optimizer.safetensors, config.json, state.json and, where they are known, the
/// text and the image tokenizer; ema/ is a model of averaged weights where a run keeps one. It is written aside, flushed and renamed, so that its name stands for something whole.
/// </summary>
public sealed class Checkpoint
{
    /// <summary>The file of the weights, in fp32.</summary>
    public const string Weights = "model.safetensors";

    /// <summary>The file of the moments.</summary>
    public const string Optimizer = "optimizer.safetensors";

    /// <summary>The file of the model's description.</summary>
    public const string Description = "config.json";

    /// <summary>The file that is written last, with the lengths and hashes of the others.</summary>
    public const string StateFile = "state.json";

    /// <summary>The file of the text tokenizer.</summary>
    public const string Tokenizer = "tokenizer.json";

    /// <summary>The folder of the averaged weights, before the names of its files.</summary>
    public const string Average = "ema/";

    private Checkpoint(string directory, CheckpointState state) => (Directory, State) = (directory, state);

    /// <summary>Its path.</summary>
    public string Directory { get; }

    /// <summary>Where its run stands.</summary>
    public CheckpointState State { get; }

    /// <summary>
    /// Writes a checkpoint of files that <paramref name="fill"/> puts into a folder, returning the marks of those that it knows; the
    /// others are read for theirs. An older one of the same name is replaced. Errors: those of writing.
    /// </summary>
    /// <remarks>
    /// Other processes may put files into the folder too while <paramref name="fill"/> is under way; their marks belong among those it
    /// returns.
    /// </remarks>
    internal static void Write(string directory, CheckpointState state, Func<string, IReadOnlyDictionary<string, FileMark>> fill) =>
        AtomicFile.WriteFolder(
            directory,
            aside =>
            {
                IReadOnlyDictionary<string, FileMark> marks = fill(aside);
                string text = Text(state, aside, marks);
                FileMark.Write(Path.Combine(aside, StateFile), write => write(Encoding.UTF8.GetBytes(text)));

                // Whoever takes the folder away in the middle must not leave half of it under the name of the whole.
                Open(aside);
            },
            replace: true);

    /// <summary>The same where no mark is known.</summary>
    public static void Write(string directory, CheckpointState state, Action<string> fill) => Write(directory, state, aside =>
    {
        fill(aside);
        return new Dictionary<string, FileMark>();
    });

    /// <summary>Fills a folder with a checkpoint of a model without optimizer, at step 0.</summary>
    internal static void WriteModel(string folder, ModelConfig config, Vocabulary vocabulary, IEnumerable<TensorSource> tensors, Companions companions)
    {
        SafeTensorsWriter.Write(Path.Combine(folder, Weights), tensors);
        File.WriteAllText(Path.Combine(folder, Description), Descriptions.Write(config, vocabulary));
        companions.CopyTo(folder);
        File.WriteAllText(Path.Combine(folder, StateFile), Text(new CheckpointState(0, 0, 0, "", ""), folder, new Dictionary<string, FileMark>()));
    }

    /// <summary>
    /// Opens a checkpoint and checks that its files are there in full; with <paramref name="bytes"/> also that no byte of them was
    /// altered. Errors: InputException that says what is torn, altered or missing.
    /// </summary>
    public static Checkpoint Open(string directory, bool bytes = false)
    {
        string path = Path.Combine(directory, StateFile);
        string text = Files.Text(path, "the state of the checkpoint");
        try
        {
            using JsonDocument document = JsonDocument.Parse(text);
            CheckpointFiles.Check(directory, document.RootElement.GetProperty("files"), bytes);
            return new(directory, CheckpointState.Read(document.RootElement));
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
        string[] shards = MomentShards.In(Directory);
        if (!File.Exists(path) && shards.Length == 0)
        {
            throw new InputException($"{Directory} holds a model only, without {Optimizer}: a run cannot go on from it, but it can start from it as model.checkpoint.");
        }

        if (State.Layout != trainer.StateLayout)
        {
            throw new InputException($"the moments in {path} belong to a model that moves other parameters; a run can start from it as model.checkpoint, but not go on.");
        }

        MomentShards.Restore(shards.Length > 0 ? shards : [path], trainer);
        RestoreAverage(trainer);
    }

    /// <summary>Puts weights, moments and the moving average back into a model and its trainer. Errors: those of <see cref="Restore(Trainer)"/>.</summary>
    public void Restore(Model model, Trainer trainer)
    {
        using (ModelFile file = ModelFiles.Open(Directory))
        {
            foreach (string name in model.Names)
            {
                using torch.Tensor values = file.Load(name);
                trainer.SetWeights(name, values);
            }
        }

        trainer.Publish();
        Restore(trainer);
    }

    private void RestoreAverage(Trainer trainer)
    {
        if (!trainer.KeepsAverage)
        {
            return;
        }

        string folder = Path.Combine(Directory, Path.TrimEndingDirectorySeparator(Average));
        if (!System.IO.Directory.Exists(folder))
        {
            Terminal.Warn($"{Directory} has no moving average (ema.decay); it begins with the weights of that checkpoint.");
            return;
        }

        using ModelFile file = ModelFiles.Open(folder);
        foreach (string name in trainer.Moving)
        {
            using torch.Tensor values = file.Load(name);
            trainer.SetAverage(name, values);
        }
    }

    private static string Text(CheckpointState state, string folder, IReadOnlyDictionary<string, FileMark> marks)
    {
        JsonObject json = state.ToJson();
        json["files"] = CheckpointFiles.List(folder, marks);
        return json.ToJsonString(new JsonSerializerOptions { WriteIndented = true });
    }
}
