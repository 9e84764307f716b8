using System.Runtime.InteropServices;
using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>The memory of CPU tensors, of any length and element type.</summary>
/// <remarks>
/// <c>Tensor.bytes</c> ends at 2 GiB and <c>storage&lt;T&gt;()</c> converts the element type,
/// so the address comes from libtorch's own stable C interface.
/// </remarks>
internal static unsafe partial class TensorMemory
{
    [LibraryImport("torch_cpu", EntryPoint = "aoti_torch_get_data_ptr")]
    private static partial int GetDataPointer(nint tensor, out nint pointer);

    /// <summary>The address of the first element of a contiguous CPU tensor; valid while the tensor lives.</summary>
    public static byte* Pointer(torch.Tensor tensor)
    {
        if (tensor.device_type != DeviceType.CPU || !tensor.is_contiguous())
        {
            throw new ArgumentException("Only a contiguous tensor on the CPU has memory that can be read in order.", nameof(tensor));
        }

        int error = GetDataPointer(tensor.Handle, out nint pointer);
        GC.KeepAlive(tensor);
        return error == 0 ? (byte*)pointer : throw new InvalidOperationException("libtorch gave no address for a tensor.");
    }

    /// <summary>A new contiguous CPU tensor whose values are not set.</summary>
    public static torch.Tensor Empty(torch.ScalarType type, long[] shape) => torch.empty(shape, dtype: type, device: torch.CPU);

    /// <summary>The tensor itself, or a contiguous copy of it on the CPU; a copy is the caller's to dispose.</summary>
    public static torch.Tensor OnCpu(torch.Tensor tensor)
    {
        if (tensor.device_type == DeviceType.CPU && tensor.is_contiguous())
        {
            return tensor;
        }

        using torch.Tensor detached = tensor.detach();
        using torch.Tensor moved = detached.cpu();
        return moved.contiguous();
    }

    /// <summary>Copies a range of a file into a tensor, checking that booleans are 0 or 1.</summary>
    public static void Fill(torch.Tensor tensor, MappedFile file, long offset, long bytes, string what)
    {
        if (bytes == 0)
        {
            return;
        }

        byte* target = Pointer(tensor);
        file.CopyTo(target, offset, bytes);
        if (tensor.dtype == torch.ScalarType.Bool)
        {
            CheckBooleans(target, bytes, file.Path, what, offset);
        }

        GC.KeepAlive(tensor);
    }

    /// <summary>Checks that bytes are 0 or 1: torch's behaviour is undefined for other booleans.</summary>
    public static void CheckBooleans(byte* source, long bytes, string path, string what, long offset)
    {
        for (long done = 0; done < bytes; done += int.MaxValue)
        {
            int bad = new ReadOnlySpan<byte>(source + done, (int)Math.Min(int.MaxValue, bytes - done)).IndexOfAnyExceptInRange((byte)0, (byte)1);
            if (bad >= 0)
            {
                throw new InputException($"{path}: {what} is boolean but has the byte {source[done + bad]} at offset {offset + done + bad}; only 0 and 1 are booleans.");
            }
        }
    }

    /// <summary>Widens unsigned 16-bit values of a file into an int32 tensor.</summary>
    public static void FillWidened(torch.Tensor tensor, MappedFile file, long offset, long count)
    {
        if (count == 0)
        {
            return;
        }

        // They are read into the upper half of the tensor and spread from below: no value is overwritten before it is taken.
        int* target = (int*)Pointer(tensor);
        ushort* source = (ushort*)target + count;
        file.CopyTo((byte*)source, offset, count * sizeof(ushort));
        for (long i = 0; i < count; i++)
        {
            target[i] = source[i];
        }

        GC.KeepAlive(tensor);
    }

    /// <summary>
    /// The product of the axes times the size of an element, or null when it does not fit, an axis is negative, or the
    /// product of the axes that are not 0 does not fit (torch computes strides from those).
    /// </summary>
    public static long? SizeInBytes(ReadOnlySpan<long> shape, int elementSize)
    {
        long product = elementSize;
        bool empty = false;
        foreach (long length in shape)
        {
            if (length < 0)
            {
                return null;
            }

            if (length == 0)
            {
                empty = true;
            }
            else if (product > long.MaxValue / length)
            {
                return null;
            }
            else
            {
                product *= length;
            }
        }

        return empty ? 0 : product;
    }
}
