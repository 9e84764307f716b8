using System.Globalization;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// The checkpoints of a run: checkpoints/step-0000123, and checkpoints/latest, a text file that names the newest one and moves
/// only when that one is whole.
/// </summary>
public sealed class Checkpoints(string run)
{
    private const string Latest = "latest", Prefix = "step-";

    private readonly string folder = Path.Combine(run, "checkpoints");

    /// <summary>The directory of the checkpoint after some steps.</summary>
    public string At(int step) => Path.Combine(folder, Prefix + step.ToString("0000000", CultureInfo.InvariantCulture));

    /// <summary>Makes a checkpoint the latest one.</summary>
    public void Advance(int step) => AtomicFile.WriteText(Path.Combine(folder, Latest), Path.GetFileName(At(step)) + "\n");

    /// <summary>
    /// The newest checkpoint that is whole, or null where there is none. One that is torn or missing is warned of and passed over.
    /// </summary>
    public Checkpoint? Newest()
    {
        foreach (string directory in Candidates())
        {
            try
            {
                return Checkpoint.Open(directory);
            }
            catch (InputException error)
            {
                Terminal.Warn($"{error.Message} Looking for the one before it.");
            }
        }

        return null;
    }

    /// <summary>
    /// The directory of the model that a path stands for: the newest checkpoint of a run or of a checkpoints folder, or the path itself.
    /// Errors: InputException for a run without a whole checkpoint.
    /// </summary>
    internal static string Resolve(string path)
    {
        string full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
        string? run = Directory.Exists(Path.Combine(full, "checkpoints")) ? full
            : Path.GetFileName(full) == "checkpoints" && !File.Exists(Path.Combine(full, Checkpoint.Description)) ? Path.GetDirectoryName(full)
            : null;
        return run is null
            ? path
            : new Checkpoints(run).Newest()?.Directory ?? throw new InputException($"{path} is a run without a checkpoint that is whole.");
    }

    /// <summary>The one that `latest` names first, then the others from the newest down.</summary>
    private IEnumerable<string> Candidates()
    {
        string pointer = Path.Combine(folder, Latest);
        string? named = File.Exists(pointer) ? Path.Combine(folder, Path.GetFileName(File.ReadAllText(pointer).Trim())) : null;
        IEnumerable<string> all = Directory.Exists(folder)
            ? Directory.EnumerateDirectories(folder, Prefix + "*").Where(path => !Path.GetFileName(path).Contains('.')).OrderDescending(StringComparer.Ordinal)
            : [];
        if (named is not null && !(Path.GetFileName(named).StartsWith(Prefix, StringComparison.Ordinal) && Directory.Exists(named)))
        {
            Terminal.Warn($"{pointer} names no checkpoint that is there; the newest one that is whole is taken.");
            named = null;
        }

        return named is null ? all : all.Where(path => string.CompareOrdinal(Path.GetFileName(path), Path.GetFileName(named)) < 0).Prepend(named);
    }
}
