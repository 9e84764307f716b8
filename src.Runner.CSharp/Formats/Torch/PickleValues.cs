using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>A Python dict, in its order. Keys are any of the scalars, tuples or other values of a pickle.</summary>
internal sealed class PickleDict
{
    private readonly Dictionary<string, int> byName = new(StringComparer.Ordinal);
    private readonly List<KeyValuePair<object?, object?>> items = [];

    /// <summary>Keys and values in order. Keys that are not text may repeat: they are not compared.</summary>
    public IReadOnlyList<KeyValuePair<object?, object?>> Items => items;

    /// <summary>The value of a text key.</summary>
    public bool TryGet(string key, out object? value)
    {
        bool found = byName.TryGetValue(key, out int index);
        value = found ? items[index].Value : null;
        return found;
    }

    internal void Set(object? key, object? value)
    {
        KeyValuePair<object?, object?> item = new(key, value);
        if (key is string name)
        {
            if (byName.TryGetValue(name, out int index))
            {
                items[index] = item;
                return;
            }

            byName.Add(name, items.Count);
        }

        items.Add(item);
    }
}

/// <summary>The storage of tensors: a run of elements of one type, named by its key in the file.</summary>
/// <param name="Type">The element type.</param>
/// <param name="Key">The storage's name within the file.</param>
/// <param name="Count">The number of elements.</param>
internal sealed record PickleStorage(torch.ScalarType Type, string Key, long Count);

/// <summary>A tensor: a view of a storage, whose bounds have been checked.</summary>
/// <param name="Storage">The storage.</param>
/// <param name="Offset">The first element within the storage.</param>
/// <param name="Shape">The lengths of the axes.</param>
/// <param name="Strides">The steps of the axes, in elements, none negative.</param>
internal sealed record PickleTensor(PickleStorage Storage, long Offset, long[] Shape, long[] Strides);

/// <summary>A name that a pickle mentions and that stands for itself, such as torch.float32 or a storage class.</summary>
/// <param name="Module">The Python module.</param>
/// <param name="Name">The name within it.</param>
internal sealed record PickleName(string Module, string Name)
{
    /// <inheritdoc/>
    public override string ToString() => $"{Module}.{Name}";
}

/// <summary>A device such as cuda:0. It is only a text here: everything is read to the CPU.</summary>
/// <param name="Name">The device's name.</param>
internal sealed record PickleDevice(string Name);

/// <summary>
/// An object of a class that no tensor needs: a trainer's settings, a callback, a number of NumPy. It is not made, only remembered; its
/// arguments and its state are left aside.
/// </summary>
/// <param name="Class">The class or the function that would have made it.</param>
internal sealed record PickleObject(PickleName Class)
{
    private List<object?>? elements;
    private PickleDict? items;

    internal List<object?> Elements => elements ??= [];

    internal PickleDict Items => items ??= new();

    /// <inheritdoc/>
    public bool Equals(PickleObject? other) => ReferenceEquals(this, other);

    /// <inheritdoc/>
    public override int GetHashCode() => System.Runtime.CompilerServices.RuntimeHelpers.GetHashCode(this);
}

/// <summary>The names that a pickle of tensors may mention, and those that are harmless beside them; any other ends the reading.</summary>
internal static partial class PickleNames
{
    public static readonly PickleName OrderedDict = new("collections", "OrderedDict");
    public static readonly PickleName RebuildTensor = new("torch._utils", "_rebuild_tensor_v2");
    public static readonly PickleName RebuildParameter = new("torch._utils", "_rebuild_parameter");
    public static readonly PickleName RebuildParameterWithState = new("torch._utils", "_rebuild_parameter_with_state");
    public static readonly PickleName RebuildFromType = new("torch._tensor", "_rebuild_from_type_v2");
    public static readonly PickleName DefaultDict = new("collections", "defaultdict");
    public static readonly PickleName Size = new("torch", "Size");
    public static readonly PickleName Device = new("torch", "device");

    private static readonly HashSet<PickleName> Known =
        [OrderedDict, DefaultDict, RebuildTensor, RebuildParameter, RebuildParameterWithState, RebuildFromType, Size, Device];

    private static readonly HashSet<string> Types = new(StringComparer.Ordinal)
    {
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
        "double", "float", "half", "long", "int", "short", "complex64", "complex128",
    };

    /// <summary>Whether a pickle of tensors may mention a name.</summary>
    public static bool Allows(PickleName name) =>
        Known.Contains(name) || StorageType(name) is not null || (name.Module == "torch" && Types.Contains(name.Name));

    /// <summary>The element type of a storage class, or null for a name that is none.</summary>
    public static torch.ScalarType? StorageType(PickleName name) => name.Module is not ("torch" or "torch.cuda" or "torch.storage") ? null
        : name.Name == "UntypedStorage" ? torch.ScalarType.Byte
        : TensorType.OfStorage(name.Name)?.Torch;
}
