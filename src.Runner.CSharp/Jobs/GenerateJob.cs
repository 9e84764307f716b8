using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>Pictures from captions.</summary>
internal static class GenerateJob
{
    /// <summary>
    /// Draws pictures into a directory: 0000-00.png and on (caption, number), grid.png and pictures.json with captions and codes.
    /// <paramref name="openDecoder"/> gives the image tokenizer that belongs to a model. Errors: InputException.
    /// </summary>
    public static void Run(GenerateCommand command, Func<ModelFile, IPictureDecoder> openDecoder, CancellationToken stop)
    {
        if (Files.Occupied(command.Out))
        {
            throw new InputException($"{command.Out} is not empty; choose another --out.");
        }

        using ModelFile file = ModelFiles.Open(command.Model);
        using IPictureDecoder decoder = openDecoder(file);
        if (file.Vocabulary.ImageCodes != decoder.Codebook)
        {
            throw new InputException($"{command.Model} has {file.Vocabulary.ImageCodes} image codes, its image tokenizer {decoder.Codebook}; they do not belong together.");
        }

        using PromptCodec codec = PromptCodec.Beside(file);
        using Model model = file.Open(new Layout { HalfPrecision = command.HalfPrecision, Device = TorchLibrary.Device, Frozen = true });
        (string Caption, int Number)[] wanted = [.. command.Prompts.SelectMany(caption => Enumerable.Range(0, command.Count).Select(number => (caption, number)))];
        int count = decoder.GridHeight * decoder.GridWidth;
        Sampler.Drawn drawn;
        long begun = Stopwatch.GetTimestamp();
        using (Progress progress = new())
        using (Stage stage = progress.Stage("generate", wanted.Length))
        {
            // The draws of a picture follow from the seed and its place among all.
            Drawing drawing = new()
            {
                Temperature = command.Temperature,
                TopK = command.TopK ?? 0,
                TopP = command.TopP ?? 1.0,
                Guidance = command.Guidance[0],
                Seed = command.Seed,
                Lookahead = command.Lookahead,
                Memory = (command.MemoryBudget ?? 0) * 1_000_000L,
            };
            drawn = model.DrawImages([.. wanted.Select(entry => codec.EncodePlain(entry.Caption))], count, drawing, total =>
            {
                stop.ThrowIfCancellationRequested();
                stage.Report((int)(total / count), new Metrics { Tokens = total });
            });
        }

        int[][] codes = drawn.Tokens;
        double speed = codes.Length * (double)count / Stopwatch.GetElapsedTime(begun).TotalSeconds;
        IReadOnlyList<Picture> pictures = decoder.Decode(codes);

        string[] files = Write(command.Out, wanted, codes, pictures, command.Count);
        if (command.Json)
        {
            Json.Write(new { Files = files, TokensPerSecond = speed, drawn.Passes });
        }
        else
        {
            Console.Out.WriteLine(string.Join('\n', files) + $"\n{speed:N0} image tokens/s, {drawn.Passes} passes for {count} codes a picture");
        }
    }

    private static string[] Write(string folder, (string Caption, int Number)[] wanted, int[][] codes, IReadOnlyList<Picture> pictures, int columns)
    {
        List<string> files = [];
        AtomicFile.WriteFolder(
            folder,
            aside =>
            {
                JsonArray list = [];
                foreach (var (entry, i) in wanted.Select((entry, i) => (entry, i)))
                {
                    string name = string.Create(CultureInfo.InvariantCulture, $"{i / columns:0000}-{entry.Number:00}.png");
                    File.WriteAllBytes(Path.Combine(aside, name), Pictures.EncodePng(pictures[i]));
                    files.Add(Path.Combine(folder, name));
                    list.Add(new JsonObject
                    {
                        ["file"] = name,
                        ["caption"] = entry.Caption,
                        ["codes"] = new JsonArray([.. codes[i].Select(code => JsonValue.Create(code))]),
                    });
                }

                File.WriteAllBytes(Path.Combine(aside, "grid.png"), Pictures.EncodePng(Pictures.Grid(pictures, columns)));
                File.WriteAllText(Path.Combine(aside, "pictures.json"), list.ToJsonString(Json.Options));
            },
            replace: Directory.Exists(folder));
        return [.. files];
    }
}
