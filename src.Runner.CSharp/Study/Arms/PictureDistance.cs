using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Study;

/// <summary>
/// The Fréchet distance between drawn and real pictures in a space that needs no other network: thumbnails of 4 × 4 pixels, 48 numbers
/// in [0, 1]. It sees colours and where they are, and cannot be compared with an FID over Inception features. Real ones are held-out
/// pictures through the image tokenizer, so that what the tokenizer loses counts against nobody.
/// </summary>
internal sealed class PictureDistance
{
    /// <summary>Width and height of a thumbnail.</summary>
    public const int Side = 4;

    private readonly Func<int[][], IReadOnlyList<Picture>> draw;
    private readonly float[,] real;

    public PictureDistance(Func<int[][], IReadOnlyList<Picture>> draw, int[][] real)
    {
        this.draw = draw;
        this.real = Features(real);
    }

    /// <summary>The distance to pictures of these codes; NaN where there are fewer than two.</summary>
    public double To(int[][] codes) => real.GetLength(0) < 2 || codes.Length < 2 ? double.NaN : Fidelity.Frechet(real, Features(codes)).Distance;

    private float[,] Features(int[][] codes)
    {
        const int width = Side * Side * 3, atOnce = 64;
        var features = new float[codes.Length, width];
        for (int first = 0; first < codes.Length; first += atOnce)
        {
            IReadOnlyList<Picture> pictures = draw(codes[first..Math.Min(first + atOnce, codes.Length)]);
            for (int i = 0; i < pictures.Count; i++)
                Thumbnail(pictures[i], i + first, features);
        }

        return features;
    }

    private static void Thumbnail(Picture picture, int row, float[,] features)
    {
        var counts = new int[Side * Side];
        for (int y = 0; y < picture.Height; y++)
        {
            for (int x = 0; x < picture.Width; x++)
            {
                int cell = y * Side / picture.Height * Side + x * Side / picture.Width;
                counts[cell]++;
                for (int channel = 0; channel < 3; channel++)
                    features[row, cell * 3 + channel] += picture.Pixels[(y * picture.Width + x) * 3 + channel] / 255f;
            }
        }

        for (int i = 0; i < counts.Length * 3; i++)
            features[row, i] /= Math.Max(1, counts[i / 3]);
    }
}
