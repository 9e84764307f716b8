using System.Runtime.InteropServices;
using System.Text.Json;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// Pictures of files and folders to codes, and back where asked. Pictures are read as they are needed and codes go to the disk, so that
/// a folder may hold any number of them.
/// </summary>
internal sealed class PictureEncoding
{
    /// <summary>The file of results.</summary>
    public const string CodesJson = "codes.json";

    private const string CodesNpy = "codes.npy", Spool = "codes.partial";

    /// <summary>Pixels that are held decoded at a time, one picture at least.</summary>
    private const long PixelsAtATime = 64_000_000;

    /// <summary>Pictures left out that are named on stderr; the file of results names all.</summary>
    private const int Named = 20;

    private readonly ImageCommand command;
    private readonly PictureTokenizer tokenizer;
    private readonly CancellationToken stop;
    private readonly TileNotice notice;
    private readonly bool reconstruct;
    private readonly List<(string File, int Height, int Width)> done = [];
    private readonly List<(string File, string Why)> leftOut = [];
    private readonly SortedDictionary<string, List<double>> quality = new(StringComparer.Ordinal);
    private int tiled;
    private CodeUse? use;

    public PictureEncoding(ImageCommand command, PictureTokenizer tokenizer, CancellationToken stop)
    {
        (this.command, this.tokenizer, this.stop) = (command, tokenizer, stop);
        notice = new(tokenizer);
        reconstruct = command.Action == ImageAction.Reconstruct;
    }

    /// <summary>The results in a few words.</summary>
    public string Said
    {
        get
        {
            string lost = leftOut.Count == 0 ? "" : $", {leftOut.Count} left out";
            List<string> lines = [Counted(done.Count) + lost, $"{use!.Used} of {use.Codes} codes used, {use.Entropy:F2} bits a code"];
            if (quality.TryGetValue("psnr", out List<double>? psnr) && psnr.TrueForAll(double.IsFinite))
            {
                string ssim = quality["ssim"].TrueForAll(double.IsFinite) ? $", SSIM {quality["ssim"].Average():F3}" : "";
                lines.Add($"PSNR {psnr.Average():F2} dB{ssim} on average");
            }

            return string.Join('\n', lines);
        }
    }

    /// <summary>A number of pictures, as text.</summary>
    public static string Counted(int files) => $"{files} {(files == 1 ? "picture" : "pictures")}";

    /// <summary>Does the work and fills a folder with the results. Errors: InputException.</summary>
    public void Run(string folder)
    {
        string[] paths = [.. command.Input.SelectMany(PicturesOf)];
        string spool = Path.Combine(folder, Spool);
        using (Progress progress = new())
        using (Stage stage = progress.Stage(reconstruct ? "reconstruct" : "encode", paths.Length))
        using (FileStream codes = File.Create(spool))
        {
            foreach (List<(string File, Picture Picture)> window in Windows(paths))
            {
                stop.ThrowIfCancellationRequested();
                Work(window, codes, folder);
                stage.Report(done.Count + leftOut.Count);
            }
        }

        if (done.Count == 0)
        {
            throw new InputException(leftOut.Count == 1 ? leftOut[0].Why : $"none of {leftOut.Count} pictures can be used; the first: {leftOut[0].Why}");
        }

        if (leftOut.Count > Named)
        {
            Terminal.Warn($"{leftOut.Count - Named} more were left out; {CodesJson} names all");
        }

        use = PictureMeasures.Use(tokenizer.Codes, Codes(spool));
        WriteJson(Path.Combine(folder, CodesJson), spool);
        if (OneGrid)
        {
            WriteNpy(Path.Combine(folder, CodesNpy), spool);
        }

        File.Delete(spool);
    }

    private bool OneGrid => done.TrueForAll(picture => (picture.Height, picture.Width) == (done[0].Height, done[0].Width));

