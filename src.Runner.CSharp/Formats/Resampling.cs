namespace Hybrid.Runner.Formats;

/// <summary>
/// Antialiased bicubic resampling of 8-bit pictures as Pillow does it: the cubic convolution kernel with a = -0.5, its support
/// widened by the factor of shrinking; rows first, then columns, 22-bit fixed-point weights, rounded to 8 bits after each.
/// </summary>
public static class Resampling
{
    private const int Channels = 3;
    private const int Precision = 32 - 8 - 2;

    /// <summary>Resizes interleaved RGB pixels [height, width, 3] to [newHeight, newWidth, 3].</summary>
    public static byte[] Bicubic(ReadOnlySpan<byte> pixels, int width, int height, int newWidth, int newHeight)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(pixels.Length, checked(width * height * Channels));
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(newWidth);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(newHeight);
        byte[] rows = newWidth == width ? pixels.ToArray() : Rows(pixels, height, new Window(width, newWidth));
        return newHeight == height ? rows : Columns(rows, newWidth, new Window(height, newHeight));
    }

    private static byte[] Rows(ReadOnlySpan<byte> pixels, int height, Window window)
    {
        byte[] result = new byte[window.Length * height * Channels];
        int stride = window.SourceLength * Channels, target = 0;
        for (int y = 0; y < height; y++)
        {
            ReadOnlySpan<byte> row = pixels.Slice(y * stride, stride);
            for (int x = 0; x < window.Length; x++)
            {
                ReadOnlySpan<int> weights = window.Weights(x, out int first);
                int red = 1 << (Precision - 1), green = red, blue = red, source = first * Channels;
                foreach (int weight in weights)
                {
                    red += row[source] * weight;
                    green += row[source + 1] * weight;
                    blue += row[source + 2] * weight;
                    source += Channels;
                }

                result[target] = Clip(red);
                result[target + 1] = Clip(green);
                result[target + 2] = Clip(blue);
                target += Channels;
            }
        }

        return result;
    }

    private static byte[] Columns(byte[] pixels, int width, Window window)
    {
        int stride = width * Channels;
        byte[] result = new byte[window.Length * stride];
        int[] sums = new int[stride];
        for (int y = 0; y < window.Length; y++)
        {
            ReadOnlySpan<int> weights = window.Weights(y, out int first);
            Array.Fill(sums, 1 << (Precision - 1));
            for (int k = 0; k < weights.Length; k++)
            {
                ReadOnlySpan<byte> row = pixels.AsSpan((first + k) * stride, stride);
                int weight = weights[k];
                for (int i = 0; i < sums.Length; i++)
                {
                    sums[i] += row[i] * weight;
                }
            }

            Span<byte> target = result.AsSpan(y * stride, stride);
            for (int i = 0; i < sums.Length; i++)
            {
                target[i] = Clip(sums[i]);
            }
        }

        return result;
    }

    private static byte Clip(int sum) => (byte)Math.Clamp(sum >> Precision, 0, 255);

    private static double Kernel(double x)
    {
        const double a = -0.5;
        x = Math.Abs(x);
        return x < 1.0 ? ((((a + 2.0) * x) - (a + 3.0)) * x * x) + 1.0
            : x < 2.0 ? ((((x - 5.0) * x) + 8.0) * x - 4.0) * a
            : 0.0;
    }

    /// <summary>For each place along the new axis, the places along the old one that it is made of, and their weights.</summary>
    private sealed class Window
    {
        private readonly int[] firsts;
        private readonly int[] counts;
        private readonly int[] weights;
        private readonly int most;

        public Window(int sourceLength, int length)
        {
            SourceLength = sourceLength;
            Length = length;
            double scale = (double)sourceLength / length;
            double widening = Math.Max(scale, 1.0);
            double support = 2.0 * widening;
            most = ((int)Math.Ceiling(support) * 2) + 1;
            firsts = new int[length];
            counts = new int[length];
            weights = new int[checked(length * most)];
            double[] exact = new double[most];
            for (int i = 0; i < length; i++)
            {
                double centre = (i + 0.5) * scale;
                int first = Math.Max((int)(centre - support + 0.5), 0);
                int count = Math.Min((int)(centre + support + 0.5), sourceLength) - first;
                double sum = 0.0;
                for (int k = 0; k < count; k++)
                {
                    exact[k] = Kernel((k + first - centre + 0.5) * (1.0 / widening));
                    sum += exact[k];
                }

                for (int k = 0; k < count; k++)
                {
                    double weight = sum == 0.0 ? exact[k] : exact[k] / sum;
                    weights[(i * most) + k] = (int)((weight < 0.0 ? -0.5 : 0.5) + (weight * (1 << Precision)));
                }

                firsts[i] = first;
                counts[i] = count;
            }
        }

        public int SourceLength { get; }

        public int Length { get; }

        public ReadOnlySpan<int> Weights(int place, out int first)
        {
            first = firsts[place];
            return weights.AsSpan(place * most, counts[place]);
        }
    }
}
