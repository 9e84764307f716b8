using System.Buffers.Binary;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Looks over a Parquet file before the library reads it: whether its footer and the headers of its pages are whole Thrift structures
/// (compact protocol), whether everything they point at lies within the file, and how much they claim. The library trusts all of these,
/// and loops or allocates for what a damaged file says.
/// </summary>
internal sealed class ParquetCheck
{
    private const long MostFooter = 1L << 28, MostPage = 1L << 28, MostRows = 1L << 27;
    private const int MostDepth = 24;
    private readonly FileStream file;

    private ParquetCheck(FileStream file) => this.file = file;

    /// <summary>Errors: InvalidDataException where the file is damaged or claims too much.</summary>
    public static void Run(FileStream file)
    {
        new ParquetCheck(file).Footer();
        file.Position = 0;
    }

    private void Footer()
    {
        byte[] ends = new byte[12];
        Read(0, ends.AsSpan(0, 4));
        Read(file.Length - 8, ends.AsSpan(4, 8));
        long length = BinaryPrimitives.ReadUInt32LittleEndian(ends.AsSpan(4));
        if (!ends.AsSpan(0, 4).SequenceEqual("PAR1"u8) || !ends.AsSpan(8).SequenceEqual("PAR1"u8) || length > Math.Min(file.Length - 12, MostFooter))
        {
            throw new InvalidDataException("it does not begin and end as a Parquet file does");
        }

        byte[] footer = new byte[length];
        Read(file.Length - 8 - length, footer);
        Fields metadata = new Thrift(footer).Struct();
        long rows = 0;
        foreach (Fields group in metadata.List(4))
        {
            long own = group.Number(3);
            rows += own;
            if (own < 0 || rows > MostRows)
            {
                throw new InvalidDataException($"it claims {own:N0} rows in a group; at most {MostRows:N0} are read");
            }

            foreach (Fields chunk in group.List(1))
            {
                Chunk(chunk.Inner(3) ?? throw new InvalidDataException("a column has no metadata"), own, file.Length - 8 - length);
            }
        }
    }

    /// <summary>A column of a row group: its pages follow each other from the first to the end of what it claims.</summary>
    private void Chunk(Fields column, long rows, long end)
    {
        long first = column.Number(9), dictionary = column.Number(11, 0), compressed = column.Number(7), values = column.Number(5);
        if (values == 0)
        {
            return;
        }

        long at = dictionary > 0 && dictionary < first ? dictionary : first, stop = at + compressed;
        if (at < 4 || compressed < 0 || stop > end || values < 0 || values > MostRows)
        {
            throw new InvalidDataException("a column lies outside the file or claims too many values");
        }

        long found = 0;
        byte[] window = new byte[1 << 16];
        while (at < stop && found < values)
        {
            int length = (int)Math.Min(window.Length, stop - at);
            Read(at, window.AsSpan(0, length));
            Thrift thrift = new(window.AsMemory(0, length));
            Fields header = thrift.Struct();
            long unpacked = header.Number(2), packed = header.Number(3);
            if (packed < 0 || unpacked < 0 || unpacked > MostPage || packed > stop - at - thrift.At)
            {
                throw new InvalidDataException($"the page at offset {at} lies outside its column or claims {unpacked:N0} bytes");
            }

            long count = (header.Inner(5) ?? header.Inner(7) ?? header.Inner(8))?.Number(1) ?? 0;
            bool isDictionary = header.Inner(7) is not null;
            if (count < 0 || count > MostRows || (isDictionary && count > 8 * unpacked))
            {
                throw new InvalidDataException($"the page at offset {at} claims {count:N0} values");
            }

            found += isDictionary ? 0 : count;
            at += thrift.At + packed;
        }

        // Without repetition a column has a value, if only an absent one, for each row.
        if (found > values || (found < values && values <= rows))
        {
            throw new InvalidDataException($"a column claims {values:N0} values and its pages {found:N0}");
        }
    }

    private void Read(long at, Span<byte> bytes)
    {
        if (at < 0 || at > file.Length - bytes.Length)
        {
            throw new InvalidDataException("it is too short");
        }

        file.Position = at;
        file.ReadExactly(bytes);
    }

    /// <summary>The fields of a Thrift structure by their numbers.</summary>
    private sealed class Fields : Dictionary<int, object>
    {
        public long Number(int field, long? missing = null) => TryGetValue(field, out object? value) && value is long number ? number
            : missing ?? throw new InvalidDataException($"the field {field} of a header is missing");

        public Fields? Inner(int field) => TryGetValue(field, out object? value) ? value as Fields : null;

        public IEnumerable<Fields> List(int field) => TryGetValue(field, out object? value) && value is List<object> list ? list.OfType<Fields>() : [];
    }

    /// <summary>Thrift's compact protocol, within its bytes.</summary>
    private sealed class Thrift(ReadOnlyMemory<byte> bytes)
    {
        private int depth;

        public int At { get; private set; }

        public Fields Struct()
        {
            if (++depth > MostDepth)
            {
                throw new InvalidDataException("its headers are nested too deeply");
            }

            Fields fields = [];
            int field = 0;
            while (Byte() is not 0 and byte head)
            {
                field = head >> 4 != 0 ? field + (head >> 4) : (int)ZigZag();
                fields[field] = Value(head & 15, inList: false);
            }

            depth--;
            return fields;
        }

        private object Value(int type, bool inList) => type switch
        {
            1 or 2 => inList ? (long)Byte() : 2L - type,
            3 => (long)(sbyte)Byte(),
            4 or 5 or 6 => ZigZag(),
            7 => Skip(8),
            8 => Skip(Variable()),
            9 or 10 => List(),
            11 => Map(),
            12 => Struct(),
            _ => throw new InvalidDataException($"a header has a field of the type {type}"),
        };

        private List<object> List()
        {
            byte head = Byte();
            long count = head >> 4 == 15 ? Variable() : head >> 4;
            List<object> items = [];

            // An item takes a byte at least.
            for (long i = count <= bytes.Length - At ? 0 : throw Short(); i < count; i++)
            {
                items.Add(Value(head & 15, inList: true));
            }

            return items;
        }

        private object Map()
        {
            long count = Variable();
            byte types = count > 0 ? Byte() : (byte)0;
            for (long i = count <= bytes.Length - At ? 0 : throw Short(); i < count; i++)
            {
                Value(types >> 4, inList: true);
                Value(types & 15, inList: true);
            }

            return count;
        }

        private object Skip(long length)
        {
            At = length >= 0 && length <= bytes.Length - At ? At + (int)length : throw Short();
            return "";
        }

        private byte Byte() => At < bytes.Length ? bytes.Span[At++] : throw Short();

        private long Variable()
        {
            ulong value = 0;
            for (int shift = 0; ; shift += 7)
            {
                byte next = shift < 64 ? Byte() : throw Short();
                value |= (ulong)(next & 127) << shift;
                if (next < 128)
                {
                    return (long)value;
                }
            }
        }

        private long ZigZag()
        {
            long value = Variable();
            return (long)((ulong)value >> 1) ^ -(value & 1);
        }

        private static InvalidDataException Short() => new("a header does not end within its bytes");
    }
}
