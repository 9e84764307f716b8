using System.IO.MemoryMappedFiles;

namespace Hybrid.Runner.Formats;

/// <summary>A whole file mapped read-only into memory; every access is checked against its length.</summary>
/// <remarks>Spans are valid until <see cref="Dispose"/>. The file must not shrink while it is mapped.</remarks>
public sealed unsafe class MappedFile : IDisposable
{
    private readonly MemoryMappedFile? map;
    private readonly MemoryMappedViewAccessor? view;
    private readonly byte* start;
    private bool disposed;

    private MappedFile(string path, long length, MemoryMappedFile? map)
    {
        Path = path;
        Length = length;
        this.map = map;
        if (map is not null)
        {
            view = map.CreateViewAccessor(0, length, MemoryMappedFileAccess.Read);
            view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
            start += view.PointerOffset;
        }
    }

    /// <summary>The file's path as it was given.</summary>
    public string Path { get; }

    /// <summary>The file's length in bytes.</summary>
    public long Length { get; }

    /// <summary>Maps a file. Errors: <see cref="InputException"/> when it is absent, a folder, or cannot be read.</summary>
    public static MappedFile Open(string path)
    {
        try
        {
            if (Directory.Exists(path))
            {
                throw new InputException($"{path} is a folder; a file is needed here.");
            }

            using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, 1);
            long length = stream.Length;
            MemoryMappedFile? map = length == 0
                ? null
                : MemoryMappedFile.CreateFromFile(stream, null, length, MemoryMappedFileAccess.Read, HandleInheritability.None, false);
            try
            {
                return new MappedFile(path, length, map);
            }
            catch
            {
                map?.Dispose();
                throw;
            }
        }
        catch (Exception e) when (FileErrors.Explain(e, path) is { } refusal)
        {
            throw refusal;
        }
    }

    /// <summary>The address of a range of bytes. Errors: ArgumentOutOfRangeException outside the file.</summary>
    public byte* Pointer(long offset, long count)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        if (offset < 0 || count < 0 || offset > Length - count)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), $"Bytes {offset} + {count} are outside {Path} ({Length} bytes).");
        }

        return start + offset;
    }

    /// <summary>A range of bytes. Errors: ArgumentOutOfRangeException outside the file.</summary>
    public ReadOnlySpan<byte> Bytes(long offset, int count) => new(Pointer(offset, count), count);

    /// <summary>A range of little-endian values. Errors: ArgumentOutOfRangeException outside the file.</summary>
    public ReadOnlySpan<T> Values<T>(long offset, int count)
        where T : unmanaged => new(Pointer(offset, (long)count * sizeof(T)), count);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (disposed)
        {
            return;
        }

        disposed = true;
        view?.SafeMemoryMappedViewHandle.ReleasePointer();
        view?.Dispose();
        map?.Dispose();
    }
}
