using System.Diagnostics;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Which element type this machine multiplies faster.</summary>
public static class Precisions
{
    /// <summary>Operations per second of square matrix products in a type, on the device's threads.</summary>
    public static double MatrixFlops(torch.ScalarType type, int size)
    {
        using var scope = torch.NewDisposeScope();
        torch.Tensor a = torch.ones(size, size).to(type), b = torch.ones(size, size).to(type);
        a.mm(b);
        double best = double.MaxValue;
        for (int i = 0; i < 3; i++)
        {
            long began = Stopwatch.GetTimestamp();
            a.mm(b);
            best = Math.Min(best, Stopwatch.GetElapsedTime(began).TotalSeconds);
        }

        return 2.0 * size * size * size / best;
    }

    /// <summary>Whether bf16 products are at least half as fast again as fp32 ones: then the study computes in bf16.</summary>
    public static bool HalfIsFaster() =>
        MatrixFlops(torch.ScalarType.BFloat16, 768) > 1.5 * MatrixFlops(torch.ScalarType.Float32, 768);
}
