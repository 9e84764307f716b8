using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Pictures to codes, codes to pictures, or both with what was lost.</summary>
internal static class ImageJob
{
    private const int Together = 16;
    private static readonly string[] Extensions = [".png", ".jpg", ".jpeg", ".webp"];

    /// <summary>Carries the command out into a new directory. Errors: InputException.</summary>
    public static void Run(ImageCommand command, CancellationToken stop)
    {
        if (Files.Occupied(command.Out))
        {
            throw new InputException($"{command.Out} is not empty; choose another --out.");
        }

        if (command.TokenizerConfig is not null)
        {
            Terminal.Warn("--tokenizer-config is not needed: the tokenizer's own tensors say what it is");
        }

        using PictureTokenizer tokenizer = ImageTokenizers.Open(command.Tokenizer);
        JsonObject result = command.Action == ImageAction.Decode ? Decode(command, tokenizer) : Encode(command, tokenizer, stop);
        Console.Out.WriteLine(command.Json ? result.ToJsonString(Json.Options) : Said(result));
    }

    private static JsonObject Encode(ImageCommand command, PictureTokenizer tokenizer, CancellationToken stop)
    {
        string[] paths = [.. command.Input.SelectMany(PicturesOf)];
        Picture[] pictures = [.. paths.Select(path => Fit(Pictures.Read(path), tokenizer.Stride, path))];
        var codes = new int[pictures.Length][];
        var decoded = new byte[pictures.Length][];
        var quality = new PictureQuality[pictures.Length];
        bool reconstruct = command.Action == ImageAction.Reconstruct;
        foreach (IGrouping<(int Width, int Height), int> size in Enumerable.Range(0, pictures.Length).GroupBy(i => (pictures[i].Width, pictures[i].Height)))
        {
            foreach (int[] group in size.Chunk(Together))
            {
                stop.ThrowIfCancellationRequested();
                (int width, int height) = size.Key;
                byte[][] pixels = [.. group.Select(i => pictures[i].Pixels)];
                int[][] found = tokenizer.Encode(pixels, height, width);
                byte[][] back = reconstruct ? tokenizer.Decode(found, height / tokenizer.Stride, width / tokenizer.Stride) : [];
                PictureQuality[] measured = reconstruct ? PictureMeasures.Quality(pixels, back, height, width) : [];
                for (int i = 0; i < group.Length; i++)
                {
                    codes[group[i]] = found[i];
                    if (reconstruct)
                    {
                        (decoded[group[i]], quality[group[i]]) = (back[i], measured[i]);
                    }
                }
            }
        }

        (int Height, int Width)[] grids = [.. pictures.Select(p => (p.Height / tokenizer.Stride, p.Width / tokenizer.Stride))];
        bool oneGrid = grids.Distinct().Count() == 1;
        JsonObject result = new()
        {
            ["files"] = new JsonArray([.. paths.Select(path => JsonValue.Create(path))]),
            ["codes"] = new JsonArray([.. codes.Select(picture => new JsonArray([.. picture.Select(code => JsonValue.Create(code))]))]),
        };
        if (oneGrid)
        {
            result["grid"] = new JsonArray(grids[0].Height, grids[0].Width);
        }
        else
        {
            result["grids"] = new JsonArray([.. grids.Select(grid => new JsonArray(grid.Height, grid.Width))]);
        }

        result["codebook"] = JsonSerializer.SerializeToNode(CodebookJson.Of(PictureMeasures.Use(tokenizer.Codes, codes)), Json.Options);
        if (reconstruct)
        {
            double[] psnr = [.. quality.Select(q => q.Psnr)], ssim = [.. quality.Select(q => q.Ssim)];
            result["psnr"] = new JsonArray([.. psnr.Select(Finite)]);
            result["psnr_mean"] = Finite(psnr.Average());
            result["ssim"] = new JsonArray([.. ssim.Select(Finite)]);
            result["ssim_mean"] = Finite(ssim.Average());
            result["l1_mean"] = quality.Average(q => q.L1);
        }

        AtomicFile.WriteFolder(
            command.Out,
            folder =>
            {
                File.WriteAllText(Path.Combine(folder, "codes.json"), result.ToJsonString(Json.Options));
                if (oneGrid)
                {
                    NpyFile.Write<long>(
                        Path.Combine(folder, "codes.npy"),
                        codes.SelectMany(picture => picture.Select(code => (long)code)).ToArray().AsMemory(),
                        codes.Length,
                        grids[0].Height,
                        grids[0].Width);
                }

                for (int i = 0; reconstruct && i < decoded.Length; i++)
                {
                    File.WriteAllBytes(
                        Path.Combine(folder, $"{i:0000}-{Path.GetFileNameWithoutExtension(paths[i])}.png"),
                        Pictures.EncodePng(new Picture(pictures[i].Width, pictures[i].Height, decoded[i])));
                }
            },
            replace: Directory.Exists(command.Out));
        return result;
    }

