using System.Buffers.Binary;
using System.Text;

namespace Hybrid.Runner.Formats;

/// <summary>What a member of a tar is.</summary>
internal enum TarKind
{
    /// <summary>A file whose content was read.</summary>
    File,

    /// <summary>A link, symbolic or hard. It is never followed.</summary>
    Link,

    /// <summary>A file of more bytes than are read.</summary>
    TooLarge,
}

/// <summary>A member of a tar.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Kind">What it is.</param>
/// <param name="Bytes">The content of a file, else empty.</param>
/// <param name="Length">The length that its header gives.</param>
internal readonly record struct TarMember(string Name, TarKind Kind, byte[] Bytes, long Length);

/// <summary>
/// Reads the files of a tar in order (v7, ustar, GNU and pax), plain or packed by gzip, and says where a damaged one ends. Written
/// here because the library's reader allocates whatever the header of a long name claims, and cannot be told how much to read.
/// </summary>
internal static class TarMembers
{
    private const int Block = 512;
    private const int MostName = 1 << 16;
    private static readonly string[] ends = [".tar", ".tar.gz", ".tgz"];

    /// <summary>Whether a file is a tar by its name, packed or not.</summary>
    public static bool IsTar(string path) => ends.Any(end => path.EndsWith(end, StringComparison.OrdinalIgnoreCase));

    /// <summary>
    /// The files and links of a tar, in order. Where the tar is cut short or damaged, <paramref name="damaged"/> is called with the
    /// reason and the reading ends. Errors: <see cref="InputException"/> when the file cannot be opened at all.
    /// </summary>
    /// <param name="path">The tar.</param>
    /// <param name="most">The most bytes of a file's content that are wanted, by its name; negative: not at all.</param>
    /// <param name="damaged">Told why the tar ends early.</param>
    /// <param name="reading">Told how far the reading is.</param>
    public static IEnumerable<TarMember> Read(string path, Func<string, long> most, Action<string> damaged, PairReading? reading = null)
    {
        using Stream stream = Unpacking.Open(path, out FileStream file);
        Walk walk = new(stream, file);
        while (true)
        {
            TarMember? member;
            try
            {
                member = walk.Next(most);
            }
            catch (Exception e) when (e is IOException or InvalidDataException)
            {
                damaged(e.Message.TrimEnd('.'));
                yield break;
            }

            if (member is not { } found)
            {
                yield break;
            }

            if (reading is not null)
            {
                reading.Fraction = (double)file.Position / Math.Max(1, file.Length);
            }

            yield return found;
        }
    }

    private sealed class Walk(Stream stream, FileStream file)
    {
        private readonly byte[] header = new byte[Block];
        private long at;

        /// <summary>The next file or link, or null at the end. Errors: InvalidDataException where the tar is cut short or damaged.</summary>
        public TarMember? Next(Func<string, long> most)
        {
            string? longName = null, paxName = null;
            long? paxSize = null;
            while (true)
            {
                long start = at;
                int read = stream.ReadAtLeast(header, Block, throwOnEndOfStream: false);
                at += read;
                if (read < Block)
                {
                    throw new InvalidDataException(read == 0 ? "it is cut short: its end marker is missing" : $"it is cut short within the header at offset {start}");
                }

                if (!header.AsSpan().ContainsAnyExcept((byte)0))
                {
                    return null;
                }

                char type = (char)header[156];
                long size = paxSize ?? -1;
                if (!SumFits() || (paxSize is null && !TryNumber(header.AsSpan(124, 12), out size)) || (file == stream && size > file.Length - at))
                {
                    throw new InvalidDataException($"it is cut short or damaged: the file whose header is at offset {start} does not end within it");
                }

                switch (type)
                {
                    case 'L':
                        longName = Text(Content(size, MostName, start));
                        continue;
                    case 'x' or 'X':
                        ReadPax(Content(size, 16 * MostName, start), ref paxName, ref paxSize);
                        continue;
                    case 'K' or 'g':
                        Skip(size);
                        continue;
                }

                string name = paxName ?? longName ?? HeaderName();
                if (type is '1' or '2')
                {
                    Skip(type == '1' ? 0 : size);
                    return new TarMember(name, TarKind.Link, [], 0);
                }

                // Old tars mark a folder by the end of its name only.
                bool isFile = type == '7' || (type is '0' or '\0' && !name.EndsWith('/'));
                long wanted = isFile ? most(name) : -1;
                if (wanted < 0)
                {
                    Skip(size);
                    (longName, paxName, paxSize) = (null, null, null);
                    continue;
                }

                if (size > wanted)
                {
                    Skip(size);
                    return new TarMember(name, TarKind.TooLarge, [], size);
                }

                return new TarMember(name, TarKind.File, Content(size, wanted, start), size);
            }
        }

