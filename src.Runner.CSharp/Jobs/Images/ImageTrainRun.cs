using System.Diagnostics;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>A training of an image tokenizer that is under way: its steps, its checkpoints and its measures on held-out pictures.</summary>
internal sealed class ImageTrainRun(ImageTrainPlan plan, RunDirectory run, ImageTrainer trainer, PictureSet pictures) : IDisposable
{
    private const string StateFile = "training.safetensors", Digest = "pictures";
    private const int LargestSkippedRow = 20;
    private readonly CheckpointWriter disk = new(TimeSpan.FromMinutes(30), "");
    private readonly string configuration = RunConfiguration.Hash(plan.Json);
    private readonly int interruptedExit = RunStoppedException.CodeOr(130);
    private string savedAt = "";
    private int saved = -1, measured = -1;
    private int skippedInARow;
    private JsonObject? last;
    private ImageEvaluation? heldOut;

    /// <summary>The tokenizer of the newest checkpoint, where the other commands find it.</summary>
    private string Kept => Path.Combine(run.Root, ImageTokenizers.FileName);

    /// <summary>Puts a checkpoint into a trainer. Errors: InputException where it belongs to another layout or to other pictures.</summary>
    public static void Restore(Checkpoint checkpoint, ImageTrainer trainer, PictureSet pictures)
    {
        string path = Path.Combine(checkpoint.Directory, StateFile);
        if (!File.Exists(path) || checkpoint.State.Layout != trainer.StateLayout)
        {
            throw new InputException($"{checkpoint.Directory} does not hold the state of a training of this tokenizer, so a run cannot go on from it.");
        }

        using ITensorFile file = SafeTensorsFile.Open(path);
        if (file.Metadata.GetValueOrDefault(Digest) != pictures.Digest)
        {
            throw new InputException("the pictures of --input are not those that the run was begun with; a run goes on with the same pictures only.");
        }

        trainer.Restore(name => file.Load(name));
    }

    /// <summary>
    /// From a step to the end. Errors: RunStoppedException when asked to stop, after saving; InputException after 20 updates in a
    /// row without a finite gradient.
    /// </summary>
    public ImageTrainOutcome Carry(int firstStep, Progress progress, CancellationToken stop)
    {
        int steps = plan.Config.Schedule.Steps, done = firstStep;
        if (firstStep == 0)
        {
            trainer.Initialise(pictures.First(plan.Config.InitialPictures));
        }

        using (Stage stage = progress.Stage("image tokenizer", steps, firstStep))
        {
            Task<byte[][]> ahead = Ahead(done);
            while (done < steps && !stop.IsCancellationRequested)
            {
                long clock = Stopwatch.GetTimestamp();
                byte[][] batch = ahead.GetAwaiter().GetResult();
                ahead = Ahead(done + 1);
                Record(done, trainer.Step(done, batch), clock, stage);
                done++;
                if (done % plan.Config.CheckpointEvery == 0 && done < steps)
                {
                    Save(done, progress, stop);
                }
            }

            // A batch that is still being read needs the file of the pictures.
            ahead.GetAwaiter().GetResult();
            if (done > saved)
            {
                Save(done, progress, stop);
            }
        }

        if (done < steps || (pictures.HeldOut.Count > 0 && measured < steps))
        {
            run.Log($"stopped after step {saved}; --resume auto goes on");
            Terminal.Say($"saved {savedAt}; the same command with --resume auto goes on");
            throw new RunStoppedException(interruptedExit, stop);
        }

        run.Log("done");
        return new(run.Root, Kept, savedAt, steps, plan, pictures, last, heldOut);
    }

    public void Dispose() => disk.Dispose();

    private Task<byte[][]> Ahead(int step) => step < plan.Config.Schedule.Steps ? Task.Run(() => pictures.Batch(step)) : Task.FromResult<byte[][]>([]);

