using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>Trains an image tokenizer on pictures, in a run directory of its own.</summary>
internal static class ImageTrainJob
{
    private const string Cache = ".pictures.partial";

    /// <summary>Carries the command out. Errors: ConfigurationException, InputException; OperationCanceledException after saving.</summary>
    public static void Run(ImageTrainCommand command, CancellationToken stop)
    {
        ImageTrainPlan plan = ReadPlan(command);
        ImageTrainOutcome outcome;
        using (Progress progress = new())
        {
            outcome = Run(plan, command.Out, command.Resume, stop, progress, command.TensorBoard);
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

    /// <summary>The configuration that a command asks for. Errors: ConfigurationException with every key that is wrong.</summary>
    public static ImageTrainPlan ReadPlan(ImageTrainCommand command)
    {
        try
        {
            string text = command.Config is null ? "{}" : Files.Text(command.Config, "the configuration");
            ImageTrainPlan plan = ImageTrainPlan.Parse(command.Config ?? "the configuration", text, command.Set);
            return plan.WithInputs(command.Input.Select(Path.GetFullPath));
        }
        catch (InputException error)
        {
            throw new ConfigurationException(error.Message.Replace("imageSize: is missing;", "imageSize: is missing (--image-size N gives it);", StringComparison.Ordinal));
        }
    }

    /// <summary>Trains into a directory; <paramref name="resume"/> goes on where a run stopped, and begins it where there is none.</summary>
    public static ImageTrainOutcome Run(ImageTrainPlan plan, string directory, bool resume, CancellationToken stop, Progress progress, bool tensorBoard = false)
    {
        using RunDirectory run = resume ? RunDirectory.Existing(directory) : RunDirectory.New(directory);
        run.TensorBoard = tensorBoard;
        Checkpoint? checkpoint = resume ? run.Checkpoints.Newest(bytes: true) : null;
        if (checkpoint is not null && run.Differences(plan.Json, "checkpoint") is { Count: > 0 } differences)
        {
            throw new ConfigurationException(
                $"the run in {run.Root} was begun with another configuration and cannot go on with this one:\n  {string.Join("\n  ", differences)}");
        }

        // Beside the directory: a run that is killed while it reads pictures has not begun.
        using PictureSet pictures = PictureSet.Read(plan, run.Root + Cache, progress, stop);
        int first = checkpoint?.State.Step ?? 0;
        using ImageTrainer trainer = new(plan, TorchLibrary.Device);
        if (checkpoint is not null)
        {
            ImageTrainRun.Restore(checkpoint, trainer, pictures);
        }

        run.Begin(plan.Json, first);
        run.Log($"{(checkpoint is null ? "starts" : $"goes on from {checkpoint.Directory}")} at step {first}: {plan.Parameters:N0} parameters, a code for {plan.Stride} × {plan.Stride} pixels, seed {plan.Config.Seed}");
        run.Log($"{pictures.Count:N0} pictures to train on and {pictures.HeldOut.Count:N0} held out; on {TorchLibrary.Device} with {TorchSharp.torch.get_num_threads()} threads{pictures.Drops.Said}");
        try
        {
            using ImageTrainRun training = new(plan, run, trainer, pictures);
            return training.Carry(first, progress, stop);
        }
        catch (Exception error) when (error is not OperationCanceledException)
        {
            run.Log($"failed: {error.Message}");
            throw;
        }
    }
}
