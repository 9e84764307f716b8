using System.Globalization;

namespace Hybrid.Runner.Reporting;

/// <summary>The range and the ticks of an axis. A logarithmic axis is in base-10 logarithms.</summary>
internal sealed record Scale(double Low, double High, bool Log, IReadOnlyList<(double Position, string Label)> Ticks)
{
    /// <summary>A scale that holds every finite value (positive ones on a logarithmic axis), with about <paramref name="count"/> ticks.</summary>
    public static Scale Over(IEnumerable<double> values, bool log, int count, bool tight)
    {
        var (low, high) = (double.PositiveInfinity, double.NegativeInfinity);
        foreach (double value in values)
        {
            double position = log ? Math.Log10(value) : value;
            if (double.IsFinite(position))
            {
                (low, high) = (Math.Min(low, position), Math.Max(high, position));
            }
        }

        if (low > high)
        {
            (low, high) = (0, 1);
        }

        // Values that agree to rounding still need a range to be drawn in.
        double least = Math.Max(1e-9, Math.Max(Math.Abs(low), Math.Abs(high)) * 1e-6);
        if (high - low < least)
        {
            double half = log ? 0.5 : Math.Max(Math.Abs(low) * 0.05, 0.5);
            (low, high) = (low - half, high + half);
        }

        if (!tight)
        {
            double margin = (high - low) * 0.06;
            (low, high) = (low - margin, high + margin);
        }

        return new Scale(low, high, log, log ? Logarithmic(low, high, count) : Linear(low, high, count));
    }

    /// <summary>The place of a value on this scale.</summary>
    public double At(double value) => Log ? Math.Log10(value) : value;

    private static List<(double, string)> Linear(double low, double high, int count)
    {
        double raw = (high - low) / Math.Max(1, count);
        double power = Math.Pow(10, Math.Floor(Math.Log10(raw)));
        double step = new[] { 1, 2, 5, 10 }.Select(factor => factor * power).First(step => step >= raw * 0.999);
        List<(double, string)> ticks = [];
        for (long i = (long)Math.Ceiling(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
        {
            ticks.Add((i * step, Label(i * step, step)));
        }

        return ticks;
    }

    private static List<(double, string)> Logarithmic(double low, double high, int count)
    {
        double decades = high - low;
        int[] digits = decades < 0.7 ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : decades < 2 ? [1, 2, 5] : [1];
        int stride = Math.Max(1, (int)Math.Ceiling(decades / Math.Max(1, count)));
        List<(double, string)> ticks = [];
        for (int power = (int)Math.Floor(low); power <= Math.Ceiling(high); power++)
        {
            foreach (int digit in digits)
            {
                double value = digit * Math.Pow(10, power);
                double position = Math.Log10(value);
                if (position >= low - 1e-9 && position <= high + 1e-9 && (digits.Length > 1 || power % stride == 0))
                {
                    ticks.Add((position, Label(value, value)));
                }
            }
        }

        // Within less than a digit's step no round number may fall: the ends say where one is.
        return ticks.Count >= 2
            ? ticks
            : [.. Linear(Math.Pow(10, low), Math.Pow(10, high), count).Where(tick => tick.Item1 > 0).Select(tick => (Math.Log10(tick.Item1), tick.Item2))];
    }

    /// <summary>A number in the least space: 12k, 1.5M, 0.02, 1e-7.</summary>
    private static string Label(double value, double step)
    {
        if (Math.Abs(value) < step * 1e-6)
        {
            return "0";
        }

        double size = Math.Abs(value);
        var (unit, suffix) = size switch
        {
            >= 1e12 => (1e12, "T"),
            >= 1e9 => (1e9, "B"),
            >= 1e6 => (1e6, "M"),
            >= 1e4 => (1e3, "k"),
            _ => (1.0, ""),
        };
        if (size < 1e-4)
        {
            return value.ToString("0.##e0", CultureInfo.InvariantCulture).Replace('-', '−');
        }

        int decimals = Math.Clamp((int)Math.Ceiling(-Math.Log10(step / unit) - 1e-9), 0, 8);
        return (value / unit).ToString("F" + decimals, CultureInfo.InvariantCulture).Replace('-', '−') + suffix;
    }
}