    /// <summary>Pictures decoded and cut to the stride, in their order, as many as are to be held at a time.</summary>
    private IEnumerable<List<(string File, Picture Picture)>> Windows(string[] paths)
    {
        List<(string, Picture)> window = [];
        long pixels = 0;
        foreach (string[] some in paths.Chunk(Math.Min(command.Batch, Environment.ProcessorCount)))
        {
            var read = new (Picture? Picture, InputException? Fault)[some.Length];
            Parallel.For(0, some.Length, i =>
            {
                try
                {
                    read[i].Picture = Fit(Pictures.Read(some[i]), some[i]);
                }
                catch (InputException fault)
                {
                    read[i].Fault = fault;
                }
            });
            for (int i = 0; i < some.Length; i++)
            {
                if (read[i].Picture is { } picture)
                {
                    window.Add((some[i], picture));
                    pixels += (long)picture.Width * picture.Height;
                }
                else if (read[i].Fault is { } fault)
                {
                    LeaveOut(some[i], fault, paths.Length == 1);
                }
            }

            if (window.Count >= command.Batch || pixels >= PixelsAtATime)
            {
                yield return window;
                (window, pixels) = ([], 0);
            }
        }

        yield return window;
    }

    private void LeaveOut(string file, InputException fault, bool only)
    {
        // A file that is not there was mistyped, whatever else is.
        if (command.Strict || only || !File.Exists(file))
        {
            throw fault;
        }

        leftOut.Add((file, fault.Message));
        if (leftOut.Count <= Named)
        {
            Terminal.Warn($"left out: {fault.Message}");
        }
    }

    /// <summary>Encodes some pictures, those of one size together, and writes what comes of them in their order.</summary>
    private void Work(List<(string File, Picture Picture)> window, FileStream spool, string folder)
    {
        var codes = new int[window.Count][];
        var measured = new Dictionary<string, double>[window.Count];
        foreach (IGrouping<(int Width, int Height), int> size in
            Enumerable.Range(0, window.Count).GroupBy(i => (window[i].Picture.Width, window[i].Picture.Height)))
        {
            (int width, int height) = size.Key;
            bool inTiles = notice.Say(height, width);
            foreach (int[] group in size.Chunk(command.Batch))
            {
                stop.ThrowIfCancellationRequested();
                byte[][] pixels = [.. group.Select(i => window[i].Picture.Pixels)];
                int[][] found = tokenizer.Encode(pixels, height, width);
                byte[][] back = reconstruct ? tokenizer.Decode(found, height / tokenizer.Stride, width / tokenizer.Stride) : [];
                (string Name, double[] Values)[] measures = reconstruct ? Measures(pixels, back, height, width) : [];
                tiled += inTiles ? group.Length : 0;
                for (int i = 0; i < group.Length; i++)
                {
                    codes[group[i]] = found[i];
                    measured[group[i]] = measures.ToDictionary(measure => measure.Name, measure => measure.Values[i]);
                    if (reconstruct)
                    {
                        string name = $"{done.Count + group[i]:0000}-{Path.GetFileNameWithoutExtension(window[group[i]].File)}.png";
                        File.WriteAllBytes(Path.Combine(folder, name), Pictures.EncodePng(new Picture(width, height, back[i])));
                    }
                }
            }
        }

        for (int i = 0; i < window.Count; i++)
        {
            spool.Write(MemoryMarshal.AsBytes(codes[i].AsSpan()));
            foreach ((string name, double value) in measured[i])
            {
                (quality.TryGetValue(name, out List<double>? values) ? values : quality[name] = []).Add(value);
            }
        }

        done.AddRange(window.Select(entry => (entry.File, entry.Picture.Height / tokenizer.Stride, entry.Picture.Width / tokenizer.Stride)));
    }

