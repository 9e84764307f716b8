namespace Hybrid.Runner.Formats;

/// <summary>
/// Antialiased resampling of 8-bit pictures as Pillow does it: a kernel, its support widened by the factor of shrinking; rows first,
/// then columns, 22-bit fixed-point weights, rounded to 8 bits after each.
/// </summary>
internal static class Resampling
{
    private const int Channels = 3;
    private const int Precision = 32 - 8 - 2;

    /// <summary>
    /// Resizes interleaved RGB pixels [height, width, 3] to [newHeight, newWidth, 3]. With a <paramref name="reducingGap"/>, pictures are
    /// first shrunk by whole factors, so that they stay at least so many times as large as they shall be; faster and less exact.
    /// </summary>
    public static byte[] Bicubic(ReadOnlySpan<byte> pixels, int width, int height, int newWidth, int newHeight, double? reducingGap = null) =>
        Resize(pixels, width, height, newWidth, newHeight, ResamplingFilter.Bicubic, reducingGap);

    /// <summary>The same with any filter.</summary>
    public static byte[] Resize(
        ReadOnlySpan<byte> pixels, int width, int height, int newWidth, int newHeight, ResamplingFilter filter, double? reducingGap = null)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(pixels.Length, checked(width * height * Channels));
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(newWidth);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(newHeight);
        double across = width, down = height;
        if (reducingGap is { } gap)
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(gap, 1.0, nameof(reducingGap));
            int acrossBy = Math.Max(1, (int)((double)width / newWidth / gap)), downBy = Math.Max(1, (int)((double)height / newHeight / gap));
            if (acrossBy > 1 || downBy > 1)
            {
                pixels = Reduce(pixels, width, height, acrossBy, downBy);
                // Pillow hands the part of the last block on in single precision.
                (across, down) = ((float)((double)width / acrossBy), (float)((double)height / downBy));
                (width, height) = (Ceiling(width, acrossBy), Ceiling(height, downBy));
            }
        }

        byte[] rows = newWidth == width && across == width ? pixels.ToArray() : Rows(pixels, height, new Window(filter, width, across, newWidth));
        return newHeight == height && down == height ? rows : Columns(rows, newWidth, new Window(filter, height, down, newHeight));
    }

    /// <summary>
    /// Means of blocks of pixels, narrower ones at the right and the lower edge, as Pillow's Image.reduce makes them: 32-bit fixed-point
    /// reciprocals, half of the block's size added before.
    /// </summary>
    public static byte[] Reduce(ReadOnlySpan<byte> pixels, int width, int height, int across, int down)
    {
        int newWidth = Ceiling(width, across), newHeight = Ceiling(height, down), target = 0;
        byte[] result = new byte[newWidth * newHeight * Channels];
        for (int y = 0; y < newHeight; y++)
        {
            int top = y * down, rows = Math.Min(down, height - top);
            for (int x = 0; x < newWidth; x++)
            {
                int left = x * across, columns = Math.Min(across, width - left), size = rows * columns;
                uint red = (uint)size / 2, green = red, blue = red, reciprocal = (uint)(4294967296f / ((uint)size << 8));
                for (int row = top; row < top + rows; row++)
                {
                    ReadOnlySpan<byte> block = pixels.Slice(((row * width) + left) * Channels, columns * Channels);
                    for (int i = 0; i < block.Length; i += Channels)
                    {
                        red += block[i];
                        green += block[i + 1];
                        blue += block[i + 2];
                    }
                }

                result[target++] = (byte)((red * reciprocal) >> 24);
                result[target++] = (byte)((green * reciprocal) >> 24);
                result[target++] = (byte)((blue * reciprocal) >> 24);
            }
        }

        return result;
    }

    private static int Ceiling(int length, int by) => (length + by - 1) / by;

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

    /// <summary>For each place along the new axis, the places along the old one that it is made of, and their weights.</summary>
    private sealed class Window
    {
        private readonly int[] firsts;
        private readonly int[] counts;
        private readonly int[] weights;
        private readonly int most;

        /// <summary>Places along an axis of which only the first <paramref name="extent"/>, not always whole ones, hold the picture.</summary>
        public Window(ResamplingFilter filter, int sourceLength, double extent, int length)
        {
            SourceLength = sourceLength;
            Length = length;
            most = filter.Most(extent, length);
            firsts = new int[length];
            counts = new int[length];
            weights = new int[checked(length * most)];
            double[] exact = new double[most];
            for (int i = 0; i < length; i++)
            {
                counts[i] = filter.Weights(sourceLength, extent, length, i, exact, out firsts[i]);
                for (int k = 0; k < counts[i]; k++)
                {
                    weights[(i * most) + k] = (int)((exact[k] < 0.0 ? -0.5 : 0.5) + (exact[k] * (1 << Precision)));
                }
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
