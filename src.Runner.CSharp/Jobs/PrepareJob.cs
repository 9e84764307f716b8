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
    private const string Description = "prepare.json", TextTokenizerFile = "tokenizer.json";
    private const int Together = 64;

    /// <summary>Carries the command out. Errors: InputException.</summary>
    public static void Run(PrepareCommand command, CancellationToken stop)
    {
        using HuggingFaceTokenizer text = HuggingFaceTokenizer.Open(command.TextTokenizer);
        using PictureTokenizer images = ImageTokenizers.Open(command.ImageTokenizer);
        if (command.ImageSize % images.Stride != 0)
        {
            throw new InputException($"--image-size {command.ImageSize} is not a multiple of {images.Stride}, the pixels of this tokenizer's codes.");
        }

        PairSource[] sources = [.. command.Input.SelectMany(PairSource.Open)];
        int grid = command.ImageSize / images.Stride;
        ShardInfo info = new(
            text.VocabularySize, images.Codes, grid, grid, command.ImageSize, "centre square, bicubic",
            text.Sha256, ShardManifest.Hash(HashedFile(command.ImageTokenizer)));
        ShardManifest manifest = Begin(command.Out, info, text, images, command, grid);
        HashSet<string> done = [.. manifest.Entries.Select(entry => entry.Source ?? "")];
        PairSource[] waiting = [.. sources.Where(source => !done.Contains(Path.GetFullPath(source.Path)))];
        if (waiting.Length < sources.Length)
        {
            Terminal.Say($"{sources.Length - waiting.Length} of {sources.Length} sources are done already");
        }

        DropCounts drops = new();
        long pairs = 0, textTokens = 0;
        using (Progress progress = new())
        using (Stage stage = progress.Stage("prepare", 0))
        {
            foreach (PairSource source in waiting)
            {
                // The shard's number follows from the source's place among all, so that a resumed run names it the same.
                string prefix = $"shard-{Array.IndexOf(sources, source):00000}";
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

                    pairs += ready.Length;
                    stage.Report(pairs, new Metrics { Tokens = textTokens + (pairs * info.Codes), Note = Path.GetFileName(source.Path) });
                }

                writer.Finish();
            }
        }

        Say(command, manifest, info, drops, pairs, textTokens);
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
            return Files.Text(description, "the description of the shards") == wanted
                ? File.Exists(Path.Combine(folder, ShardManifest.FileName)) ? ShardManifest.Create(folder, resume: true) : ShardManifest.Create(folder)
                : throw new InputException($"{folder} holds shards of other inputs, tokenizers or another size; choose another --out.");
        }

        if (Files.Occupied(folder))
        {
            throw new InputException($"{folder} is not empty and holds no shards of this command; choose another --out.");
        }

        Directory.CreateDirectory(folder);
        AtomicFile.WriteBytes(Path.Combine(folder, TextTokenizerFile), File.ReadAllBytes(text.Path));
        ImageTokenizers.Save(images, Path.Combine(folder, ImageTokenizers.FileName), grid, grid);
        AtomicFile.WriteText(description, wanted);
        return ShardManifest.Create(folder);
    }

    private static string HashedFile(string path)
    {
        string file = ImageTokenizers.Resolve(path);
        string single = Path.Combine(file, "model.safetensors");
        return Directory.Exists(file) ? single : file;
    }

    private static void Say(PrepareCommand command, ShardManifest manifest, ShardInfo info, DropCounts drops, long pairs, long textTokens)
    {
        long total = manifest.Entries.Sum(entry => entry.Count);
        if (total == 0)
        {
            Terminal.Warn("no pair was found");
        }

        if (command.Json)
        {
            Json.Write(new
            {
                Shards = manifest.Entries.Count,
                Pairs = total,
                New = pairs,
                TextTokens = textTokens,
                ImageTokens = pairs * info.Codes,
                Grid = new[] { info.GridHeight, info.GridWidth },
                TextVocabulary = info.TextVocabulary,
                ImageVocabulary = info.ImageVocabulary,
                Dropped = drops.Counts.ToDictionary(count => count.Key.ToString(), count => count.Value),
                Examples = drops.Examples.ToDictionary(example => example.Key.ToString(), example => example.Value),
            });
            return;
        }

        Console.Out.WriteLine($"{total:N0} pairs in {manifest.Entries.Count} shards ({pairs:N0} new), {textTokens:N0} text tokens and {pairs * info.Codes:N0} image tokens new");
        Console.Out.WriteLine($"{info.TextVocabulary:N0} text rows, {info.ImageVocabulary:N0} image codes, {info.GridHeight} × {info.GridWidth} codes a picture");
        foreach ((DropReason reason, long count) in drops.Counts.OrderByDescending(count => count.Value))
        {
            Console.Out.WriteLine($"dropped {count:N0}: {reason}, first {drops.Examples[reason]}");
        }
    }
}