    /// <summary>What is left of pictures of one size: each measure by its name in the results.</summary>
    private static (string Name, double[] Values)[] Measures(byte[][] originals, byte[][] others, int height, int width)
    {
        PictureQuality[] quality = PictureMeasures.Quality(originals, others, height, width);
        return [("psnr", [.. quality.Select(q => q.Psnr)]), ("ssim", [.. quality.Select(q => q.Ssim)]), ("l1", [.. quality.Select(q => q.L1)])];
    }

    /// <summary>The codes of every picture, from the disk.</summary>
    private IEnumerable<int[]> Codes(string spool)
    {
        using FileStream file = File.OpenRead(spool);
        foreach ((string _, int height, int width) in done)
        {
            int[] codes = new int[height * width];
            file.ReadExactly(MemoryMarshal.AsBytes(codes.AsSpan()));
            yield return codes;
        }
    }

    private void WriteJson(string path, string spool)
    {
        using FileStream stream = File.Create(path);
        using Utf8JsonWriter writer = new(stream, new JsonWriterOptions { Encoder = Json.Options.Encoder });
        writer.WriteStartObject();
        writer.WriteStartArray("files");
        foreach ((string file, _, _) in done)
        {
            writer.WriteStringValue(file);
        }

        writer.WriteEndArray();
        writer.WriteStartArray("codes");
        foreach (int[] picture in Codes(spool))
        {
            writer.WriteStartArray();
            foreach (int code in picture)
            {
                writer.WriteNumberValue(code);
            }

            writer.WriteEndArray();
            writer.Flush();
        }

        writer.WriteEndArray();
        writer.WriteStartArray(OneGrid ? "grid" : "grids");
        foreach ((string _, int height, int width) in OneGrid ? done.Take(1) : done)
        {
            if (!OneGrid)
            {
                writer.WriteStartArray();
            }

            writer.WriteNumberValue(height);
            writer.WriteNumberValue(width);
            if (!OneGrid)
            {
                writer.WriteEndArray();
            }
        }

        writer.WriteEndArray();
        writer.WritePropertyName("codebook");
        JsonSerializer.Serialize(writer, CodebookJson.Of(use!), Json.Options);
        foreach ((string name, List<double> values) in quality)
        {
            writer.WritePropertyName(name);
            JsonSerializer.Serialize(writer, values, Json.Options);
            writer.WritePropertyName(name + "_mean");
            JsonSerializer.Serialize(writer, values.Average(), Json.Options);
        }

        writer.WriteNumber("tiled", tiled);
        writer.WriteStartArray("left_out");
        foreach ((string file, string why) in leftOut)
        {
            writer.WriteStartObject();
            writer.WriteString("file", file);
            writer.WriteString("why", why);
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
        writer.WriteEndObject();
    }

    private void WriteNpy(string path, string spool)
    {
        using FileStream stream = File.Create(path);
        stream.Write(NpyHeader.Format("<i8", [done.Count, done[0].Height, done[0].Width]));
        foreach (int[] picture in Codes(spool))
        {
            stream.Write(MemoryMarshal.AsBytes(Array.ConvertAll(picture, code => (long)code).AsSpan()));
        }
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
                .Where(file => SampleGroups.IsPicture(Path.GetExtension(file).TrimStart('.').ToLowerInvariant()))
                .Order(StringComparer.Ordinal),
        ];
        return found.Length > 0 ? found : throw new InputException($"{path} holds no pictures ({string.Join(", ", SampleGroups.PictureExtensions.Select(extension => "." + extension))}).");
    }

    /// <summary>The middle of a picture, cut so that both sides are multiples of the stride.</summary>
    private Picture Fit(Picture picture, string path)
    {
        int stride = tokenizer.Stride, width = picture.Width / stride * stride, height = picture.Height / stride * stride;
        if (width == 0 || height == 0)
        {
            throw new InputException($"{path} is {picture.Width} × {picture.Height} pixels; a code stands for {stride} × {stride}.");
        }

        return Pictures.Middle(picture, width, height);
    }
}
