using System.Diagnostics;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// What share of the device's matrix peak a run reaches. The peak takes a second or two to measure, so it is measured once, between two
/// steps, and only in runs that go on for long after that.
/// </summary>
/// <param name="flops">Floating-point operations of a token, forward and backward.</param>
/// <param name="type">What the model computes in.</param>
/// <param name="devices">Processes that share each step, a device for each.</param>
/// <param name="before">Seconds that a run has gone on before the peak is measured.</param>
/// <param name="after">Seconds that it must have to go then.</param>
internal sealed class PeakShare(double flops, torch.ScalarType type, int devices, double before = 20, double after = 180)
{
    // Matrices of the side that is measured on a GPU, several times over.
    private const long FreeBytes = 4L << 30;
    private readonly long begun = Stopwatch.GetTimestamp();
    private double? peak;
    private bool tried;

    /// <summary>Between two steps: measures where it is time to and the run is worth it; the first step of this process is given.</summary>
    public void Between(int first, int done, int steps)
    {
        double passed = Stopwatch.GetElapsedTime(begun).TotalSeconds;
        if (tried || done <= first || passed < before)
        {
            return;
        }

        tried = true;
        torch.Device device = TorchLibrary.Device;
        bool gpu = device.type == DeviceType.CUDA;
        bool fits = !gpu || GpuMemory.Read() is { } memory && memory.Free >= FreeBytes;
        // Processes on one host share its cores: one of them cannot measure its own part alone.
        if ((devices == 1 || gpu) && fits && passed / (done - first) * (steps - done) >= after)
        {
            peak = MatrixPeak.Measure(type, device);
        }
    }

    /// <summary>The share that a speed is; null as long as the peak is not known.</summary>
    public double? Of(double tokensPerSecond) => peak is { } reached ? tokensPerSecond * flops / reached / devices : null;
}
