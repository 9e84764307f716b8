using System.Text.Json;

namespace Hybrid.Runner.Formats;

/// <summary>The header of a safetensors file: 8 bytes of length, then JSON, then data that it describes without gaps.</summary>
internal sealed class SafeTensorsHeader
{
    /// <summary>The longest header that is read, as in the reference reader.</summary>
    public const long MaximumLength = 100_000_000;

    private const int MaximumRank = 64;
    private readonly string path;

    private SafeTensorsHeader(string path, long dataStart)
    {
        this.path = path;
        DataStart = dataStart;
    }

    public long DataStart { get; }

    public List<Tensor> Tensors { get; } = [];

    public OrderedEntries<string> Metadata { get; } = new();

    public static SafeTensorsHeader Read(MappedFile file)
    {
        if (file.Length < 8)
        {
            throw new InputException($"{file.Path} is not a safetensors file: it has {file.Length} bytes and the length of its header alone takes 8.");
        }

        ulong length = file.Values<ulong>(0, 1)[0];
        if (length > (ulong)(file.Length - 8))
        {
            throw new InputException(
                $"{file.Path} is not a safetensors file, or is cut short: its header claims {length} bytes and {file.Length - 8} follow.");
        }

        if (length is < 2 or > MaximumLength)
        {
            throw new InputException($"{file.Path}: the safetensors header has {length} bytes; 2 to {MaximumLength} are allowed.");
        }

        SafeTensorsHeader header = new(file.Path, 8 + (long)length);
        ReadOnlySpan<byte> json = file.Bytes(8, (int)length);
        if (json[0] != (byte)'{')
        {
            throw new InputException($"{file.Path} is not a safetensors file: its header does not begin with an opening brace (offset 8).");
        }

        Utf8JsonReader reader = new(json, new JsonReaderOptions { MaxDepth = 8 });
        try
        {
            header.ReadJson(ref reader);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InputException($"{file.Path}: the safetensors header is not well-formed JSON near offset {8 + reader.TokenStartIndex}: {e.Message}", e);
        }

        header.CheckExtents(file.Length - header.DataStart);
        return header;
    }

    private void ReadJson(ref Utf8JsonReader reader)
    {
        HashSet<string> names = new(StringComparer.Ordinal);
        reader.Read();
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString() ?? "";
            if (!names.Add(name))
            {
                throw new InputException($"{path}: the safetensors header has \"{FileErrors.Show(name)}\" twice (offset {8 + reader.TokenStartIndex}).");
            }

            reader.Read();
            if (reader.TokenType != JsonTokenType.StartObject)
            {
                throw new InputException($"{path}: \"{FileErrors.Show(name)}\" in the safetensors header is not an object (offset {8 + reader.TokenStartIndex}).");
            }

            if (name == "__metadata__")
            {
                ReadMetadata(ref reader);
            }
            else
            {
                ReadTensor(ref reader, name);
            }
        }

        if (reader.Read())
        {
            throw new InputException($"{path}: something follows the JSON of the safetensors header (offset {8 + reader.TokenStartIndex}).");
        }
    }

    private void ReadMetadata(ref Utf8JsonReader reader)
    {
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string key = reader.GetString() ?? "";
            reader.Read();
            if (reader.TokenType != JsonTokenType.String || !Metadata.TryAdd(key, reader.GetString() ?? ""))
            {
                throw new InputException(
                    $"{path}: the metadata key \"{FileErrors.Show(key)}\" of the safetensors header has no text as its value, or stands there twice (offset {8 + reader.TokenStartIndex}).");
            }
        }
    }

    private void ReadTensor(ref Utf8JsonReader reader, string name)
    {
        string? type = null;
        long[]? shape = null;
        long[]? offsets = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string key = reader.GetString() ?? "";
            bool first;
            switch (key)
            {
                case "dtype":
                    first = type is null;
                    reader.Read();
                    type = reader.TokenType == JsonTokenType.String ? reader.GetString() ?? "" : throw Wrong(name, "its dtype is not text");
                    break;
                case "shape":
                    first = shape is null;
                    shape = ReadNumbers(ref reader, name, "shape", MaximumRank);
                    break;
                case "data_offsets":
                    first = offsets is null;
                    offsets = ReadNumbers(ref reader, name, "data_offsets", 2);
                    break;
                default:
                    throw Wrong(name, $"it has the unknown key \"{FileErrors.Show(key)}\"");
            }

            if (!first)
            {
                throw Wrong(name, $"it has the key {key} twice");
            }
        }

        if (type is null || shape is null || offsets is not { Length: 2 })
        {
            throw Wrong(name, "it needs dtype, shape and two data_offsets");
        }

        TensorType known = TensorType.InSafeTensors(type)
            ?? throw Wrong(name, $"its element type {FileErrors.Show(type)} is not one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL U16");
        long bytes = TensorMemory.SizeInBytes(shape, known.Bytes) ?? throw Wrong(name, $"its shape {Shape.show(shape)} is too large for any file");
        if (offsets[0] > offsets[1] || offsets[1] - offsets[0] != bytes)
        {
            throw Wrong(name, $"its data_offsets {Shape.show(offsets)} do not hold the {bytes} bytes of {type} {Shape.show(shape)}");
        }

        Tensors.Add(new Tensor(name, known, shape, offsets[0], offsets[1]));
    }

    private long[] ReadNumbers(ref Utf8JsonReader reader, string name, string key, int most)
    {
        reader.Read();
        if (reader.TokenType != JsonTokenType.StartArray)
        {
            throw Wrong(name, $"its {key} is not a list");
        }

        List<long> numbers = [];
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (reader.TokenType != JsonTokenType.Number || !reader.TryGetInt64(out long number) || number < 0)
            {
                throw Wrong(name, $"its {key} has something that is not a whole number from 0 to 2^63 - 1");
            }

            if (numbers.Count == most)
            {
                throw Wrong(name, $"its {key} has more than {most} numbers");
            }

            numbers.Add(number);
        }

        return [.. numbers];
    }

    private void CheckExtents(long dataLength)
    {
        long covered = 0;
        foreach (Tensor tensor in Tensors.OrderBy(tensor => tensor.Begin).ThenBy(tensor => tensor.End))
        {
            if (tensor.Begin != covered)
            {
                throw Wrong(tensor.Name, $"its data begins at {tensor.Begin} and {(tensor.Begin < covered ? "overlaps other data" : "leaves a hole")}: {covered} was next");
            }

            if (tensor.End > dataLength)
            {
                throw Wrong(tensor.Name, $"its data ends at {tensor.End} and the file has {dataLength} bytes of data: the file is cut short");
            }

            covered = tensor.End;
        }

        if (covered != dataLength)
        {
            throw new InputException($"{path}: {dataLength - covered} bytes after the last tensor belong to none (offset {DataStart + covered}).");
        }
    }

    private InputException Wrong(string name, string what) => new($"{path}: tensor \"{FileErrors.Show(name)}\" of the safetensors header: {what}.");

    /// <summary>A tensor of the header; Begin and End count from the start of the data.</summary>
    public sealed record Tensor(string Name, TensorType Type, long[] Shape, long Begin, long End);
}
