using System.Diagnostics;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>What this machine's matrix products reach: what other figures are a share of.</summary>
internal static class MatrixPeak
{
    private const int LeastSide = 64, CpuSide = 2048, GpuSide = 8192;

    // Where a processor has no instructions for a type, a product of the usual side takes a minute, and small ones are faster.
    private static readonly TimeSpan longEnough = TimeSpan.FromMilliseconds(20);

    /// <summary>Floating-point operations a second in square matrix products of a side that suits the device, the best of several.</summary>
    public static double Measure(torch.ScalarType type, torch.Device device)
    {
        if (device.type != DeviceType.CPU)
        {
            return Measure(type, device, GpuSide, seconds: 1);
        }

        double best = 0;
        for (int side = LeastSide; side < CpuSide; side *= 2)
        {
            double reached = Measure(type, device, side, seconds: 0.1);
            best = Math.Max(best, reached);
            if (2.0 * side * side * side / reached > longEnough.TotalSeconds)
            {
                return best;
            }
        }

        return Math.Max(best, Measure(type, device, CpuSide, seconds: 2));
    }

    /// <summary>The same for a side, the best of those that begin within so many seconds: one where a product takes longer.</summary>
    public static double Measure(torch.ScalarType type, torch.Device device, int side, double seconds)
    {
        using torch.Tensor a = Random(), b = Random();
        double best = double.PositiveInfinity;
        long start = Stopwatch.GetTimestamp();
        do
        {
            Synchronize(device);
            long begun = Stopwatch.GetTimestamp();
            using (a.matmul(b))
            {
                Synchronize(device);
            }

            best = Math.Min(best, Stopwatch.GetElapsedTime(begun).TotalSeconds);
        }
        while (Stopwatch.GetElapsedTime(start).TotalSeconds < seconds);

        return 2.0 * side * side * side / best;

        torch.Tensor Random()
        {
            using torch.Tensor values = torch.rand(side, side, device: device);
            return values.to(type);
        }
    }

    /// <summary>Waits for what a GPU was given to do.</summary>
    public static void Synchronize(torch.Device device)
    {
        if (device.type == DeviceType.CUDA)
        {
            torch.cuda.synchronize();
        }
    }
}