        /// <summary>The header's own sum of its bytes; some old tars took them as signed.</summary>
        private bool SumFits()
        {
            if (!TryNumber(header.AsSpan(148, 8), out long claimed))
            {
                return false;
            }

            long unsigned = 0, signed = 0;
            for (int i = 0; i < Block; i++)
            {
                byte value = i is >= 148 and < 156 ? (byte)' ' : header[i];
                unsigned += value;
                signed += (sbyte)value;
            }

            return claimed == unsigned || claimed == signed;
        }

        private string HeaderName()
        {
            string name = Text(header.AsSpan(0, 100));
            bool ustar = header.AsSpan(257, 6).SequenceEqual("ustar\0"u8);
            string prefix = ustar ? Text(header.AsSpan(345, 155)) : "";
            return prefix.Length > 0 ? $"{prefix}/{name}" : name;
        }

        /// <summary>Content in steps, so that a claim without content behind it costs no memory.</summary>
        private byte[] Content(long size, long limit, long start)
        {
            if (size > limit)
            {
                throw new InvalidDataException($"the header at offset {start} claims a name of {size} bytes");
            }

            const int step = 1 << 20;
            byte[] bytes = new byte[Math.Min(size, step)];
            int done = 0;
            while (true)
            {
                int read = stream.ReadAtLeast(bytes.AsSpan(done), bytes.Length - done, throwOnEndOfStream: false);
                done += read;
                if (done < bytes.Length)
                {
                    throw new InvalidDataException($"it is cut short within the file whose header is at offset {start}");
                }

                if (done == size)
                {
                    break;
                }

                Array.Resize(ref bytes, (int)Math.Min(size, 4L * bytes.Length));
            }

            at += size;
            Skip(Padding(size), padded: true);
            return bytes;
        }

        private void Skip(long size, bool padded = false)
        {
            long left = padded ? size : size + Padding(size);
            at += left;
            if (stream == file)
            {
                file.Position = Math.Min(file.Position + left, file.Length);
                return;
            }

            Span<byte> waste = stackalloc byte[4096];
            while (left > 0)
            {
                int read = stream.Read(waste[..(int)Math.Min(left, waste.Length)]);
                if (read == 0)
                {
                    return;
                }

                left -= read;
            }
        }

        private static long Padding(long size) => (Block - (size % Block)) % Block;

        /// <summary>Records of the form "length key=value\n".</summary>
        private static void ReadPax(ReadOnlySpan<byte> records, ref string? name, ref long? size)
        {
            while (!records.IsEmpty)
            {
                int space = records.IndexOf((byte)' ');
                if (space <= 0 || !int.TryParse(records[..space], out int length) || length <= space + 1 || length > records.Length)
                {
                    throw new InvalidDataException("a pax header is damaged");
                }

                ReadOnlySpan<byte> record = records[(space + 1)..length].TrimEnd((byte)'\n');
                records = records[length..];
                if (record.StartsWith("path="u8))
                {
                    name = Text(record[5..]);
                }
                else if (record.StartsWith("size="u8))
                {
                    size = long.TryParse(record[5..], System.Globalization.NumberStyles.None, null, out long number)
                        ? number
                        : throw new InvalidDataException("a pax header is damaged");
                }
            }
        }

        private static string Text(ReadOnlySpan<byte> field)
        {
            int end = field.IndexOf((byte)0);
            field = end < 0 ? field : field[..end];
            return SampleGroups.Decode(field) ?? Encoding.Latin1.GetString(field);
        }

        /// <summary>A number in octal digits, or in binary where the first bit is set.</summary>
        private static bool TryNumber(ReadOnlySpan<byte> field, out long number)
        {
            number = 0;
            if ((field[0] & 0x80) != 0)
            {
                number = field.Length >= 12 ? BinaryPrimitives.ReadInt64BigEndian(field[^8..]) : -1;
                return number >= 0 && field[0] == 0x80 && !field[1..^8].ContainsAnyExcept((byte)0);
            }

            foreach (byte digit in field.Trim(" \0"u8))
            {
                if (digit is < (byte)'0' or > (byte)'7')
                {
                    return false;
                }

                number = (number * 8) + (digit - '0');
            }

            return true;
        }
    }
}
