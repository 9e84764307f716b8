using Hybrid.Api;
using Hybrid.Runner.Distribution;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>One training run in a directory of its own.</summary>
internal static class TrainJob
{
    /// <summary>Carries out the command. Errors: ConfigurationException, InputException; OperationCanceledException after saving.</summary>
    public static void Run(TrainCommand command, CancellationToken stop)
    {
        TrainPlan plan = ReadPlan(command.Config, command.Set);
        TrainOutcome outcome;
        using ProcessGroup group = ProcessGroup.Open(PatienceOf(plan), stop);
        Terminal.Quiet = !group.Leads;
        try
        {
            using Progress progress = group.Leads ? new() : Progress.On(TextWriter.Null, TimeProvider.System);
            outcome = Run(plan, command.Out, command.Resume, stop, progress, group, command.TensorBoard);
        }
        catch (Exception error) when (error is not OperationCanceledException)
        {
            group.Fail(error.Message, error is ConfigurationException ? 2 : 1);
            throw;
        }

        if (!group.Leads)
        {
            return;
        }

        if (command.Json)
        {
            Json.Write(outcome.ToJson());
        }
        else
        {
            Console.Out.WriteLine(outcome.ToText());
        }
    }

    /// <summary>
    /// Reads a configuration; its paths are relative to its file. Errors: ConfigurationException with every key that is wrong.
    /// </summary>
    public static TrainPlan ReadPlan(string path, IEnumerable<KeyValuePair<string, string>> values)
    {
        try
        {
            string text = Files.Text(path, "the configuration");
            string folder = Path.GetDirectoryName(Path.GetFullPath(path)) ?? ".";
            TrainPlan plan = new TrainPlan(Descriptions.Training(path, text, values)).WithPaths(given => given.Contains('\0')
                ? throw new InputException($"{path}: \"{FileErrors.Show(given)}\" is not a path: it holds a character of value 0.")
                : Path.GetFullPath(given, folder));
            (string Key, string? Path)[] named =
            [
                ("model.checkpoint", plan.Checkpoint), ("model.config", plan.Description), ("newRows", plan.ImageRows),
                .. plan.Train.Select(data => ("data.train", (string?)data)), .. plan.HeldOut.Select(data => ("data.heldOut", (string?)data)),
            ];
            string[] missing = [.. named.Where(entry => entry.Path is not null && !Path.Exists(entry.Path)).Select(entry => $"{entry.Key}: there is nothing at {entry.Path}.")];
            return missing.Length == 0 ? plan : throw new ConfigurationException($"{path} cannot be used:\n  {string.Join("\n  ", missing)}");
        }
        catch (InputException error) when (error is not ConfigurationException)
        {
            throw new ConfigurationException(error.Message);
        }
    }

    /// <summary>
    /// Trains into a directory. <paramref name="resume"/>: null refuses a directory that is not empty; auto goes on where there is a
    /// checkpoint; must goes on or fails; anything else is the checkpoint or run to go on from.
    /// </summary>
    public static TrainOutcome Run(TrainPlan plan, string directory, string? resume, CancellationToken stop, Progress progress, bool tensorBoard = false) =>
        Run(plan, directory, resume, stop, progress, ProcessGroup.Alone(), tensorBoard);

    /// <summary>The same by one of several processes, all of which are given the same.</summary>
    internal static TrainOutcome Run(TrainPlan plan, string directory, string? resume, CancellationToken stop, Progress progress, ProcessGroup group, bool tensorBoard = false)
    {
        RequireShares(plan, group);
        (RunDirectory run, Checkpoint? checkpoint, plan) = TrainPlace.Of(plan, directory, resume, group);
        using (run)
        {
            run.TensorBoard = tensorBoard;
            group.Stopping = sentence => run.Log($"stopped: {sentence}");
            using ISequenceSource source = TokenData.Open(plan.Train, plan.Config.Vocabulary, new PairComposer(plan, plan.Config.Vocabulary));
            plan = TrainSettings.Settle(plan, checkpoint, source.Length - 1, group.Size, out string settled);
            if (group.Size > 1)
            {
                // What the machine decides, the first one's decides for all.
                plan = new(Descriptions.Training("what rank 0 has settled on", group.Tell(plan.Json), []));
            }

            Layout layout = plan.Layout(TorchLibrary.Device);
            TrainStart start = checkpoint is null ? TrainStart.Fresh(plan, layout) : TrainStart.Resumed(plan, layout, checkpoint);
            using Model model = start.Model;
            RequireSame(group, model, source);
            using Trainer trainer = new(model, plan.Optimizer, plan.Objective, TorchLibrary.TrainingOf(plan, group));
            checkpoint?.Restore(trainer);
            model.Reach(source.Length);
            TrainPlan measuring = plan.WithoutDrops;
            using ISequenceSource? heldOut = plan.HeldOut.Count == 0 ? null : TokenData.Open(plan.HeldOut, model.Vocabulary, new PairComposer(measuring, model.Vocabulary));
            int first = checkpoint?.State.Step ?? 0;
            int begun = checkpoint is null ? 0 : run.Holds(checkpoint.Directory) ? checkpoint.State.Begun : first;
            run.Begin(plan.Json, first, begun);
            run.Log($"starts at step {first} with {start.Words}");
            run.Log($"{Architecture.Describe(model.Config)}; {plan.Movement(model.Config)}");
            run.Log(settled);
            if (group.Size > 1)
            {
                run.Log($"rank {group.Rank} of {group.Size} ({Environment.MachineName}, process {Environment.ProcessId}) by {group.Engine}, ZeRO {plan.Config.Distribution.Zero}");
            }

            run.Log($"{source.Count:N0} sequences of {source.Length} tokens from {source.Name}; on {TorchLibrary.Device} with {TorchSharp.torch.get_num_threads()} threads");
            foreach (string loss in source.Losses.Concat(heldOut?.Losses ?? []).Distinct())
            {
                run.Log(loss);
            }

            try
            {
                return new TrainRun(plan, run, model, trainer, source, heldOut, Companions.Of(start.Tokenizer, plan.Train), checkpoint, group).Carry(first, begun, progress, stop);
            }
            catch (Exception error) when (error is not OperationCanceledException)
            {
                run.Log($"failed: {error.Message}");
                throw;
            }
        }
    }

    private static Patience PatienceOf(TrainPlan plan) => new(
        TimeSpan.FromSeconds(plan.Config.Distribution.SilenceSeconds), TimeSpan.FromSeconds(plan.Config.Distribution.TimeoutSeconds));

    private static void RequireShares(TrainPlan plan, ProcessGroup group)
    {
        if (plan.Config.Sequences < group.Size)
        {
            throw new ConfigurationException($"batch.sequences: is {plan.Config.Sequences}, but there are {group.Size} processes, each of which takes at least one of a step's sequences.");
        }
    }

    /// <summary>That all processes begin with the same weights and data. Errors: InputException naming one that does not.</summary>
    private static void RequireSame(ProcessGroup group, Model model, ISequenceSource source)
    {
        if (group.Size == 1)
        {
            return;
        }

        using var scope = torch.NewDisposeScope();
        using var still = torch.no_grad();
        double weights = model.Store.Master.sum(type: torch.ScalarType.Float64).item<double>();
        foreach (var (what, value) in new[] { ("weights", weights), ("data", (double)source.Count), ("lengths of sequences", (double)source.Length) })
        {
            double[] all = group.Each(value);
            int other = Array.FindIndex(all, one => !one.Equals(all[0]));
            if (other > 0)
            {
                throw new InputException($"rank {other} has other {what} than rank 0; all processes must see the same files.");
            }
        }
    }
}
