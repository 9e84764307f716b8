using SkiaSharp;
using static Hybrid.Report;

namespace Hybrid.Runner.Reporting;

/// <summary>
/// The colours of a matrix: from dark blue over green to yellow (viridis, even to the eye and told apart with every kind of colour
/// vision), or from blue over grey to orange around a centre. They are the same on light and on dark paper.
/// </summary>
internal sealed class HeatColours
{
    /// <summary>Rows or columns of a drawn matrix, at most: larger ones are drawn as means of neighbours.</summary>
    public const int LargestSide = 512;

    private static readonly SKColor[] sequential =
        [.. new[] { "#440154", "#482878", "#3E4989", "#31688E", "#26828E", "#1F9E89", "#35B779", "#6DCD59", "#B4DE2C", "#FDE725" }.Select(SKColor.Parse)];

    private static readonly SKColor[] parting =
        [.. new[] { "#08519C", "#3182BD", "#8FBCDB", "#D4D6D9", "#F2AE7C", "#E06C1F", "#A33C00" }.Select(SKColor.Parse)];

    private readonly SKColor[] stops;

    public HeatColours(HeatPanel panel)
    {
        double[] finite = [.. panel.Values.Where(double.IsFinite)];
        (Low, High) = finite.Length > 0 ? (finite.Min(), finite.Max()) : (0, 1);
        stops = sequential;
        if (double.IsFinite(panel.Centre))
        {
            double reach = Math.Max(Math.Abs(High - panel.Centre), Math.Abs(Low - panel.Centre));
            (Low, High, stops) = (panel.Centre - reach, panel.Centre + reach, parting);
        }

        if (High - Low <= Math.Max(1e-12, Math.Max(Math.Abs(Low), Math.Abs(High)) * 1e-9))
        {
            double half = Math.Max(Math.Abs(Low) * 0.05, 0.5);
            (Low, High) = (Low - half, High + half);
        }
    }

    /// <summary>The value of the first colour.</summary>
    public double Low { get; }

    /// <summary>The value of the last colour.</summary>
    public double High { get; }

    /// <summary>The colour of a value; none where it is not finite.</summary>
    public SKColor Of(double value)
    {
        if (!double.IsFinite(value))
        {
            return SKColors.Transparent;
        }

        double place = Math.Clamp((value - Low) / (High - Low), 0, 1) * (stops.Length - 1);
        int below = Math.Min((int)place, stops.Length - 2);
        byte Between(byte a, byte b) => (byte)Math.Round(a + (b - a) * (place - below));
        SKColor from = stops[below], to = stops[below + 1];
        return new SKColor(Between(from.Red, to.Red), Between(from.Green, to.Green), Between(from.Blue, to.Blue));
    }

    /// <summary>Whether white is easier to read than black on the colour of a value.</summary>
    public bool IsDark(double value)
    {
        SKColor colour = Of(value);
        return 0.299 * colour.Red + 0.587 * colour.Green + 0.114 * colour.Blue < 140;
    }

    /// <summary>The cells as a picture of one pixel each, as PNG.</summary>
    public byte[] Cells(HeatPanel panel)
    {
        int rows = panel.Rows.Count, columns = panel.Columns.Count;
        int height = Math.Min(rows, LargestSide), width = Math.Min(columns, LargestSide);
        return Png(width, height, (x, y) =>
        {
            var (sum, count) = (0.0, 0);
            for (int row = (int)((long)y * rows / height); row < (long)(y + 1) * rows / height; row++)
            {
                for (int column = (int)((long)x * columns / width); column < (long)(x + 1) * columns / width; column++)
                {
                    double value = panel.Values[row * columns + column];
                    if (double.IsFinite(value))
                    {
                        (sum, count) = (sum + value, count + 1);
                    }
                }
            }

            return Of(count > 0 ? sum / count : double.NaN);
        });
    }

    /// <summary>The scale from the last colour, on top, to the first, as PNG.</summary>
    public byte[] Scale()
    {
        const int steps = 96;
        return Png(1, steps, (_, y) => Of(High - (High - Low) * (y + 0.5) / steps));
    }

    private static byte[] Png(int width, int height, Func<int, int, SKColor> colour)
    {
        using SKBitmap bitmap = new(new SKImageInfo(width, height, SKColorType.Rgba8888, SKAlphaType.Unpremul));
        for (int y = 0; y < height; y++)
        {
            for (int x = 0; x < width; x++)
            {
                bitmap.SetPixel(x, y, colour(x, y));
            }
        }

        using SKData data = bitmap.Encode(SKEncodedImageFormat.Png, 100);
        return data.ToArray();
    }
}