    private void Record(int step, ImageStep found, long clock, Stage stage)
    {
        double rate = plan.Config.Pictures / Math.Max(Stopwatch.GetElapsedTime(clock).TotalSeconds, 1e-9);
        double psnr = -10 * Math.Log10(found.L2);
        static JsonNode? Finite(double value) => double.IsFinite(value) ? JsonValue.Create(value) : null;
        last = new JsonObject
        {
            ["step"] = step,
            ["l1"] = Finite(found.L1),
            ["l2"] = Finite(found.L2),
            ["psnr"] = Finite(psnr),
            ["commitment"] = Finite(found.Commitment),
            ["generator"] = Finite(found.Generator),
            ["generatorWeight"] = Finite(found.GeneratorWeight),
            ["discriminator"] = Finite(found.Discriminator),
            ["codesUsed"] = found.Codes.Used,
            ["perplexity"] = found.Codes.Perplexity,
            ["learningRate"] = plan.LearningRate(step),
            ["gradNorm"] = Finite(found.GradientNorm),
            ["picturesPerSecond"] = Math.Round(rate, 1),
            ["skipped"] = found.Skipped,
        };
        run.Add(last);
        stage.Report(step + 1, new Metrics { Note = $"{psnr:F1} dB  {found.Codes.Used} codes  {rate:F0} pictures/s", Memory = DeviceMemory.Used() });
        skippedInARow = found.Skipped ? skippedInARow + 1 : 0;
        if (found.Skipped)
        {
            run.Log($"step {step}: the gradient was not finite; the update was left out");
        }

        if (skippedInARow >= LargestSkippedRow)
        {
            run.Flush();
            throw new InputException(
                $"the gradient was not finite in {skippedInARow} steps in a row, up to step {step}; lower optimizer.learningRate or the weights of the losses. {(saved < 0 ? "No checkpoint was written before." : $"The newest checkpoint is {savedAt}.")}");
        }
    }

    private void Save(int step, Progress progress, CancellationToken stop)
    {
        run.Flush();
        string directory = run.Checkpoints.At(step);
        int grid = plan.Config.ImageSize / plan.Stride;
        using PictureTokenizer tokenizer = trainer.Finish();
        OnDisk(() =>
        {
            Checkpoint.Write(
                directory,
                new(step, (long)step * plan.Config.Pictures, plan.Config.Seed, configuration, trainer.StateLayout),
                aside =>
                {
                    ImageTokenizers.Save(tokenizer, Path.Combine(aside, ImageTokenizers.FileName), grid, grid);
                    SafeTensorsWriter.Write(
                        Path.Combine(aside, StateFile), trainer.State.Select(pair => (pair.Key, pair.Value)), new Dictionary<string, string> { [Digest] = pictures.Digest });
                });
            run.Sync();
            run.Checkpoints.Advance(step);
            AtomicFile.WriteBytes(Kept, File.ReadAllBytes(Path.Combine(directory, ImageTokenizers.FileName)));
        });
        (saved, savedAt) = (step, directory);
        run.Log($"step {step}: saved {savedAt}");
        if (pictures.HeldOut.Count > 0 && !stop.IsCancellationRequested)
        {
            Evaluate(step, tokenizer, progress, stop);
        }
    }

    /// <summary>Waits until something is on the disk, which may be full or away for a while.</summary>
    private void OnDisk(Action write)
    {
        disk.Begin(
            _ =>
            {
                run.RequireThere();
                write();
            },
            waits: true);
        disk.Finish();
    }

    private void Evaluate(int step, PictureTokenizer tokenizer, Progress progress, CancellationToken stop)
    {
        using Stage stage = progress.Stage("held out", pictures.HeldOut.Count);
        if (ImageEvaluation.Of(tokenizer, pictures.HeldOut, plan.Config.ImageSize, stop, done => stage.Report(done)) is not { } evaluation)
        {
            return;
        }

        (heldOut, measured) = (evaluation, step);
        if (!run.Evaluated(step))
        {
            run.Add(step, evaluation.ToJson());
        }

        OnDisk(() => AtomicFile.WriteBytes(Path.Combine(run.Root, "figures", $"reconstruction-{step:0000000}.png"), evaluation.Figure));
        run.Log($"step {step}: held-out {evaluation.Words}");
    }
}
