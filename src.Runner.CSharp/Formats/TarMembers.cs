using System.Formats.Tar;

namespace Hybrid.Runner.Formats;

/// <summary>Reads the files of a tar in order, and says where a damaged one ends.</summary>
internal static class TarMembers
{
    private const int Block = 512;

    /// <summary>
    /// The regular files of a tar, in order. Where the tar is cut short or damaged, <paramref name="damaged"/> is called with the
    /// reason and the reading ends. Errors: <see cref="InputException"/> when the file cannot be opened at all.
    /// </summary>
    /// <param name="path">The tar.</param>
    /// <param name="wanted">Whether the content of a file is needed; the others are passed over.</param>
    /// <param name="damaged">Told why the tar ends early.</param>
    public static IEnumerable<(string Name, byte[] Bytes)> Read(string path, Func<string, bool> wanted, Action<string> damaged)
    {
        using FileStream stream = Open(path);
        long sound = SoundLength(stream, out string? broken);
        stream.Position = 0;
        using TarReader reader = new(new Prefix(stream, sound));
        while (true)
        {
            string name;
            byte[]? bytes = null;
            try
            {
                if (reader.GetNextEntry(copyData: false) is not { } entry)
                {
                    break;
                }

                name = entry.Name;
                if (entry.EntryType is TarEntryType.RegularFile or TarEntryType.V7RegularFile or TarEntryType.ContiguousFile && wanted(name))
                {
                    // The length is the tar's own claim.
                    if (entry.Length < 0 || entry.Length > sound)
                    {
                        broken = $"the file \"{FileErrors.Show(name)}\" claims {entry.Length} bytes";
                        break;
                    }

                    bytes = new byte[entry.Length];
                    entry.DataStream?.ReadExactly(bytes);
                }
            }
            catch (Exception e) when (e is IOException or InvalidDataException or FormatException or ArgumentException or OverflowException or InvalidOperationException
                or NotSupportedException or IndexOutOfRangeException)
            {
                broken ??= e.Message;
                break;
            }

            if (bytes is not null)
            {
                yield return (name, bytes);
            }
        }

        if (broken is not null)
        {
            damaged(broken);
        }
    }

    private static FileStream Open(string path)
    {
        try
        {
            return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 16);
        }
        catch (Exception e) when (FileErrors.Explain(e, path) is { } refusal)
        {
            throw refusal;
        }
    }

    /// <summary>
    /// The length up to which every header's claim of content lies within the file. The library allocates what headers of long
    /// names claim, so it must not see any other.
    /// </summary>
    private static long SoundLength(FileStream stream, out string? broken)
    {
        broken = null;
        Span<byte> header = stackalloc byte[Block];
        long at = 0;
        while (at < stream.Length)
        {
            stream.Position = at;
            if (stream.ReadAtLeast(header, Block, throwOnEndOfStream: false) < Block)
            {
                broken = $"it is cut short within the header at offset {at}";
                return at;
            }

            if (!header.ContainsAnyExcept((byte)0))
            {
                return Math.Min(at + (2 * Block), stream.Length);
            }

            if (Size(header.Slice(124, 12)) is not { } size || size > stream.Length - at - Block)
            {
                broken = $"it is cut short or damaged: the file whose header is at offset {at} does not end within it";
                return at;
            }

            at += Block + ((size + Block - 1) / Block * Block);
        }

        broken = "it is cut short: its end marker is missing";
        return Math.Min(at, stream.Length);
    }

    /// <summary>A size in octal digits, or in binary where the first bit is set; null for neither.</summary>
    private static long? Size(ReadOnlySpan<byte> field)
    {
        long size = 0;
        if ((field[0] & 0x80) != 0)
        {
            if (field[0] != 0x80 || field[1..5].ContainsAnyExcept((byte)0))
            {
                return null;
            }

            size = System.Buffers.Binary.BinaryPrimitives.ReadInt64BigEndian(field[4..]);
            return size < 0 ? null : size;
        }

        foreach (byte digit in field.Trim(" \0"u8))
        {
            if (digit is < (byte)'0' or > (byte)'7')
            {
                return null;
            }

            size = (size * 8) + (digit - '0');
        }

        return size;
    }

    /// <summary>The first bytes of a stream as a stream of its own that can seek.</summary>
    private sealed class Prefix(FileStream inner, long length) : Stream
    {
        public override bool CanRead => true;

        public override bool CanSeek => true;

        public override bool CanWrite => false;

        public override long Length => length;

        public override long Position
        {
            get => inner.Position;
            set => inner.Position = value;
        }

        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

        public override int Read(Span<byte> buffer) =>
            inner.Read(buffer[..(int)Math.Min(buffer.Length, Math.Max(0, length - inner.Position))]);

        public override long Seek(long offset, SeekOrigin origin) => origin switch
        {
            SeekOrigin.Begin => Position = offset,
            SeekOrigin.Current => Position += offset,
            _ => Position = length + offset,
        };

        public override void Flush()
        {
        }

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();
    }
}
