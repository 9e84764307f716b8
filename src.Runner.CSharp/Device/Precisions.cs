using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Which element type this machine multiplies faster.</summary>
internal static class Precisions
{
    private const double Seconds = 0.25;
    private const int Small = 192, Large = 768;

    /// <summary>Operations per second of square matrix products in a type, on the device that models live on.</summary>
    public static double MatrixFlops(torch.ScalarType type, int size) => MatrixPeak.Measure(type, TorchLibrary.Device, size, Seconds);

    /// <summary>Whether bf16 products are at least half as fast again as fp32 ones: then computing in bf16 pays.</summary>
    public static bool HalfIsFaster()
    {
        // Where a processor has no instructions for bf16, a product takes seconds, and a small one tells.
        (double small, double smallHalf) = Speeds(Small);
        return smallHalf > small / 4 && Speeds(Large) is var (single, half) && Pays(single, half);
    }

    /// <summary>Whether computing in bf16 pays where products have these speeds.</summary>
    public static bool Pays(double single, double half) => half > 1.5 * single;

    private static (double Single, double Half) Speeds(int side) => (MatrixFlops(torch.float32, side), MatrixFlops(torch.bfloat16, side));
}
