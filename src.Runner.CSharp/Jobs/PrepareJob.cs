using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// Picture–caption pairs to token shards. Each source (a tar, a table, a folder) becomes one shard, whole or absent, so that a run
/// which was stopped goes on with the sources that have none; the result does not depend on the number of threads.
/// </summary>
internal static class PrepareJob
{
    private const string Description = "prepare.json";
    private const int Together = 64;

    /// <summary>Carries the command out. Errors: InputException.</summary>
    public static void Run(PrepareCommand command, CancellationToken stop)
    {
        PrepareOutcome outcome;
        using (Progress progress = new())
        {
            outcome = Run(command, progress, stop);
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
    /// Makes the shards that are not there yet. Errors: InputException, also where there is no pair at all; OperationCanceledException when
    /// asked to stop.
    /// </summary>
    public static PrepareOutcome Run(PrepareCommand command, Progress progress, CancellationToken stop)
    {
        using HuggingFaceTokenizer text = HuggingFaceTokenizer.Open(command.TextTokenizer);
        if (text.Warning is { } warning)
        {
            Terminal.Warn(warning);
        }

        using PictureTokenizer images = ImageTokenizers.Open(command.ImageTokenizer);
        if (command.ImageSize % images.Stride != 0)
        {
            throw new InputException($"--image-size {command.ImageSize} is not a multiple of {images.Stride}, the pixels of this tokenizer's codes.");
        }

        PairSource[] sources = Sources(command.Input);
        int grid = command.ImageSize / images.Stride;
        ShardInfo info = new(
            text.VocabularySize, images.Codes, grid, grid, command.ImageSize, "centre square, bicubic",
            text.Sha256, ImageTokenizers.Hash(command.ImageTokenizer));
        bool there = Directory.Exists(command.Out), begun = Files.Occupied(command.Out);
        ShardManifest manifest = Begin(command.Out, info, text, images, command, grid);
        try
        {
            return Make(command, info, manifest, sources, text, images, progress, stop);
        }
        catch (InputException) when (!begun && manifest.Entries.Count == 0)
        {
            // What stands there belongs to no pair, and would refuse the call with a better --input.
            Abandon(command.Out, there);
            throw;
        }
    }

    private static PrepareOutcome Make(
        PrepareCommand command, ShardInfo info, ShardManifest manifest, PairSource[] sources, HuggingFaceTokenizer text, PictureTokenizer images,
        Progress progress, CancellationToken stop)
    {
        HashSet<string> done = [.. manifest.Entries.Select(entry => entry.Source ?? "")];
        PairSource[] waiting = [.. sources.Where(source => !done.Contains(Path.GetFullPath(source.Path)))];
        if (waiting.Length < sources.Length)
        {
            Terminal.Say($"{sources.Length - waiting.Length} of {sources.Length} sources are done already");
        }

        PrepareOutcome outcome = new(command.Out, info);
        outcome.Include(manifest.Entries);
        long textTokens = 0;
        using (Stage stage = progress.Stage("prepare", 0))
        {
            foreach (PairSource source in waiting)
            {
                // The shard's number follows from the source's place among all, so that a resumed run names it the same.
                string prefix = $"shard-{Array.IndexOf(sources, source):00000}";
                DropCounts drops = new();
                using ShardWriter writer = new(manifest, info, int.MaxValue, prefix, Path.GetFullPath(source.Path));
                foreach (PicturePair[] batch in source.Read(drops).Chunk(Together))
                {
                    stop.ThrowIfCancellationRequested();
                    (int[] Ids, byte[] Pixels)[] ready = Decode(batch, source, text, command.ImageSize, drops);
                    if (ready.Length == 0)
                    {
                        continue;
                    }

                    int[][] codes = images.Encode([.. ready.Select(pair => pair.Pixels)], command.ImageSize, command.ImageSize);
                    for (int i = 0; i < ready.Length; i++)
                    {
                        writer.Add(ready[i].Ids, codes[i]);
                        textTokens += ready[i].Ids.Length;
                    }

                    outcome.New += ready.Length;
                    stage.Report(outcome.New, new Metrics { Tokens = textTokens + (outcome.New * info.Codes), Note = Path.GetFileName(source.Path) });
                }

                writer.Dropped = drops.Counts;
                writer.Finish();
                outcome.Include(drops);
            }
        }

        outcome.Count(manifest.Entries);
        return outcome.Pairs > 0
            ? outcome
            : throw new InputException($"no picture with its caption was found in {string.Join(", ", command.Input)}.{outcome.DroppedText()}");
    }

    /// <summary>Removes what <see cref="Begin"/> wrote.</summary>
    private static void Abandon(string folder, bool keepFolder)
    {
        foreach (string name in new[] { Description, Checkpoint.Tokenizer, ImageTokenizers.FileName, ShardManifest.FileName })
        {
            File.Delete(Path.Combine(folder, name));
        }

        if (!keepFolder && !Files.Occupied(folder))
        {
            Directory.Delete(folder);
        }
    }

    private static PairSource[] Sources(IEnumerable<string> inputs)
    {
        PairSource[] sources = [.. inputs.SelectMany(PairSource.Open)];
        return sources.GroupBy(source => Path.GetFullPath(source.Path)).FirstOrDefault(group => group.Count() > 1) is { } twice
            ? throw new InputException($"--input names {twice.Key} twice.")
            : sources;
    }

    /// <summary>Decodes and resizes a batch on all cores and encodes its captions; what cannot be read is counted and left out.</summary>
    private static (int[] Ids, byte[] Pixels)[] Decode(
        PicturePair[] batch, PairSource source, HuggingFaceTokenizer text, int size, DropCounts drops)
    {
        var pixels = new byte[batch.Length][];
        Parallel.For(0, batch.Length, i =>
        {
            try
            {
                pixels[i] = Pictures.CentreCropResize(Pictures.Decode(batch[i].Image, batch[i].Key), size).Pixels;
            }
            catch (InputException error)
            {
                drops.Add(DropReason.BadPicture, $"{source.Path}, {batch[i].Key}: {error.Message}");
            }
        });
        return
        [
            .. from i in Enumerable.Range(0, batch.Length)
               where pixels[i] is not null
               select (text.Encode(batch[i].Caption.Trim(), special: false), pixels[i]),
        ];
    }

    /// <summary>Makes the folder with both tokenizers, or checks that the one to go on with was made by the same.</summary>
    private static ShardManifest Begin(
        string folder, ShardInfo info, HuggingFaceTokenizer text, PictureTokenizer images, PrepareCommand command, int grid)
    {
        string description = Path.Combine(folder, Description);
        string wanted = new JsonObject
        {
            ["imageSize"] = info.ImageSize,
            ["textTokenizer"] = info.TextTokenizer,
            ["imageTokenizer"] = info.ImageTokenizer,
            ["inputs"] = new JsonArray([.. command.Input.Select(input => JsonValue.Create(Path.GetFullPath(input)))]),
        }.ToJsonString(Json.Options);
        if (File.Exists(description))
        {
            if (Files.Text(description, "the description of the shards") != wanted)
            {
                throw new InputException($"{folder} holds shards of other inputs, tokenizers or another size; choose another --out.");
            }
        }
        else if (Files.Occupied(folder))
        {
            throw new InputException($"{folder} is not empty and holds no shards of this command; choose another --out.");
        }
        else
        {
            AtomicFile.WriteText(description, wanted);
        }

        string textCopy = Path.Combine(folder, Checkpoint.Tokenizer), imageCopy = Path.Combine(folder, ImageTokenizers.FileName);
        if (!File.Exists(textCopy))
        {
            AtomicFile.WriteBytes(textCopy, text.Content.ToArray());
        }

        if (!File.Exists(imageCopy))
        {
            ImageTokenizers.Save(images, imageCopy, grid, grid);
        }

        return ShardManifest.Create(folder, resume: true);
    }
}
