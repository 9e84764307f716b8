using System.Buffers;
using System.Runtime.InteropServices;
using System.Text.Json;
using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Writes a safetensors file: whole tensors by Write, or columns of rows whose number is not known beforehand.
/// The file appears under its name only when it is complete.
/// </summary>
/// <remarks>Rows wait in files beside the target, so memory does not grow with their number.</remarks>
public sealed class SafeTensorsWriter : IDisposable
{
    private readonly string path;
    private readonly List<Column> columns = [];

    /// <summary>Begins a file of columns; it appears at <paramref name="path"/> with <see cref="Finish"/>.</summary>
    public SafeTensorsWriter(string path)
    {
        this.path = Path.GetFullPath(path);
        Directory.CreateDirectory(Path.GetDirectoryName(this.path) ?? throw new InputException($"{path} names no file."));
    }

    /// <summary>Writes tensors, from any device and with any strides, as one file.</summary>
    /// <exception cref="ArgumentException">A name is repeated or reserved.</exception>
    public static void Write(
        string path,
        IEnumerable<(string Name, torch.Tensor Tensor)> tensors,
        IReadOnlyDictionary<string, string>? metadata = null) =>
        Write(path, tensors.Select(t => new TensorSource(t.Name, t.Tensor.dtype, t.Tensor.shape, t.Tensor.alias)), metadata);

    /// <summary>Writes tensors as one file, making one at a time.</summary>
    /// <exception cref="ArgumentException">A name is repeated or reserved.</exception>
    public static void Write(string path, IEnumerable<TensorSource> tensors, IReadOnlyDictionary<string, string>? metadata = null) =>
        AtomicFile.Write(path, stream => WriteTo(stream.Write, tensors, metadata));

    /// <summary>Hands the bytes of a file of tensors on, in order, making one tensor at a time.</summary>
    /// <exception cref="ArgumentException">A name is repeated or reserved.</exception>
    internal static void WriteTo(TensorBytes write, IEnumerable<TensorSource> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        TensorSource[] ordered =
        [
            .. tensors.OrderByDescending(t => TensorType.Of(t.Type).Bytes).ThenBy(t => t.Name, StringComparer.Ordinal),
        ];
        byte[] header = Header(ordered.Select(t => (t.Name, TensorType.Of(t.Type), t.Shape)), metadata);
        write(header);
        foreach (TensorSource tensor in ordered)
        {
            tensor.Copy(write);
        }
    }

    /// <summary>
    /// A new column: a tensor of shape [rows, rowShape…] to which rows are appended. T is ushort (U16) or a type that torch has.
    /// </summary>
    public Column<T> AddColumn<T>(string name, params long[] rowShape)
        where T : unmanaged
    {
        Column<T> column = new(name, TensorType.Of<T>(), rowShape, AtomicFile.Aside(path));
        columns.Add(column);
        return column;
    }

    /// <summary>Writes the file of all columns, flushes it to the disk and gives it its name.</summary>
    /// <exception cref="InvalidOperationException">A column does not end with a whole row.</exception>
    public void Finish(IReadOnlyDictionary<string, string>? metadata = null)
    {
        Column[] ordered = [.. columns.OrderByDescending(c => c.Type.Bytes).ThenBy(c => c.Name, StringComparer.Ordinal)];
        byte[] header = Header(ordered.Select(c => (c.Name, c.Type, c.Shape())), metadata);
        AtomicFile.Write(path, stream =>
        {
            stream.Write(header);
            foreach (Column column in ordered)
            {
                column.CopyTo(stream);
            }
        });
        Dispose();
    }

    /// <summary>Removes the waiting rows. Without <see cref="Finish"/> no file appears.</summary>
    public void Dispose()
    {
        foreach (Column column in columns)
        {
            column.Close();
        }
    }

    private static byte[] Header(IEnumerable<(string Name, TensorType Type, long[] Shape)> tensors, IReadOnlyDictionary<string, string>? metadata)
    {
        ArrayBufferWriter<byte> json = new();
        HashSet<string> names = new(StringComparer.Ordinal) { "__metadata__" };
        long offset = 0;
        using (Utf8JsonWriter writer = new(json))
        {
            writer.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                writer.WriteStartObject("__metadata__");
                foreach ((string key, string value) in metadata.OrderBy(pair => pair.Key, StringComparer.Ordinal))
                {
                    writer.WriteString(key, value);
                }

                writer.WriteEndObject();
            }

            foreach ((string name, TensorType type, long[] shape) in tensors)
            {
                if (!names.Add(name))
                {
                    throw new ArgumentException($"A tensor's name in a safetensors file must be its own and not __metadata__: \"{name}\".", nameof(tensors));
                }

                long end = offset + (TensorMemory.SizeInBytes(shape, type.Bytes) ?? throw new OverflowException($"{name} is too large."));
                writer.WriteStartObject(name);
                writer.WriteString("dtype", type.SafeTensors);
                WriteNumbers(writer, "shape", shape);
                WriteNumbers(writer, "data_offsets", [offset, end]);
                writer.WriteEndObject();
                offset = end;
            }

            writer.WriteEndObject();
        }

        // The format pads the header with spaces so that the data begins at a multiple of 8.
        int padded = (json.WrittenCount + 7) / 8 * 8;
        byte[] header = new byte[8 + padded];
        BitConverter.TryWriteBytes(header, (ulong)padded);
        json.WrittenSpan.CopyTo(header.AsSpan(8));
        header.AsSpan(8 + json.WrittenCount).Fill((byte)' ');
        return header;
    }

    private static void WriteNumbers(Utf8JsonWriter writer, string key, long[] numbers)
    {
        writer.WriteStartArray(key);
        foreach (long number in numbers)
        {
            writer.WriteNumberValue(number);
        }

        writer.WriteEndArray();
    }

    /// <summary>A tensor whose rows are appended.</summary>
    public abstract class Column
    {
        private readonly long[] rowShape;
        private readonly long rowBytes;
        private readonly FileStream spool;

        private protected Column(string name, TensorType type, long[] rowShape, string spoolPath)
        {
            Name = name;
            Type = type;
            this.rowShape = rowShape;
            rowBytes = TensorMemory.SizeInBytes(rowShape, type.Bytes) is > 0 and long bytes
                ? bytes
                : throw new ArgumentException($"A row of \"{name}\" cannot have the shape {Hybrid.Shape.show(rowShape)}.", nameof(rowShape));
            spool = new FileStream(spoolPath, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, 1 << 16, FileOptions.DeleteOnClose);
        }

        /// <summary>The tensor's name.</summary>
        public string Name { get; }

        internal TensorType Type { get; }

        /// <summary>The number of whole rows appended so far.</summary>
        public long Rows => spool.Position / rowBytes;

        internal long[] Shape() => spool.Position % rowBytes == 0
            ? [Rows, .. rowShape]
            : throw new InvalidOperationException($"Column \"{Name}\" does not end with a whole row.");

        internal void CopyTo(Stream target)
        {
            spool.Position = 0;
            spool.CopyTo(target, 1 << 20);
        }

        internal void Close() => spool.Dispose();

        private protected void Append(ReadOnlySpan<byte> bytes) => spool.Write(bytes);

    }

    /// <summary>A column of elements of one type.</summary>
    public sealed class Column<T> : Column
        where T : unmanaged
    {
        internal Column(string name, TensorType type, long[] rowShape, string spoolPath)
            : base(name, type, rowShape, spoolPath)
        {
        }

        /// <summary>Appends elements in row-major order.</summary>
        public void Append(ReadOnlySpan<T> elements) => Append(MemoryMarshal.AsBytes(elements));
    }
}
