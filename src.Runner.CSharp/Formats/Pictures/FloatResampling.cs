namespace Hybrid.Runner.Formats;

/// <summary>
/// Antialiased resampling that keeps fractions, channel by channel, as Pillow does it with pictures of mode F: weights and sums in
/// double precision, rows first, then columns, single precision after each.
/// </summary>
internal static class FloatResampling
{
    private const int Channels = 3;

    /// <summary>
    /// The channels [3, newHeight, newWidth] of a picture, in [0, 255] but for what the filter swings beyond.
    /// </summary>
    public static float[] Resize(Picture picture, int newWidth, int newHeight, ResamplingFilter filter)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(newWidth);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(newHeight);
        (int width, int height) = (picture.Width, picture.Height);
        float[] planes = Planes(picture);
        if (newWidth != width)
        {
            planes = Rows(planes, width, Channels * height, newWidth, filter);
        }

        return newHeight == height ? planes : Columns(planes, newWidth, height, newHeight, filter);
    }

    /// <summary>The channels [3, height, width] of a picture.</summary>
    public static float[] Planes(Picture picture)
    {
        int count = picture.Width * picture.Height;
        float[] planes = new float[Channels * count];
        for (int i = 0; i < count; i++)
        {
            for (int channel = 0; channel < Channels; channel++)
            {
                planes[(channel * count) + i] = picture.Pixels[(i * Channels) + channel];
            }
        }

        return planes;
    }

    private static float[] Rows(float[] source, int width, int rows, int newWidth, ResamplingFilter filter)
    {
        float[] result = new float[newWidth * rows];
        double[] weights = new double[filter.Most(width, newWidth)];
        for (int x = 0; x < newWidth; x++)
        {
            int count = filter.Weights(width, width, newWidth, x, weights, out int first);
            for (int row = 0; row < rows; row++)
            {
                ReadOnlySpan<float> values = source.AsSpan((row * width) + first, count);
                double sum = 0.0;
                for (int k = 0; k < values.Length; k++)
                {
                    sum += values[k] * weights[k];
                }

                result[(row * newWidth) + x] = (float)sum;
            }
        }

        return result;
    }

    private static float[] Columns(float[] source, int width, int height, int newHeight, ResamplingFilter filter)
    {
        float[] result = new float[Channels * newHeight * width];
        double[] weights = new double[filter.Most(height, newHeight)], sums = new double[width];
        for (int y = 0; y < newHeight; y++)
        {
            int count = filter.Weights(height, height, newHeight, y, weights, out int first);
            for (int channel = 0; channel < Channels; channel++)
            {
                Array.Clear(sums);
                for (int k = 0; k < count; k++)
                {
                    ReadOnlySpan<float> row = source.AsSpan(((channel * height) + first + k) * width, width);
                    double weight = weights[k];
                    for (int x = 0; x < row.Length; x++)
                    {
                        sums[x] += row[x] * weight;
                    }
                }

                Span<float> target = result.AsSpan(((channel * newHeight) + y) * width, width);
                for (int x = 0; x < target.Length; x++)
                {
                    target[x] = (float)sums[x];
                }
            }
        }

        return result;
    }
}
