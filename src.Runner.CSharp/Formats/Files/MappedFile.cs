using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Hybrid.Runner.Formats;

/// <summary>A whole file mapped read-only into memory; every access is checked against its length.</summary>
/// <remarks>
/// Spans are valid until <see cref="Dispose"/>. The file must not shrink while it is mapped. Mapped pages that were touched count as
/// memory of the process, so what is long and needed once is taken by <see cref="CopyTo"/>, which touches none.
/// </remarks>
internal sealed unsafe partial class MappedFile : IDisposable
{
    private readonly SafeFileHandle handle;
    private readonly MemoryMappedFile? map;
    private readonly MemoryMappedViewAccessor? view;
    private readonly byte* start;
    private bool disposed;

    private MappedFile(string path, long length, SafeFileHandle handle, MemoryMappedFile? map)
    {
        Path = path;
        Length = length;
        this.handle = handle;
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

            SafeFileHandle handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            MemoryMappedFile? map = null;
            try
            {
                long length = RandomAccess.GetLength(handle);
                map = length == 0
                    ? null
                    : MemoryMappedFile.CreateFromFile(handle, null, length, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
                return new MappedFile(path, length, handle, map);
            }
            catch
            {
                map?.Dispose();
                handle.Dispose();
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

    /// <summary>
    /// Copies a range of bytes without touching the map. Errors: ArgumentOutOfRangeException outside the file; <see cref="InputException"/>
    /// when the file cannot be read or became shorter.
    /// </summary>
    public void CopyTo(byte* target, long offset, long count)
    {
        const int most = 1 << 30;
        Pointer(offset, count);
        try
        {
            for (long done = 0; done < count;)
            {
                int read = RandomAccess.Read(handle, new Span<byte>(target + done, (int)Math.Min(most, count - done)), offset + done);
                done += read > 0 ? read : throw new InputException($"{Path} became shorter while it was read (offset {offset + done}).");
            }
        }
        catch (Exception e) when (FileErrors.Explain(e, Path) is { } refusal)
        {
            throw refusal;
        }
    }

    /// <summary>Gives the memory of a range that was looked at back to the system; the range can still be looked at.</summary>
    public void Release(long offset, long count)
    {
        if (OperatingSystem.IsWindows() || count == 0)
        {
            return;
        }

        const int dontNeed = 4;
        nint page = Environment.SystemPageSize, first = ((nint)Pointer(offset, count) + page - 1) / page * page;
        nint length = (((nint)start + (nint)offset + (nint)count) / page * page) - first;
        if (length > 0)
        {
            // A read-only map has nothing to lose: its pages come back from the file.
            _ = Advise(first, length, dontNeed);
        }
    }

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int Advise(nint address, nint length, int advice);

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
        handle.Dispose();
    }
}
