using System.Text;

namespace Hybrid.Runner.Formats;

/// <summary>
/// The entries of a zip file whose members are stored uncompressed, as torch.save writes them, so that they can be read in
/// place. Zip64 included. Checksums are not compared: torch itself can be told to leave them out.
/// </summary>
internal sealed class ZipDirectory
{
    private const uint EndSignature = 0x06054b50;
    private const uint LargeEndSignature = 0x06064b50;
    private const uint LocatorSignature = 0x07064b50;
    private const uint EntrySignature = 0x02014b50;
    private const uint LocalSignature = 0x04034b50;

    private readonly MappedFile file;
    private readonly Dictionary<string, Extent> entries = new(StringComparer.Ordinal);

    private ZipDirectory(MappedFile file) => this.file = file;

    /// <summary>Where the bytes of each entry lie in the file.</summary>
    public IReadOnlyDictionary<string, Extent> Entries => entries;

    /// <summary>Reads the directory of a file. Errors: <see cref="InputException"/>.</summary>
    public static ZipDirectory Read(MappedFile file)
    {
        ZipDirectory directory = new(file);
        (long start, long size, long count) = directory.FindDirectory();
        directory.ReadEntries(start, size, count);
        return directory;
    }

    private (long Start, long Size, long Count) FindDirectory()
    {
        const int endLength = 22, locatorLength = 20, largeEndLength = 56;
        int tail = (int)Math.Min(file.Length, endLength + ushort.MaxValue);
        ReadOnlySpan<byte> bytes = file.Bytes(file.Length - tail, tail);
        for (int at = tail - endLength; at >= 0; at--)
        {
            if (BitConverter.ToUInt32(bytes[at..]) != EndSignature || BitConverter.ToUInt16(bytes[(at + 20)..]) != tail - at - endLength)
            {
                continue;
            }

            long end = file.Length - tail + at;
            (ulong start, ulong size, ulong count) =
                (BitConverter.ToUInt32(bytes[(at + 16)..]), BitConverter.ToUInt32(bytes[(at + 12)..]), BitConverter.ToUInt16(bytes[(at + 10)..]));
            if (end >= locatorLength && Word(end - locatorLength) == LocatorSignature)
            {
                ulong large = file.Values<ulong>(end - locatorLength + 8, 1)[0];
                if (file.Length < largeEndLength || large > (ulong)(file.Length - largeEndLength) || Word((long)large) != LargeEndSignature)
                {
                    throw Wrong("its zip64 end record is not where it is said to be", end - locatorLength);
                }

                ReadOnlySpan<ulong> fields = file.Values<ulong>((long)large + 32, 3);
                (count, size, start) = (fields[0], fields[1], fields[2]);
                end = (long)large;
            }

            if (size > (ulong)end || start > (ulong)end - size || count > size / 46)
            {
                throw Wrong("its zip directory lies outside the file", end);
            }

            return ((long)start, (long)size, (long)count);
        }

        throw new InputException($"{file.Path}: the zip directory at the end of the file is missing: the file is cut short or damaged.");
    }

    private void ReadEntries(long start, long size, long count)
    {
        const int fixedLength = 46;
        long at = start, end = start + size;
        for (long i = 0; i < count; i++)
        {
            if (end - at < fixedLength || Word(at) != EntrySignature)
            {
                throw Wrong("an entry of its zip directory is damaged", at);
            }

            ReadOnlySpan<byte> entry = file.Bytes(at, fixedLength);
            int nameLength = BitConverter.ToUInt16(entry[28..]);
            int extraLength = BitConverter.ToUInt16(entry[30..]);
            int commentLength = BitConverter.ToUInt16(entry[32..]);
            if (end - at - fixedLength < nameLength + extraLength + commentLength)
            {
                throw Wrong("an entry of its zip directory is damaged", at);
            }

            string name = Encoding.UTF8.GetString(file.Bytes(at + fixedLength, nameLength));
            ulong stored = BitConverter.ToUInt32(entry[20..]);
            ulong length = BitConverter.ToUInt32(entry[24..]);
            ulong local = BitConverter.ToUInt32(entry[42..]);
            Widen(file.Bytes(at + fixedLength + nameLength, extraLength), ref length, ref stored, ref local, at);
            string shown = FileErrors.Show(name);
            if ((BitConverter.ToUInt16(entry[8..]) & 1) != 0)
            {
                throw Wrong($"its entry \"{shown}\" is encrypted", at);
            }

            if (BitConverter.ToUInt16(entry[10..]) != 0 || stored != length)
            {
                throw Wrong($"its entry \"{shown}\" is compressed, which torch.save never does; zip it again without compression (zip -0)", at);
            }

            if (!entries.TryAdd(name, Locate(shown, local, length)))
            {
                throw Wrong($"its entry \"{shown}\" stands there twice", at);
            }

            at += fixedLength + nameLength + extraLength + commentLength;
        }
    }

    private Extent Locate(string name, ulong local, ulong length)
    {
        const int fixedLength = 30;
        if (file.Length < fixedLength || local > (ulong)(file.Length - fixedLength) || Word((long)local) != LocalSignature)
        {
            throw new InputException($"{file.Path}: the zip entry \"{name}\" has no data at offset {local}: the file is damaged.");
        }

        ReadOnlySpan<ushort> lengths = file.Values<ushort>((long)local + 26, 2);
        long offset = (long)local + fixedLength + lengths[0] + lengths[1];
        if (offset > file.Length || length > (ulong)(file.Length - offset))
        {
            throw new InputException($"{file.Path}: the zip entry \"{name}\" claims {length} bytes at offset {offset} and the file has {file.Length}.");
        }

        return new Extent(offset, (long)length);
    }

    /// <summary>Zip64: 32-bit fields of all ones have their values in extra field 1, in this order.</summary>
    private void Widen(ReadOnlySpan<byte> extra, ref ulong length, ref ulong stored, ref ulong local, long at)
    {
        while (extra.Length >= 4)
        {
            int identity = BitConverter.ToUInt16(extra);
            int fieldLength = BitConverter.ToUInt16(extra[2..]);
            if (fieldLength > extra.Length - 4)
            {
                return; // padding of an unknown kind, which zip readers pass over
            }

            ReadOnlySpan<byte> field = extra.Slice(4, fieldLength);
            extra = extra[(4 + fieldLength)..];
            if (identity != 1)
            {
                continue;
            }

            Widen(ref field, ref length, at);
            Widen(ref field, ref stored, at);
            Widen(ref field, ref local, at);
        }
    }

    private void Widen(ref ReadOnlySpan<byte> field, ref ulong value, long at)
    {
        if (value != uint.MaxValue)
        {
            return;
        }

        if (field.Length < 8)
        {
            throw Wrong("a zip64 field of its directory is too short", at);
        }

        value = BitConverter.ToUInt64(field);
        field = field[8..];
    }

    private uint Word(long offset) => file.Values<uint>(offset, 1)[0];

    private InputException Wrong(string what, long offset) => new($"{file.Path} is a damaged zip file: {what} (offset {offset}).");

    /// <summary>The bytes of an entry within the file.</summary>
    public readonly record struct Extent(long Offset, long Length);
}
