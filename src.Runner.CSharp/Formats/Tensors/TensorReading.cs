using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>What the readers of tensors have in common.</summary>
internal static class TensorReading
{
    private const long Piece = 1 << 21;

    /// <summary>A whole tensor of a file, which the caller owns.</summary>
    public static torch.Tensor Whole(ITensorFile file, TensorEntry entry)
    {
        torch.Tensor tensor = TensorMemory.Empty(entry.Type, entry.Shape);
        try
        {
            file.Read(entry.Name, 0, tensor);
            return tensor;
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
    }

    /// <summary>The number of elements to read. Errors: ArgumentException when the target does not fit.</summary>
    public static long Count(TensorEntry entry, long first, torch.Tensor target)
    {
        long count = target.numel();
        return target.dtype == entry.Type && first >= 0 && first <= entry.Count - count
            ? count
            : throw new ArgumentException($"{count} elements of {target.dtype} from {first} on are not in {entry.Name}: {entry.Count} of {entry.Type}.", nameof(target));
    }

    /// <summary>
    /// Copies a tensor of a file into a contiguous tensor of as many elements, of any type and on any device, in pieces, so that it
    /// stands in memory only once. Errors: <see cref="InputException"/>.
    /// </summary>
    public static void Into(ITensorFile file, string name, torch.Tensor target)
    {
        TensorEntry entry = file.Entries[name];
        using torch.Tensor flat = target.view(-1);
        if (flat.dtype == entry.Type && flat.device_type == DeviceType.CPU)
        {
            file.Read(name, 0, flat);
            return;
        }

        using torch.Tensor piece = TensorMemory.Empty(entry.Type, [Math.Min(Piece, entry.Count)]);
        for (long first = 0; first < entry.Count; first += Piece)
        {
            long count = Math.Min(Piece, entry.Count - first);
            using torch.Tensor part = piece.narrow(0, 0, count), place = flat.narrow(0, first, count);
            file.Read(name, first, part);
            place.copy_(part);
        }
    }

    /// <summary>Whether two tensors of a file hold the same numbers (of any type), compared in pieces. Errors: <see cref="InputException"/>.</summary>
    public static bool Same(ITensorFile file, string one, string other)
    {
        TensorEntry a = file.Entries[one], b = file.Entries[other];
        if (!a.Shape.SequenceEqual(b.Shape))
        {
            return false;
        }

        using torch.Tensor left = TensorMemory.Empty(a.Type, [Math.Min(Piece, a.Count)]), right = TensorMemory.Empty(b.Type, [Math.Min(Piece, b.Count)]);
        for (long first = 0; first < a.Count; first += Piece)
        {
            using DisposeScope scope = torch.NewDisposeScope();
            long count = Math.Min(Piece, a.Count - first);
            torch.Tensor l = left.narrow(0, 0, count), r = right.narrow(0, 0, count);
            file.Read(one, first, l);
            file.Read(other, first, r);
            if (!l.eq(r).all().item<bool>())
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Whether a small tensor holds zeros only. Errors: <see cref="InputException"/>.</summary>
    public static bool IsZero(ITensorFile file, string name)
    {
        using DisposeScope scope = torch.NewDisposeScope();
        return !file.Load(name).any().item<bool>();
    }
}
