using System.Globalization;
using System.Text;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// Keeps other processes out of a directory in which a run works. The system lets go of it when the process ends, however it ends, so
/// what a killed one leaves is no hindrance.
/// </summary>
internal sealed class RunLock : IDisposable
{
    /// <summary>The file that is held; it names who holds it.</summary>
    public const string FileName = "run.lock";

    private readonly FileStream held;
    private readonly string? made;

    private RunLock(FileStream held, string? made) => (this.held, this.made) = (held, made);

    /// <summary>
    /// Takes a directory, which is made where it is not there. Errors: InputException that says who has it, where another one does.
    /// </summary>
    public static RunLock Take(string directory)
    {
        string? made = Directory.Exists(directory) ? null : directory;
        Directory.CreateDirectory(directory);
        string path = Path.Combine(directory, FileName);
        FileStream held = Files.Alone(path, $"another run works in {directory}{Holder(path)}; wait for it or stop it, or choose another --out.");
        byte[] words = Encoding.UTF8.GetBytes(string.Create(
            CultureInfo.InvariantCulture, $"process {Environment.ProcessId} on {Environment.MachineName} since {DateTimeOffset.UtcNow:yyyy-MM-dd HH:mm:ss}Z\n"));
        held.SetLength(0);
        held.Write(words);
        held.Flush();
        return new(held, made);
    }

    /// <summary>Whether a directory holds anything but the lock that a killed process left.</summary>
    public static bool Occupied(string directory) =>
        Directory.Exists(directory) && Directory.EnumerateFileSystemEntries(directory).Any(entry => Path.GetFileName(entry) != FileName);

    /// <summary>Lets go, and removes a directory that it made and that nothing was put into.</summary>
    public void Dispose()
    {
        held.Dispose();
        if (made is not null && Directory.Exists(made) && !Files.Occupied(made))
        {
            Directory.Delete(made);
        }
    }

    /// <summary>Who holds the file, as far as it says so.</summary>
    private static string Holder(string path)
    {
        try
        {
            using FileStream? file = AtomicFile.Unlocked(path);
            byte[] words = new byte[300];
            int length = file?.ReadAtLeast(words, words.Length, throwOnEndOfStream: false) ?? 0;
            return length > 0 ? $" ({FileErrors.Show(Encoding.UTF8.GetString(words, 0, length).Trim())})" : "";
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }
}
