using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>What an image tokenizer leaves of pictures that it was not trained on.</summary>
/// <param name="Pictures">How many.</param>
/// <param name="Psnr">Mean over the pictures in decibels.</param>
/// <param name="Ssim">Mean over the pictures; NaN below 11 pixels a side.</param>
/// <param name="L1">Mean absolute difference, values in [0, 1].</param>
/// <param name="Use">The codes of all pictures together.</param>
/// <param name="Figure">Pictures in rows over their reconstructions, as PNG.</param>
internal sealed record ImageEvaluation(int Pictures, double Psnr, double Ssim, double L1, CodeUse Use, byte[] Figure)
{
    private const int Together = 16, Across = 8, Shown = 16;

    /// <summary>The same in a few words.</summary>
    public string Words => $"{Pictures} pictures: PSNR {Psnr:F2} dB, SSIM {Ssim:F3}, L1 {L1:F4}, {Use.Used} of {Use.Codes} codes used, {Use.Entropy:F2} bits a code";

    /// <summary>Encodes, decodes and measures; null when asked to stop.</summary>
    public static ImageEvaluation? Of(PictureTokenizer tokenizer, IReadOnlyList<byte[]> pictures, int size, CancellationToken stop, Action<long> report)
    {
        int grid = size / tokenizer.Stride;
        List<PictureQuality> quality = [];
        List<int[]> codes = [];
        List<Picture> figure = [];
        Picture blank = new(size, size, [.. Enumerable.Repeat((byte)255, size * size * 3)]);
        foreach (byte[][] batch in pictures.Chunk(Together))
        {
            if (stop.IsCancellationRequested)
            {
                return null;
            }

            int[][] found = tokenizer.Encode(batch, size, size);
            byte[][] back = tokenizer.Decode(found, grid, grid);
            quality.AddRange(PictureMeasures.Quality(batch, back, size, size));
            codes.AddRange(found);
            foreach ((byte[] original, byte[] other)[] row in batch.Zip(back).Take(Shown - Math.Min(Shown, figure.Count / 2)).Chunk(Across))
            {
                // Nothing stands below a picture but its reconstruction: a short row is filled up.
                int across = Math.Min(Across, pictures.Count);
                IEnumerable<Picture> rest = Enumerable.Repeat(blank, across - row.Length);
                figure.AddRange([.. row.Select(pair => new Picture(size, size, pair.original)), .. rest]);
                figure.AddRange([.. row.Select(pair => new Picture(size, size, pair.other)), .. rest]);
            }

            report(quality.Count);
        }

        return new(
            pictures.Count, quality.Average(q => q.Psnr), quality.Average(q => q.Ssim), quality.Average(q => q.L1), PictureMeasures.Use(tokenizer.Codes, codes),
            Formats.Pictures.EncodePng(Formats.Pictures.Grid(figure, Math.Min(Across, pictures.Count))));
    }

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson() => new()
    {
        ["pictures"] = Pictures,
        ["psnr"] = Psnr,
        ["ssim"] = Ssim,
        ["l1"] = L1,
        ["codebook"] = CodebookJson.Of(Use),
    };
}

/// <summary>The use of a codebook as results show it.</summary>
internal static class CodebookJson
{
    public static Dictionary<string, object?> Of(CodeUse use) => new()
    {
        ["codes"] = use.Codes,
        ["used"] = use.Used,
        ["share_used"] = use.Share,
        ["entropy_bits"] = use.Entropy,
        ["perplexity"] = use.Perplexity,
    };
}
