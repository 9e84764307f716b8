using TorchSharp;

namespace Hybrid.Runner;

/// <summary>The memory that the work takes where it is done.</summary>
internal static class DeviceMemory
{
    /// <summary>Bytes of the GPU's memory that are taken, or of the host's by this process; null where the system does not say.</summary>
    public static long? Used() =>
        TorchLibrary.Device.type == DeviceType.CUDA ? GpuMemory.Read()?.Used
        : Environment.WorkingSet is > 0 and var bytes ? bytes
        : null;
}
