using System.Diagnostics;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Which element type this machine multiplies faster.</summary>
public static class Precisions
{
    private const double Seconds = 0.25;

    /// <summary>Operations per second of square matrix products in a type, on the device that models live on.</summary>
    public static double MatrixFlops(torch.ScalarType type, int size) => MatrixPeak.Measure(type, TorchLibrary.Device, size, Seconds);

    /// <summary>Whether bf16 products are at least half as fast again as fp32 ones: then computing in bf16 pays.</summary>
    public static bool HalfIsFaster() =>
        Pays(MatrixFlops(torch.ScalarType.Float32, 768), MatrixFlops(torch.ScalarType.BFloat16, 768));

    /// <summary>Whether computing in bf16 pays where products have these speeds.</summary>
    public static bool Pays(double single, double half) => half > 1.5 * single;
}
