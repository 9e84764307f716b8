using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>A tensor to be written: made when its turn comes and released after it, so that a file's tensors never stand in memory together.</summary>
/// <param name="Name">Its name in the file.</param>
/// <param name="Type">Its element type.</param>
/// <param name="Shape">The lengths of its axes.</param>
/// <param name="Load">Makes it, with that type and shape; what it makes is the caller's to dispose.</param>
public sealed record TensorSource(string Name, torch.ScalarType Type, long[] Shape, Func<torch.Tensor> Load)
{
    private const int Chunk = 1 << 26;

    /// <summary>Its size. Errors: OverflowException when no file holds it.</summary>
    public long Bytes => TensorMemory.SizeInBytes(Shape, TensorType.Of(Type).Bytes) ?? throw new OverflowException($"{Name} is too large.");

    /// <summary>Hands its elements on in row-major order, piece by piece.</summary>
    public unsafe void Copy(TensorBytes write)
    {
        long bytes = Bytes;
        if (bytes == 0)
        {
            return;
        }

        using torch.Tensor made = Load();
        if (made.dtype != Type || !made.shape.SequenceEqual(Shape))
        {
            throw new InvalidOperationException($"{Name} came as {made.dtype} {Hybrid.Shape.show(made.shape)} and must be {Type} {Hybrid.Shape.show(Shape)}.");
        }

        torch.Tensor ready = TensorMemory.OnCpu(made);
        try
        {
            byte* source = TensorMemory.Pointer(ready);
            for (long done = 0; done < bytes; done += Chunk)
            {
                write(new ReadOnlySpan<byte>(source + done, (int)Math.Min(Chunk, bytes - done)));
            }

            GC.KeepAlive(ready);
        }
        finally
        {
            if (!ReferenceEquals(ready, made))
            {
                ready.Dispose();
            }
        }
    }
}

/// <summary>Takes bytes that are valid during the call only.</summary>
public delegate void TensorBytes(ReadOnlySpan<byte> bytes);
