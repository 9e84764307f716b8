using System.Diagnostics;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Which element type this machine multiplies faster.</summary>
internal static class Precisions
{
    private static readonly TimeSpan Shortest = TimeSpan.FromMilliseconds(250);

    /// <summary>Operations per second of square matrix products in a type, on the device that models live on.</summary>
    public static double MatrixFlops(torch.ScalarType type, int size)
    {
        using var scope = torch.NewDisposeScope();
        torch.Tensor a = torch.ones(size, size, device: TorchLibrary.Device).to(type), b = torch.ones(size, size, device: TorchLibrary.Device).to(type);
        double best = double.MaxValue;
        // A process that has just begun, or a machine that is busy for a moment, is slow at first: the best of many counts.
        for (long begun = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(begun) < Shortest;)
        {
            using var one = torch.NewDisposeScope();
            long started = Stopwatch.GetTimestamp();
            // Reading a value waits for the device.
            a.mm(b)[0, 0].cpu();
            best = Math.Min(best, Stopwatch.GetElapsedTime(started).TotalSeconds);
        }

        return 2.0 * size * size * size / best;
    }

    /// <summary>Whether bf16 products are at least half as fast again as fp32 ones: then computing in bf16 pays.</summary>
    public static bool HalfIsFaster() =>
        Pays(MatrixFlops(torch.ScalarType.Float32, 768), MatrixFlops(torch.ScalarType.BFloat16, 768));

    /// <summary>Whether computing in bf16 pays where products have these speeds.</summary>
    public static bool Pays(double single, double half) => half > 1.5 * single;
}
