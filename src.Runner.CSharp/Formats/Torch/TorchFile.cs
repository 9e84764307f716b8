using System.Globalization;
using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>
/// A PyTorch checkpoint (.pt, .pth, .ckpt, .bin) as torch.save writes it, in the zip format and the older one without zip.
/// Nothing in it is executed; tensors of any device are read to the CPU.
/// </summary>
/// <remarks>
/// The tensors are those of the state dict: what stands under "state_dict", "model", "model_state_dict" or "av_model_sd", or else
/// the file itself. "module." is stripped from the front of names as often as it stands there, "model." where every name has it, and what
/// torch.compile and FSDP put in ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.") wherever it stands.
/// </remarks>
public sealed class TorchFile : ITensorFile
{
    private static readonly string[] Places = ["state_dict", "model", "model_state_dict", "av_model_sd"];
    private static readonly string[] Wrappers = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];

    private readonly MappedFile file;
    private readonly TorchContent content;
    private readonly OrderedEntries<TensorEntry> entries = new();
    private readonly OrderedEntries<string> metadata = new();
    private readonly Dictionary<string, PickleTensor> tensors = new(StringComparer.Ordinal);

    private TorchFile(MappedFile file, TorchContent content, bool asNamed)
    {
        this.file = file;
        this.content = content;
        AddTensors(asNamed);
        AddMetadata();
    }

    /// <inheritdoc/>
    public string Path => file.Path;

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, TensorEntry> Entries => entries;

    /// <summary>The scalars beside the state dict, such as epoch, step and name, as text.</summary>
    public IReadOnlyDictionary<string, string> Metadata => metadata;

    /// <summary>
    /// The whole content: null, bool, long, double, string, byte[], object?[] (tuple), List&lt;object?&gt;,
    /// <see cref="PickleDict"/>, <see cref="PickleTensor"/>, <see cref="PickleStorage"/>, <see cref="PickleName"/> or
    /// <see cref="PickleDevice"/>. It may contain itself.
    /// </summary>
    public object? Root => content.Root;

    /// <summary>Opens a checkpoint and finds its state dict. Errors: <see cref="InputException"/>.</summary>
    /// <param name="path">The file.</param>
    /// <param name="asNamed">Leaves the names as they are, as an index of several files has them.</param>
    public static TorchFile Open(string path, bool asNamed = false)
    {
        MappedFile file = MappedFile.Open(path);
        try
        {
            if (file.Length < 4)
            {
                throw new InputException($"{path} is not a PyTorch checkpoint: it has {file.Length} bytes.");
            }

            ReadOnlySpan<byte> start = file.Bytes(0, 4);
            TorchContent content = start.SequenceEqual("PK\u0003\u0004"u8) ? TorchZipFile.Read(file)
                : start[0] == 0x80 ? TorchLegacyFile.Read(file)
                : throw new InputException($"{path} is not a PyTorch checkpoint: it begins neither as a zip file nor as a pickle.");
            return new TorchFile(file, content, asNamed);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public torch.Tensor Load(string name) => Load(Find(name), name);

    /// <inheritdoc/>
    public void Read(string name, long first, torch.Tensor target)
    {
        PickleTensor tensor = Find(name);
        TensorReading.Count(entries[name], first, target);
        RequireStored(tensor, name);
        Read(tensor, name, first, target);
    }

    /// <summary>A contiguous CPU copy, which the caller owns, of any tensor of <see cref="Root"/>.</summary>
    /// <param name="tensor">The tensor.</param>
    /// <param name="name">What messages call it.</param>
    internal torch.Tensor Load(PickleTensor tensor, string name)
    {
        RequireStored(tensor, name);
        torch.Tensor result = TensorMemory.Empty(tensor.Storage.Type, tensor.Shape);
        try
        {
            Read(tensor, name, 0, result);
            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => file.Dispose();

    private static bool IsContiguous(PickleTensor tensor)
    {
        long expected = 1;
        for (int axis = tensor.Shape.Length - 1; axis >= 0; axis--)
        {
            if (tensor.Shape[axis] != 1 && tensor.Strides[axis] != expected)
            {
                return false;
            }

            expected *= tensor.Shape[axis];
        }

        return true;
    }

    private PickleTensor Find(string name) => tensors.TryGetValue(name, out PickleTensor? tensor)
        ? tensor
        : throw new InputException($"{Path} has no tensor \"{FileErrors.Show(name)}\".");

    /// <summary>A stride of 0 repeats elements, so a few bytes of a file could claim any amount of memory.</summary>
    private void RequireStored(PickleTensor tensor, string name)
    {
        long bytes = TensorMemory.SizeInBytes(tensor.Shape, TensorType.Of(tensor.Storage.Type).Bytes) ?? throw new ArgumentException("The tensor is of no file.", nameof(tensor));
        if (bytes > (16 * file.Length) + (1 << 20))
        {
            throw new InputException(
                $"{Path}: tensor \"{FileErrors.Show(name)}\" repeats {tensor.Storage.Count} elements into {Shape.show(tensor.Shape)}, far more than the whole file; save a contiguous copy of it.");
        }
    }

    private unsafe void Read(PickleTensor tensor, string name, long first, torch.Tensor target)
    {
        long count = target.numel();
        if (count == 0)
        {
            return;
        }

        string what = $"tensor \"{FileErrors.Show(name)}\"";
        int size = TensorType.Of(tensor.Storage.Type).Bytes;
        long origin = content.Storages[tensor.Storage.Key];
        if (IsContiguous(tensor))
        {
            TensorMemory.Fill(target, file, origin + ((tensor.Offset + first) * size), count * size, what);
            return;
        }

        byte* result = TensorMemory.Pointer(target);
        Gather(file.Pointer(origin, tensor.Storage.Count * size) + (tensor.Offset * size), result, first, count, tensor.Shape, tensor.Strides, size);
        if (target.dtype == torch.ScalarType.Bool)
        {
            TensorMemory.CheckBooleans(result, count, Path, what, origin);
        }

        GC.KeepAlive(target);
        file.Release(origin, tensor.Storage.Count * size);
    }

    /// <summary>Copies elements of a strided view, one by one from number <paramref name="first"/> on, into row-major order. No axis is empty.</summary>
    private static unsafe void Gather(byte* source, byte* target, long first, long count, long[] shape, long[] strides, int size)
    {
        long[] index = new long[shape.Length];
        for (int axis = shape.Length - 1; axis >= 0; axis--)
        {
            (first, index[axis]) = Math.DivRem(first, shape[axis]);
            source += index[axis] * strides[axis] * size;
        }

        for (long done = 0; done < count; done++)
        {
            Buffer.MemoryCopy(source, target, size, size);
            target += size;
            int axis = shape.Length - 1;
            while (axis >= 0 && ++index[axis] == shape[axis])
            {
                source -= (shape[axis] - 1) * strides[axis] * size;
                index[axis--] = 0;
            }

            if (axis >= 0)
            {
                source += strides[axis] * size;
            }
        }
    }

    private void AddTensors(bool asNamed)
    {
        PickleDict state = FindState();
        List<KeyValuePair<string, PickleTensor>> found = [];
        foreach ((object? key, object? value) in state.Items)
        {
            if (value is PickleTensor tensor)
            {
                found.Add(key is string name
                    ? new(asNamed ? name : Strip(name), tensor)
                    : throw new InputException($"{Path}: a tensor of the state dict has no name but a key that is not text."));
            }
        }

        bool wrapped = !asNamed && found.Count > 0 && found.TrueForAll(pair => pair.Key.StartsWith("model.", StringComparison.Ordinal));
        foreach ((string key, PickleTensor tensor) in found)
        {
            string name = wrapped ? Strip(key["model.".Length..]) : key;
            if (!entries.TryAdd(name, new TensorEntry(name, tensor.Storage.Type, tensor.Shape)))
            {
                throw new InputException($"{Path}: two tensors are called \"{FileErrors.Show(name)}\" once prefixes such as module. are stripped.");
            }

            tensors.Add(name, tensor);
        }
    }

    private PickleDict FindState()
    {
        if (content.Root is not PickleDict root)
        {
            throw new InputException($"{Path} holds no dict of tensors; save the state dict: torch.save(model.state_dict(), path).");
        }

        foreach (string place in Places)
        {
            if (root.TryGet(place, out object? value) && value is PickleDict inner && HasTensors(inner))
            {
                return inner;
            }
        }

        if (HasTensors(root))
        {
            return root;
        }

        string keys = string.Join(", ", root.Items.Take(8).Select(item => item.Key is string key ? FileErrors.Show(key) : "?"));
        throw new InputException($"{Path} has no state dict, neither itself nor under {string.Join(", ", Places)}; its keys are: {(keys.Length == 0 ? "none" : keys)}.");
    }

    private static bool HasTensors(PickleDict dict) => dict.Items.Any(item => item.Value is PickleTensor);

    private static string Strip(string name)
    {
        foreach (string wrapper in Wrappers)
        {
            name = name.Replace(wrapper, "", StringComparison.Ordinal);
        }

        while (name.StartsWith("module.", StringComparison.Ordinal))
        {
            name = name["module.".Length..];
        }

        return name;
    }

    private void AddMetadata()
    {
        foreach ((object? key, object? value) in ((PickleDict)content.Root!).Items)
        {
            string? text = value switch
            {
                string s => s,
                bool b => b ? "true" : "false",
                long n => n.ToString(CultureInfo.InvariantCulture),
                double x => x.ToString("R", CultureInfo.InvariantCulture),
                _ => null,
            };
            if (key is string name && text is not null)
            {
                metadata.TryAdd(name, text);
            }
        }
    }
}

/// <summary>What a checkpoint holds, and where its storages begin in the file. The extent of every storage has been checked.</summary>
internal sealed record TorchContent(object? Root, IReadOnlyDictionary<string, long> Storages);
