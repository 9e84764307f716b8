using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Pictures to codes, codes to pictures, or both with what was lost.</summary>
internal static class ImageJob
{
    /// <summary>Carries the command out into a new directory. Errors: InputException.</summary>
    public static void Run(ImageCommand command, CancellationToken stop)
    {
        Files.RequireFree(command.Out, "--out");
        string? description = command.TokenizerConfig is { } config ? Files.Text(config, "the image tokenizer's configuration") : null;
        long budget = command.MemoryBudget is { } megabytes ? megabytes * 1_000_000L : TokenizerOptions.Default.MemoryBudget;
        using PictureTokenizer tokenizer = ImageTokenizers.Open(
            command.Tokenizer, new TokenizerOptions(description, command.Ema, command.HalfPrecision, budget));
        if (command.Action == ImageAction.Decode)
        {
            JsonObject result = Decode(command, tokenizer, stop);
            int files = result["files"]!.AsArray().Count;
            Console.Out.WriteLine(command.Json ? result.ToJsonString(Json.Options) : PictureEncoding.Counted(files));
        }
        else
        {
            PictureEncoding encoding = new(command, tokenizer, stop);
            AtomicFile.WriteFolder(command.Out, encoding.Run, replace: Directory.Exists(command.Out));
            if (command.Json)
            {
                // The file may be larger than memory.
                using FileStream codes = File.OpenRead(Path.Combine(command.Out, PictureEncoding.CodesJson));
                using Stream output = Console.OpenStandardOutput();
                Console.Out.Flush();
                codes.CopyTo(output);
                output.Write("\n"u8);
            }
            else
            {
                Console.Out.WriteLine(encoding.Said);
            }
        }
    }

    private static JsonObject Decode(ImageCommand command, PictureTokenizer tokenizer, CancellationToken stop)
    {
        List<string> made = [];
        TileNotice notice = new(tokenizer);
        AtomicFile.WriteFolder(
            command.Out,
            folder =>
            {
                foreach (string path in command.Input)
                {
                    using CodesFile file = new(path, tokenizer.Codes);
                    notice.Say(file.Height * tokenizer.Stride, file.Width * tokenizer.Stride);
                    foreach (int[][] batch in file.Read().Chunk(command.Batch))
                    {
                        stop.ThrowIfCancellationRequested();
                        foreach (byte[] pixels in tokenizer.Decode(batch, file.Height, file.Width))
                        {
                            // Numbered through, since files of several folders may have one name.
                            string name = $"{Path.GetFileNameWithoutExtension(path)}-{made.Count:0000}.png";
                            Picture picture = new(file.Width * tokenizer.Stride, file.Height * tokenizer.Stride, pixels);
                            File.WriteAllBytes(Path.Combine(folder, name), Pictures.EncodePng(picture));
                            made.Add(Path.Combine(command.Out, name));
                        }
                    }
                }
            },
            replace: Directory.Exists(command.Out));
        return new JsonObject { ["files"] = new JsonArray([.. made.Select(file => JsonValue.Create(file))]) };
    }

    /// <summary>Codes [N, h, w], or [N, K] of square grids, of a NumPy array.</summary>
    private sealed class CodesFile : IDisposable
    {
        private readonly string path;
        private readonly int count;
        private readonly torch.Tensor codes;

        public CodesFile(string path, int count)
        {
            (this.path, this.count) = (path, count);
            using NpyFile file = NpyFile.Open(path);
            long[] shape = [.. file.Shape];
            int side = shape.Length == 2 ? (int)Math.Sqrt(shape[1]) : 0;
            (Height, Width) = shape.Length switch
            {
                3 when shape[1] is > 0 and < 1 << 14 && shape[2] is > 0 and < 1 << 14 => ((int)shape[1], (int)shape[2]),
                2 when (long)side * side == shape[1] && side > 0 => (side, side),
                _ => throw new InputException($"{path} has shape [{string.Join(", ", shape)}]; codes are [pictures, rows, columns], or [pictures, codes] of a square grid."),
            };
            if (shape[0] == 0)
            {
                throw new InputException($"{path} holds no codes.");
            }

            if (torch.is_floating_point(file.ElementType))
            {
                throw new InputException($"{path} holds numbers of type {file.StoredType}; codes are whole numbers.");
            }

            codes = file.Load();
        }

        public int Height { get; }

        public int Width { get; }

        /// <summary>The grids, one after the other. Errors: InputException for a code that the tokenizer does not have.</summary>
        public IEnumerable<int[]> Read()
        {
            for (long picture = 0; picture < codes.shape[0]; picture++)
            {
                using torch.Tensor grid = codes.narrow(0, picture, 1);
                using torch.Tensor wide = grid.to(torch.int64);
                yield return [.. wide.data<long>().ToArray().Select(code => code >= 0 && code < count
                    ? (int)code
                    : throw new InputException($"{path} holds the code {code}; this tokenizer has the codes 0 to {count - 1}."))];
            }
        }

        public void Dispose() => codes.Dispose();
    }
}

/// <summary>Says, once for a size, that pictures go through in tiles.</summary>
internal sealed class TileNotice(PictureTokenizer tokenizer)
{
    private readonly HashSet<(int Height, int Width)> seen = [];
    private bool said;

    /// <summary>Whether pictures of a size go through in tiles; the first size that does is said on stderr.</summary>
    public bool Say(int height, int width)
    {
        int side = tokenizer.TileSide(height, width);
        if (side > 0 && seen.Add((height, width)) && !said)
        {
            said = true;
            Terminal.Say(
                $"pictures of {width} × {height} pixels go through in overlapping tiles of {side} × {side}: whole, their maps would not fit into the memory budget. "
                + "Near the tiles' ends, codes and pixels may differ a little from those of a whole picture.");
        }

        return side > 0;
    }
}
