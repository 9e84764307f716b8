using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>Pictures from captions.</summary>
internal static class GenerateJob
{
    /// <summary>Pictures that are drawn, decoded and written before the next ones, so that a set may have any number.</summary>
    private const int Together = 256;

    /// <summary>Pictures of the contact sheet, at most, in whole rows.</summary>
    private const int OnSheet = 256;

    /// <summary>Files that are named on stdout.</summary>
    private const int Named = 64;

    /// <summary>
    /// Draws pictures into a directory: 0000-00.png and on (caption, number), with several strengths of guidance each in a folder of its
    /// own; grid.png with a row for each caption; pictures.jsonl with file, caption, strength, seed and codes of each.
    /// Errors: InputException.
    /// </summary>
    public static void Run(GenerateCommand command, CancellationToken stop)
    {
        Files.RequireFree(command.Out, "--out");
        string[] captions = command.PromptsFile is { } list ? Captions(list) : [.. command.Prompts];
        using ModelFile file = ModelFiles.Open(command.Model);
        using PictureDecoder decoder = ImageTokenizers.DecoderBeside(file);
        if (file.Vocabulary.ImageCodes != decoder.Codebook)
        {
            throw new InputException($"{command.Model} has {file.Vocabulary.ImageCodes} image codes, its image tokenizer {decoder.Codebook}; they do not belong together.");
        }

        using PromptCodec codec = PromptCodec.Beside(file);
        int[][] prompts = [.. captions.Select(codec.EncodePlain)];
        using Model model = file.Open(new Layout { HalfPrecision = command.HalfPrecision, Device = TorchLibrary.Device, Frozen = true });
        int codes = decoder.Codes;
        model.RequireCaptions(prompts, codes);

        Drawing drawing = new()
        {
            Temperature = command.Temperature,
            TopK = command.TopK ?? 0,
            TopP = command.TopP ?? 1.0,
            Seed = command.Seed,
            Lookahead = command.Lookahead,
            Memory = (command.MemoryBudget ?? 0) * 1_000_000L,
        };
        Work work = new(command, captions, prompts, model, decoder, drawing, codes, stop);
        AtomicFile.WriteFolder(command.Out, work.Into, replace: Directory.Exists(command.Out));
        if (command.Json)
        {
            Json.Write(new { work.Files, work.TokensPerSecond, work.Passes });
            return;
        }

        string files = work.Files.Count <= Named ? string.Join('\n', work.Files) : $"{work.Files.Count} pictures in {command.Out}";
        Console.Out.WriteLine($"{files}\n{work.TokensPerSecond:N0} image tokens/s, {work.Passes} passes for {codes} codes a picture");
    }

    /// <summary>The captions of a file, one a line; empty lines are none.</summary>
    private static string[] Captions(string path)
    {
        string[] lines = Files.ExactText(path, "the file of captions").TrimStart('\uFEFF').Split('\n');
        int strange = Array.FindIndex(lines, line => line.Contains('\0'));
        if (strange >= 0)
        {
            throw new InputException($"{path}, line {strange + 1}: it holds a zero byte, which is in no text; a file of captions is UTF-8, one caption a line.");
        }

        string[] captions = [.. lines.Select(line => line.TrimEnd('\r')).Where(line => !string.IsNullOrWhiteSpace(line))];
        return captions.Length > 0 ? captions : throw new InputException($"{path} holds no captions; there is one on each line.");
    }

    private sealed class Work(
        GenerateCommand command, string[] captions, int[][] prompts, Model model, PictureDecoder decoder, Drawing drawing, int codes, CancellationToken stop)
    {
        private readonly int perCaption = command.Count;
        private readonly int total = checked(captions.Length * command.Count);
        private readonly List<(int Caption, int Strength, int Number, Picture Picture)> sheet = [];
        private readonly Stopwatch drawn = new();

        public List<string> Files { get; } = [];

        public long Passes { get; private set; }

        public double TokensPerSecond => Files.Count * (double)codes / drawn.Elapsed.TotalSeconds;

        public void Into(string aside)
        {
            int rows = Math.Max(1, OnSheet / (perCaption * command.Guidance.Count));
            using (Progress progress = new())
            using (Stage stage = progress.Stage("generate", (long)total * command.Guidance.Count))
            using (StreamWriter list = new(Path.Combine(aside, GeneratedPictures.ListName)) { NewLine = "\n" })
            {
                for (int strength = 0; strength < command.Guidance.Count; strength++)
                {
                    string folder = command.Guidance.Count > 1 ? GeneratedPictures.Folder(command.Guidance[strength]) : "";
                    Directory.CreateDirectory(Path.Combine(aside, folder));
                    drawing.Guidance = command.Guidance[strength];
                    for (int first = 0; first < total; first += Together)
                    {
                        int[] places = [.. Enumerable.Range(first, Math.Min(Together, total - first))];
                        int[][] tokens = Draw(places, stage);
                        IReadOnlyList<Picture> pictures = decoder.Decode(tokens);
                        for (int i = 0; i < places.Length; i++)
                        {
                            (int caption, int number) = (places[i] / perCaption, places[i] % perCaption);
                            Write(aside, folder, caption, number, tokens[i], pictures[i], list);
                            if (caption < rows)
                            {
                                sheet.Add((caption, strength, number, pictures[i]));
                            }
                        }
                    }
                }
            }

            Picture[] ordered = [.. sheet.OrderBy(entry => (entry.Caption, entry.Strength, entry.Number)).Select(entry => entry.Picture)];
            File.WriteAllBytes(Path.Combine(aside, "grid.png"), Pictures.EncodePng(Pictures.Grid(ordered, perCaption * command.Guidance.Count)));
        }

        /// <summary>The codes of some pictures. The draws of a picture follow from the seed and its place among all, at every strength alike.</summary>
        private int[][] Draw(int[] places, Stage stage)
        {
            drawing.First = places[0];
            long before = Files.Count;
            drawn.Start();
            Sampler.Drawn found = model.DrawImages([.. places.Select(place => prompts[place / perCaption])], codes, drawing, tokens =>
            {
                stop.ThrowIfCancellationRequested();
                stage.Report(before + (tokens / codes), new Metrics { Tokens = (before * codes) + tokens });
            });
            drawn.Stop();
            Passes = Math.Max(Passes, found.Passes);
            return found.Tokens;
        }

        private void Write(string aside, string folder, int caption, int number, int[] tokens, Picture picture, StreamWriter list)
        {
            string name = string.Create(CultureInfo.InvariantCulture, $"{caption:0000}-{number:00}.png");
            string within = folder.Length > 0 ? $"{folder}/{name}" : name;
            File.WriteAllBytes(Path.Combine(aside, folder, name), Pictures.EncodePng(picture));
            Files.Add(Path.Combine(command.Out, folder, name));
            list.WriteLine(new JsonObject
            {
                ["file"] = within,
                ["caption"] = captions[caption],
                ["number"] = number,
                ["cfg"] = drawing.Guidance,
                ["seed"] = command.Seed,
                ["codes"] = new JsonArray([.. tokens.Select(code => JsonValue.Create(code))]),
            }.ToJsonString(Json.Options));
        }
    }
}
