using System.Runtime.InteropServices;
using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>An array in NumPy's .npy format (versions 1 to 3), memory-mapped.</summary>
/// <remarks>Element types &lt;f8 &lt;f4 &lt;f2 &lt;i8 &lt;i4 &lt;i2 |i1 |u1 |b1, and &lt;u2, which is loaded as int32. C and Fortran order.</remarks>
public sealed class NpyFile : IDisposable
{
    private const int MaximumRank = 32;
    private readonly MappedFile file;
    private readonly long dataStart;
    private readonly int elementSize;

    private NpyFile(MappedFile file, NpyHeader header, long dataStart)
    {
        this.file = file;
        this.dataStart = dataStart;
        StoredType = header.Type;
        FortranOrder = header.FortranOrder;
        Shape = header.Shape;
        TensorType type = TensorType.InNpy(header.Type) ?? throw new InputException(
            $"{file.Path}: its element type '{FileErrors.Show(header.Type)}' is not one of <f8 <f4 <f2 <i8 <i4 <i2 <u2 |i1 |u1 |b1.");
        (ElementType, elementSize) = (type.Torch, type.Bytes);
        if (Shape.Length > MaximumRank)
        {
            throw new InputException($"{file.Path}: the array has {Shape.Length} axes; {MaximumRank} are the most.");
        }

        long bytes = TensorMemory.SizeInBytes(Shape, elementSize)
            ?? throw new InputException($"{file.Path}: the shape {Hybrid.Shape.show(Shape)} is too large for any file.");
        long present = file.Length - dataStart;
        if (bytes != present)
        {
            throw new InputException(
                $"{file.Path}: the shape {Hybrid.Shape.show(Shape)} of {header.Type} takes {bytes} bytes and {present} follow the header (offset {dataStart}).");
        }
    }

    /// <summary>The file's path.</summary>
    public string Path => file.Path;

    /// <summary>The lengths of the axes.</summary>
    public long[] Shape { get; }

    /// <summary>The element type that <see cref="Load"/> gives.</summary>
    public torch.ScalarType ElementType { get; }

    /// <summary>The element type as NumPy names it, such as &lt;i8.</summary>
    public string StoredType { get; }

    /// <summary>Whether the first axis changes fastest in the file.</summary>
    public bool FortranOrder { get; }

    /// <summary>Opens a file and checks its header. Errors: <see cref="InputException"/>.</summary>
    public static NpyFile Open(string path)
    {
        MappedFile file = MappedFile.Open(path);
        try
        {
            NpyHeader header = NpyHeader.Read(file, out long dataStart);
            return new NpyFile(file, header, dataStart);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>A contiguous CPU tensor, which the caller owns, with the array's values.</summary>
    public torch.Tensor Load()
    {
        long[] stored = FortranOrder ? [.. Shape.Reverse()] : Shape;
        torch.Tensor tensor = TensorMemory.Empty(ElementType, stored);
        try
        {
            long bytes = file.Length - dataStart;
            if (StoredType == "<u2")
            {
                if (bytes > 0)
                {
                    TensorMemory.FillWidened(tensor, file, dataStart, bytes / sizeof(ushort));
                }
            }
            else
            {
                TensorMemory.Fill(tensor, file, dataStart, bytes, "the array");
            }

            if (!FortranOrder || Shape.Length < 2)
            {
                return tensor;
            }

            using torch.Tensor reversed = tensor.permute([.. Enumerable.Range(0, Shape.Length).Reverse().Select(axis => (long)axis)]);
            torch.Tensor ordered = reversed.contiguous();
            tensor.Dispose();
            return ordered;
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Copies row <paramref name="row"/> of an array of whole numbers [N, L] into <paramref name="target"/> of length L, from
    /// the mapped file. Errors: <see cref="InputException"/> when the array is not one of whole numbers in C order with two
    /// axes, or when a number does not fit into 32 bits; ArgumentOutOfRangeException outside it.
    /// </summary>
    public void ReadRow(long row, Span<int> target)
    {
        if (Shape.Length != 2 || FortranOrder || StoredType is not ("<i8" or "<i4" or "<u2"))
        {
            throw new InputException(
                $"{Path} holds {StoredType} {Hybrid.Shape.show(Shape)}{(FortranOrder ? " in Fortran order" : "")}; rows of ids are <i8, <i4 or <u2 [N, L] in C order.");
        }

        ArgumentOutOfRangeException.ThrowIfNegative(row);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(row, Shape[0]);
        int length = checked((int)Shape[1]);
        ArgumentOutOfRangeException.ThrowIfNotEqual(target.Length, length);
        long offset = dataStart + (row * length * elementSize);
        switch (StoredType)
        {
            case "<i4":
                file.Values<int>(offset, length).CopyTo(target);
                break;
            case "<u2":
                ReadOnlySpan<ushort> narrow = file.Values<ushort>(offset, length);
                for (int i = 0; i < length; i++)
                {
                    target[i] = narrow[i];
                }

                break;
            default:
                ReadOnlySpan<long> wide = file.Values<long>(offset, length);
                for (int i = 0; i < length; i++)
                {
                    target[i] = wide[i] is >= int.MinValue and <= int.MaxValue
                        ? (int)wide[i]
                        : throw new InputException($"{Path}: row {row}, column {i} holds {wide[i]}, which is no id (offset {offset + (8L * i)}).");
                }

                break;
        }
    }

    /// <summary>Writes a tensor of any device and strides. Types as for reading, but for &lt;u2.</summary>
    public static unsafe void Write(string path, torch.Tensor tensor)
    {
        string type = TensorType.Of(tensor.dtype).Npy ?? throw new NotSupportedException($"NumPy has no {tensor.dtype}; convert the tensor first.");
        torch.Tensor ready = TensorMemory.OnCpu(tensor);
        try
        {
            AtomicFile.Write(path, stream =>
            {
                stream.Write(NpyHeader.Format(type, ready.shape));
                long bytes = ready.numel() * TensorType.Of(ready.dtype).Bytes;
                byte* source = bytes == 0 ? null : TensorMemory.Pointer(ready);
                const int chunk = 1 << 26;
                for (long done = 0; done < bytes; done += chunk)
                {
                    stream.Write(new ReadOnlySpan<byte>(source + done, (int)Math.Min(chunk, bytes - done)));
                }
            });
        }
        finally
        {
            if (!ReferenceEquals(ready, tensor))
            {
                ready.Dispose();
            }
        }
    }

    /// <summary>Writes values in row-major order; T is ushort or a type that torch has.</summary>
    /// <exception cref="ArgumentException">The shape has another number of elements.</exception>
    public static void Write<T>(string path, ReadOnlyMemory<T> values, params long[] shape)
        where T : unmanaged
    {
        if (TensorMemory.SizeInBytes(shape, 1) != values.Length)
        {
            throw new ArgumentException($"{values.Length} values do not fill the shape {Hybrid.Shape.show(shape)}.", nameof(shape));
        }

        AtomicFile.Write(path, stream =>
        {
            stream.Write(NpyHeader.Format(TensorType.Of<T>().Npy!, shape));
            stream.Write(MemoryMarshal.AsBytes(values.Span));
        });
    }

    /// <inheritdoc/>
    public void Dispose() => file.Dispose();
}