    /// <summary>A number, or null where it is not finite: the PSNR of equal pictures, the SSIM of very small ones.</summary>
    private static JsonNode? Finite(double value) => double.IsFinite(value) ? JsonValue.Create(value) : null;

    private static JsonObject Decode(ImageCommand command, PictureTokenizer tokenizer)
    {
        List<(string Name, byte[] Png)> made = [];
        foreach (string path in command.Input)
        {
            (int[][] codes, int height, int width) = Codes(path, tokenizer.Codes);
            byte[][] pictures = tokenizer.Decode(codes, height, width);
            // Numbered through, since files of several folders may have one name.
            int before = made.Count;
            made.AddRange(pictures.Select((pixels, i) => (
                $"{Path.GetFileNameWithoutExtension(path)}-{before + i:0000}.png",
                Pictures.EncodePng(new Picture(width * tokenizer.Stride, height * tokenizer.Stride, pixels)))));
        }

        AtomicFile.WriteFolder(
            command.Out,
            folder =>
            {
                foreach ((string name, byte[] png) in made)
                {
                    File.WriteAllBytes(Path.Combine(folder, name), png);
                }
            },
            replace: Directory.Exists(command.Out));
        return new JsonObject { ["files"] = new JsonArray([.. made.Select(file => JsonValue.Create(Path.Combine(command.Out, file.Name)))]) };
    }

    /// <summary>Codes [N, h, w], or [N, K] of square grids, of a NumPy array.</summary>
    private static (int[][] Codes, int Height, int Width) Codes(string path, int count)
    {
        using NpyFile file = NpyFile.Open(path);
        long[] shape = [.. file.Shape];
        int side = shape.Length == 2 ? (int)Math.Sqrt(shape[1]) : 0;
        (int height, int width) = shape.Length switch
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

        using torch.Tensor loaded = file.Load();
        using torch.Tensor wide = loaded.to(torch.int64);
        int[] narrow = [.. wide.data<long>().ToArray().Select(code => code >= 0 && code < count
            ? (int)code
            : throw new InputException($"{path} holds the code {code}; this tokenizer has the codes 0 to {count - 1}."))];
        return ([.. narrow.Chunk(height * width)], height, width);
    }

    private static IEnumerable<string> PicturesOf(string path)
    {
        if (!Directory.Exists(path))
        {
            return [path];
        }

        string[] found =
        [
            .. Directory.EnumerateFiles(path)
                .Where(file => Extensions.Contains(Path.GetExtension(file).ToLowerInvariant()))
                .Order(StringComparer.Ordinal),
        ];
        return found.Length > 0 ? found : throw new InputException($"{path} holds no pictures ({string.Join(", ", Extensions)}).");
    }

    /// <summary>The middle of a picture, cut so that both sides are multiples of the stride.</summary>
    private static Picture Fit(Picture picture, int stride, string path)
    {
        int width = picture.Width / stride * stride, height = picture.Height / stride * stride;
        if (width == 0 || height == 0)
        {
            throw new InputException($"{path} is {picture.Width} × {picture.Height} pixels; a code stands for {stride} × {stride}.");
        }

        return (width, height) == (picture.Width, picture.Height)
            ? picture
            : Pictures.Crop(picture, (picture.Width - width) / 2, (picture.Height - height) / 2, width, height);
    }

    private static string Said(JsonObject result)
    {
        int files = result["files"]!.AsArray().Count;
        List<string> lines = [$"{files} {(files == 1 ? "picture" : "pictures")}"];
        if (result["codebook"] is JsonObject book)
        {
            lines.Add($"{book["used"]} of {book["codes"]} codes used, {book["entropy_bits"]!.GetValue<double>():F2} bits a code");
        }

        if (result["psnr_mean"] is JsonValue psnr)
        {
            string ssim = result["ssim_mean"] is JsonValue similar ? $", SSIM {similar.GetValue<double>():F3}" : "";
            lines.Add($"PSNR {psnr.GetValue<double>():F2} dB{ssim} on average");
        }

        return string.Join('\n', lines);
    }
}
