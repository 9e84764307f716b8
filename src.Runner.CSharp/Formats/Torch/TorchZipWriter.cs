using System.Buffers.Binary;
using System.Text;

namespace Hybrid.Runner.Formats;

/// <summary>
/// A zip file as torch.save writes it: entries stored uncompressed, their data at multiples of 64 bytes, zip64 fields where a size or an
/// offset needs them.
/// </summary>
/// <param name="stream">The empty file.</param>
/// <param name="folder">The folder within the zip that all entries stand in.</param>
/// <param name="large">From which value on a field is written as zip64: 2^32 − 1 but in tests.</param>
internal sealed class TorchZipWriter(FileStream stream, string folder, uint large = uint.MaxValue)
{
    private const ushort ZipVersion = 20, Zip64Version = 45, Utf8Names = 0x0800, FirstDay = 0x21, Zip64Field = 1, PaddingField = 0x4246;
    private const int Alignment = 64, LocalLength = 30;

    private readonly List<Entry> entries = [];
    private ulong nameHash = 14695981039346656037;
    private uint checksums;

    /// <summary>Writes an entry.</summary>
    /// <param name="name">Its name within the folder.</param>
    /// <param name="length">The bytes that <paramref name="write"/> hands over.</param>
    /// <param name="write">Is given where the bytes go to.</param>
    public void Add(string name, long length, Action<TensorBytes> write)
    {
        byte[] path = Encoding.UTF8.GetBytes($"{folder}/{name}");
        long start = stream.Position;
        byte[] sizes = length >= large ? Field(Zip64Field, Number(length), Number(length)) : [];
        long data = start + LocalLength + path.Length + sizes.Length + 4;
        byte[] padding = new byte[(Alignment - (data % Alignment)) % Alignment];
        padding.AsSpan().Fill((byte)'Z');
        stream.Write(Local(path, length, 0, [.. sizes, .. Field(PaddingField, padding)]));
        Crc32 checksum = default;
        long written = 0;
        write(bytes =>
        {
            checksum.Add(bytes);
            stream.Write(bytes);
            written += bytes.Length;
        });
        if (written != length)
        {
            throw new InvalidOperationException($"{name} has {written} bytes where {length} were announced.");
        }

        long end = stream.Position;
        stream.Position = start + 14;
        stream.Write(Word(checksum.Value));
        stream.Position = end;
        entries.Add(new(path, length, checksum.Value, start));
        foreach (byte value in path)
        {
            nameHash = (nameHash ^ value) * 1099511628211;
        }

        checksums = ((checksums << 5) | (checksums >> 27)) ^ checksum.Value;
    }

    /// <summary>Writes a small entry.</summary>
    public void Add(string name, byte[] bytes) => Add(name, bytes.Length, write => write(bytes));

    /// <summary>Twice twenty digits that tell files with different content apart, as torch's serialization_id does.</summary>
    public string Identity => $"{nameHash:D20}{checksums:D20}";

    /// <summary>Writes the directory.</summary>
    public void Finish()
    {
        long start = stream.Position;
        foreach (Entry entry in entries)
        {
            WriteCentral(entry);
        }

        long size = stream.Position - start, end = stream.Position;
        bool wide = start >= large || size >= large || entries.Count >= ushort.MaxValue;
        if (wide)
        {
            stream.Write([
                .. Word(0x06064b50), .. Number(44), .. Short(Zip64Version), .. Short(Zip64Version), .. Word(0), .. Word(0),
                .. Number(entries.Count), .. Number(entries.Count), .. Number(size), .. Number(start)]);
            stream.Write([.. Word(0x07064b50), .. Word(0), .. Number(end), .. Word(1)]);
        }

        ushort count = wide ? ushort.MaxValue : (ushort)entries.Count;
        stream.Write([
            .. Word(0x06054b50), .. Short(0), .. Short(0), .. Short(count), .. Short(count),
            .. Word(wide ? uint.MaxValue : (uint)size), .. Word(wide ? uint.MaxValue : (uint)start), .. Short(0)]);
    }

    private byte[] Local(byte[] path, long length, uint checksum, byte[] extra)
    {
        bool wide = length >= large;
        uint size = wide ? uint.MaxValue : (uint)length;
        return
        [
            .. Word(0x04034b50), .. Short(wide ? Zip64Version : ZipVersion), .. Short(Utf8Names), .. Short(0), .. Short(0), .. Short(FirstDay), .. Word(checksum),
            .. Word(size), .. Word(size), .. Short((ushort)path.Length), .. Short((ushort)extra.Length), .. path, .. extra,
        ];
    }

    private void WriteCentral(Entry entry)
    {
        bool wide = entry.Length >= large, far = entry.Start >= large;
        byte[] extra = wide || far ? Field(Zip64Field, wide ? [.. Number(entry.Length), .. Number(entry.Length)] : [], far ? Number(entry.Start) : []) : [];
        uint size = wide ? uint.MaxValue : (uint)entry.Length;
        ushort version = extra.Length > 0 ? Zip64Version : ZipVersion;
        stream.Write([
            .. Word(0x02014b50), .. Short(version), .. Short(version), .. Short(Utf8Names), .. Short(0), .. Short(0), .. Short(FirstDay), .. Word(entry.Checksum),
            .. Word(size), .. Word(size), .. Short((ushort)entry.Path.Length), .. Short((ushort)extra.Length), .. Short(0), .. Short(0), .. Short(0), .. Word(0),
            .. Word(far ? uint.MaxValue : (uint)entry.Start), .. entry.Path, .. extra]);
    }

    private static byte[] Field(ushort identity, params byte[][] parts) => [.. Short(identity), .. Short((ushort)parts.Sum(part => part.Length)), .. parts.SelectMany(part => part)];

    private static byte[] Short(ushort value)
    {
        byte[] bytes = new byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        return bytes;
    }

    private static byte[] Word(uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return bytes;
    }

    private static byte[] Number(long value)
    {
        byte[] bytes = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, value);
        return bytes;
    }

    private sealed record Entry(byte[] Path, long Length, uint Checksum, long Start);
}
