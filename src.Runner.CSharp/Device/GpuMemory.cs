using System.Runtime.InteropServices;
using System.Text;

namespace Hybrid.Runner;

/// <summary>The first GPU that this process may use, as its driver describes it.</summary>
/// <param name="Name">Such as NVIDIA H200.</param>
/// <param name="Total">Bytes of its memory.</param>
/// <param name="Free">Bytes that nobody holds.</param>
/// <remarks>libtorch keeps what it once took, so what is not free after some work is the most that the work held, with what other processes hold.</remarks>
internal sealed unsafe record GpuMemory(string Name, long Total, long Free)
{
    private const int Success = 0, LongestName = 256;

    /// <summary>Bytes that this process and others hold.</summary>
    public long Used => Total - Free;

    /// <summary>The library of the GPU's driver.</summary>
    internal static string Driver => OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1";

    /// <summary>Asks the driver; null where there is none, or no GPU.</summary>
    public static GpuMemory? Read() => Read(Driver);

    /// <summary>The same of a driver's library under another name.</summary>
    internal static GpuMemory? Read(string driver)
    {
        if (!NativeLibrary.TryLoad(driver, out nint library))
        {
            return null;
        }

        // The library stays loaded: libtorch uses it too.
        try
        {
            var start = (delegate* unmanaged<uint, int>)Entry("cuInit");
            var device = (delegate* unmanaged<int*, int, int>)Entry("cuDeviceGet");
            var name = (delegate* unmanaged<byte*, int, int, int>)Entry("cuDeviceGetName");
            var retain = (delegate* unmanaged<nint*, int, int>)Entry("cuDevicePrimaryCtxRetain");
            var release = (delegate* unmanaged<int, int>)Entry("cuDevicePrimaryCtxRelease_v2");
            var push = (delegate* unmanaged<nint, int>)Entry("cuCtxPushCurrent_v2");
            var pop = (delegate* unmanaged<nint*, int>)Entry("cuCtxPopCurrent_v2");
            var memory = (delegate* unmanaged<nuint*, nuint*, int>)Entry("cuMemGetInfo_v2");

            int first;
            nint context;
            byte* text = stackalloc byte[LongestName];
            if (start(0) != Success || device(&first, 0) != Success || name(text, LongestName, first) != Success || retain(&context, first) != Success)
            {
                return null;
            }

            // The device's own context, which libtorch computes in; it need not be this thread's.
            nuint free = 0, total = 0;
            bool read = push(context) == Success;
            if (read)
            {
                read = memory(&free, &total) == Success;
                nint popped;
                pop(&popped);
            }

            release(first);
            return read ? new(Encoding.UTF8.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(text)), (long)total, (long)free) : null;
        }
        catch (EntryPointNotFoundException)
        {
            return null;
        }

        nint Entry(string function) => NativeLibrary.GetExport(library, function);
    }
}
