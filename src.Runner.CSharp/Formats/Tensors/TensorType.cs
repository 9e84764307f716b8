using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>A type of elements, as torch has it, as .NET has it and as each kind of file names it.</summary>
/// <param name="Torch">The type of the tensors that it is loaded as.</param>
/// <param name="Bytes">Bytes of an element in a file.</param>
/// <param name="Values">.NET's type, or null.</param>
/// <param name="Name">torch's name.</param>
/// <param name="SafeTensors">The name in safetensors.</param>
/// <param name="Npy">NumPy's name, or null where it has none.</param>
/// <param name="Storage">The class of torch.save's storages, or null.</param>
internal sealed record TensorType(torch.ScalarType Torch, int Bytes, Type? Values, string Name, string SafeTensors, string? Npy, string? Storage)
{
    // The last one, which torch has not, is loaded as int32.
    private static readonly TensorType[] all =
    [
        new(torch.ScalarType.Float64, 8, typeof(double), "float64", "F64", "<f8", "DoubleStorage"),
        new(torch.ScalarType.Float32, 4, typeof(float), "float32", "F32", "<f4", "FloatStorage"),
        new(torch.ScalarType.Float16, 2, typeof(Half), "float16", "F16", "<f2", "HalfStorage"),
        new(torch.ScalarType.BFloat16, 2, null, "bfloat16", "BF16", null, "BFloat16Storage"),
        new(torch.ScalarType.Int64, 8, typeof(long), "int64", "I64", "<i8", "LongStorage"),
        new(torch.ScalarType.Int32, 4, typeof(int), "int32", "I32", "<i4", "IntStorage"),
        new(torch.ScalarType.Int16, 2, typeof(short), "int16", "I16", "<i2", "ShortStorage"),
        new(torch.ScalarType.Int8, 1, typeof(sbyte), "int8", "I8", "|i1", "CharStorage"),
        new(torch.ScalarType.Byte, 1, typeof(byte), "uint8", "U8", "|u1", "ByteStorage"),
        new(torch.ScalarType.Bool, 1, typeof(bool), "bool", "BOOL", "|b1", "BoolStorage"),
        new(torch.ScalarType.Int32, 2, typeof(ushort), "uint16", "U16", "<u2", null),
    ];

    /// <summary>The type of a tensor's elements. Errors: NotSupportedException for one that no file here holds.</summary>
    public static TensorType Of(torch.ScalarType type) => Array.Find(all, known => known.Torch == type)
        ?? throw new NotSupportedException($"Tensors of {type} have no place in the files this program reads and writes.");

    /// <summary>The type of some values. Errors: NotSupportedException.</summary>
    public static TensorType Of<T>()
        where T : unmanaged => Array.Find(all, known => known.Values == typeof(T))
            ?? throw new NotSupportedException($"Values of {typeof(T).Name} have no place in the files this program reads and writes.");

    /// <summary>The type of a name in safetensors, or null.</summary>
    public static TensorType? InSafeTensors(string name) => Array.Find(all, known => known.SafeTensors == name);

    /// <summary>The type of NumPy's name, or null.</summary>
    public static TensorType? InNpy(string name) => Array.Find(all, known => known.Npy == name);

    /// <summary>The type of a class of storages, or null.</summary>
    public static TensorType? OfStorage(string name) => Array.Find(all, known => known.Storage == name);
}
