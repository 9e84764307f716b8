namespace Hybrid.Runner;

/// <summary>Where the trace of an unexpected error goes: into the log of the run, or into a file of its own.</summary>
internal static class Trace
{
    private static string? log;

    /// <summary>From now on traces go to the end of this file.</summary>
    public static void To(string? path) => log = path;

    /// <summary>Keeps the trace and says where.</summary>
    public static string Keep(Exception error)
    {
        string path = log ?? Path.Combine(Path.GetTempPath(), $"hybrid-{Environment.ProcessId}.log");
        try
        {
            File.AppendAllText(path, $"{DateTimeOffset.UtcNow:u} {error}\n");
            return $"The trace is in {path}.";
        }
        catch (Exception unwritable) when (unwritable is IOException or UnauthorizedAccessException)
        {
            return $"The trace could not be written to {path}: {unwritable.Message}";
        }
    }
}
