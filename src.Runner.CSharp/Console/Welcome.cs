using System.Globalization;

namespace Hybrid.Runner;

/// <summary>What <c>hybrid</c> alone adds to its help: the runs that are there to go on with.</summary>
internal static class Welcome
{
    private const int MostShown = 5;

    /// <summary>The newest runs under runs/ of a folder, and what to do with them; null where there are none.</summary>
    public static string? Runs(string folder)
    {
        string root = Path.Combine(folder, "runs");
        try
        {
            (string Name, DateTime Time, bool Report)[] runs =
            [
                .. new DirectoryInfo(root).EnumerateDirectories()
                    .Where(run => File.Exists(Path.Combine(run.FullName, "run.json")))
                    .Select(run => (run.Name, run.LastWriteTime, File.Exists(Path.Combine(run.FullName, "report.html"))))
                    .OrderByDescending(run => run.LastWriteTime),
            ];
            if (runs.Length == 0)
            {
                return null;
            }

            string[] names = [.. runs.Take(2).Select(run => $"runs/{run.Name}")];
            IEnumerable<string> lines = runs.Take(MostShown).Select(run => string.Create(
                CultureInfo.InvariantCulture, $"  {$"runs/{run.Name}",-25} {run.Time:yyyy-MM-dd HH:mm}{(run.Report ? "  report.html" : "")}"));
            string more = runs.Length > MostShown ? $"\n  and {runs.Length - MostShown} more" : "";
            return $"Runs in this folder, the newest first:\n{string.Join('\n', lines)}{more}\nTheir curves: hybrid report {string.Join(' ', names)} --out report.html";
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
