using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Files and folders that are whole or absent: written aside in the same folder, flushed to the disk and renamed. A crash
/// leaves at most something with <c>.partial</c> in its name, and whatever had the name before.
/// </summary>
internal static partial class AtomicFile
{
    /// <summary>What the name of a file or folder that is being written ends with.</summary>
    internal const string Unfinished = ".partial";

    /// <summary>Writes a file. When <paramref name="write"/> throws, nothing stays behind and the old file is untouched.</summary>
    public static void Write(string path, Action<FileStream> write)
    {
        string full = Path.GetFullPath(path);
        string folder = Folder(full);
        Directory.CreateDirectory(folder);
        string aside = Aside(full);
        try
        {
            using (FileStream stream = new(aside, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, 1 << 16))
            {
                write(stream);
                stream.Flush(flushToDisk: true);
            }

            File.Move(aside, full, overwrite: true);
        }
        catch
        {
            File.Delete(aside);
            throw;
        }

        SyncFolder(folder);
    }

    /// <summary>Writes text as UTF-8 without a byte order mark.</summary>
    public static void WriteText(string path, string text) => WriteBytes(path, Encoding.UTF8.GetBytes(text));

    /// <summary>Writes bytes.</summary>
    public static void WriteBytes(string path, ReadOnlyMemory<byte> bytes) => Write(path, stream => stream.Write(bytes.Span));

    /// <summary>
    /// Writes a folder: <paramref name="write"/> fills <c>path.partial</c>, whose files and folders are then flushed and
    /// renamed. What an interrupted attempt left is removed first.
    /// </summary>
    /// <param name="path">The folder's final path.</param>
    /// <param name="write">Fills the folder whose path it is given.</param>
    /// <param name="replace">
    /// What happens when the folder exists: refused, or replaced. The old one keeps another name until the new one has
    /// taken its place, so that a crash never leaves less than one whole folder.
    /// </param>
    public static void WriteFolder(string path, Action<string> write, bool replace = false)
    {
        string full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
        if (Path.Exists(full) && !(replace && Directory.Exists(full)))
        {
            throw new InputException($"{path} exists already; choose another name or remove it.");
        }

        string parent = Folder(full);
        Directory.CreateDirectory(parent);
        string aside = full + Unfinished;
        Remove(aside);
        try
        {
            Directory.CreateDirectory(aside);
            write(aside);
            SyncTree(aside);
        }
        catch
        {
            Remove(aside);
            throw;
        }

        if (Directory.Exists(full))
        {
            string old = full + ".replaced";
            Remove(old);
            Directory.Move(full, old);
            Directory.Move(aside, full);
            SyncFolder(parent);
            Remove(old);
        }
        else
        {
            Directory.Move(aside, full);
            SyncFolder(parent);
        }
    }

    /// <summary>
    /// Removes from a folder, if it is there, what attempts have left that a crash interrupted. Nobody else may be writing in it.
    /// </summary>
    public static void RemoveUnfinished(string folder)
    {
        foreach (string left in Directory.Exists(folder) ? Directory.GetFileSystemEntries(folder, "*" + Unfinished) : [])
        {
            Remove(left);
        }
    }

    /// <summary>Flushes a folder's list of names to the disk, where the operating system has a call for that.</summary>
    public static void SyncFolder(string folder)
    {
        if (OperatingSystem.IsWindows())
        {
            return;
        }

        int descriptor = OpenDescriptor(folder, 0);
        if (descriptor >= 0)
        {
            // Some file systems refuse fsync on a folder: the rename is then as durable as they make it.
            _ = SyncDescriptor(descriptor);
            _ = CloseDescriptor(descriptor);
        }
    }

    /// <summary>
    /// Opens a file for reading without asking whether another process holds it, as .NET's own streams do; null where it cannot be.
    /// </summary>
    internal static FileStream? Unlocked(string path)
    {
        // Another program that this one starts must not inherit it.
        const int closeOnExec = 0x80000;
        int descriptor = OperatingSystem.IsLinux() ? OpenDescriptor(path, closeOnExec) : -1;
        return descriptor < 0 ? null : new FileStream(new SafeFileHandle(descriptor, ownsHandle: true), FileAccess.Read, 1);
    }

    /// <summary>A free name beside a file, recognisable as unfinished.</summary>
    internal static string Aside(string full) =>
        Path.Combine(Folder(full), $".{Path.GetFileName(full)}.{Guid.NewGuid():N}{Unfinished}");

    private static string Folder(string full) => Path.GetDirectoryName(full) ?? throw new InputException($"{full} names no file.");

    private static void Remove(string folder)
    {
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
        else
        {
            File.Delete(folder);
        }
    }

    private static void SyncTree(string folder)
    {
        foreach (string file in Directory.EnumerateFiles(folder))
        {
            using FileStream stream = new(file, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, 1);
            stream.Flush(flushToDisk: true);
        }

        foreach (string inner in Directory.EnumerateDirectories(folder))
        {
            SyncTree(inner);
        }

        SyncFolder(folder);
    }

    [LibraryImport("libc", EntryPoint = "open", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int OpenDescriptor(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync")]
    private static partial int SyncDescriptor(int descriptor);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int CloseDescriptor(int descriptor);
}
