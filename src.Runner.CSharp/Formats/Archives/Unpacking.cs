using System.IO.Compression;

namespace Hybrid.Runner.Formats;

/// <summary>gzip with a limit: what unpacks to far more than it is worth is refused.</summary>
internal static class Unpacking
{
    /// <summary>How many times its own size, beside 64 MiB, a packed file may become. Text and tables stay far below.</summary>
    private const int MostGrowth = 200;
    private const long Allowance = 1L << 26;

    /// <summary>Whether a name ends as gzip's files do.</summary>
    public static bool IsPacked(string name) => name.EndsWith(".gz", StringComparison.OrdinalIgnoreCase) || name.EndsWith(".tgz", StringComparison.OrdinalIgnoreCase);

    /// <summary>What packed bytes hold. Errors: <see cref="DropException"/> beyond <paramref name="most"/> bytes or where they are damaged.</summary>
    public static byte[] Inflate(byte[] packed, long most)
    {
        try
        {
            using GZipStream source = new(new MemoryStream(packed), CompressionMode.Decompress);
            using MemoryStream target = new();
            byte[] buffer = new byte[8192];
            for (int read = source.Read(buffer); read > 0; read = source.Read(buffer))
            {
                if (target.Length + read > most)
                {
                    throw new DropException(DropReason.TooLarge, $"it unpacks to more than {most:N0} bytes.");
                }

                target.Write(buffer, 0, read);
            }

            // The library takes an empty file for an empty stream.
            return packed.Length > 0 ? target.ToArray() : throw new DropException(DropReason.BadRecord, "it is no gzip file.");
        }
        catch (Exception e) when (e is IOException or InvalidDataException)
        {
            throw new DropException(DropReason.BadRecord, $"it is no whole gzip file: {e.Message}");
        }
    }

    /// <summary>A file, unpacked while it is read where its name says that it is packed. Errors: <see cref="InputException"/>.</summary>
    public static Stream Open(string path, out FileStream file)
    {
        try
        {
            file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 16);
            return IsPacked(path) ? new Limited(new GZipStream(file, CompressionMode.Decompress), (MostGrowth * file.Length) + Allowance) : file;
        }
        catch (Exception e) when (FileErrors.Explain(e, path) is { } refusal)
        {
            throw refusal;
        }
    }

    /// <summary>A stream that ends with an error where it has given more than it should hold.</summary>
    private sealed class Limited(Stream inner, long most) : Stream
    {
        private long given;

        public override bool CanRead => true;

        public override bool CanSeek => false;

        public override bool CanWrite => false;

        public override long Length => throw new NotSupportedException();

        public override long Position
        {
            get => given;
            set => throw new NotSupportedException();
        }

        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

        public override int Read(Span<byte> buffer)
        {
            int read = inner.Read(buffer);
            given += read;
            return given <= most ? read : throw new InvalidDataException($"it unpacks to more than {most:N0} bytes, {MostGrowth} times its size");
        }

        public override void Flush()
        {
        }

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        protected override void Dispose(bool disposing)
        {
            inner.Dispose();
            base.Dispose(disposing);
        }
    }
}
