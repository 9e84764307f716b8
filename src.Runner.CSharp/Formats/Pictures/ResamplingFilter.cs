namespace Hybrid.Runner.Formats;

/// <summary>A kernel of antialiased resampling, as Pillow defines it: its support is widened by the factor of shrinking.</summary>
internal sealed class ResamplingFilter
{
    private readonly Func<double, double> kernel;

    private ResamplingFilter(string name, double support, Func<double, double> kernel)
    {
        (Name, Support) = (name, support);
        this.kernel = kernel;
    }

    /// <summary>Linear interpolation.</summary>
    public static ResamplingFilter Bilinear { get; } = new("bilinear", 1.0, Triangle);

    /// <summary>Cubic convolution with a = −0.5.</summary>
    public static ResamplingFilter Bicubic { get; } = new("bicubic", 2.0, Cubic);

    /// <summary>The windowed sinc of three lobes.</summary>
    public static ResamplingFilter Lanczos { get; } = new("lanczos", 3.0, Windowed);

    /// <summary>Its name.</summary>
    public string Name { get; }

    /// <summary>How far from the middle the kernel is not 0.</summary>
    public double Support { get; }

    /// <summary>The filter of a name. Errors: ArgumentOutOfRangeException for another name.</summary>
    public static ResamplingFilter Named(string name) => name switch
    {
        "bilinear" => Bilinear,
        "bicubic" => Bicubic,
        "lanczos" => Lanczos,
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "The filters are bilinear, bicubic and lanczos."),
    };

    /// <summary>
    /// The places along an axis of <paramref name="sourceLength"/> that place <paramref name="place"/> of the new axis is made of, from
    /// <paramref name="first"/> on, and their weights, which sum to 1. Only the first <paramref name="extent"/> places, not always whole
    /// ones, hold the picture.
    /// </summary>
    /// <param name="weights">Filled from the start; has room for <see cref="Most"/>.</param>
    /// <returns>How many places there are.</returns>
    public int Weights(int sourceLength, double extent, int length, int place, Span<double> weights, out int first)
    {
        double scale = extent / length, widening = Math.Max(scale, 1.0), support = Support * widening;
        double centre = (place + 0.5) * scale;
        first = Math.Max((int)(centre - support + 0.5), 0);
        int count = Math.Min((int)(centre + support + 0.5), sourceLength) - first;
        double sum = 0.0;
        for (int k = 0; k < count; k++)
        {
            weights[k] = kernel((k + first - centre + 0.5) * (1.0 / widening));
            sum += weights[k];
        }

        for (int k = 0; sum != 0.0 && k < count; k++)
        {
            weights[k] /= sum;
        }

        return count;
    }

    /// <summary>The most places that any place of the new axis is made of.</summary>
    public int Most(double extent, int length) => ((int)Math.Ceiling(Support * Math.Max(extent / length, 1.0)) * 2) + 1;

    private static double Triangle(double x) => Math.Max(0.0, 1.0 - Math.Abs(x));

    private static double Cubic(double x)
    {
        const double a = -0.5;
        x = Math.Abs(x);
        return x < 1.0 ? ((((a + 2.0) * x) - (a + 3.0)) * x * x) + 1.0
            : x < 2.0 ? ((((x - 5.0) * x) + 8.0) * x - 4.0) * a
            : 0.0;
    }

    private static double Windowed(double x) => x is >= -3.0 and < 3.0 ? Sinc(x) * Sinc(x / 3.0) : 0.0;

    private static double Sinc(double x) => x == 0.0 ? 1.0 : Math.Sin(x * Math.PI) / (x * Math.PI);
}
