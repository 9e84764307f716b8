using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>A safetensors file, memory-mapped. Its header is checked whole when it is opened.</summary>
/// <remarks>
/// Element types F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL, and U16, which torch has not and which is loaded as int32.
/// </remarks>
public sealed class SafeTensorsFile : ITensorFile
{
    private readonly MappedFile file;
    private readonly OrderedEntries<TensorEntry> entries = new();
    private readonly Dictionary<string, Extent> extents = new(StringComparer.Ordinal);
    private readonly OrderedEntries<string> metadata;

    private SafeTensorsFile(MappedFile file, SafeTensorsHeader header)
    {
        this.file = file;
        metadata = header.Metadata;
        foreach (SafeTensorsHeader.Tensor tensor in header.Tensors)
        {
            entries.TryAdd(tensor.Name, new TensorEntry(tensor.Name, tensor.Type.Torch, tensor.Shape));
            extents.Add(tensor.Name, new Extent(tensor.Type, header.DataStart + tensor.Begin, tensor.End - tensor.Begin));
        }
    }

    /// <inheritdoc/>
    public string Path => file.Path;

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, TensorEntry> Entries => entries;

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, string> Metadata => metadata;

    /// <summary>Opens a file and checks its header. Errors: <see cref="InputException"/>.</summary>
    public static SafeTensorsFile Open(string path)
    {
        MappedFile file = MappedFile.Open(path);
        try
        {
            return new SafeTensorsFile(file, SafeTensorsHeader.Read(file));
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public torch.Tensor Load(string name)
    {
        Find(name);
        return TensorReading.Whole(this, entries[name]);
    }

    /// <inheritdoc/>
    public void Read(string name, long first, torch.Tensor target)
    {
        Extent extent = Find(name);
        long count = TensorReading.Count(entries[name], first, target);
        if (extent.Type.Values == typeof(ushort))
        {
            TensorMemory.FillWidened(target, file, extent.Offset + (first * sizeof(ushort)), count);
        }
        else
        {
            int size = extent.Type.Bytes;
            TensorMemory.Fill(target, file, extent.Offset + (first * size), count * size, $"tensor \"{FileErrors.Show(name)}\"");
        }
    }

    /// <summary>The element type as the file names it, such as U16. Errors: <see cref="InputException"/> for an absent name.</summary>
    public string StoredType(string name) => Find(name).Type.SafeTensors;

    /// <summary>
    /// A range of a U16 tensor's elements in row-major order, without a copy; valid until <see cref="Dispose"/>.
    /// Errors: <see cref="InputException"/> for an absent tensor or another type, ArgumentOutOfRangeException outside it.
    /// </summary>
    public ReadOnlySpan<ushort> AsUInt16(string name, long start, int count) => As<ushort>(name, start, count);

    /// <summary>A range of an I32 tensor's elements; see <see cref="AsUInt16"/>.</summary>
    public ReadOnlySpan<int> AsInt32(string name, long start, int count) => As<int>(name, start, count);

    /// <summary>A range of an I64 tensor's elements; see <see cref="AsUInt16"/>.</summary>
    public ReadOnlySpan<long> AsInt64(string name, long start, int count) => As<long>(name, start, count);

    /// <summary>A range of an F32 tensor's elements; see <see cref="AsUInt16"/>.</summary>
    public ReadOnlySpan<float> AsSingle(string name, long start, int count) => As<float>(name, start, count);

    /// <inheritdoc/>
    public void Dispose() => file.Dispose();

    private unsafe ReadOnlySpan<T> As<T>(string name, long start, int count)
        where T : unmanaged
    {
        Extent extent = Find(name);
        if (extent.Type.Values != typeof(T))
        {
            throw new InputException($"{Path}: tensor \"{FileErrors.Show(name)}\" has element type {extent.Type.SafeTensors}; {TensorType.Of<T>().SafeTensors} is needed here.");
        }

        long all = extent.Bytes / sizeof(T);
        if (start < 0 || count < 0 || start > all - count)
        {
            throw new ArgumentOutOfRangeException(nameof(start), $"Elements {start} + {count} are outside \"{name}\" of {Path} ({all} elements).");
        }

        return file.Values<T>(extent.Offset + (start * sizeof(T)), count);
    }

    private Extent Find(string name) => extents.TryGetValue(name, out Extent extent)
        ? extent
        : throw new InputException($"{Path} has no tensor \"{FileErrors.Show(name)}\".");

    private readonly record struct Extent(TensorType Type, long Offset, long Bytes);
}
