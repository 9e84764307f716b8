using System.Globalization;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// The checkpoints of a run: checkpoints/step-0000123, and checkpoints/latest, a text file that names the newest one and moves
/// only when that one is whole.
/// </summary>
public sealed class Checkpoints(string run)
{
    private const string Latest = "latest", BestName = "best", Prefix = "step-", Removed = ".removed";

    private readonly string folder = Path.Combine(run, "checkpoints");

    /// <summary>The directory of the checkpoint after some steps.</summary>
    public string At(int step) => Path.Combine(folder, Prefix + step.ToString("0000000", CultureInfo.InvariantCulture));

    /// <summary>Makes a checkpoint the latest one.</summary>
    public void Advance(int step) => AtomicFile.WriteText(Path.Combine(folder, Latest), Path.GetFileName(At(step)) + "\n");

    /// <summary>
    /// The newest checkpoint that is whole, or null where there is none. One that is torn, altered or missing is warned of and passed
    /// over. With <paramref name="bytes"/> every byte is compared with what was written; with <paramref name="wanted"/> only those after
    /// some numbers of steps are looked at.
    /// </summary>
    public Checkpoint? Newest(bool bytes = false, Func<int, bool>? wanted = null)
    {
        foreach (string directory in Candidates().Where(path => wanted is null || (StepOf(path) is { } step && wanted(step))))
        {
            try
            {
                return Checkpoint.Open(directory, bytes);
            }
            catch (InputException error)
            {
                Terminal.Warn($"{error.Message} Looking for the one before it.");
            }
        }

        return null;
    }

    /// <summary>
    /// Makes the checkpoint with the lowest held-out loss (by step; the earlier one of two that are alike) the best one, of those that are
    /// there.
    /// </summary>
    public void Best(IReadOnlyDictionary<int, double> losses)
    {
        int[] there = [.. losses.Where(pair => double.IsFinite(pair.Value) && Directory.Exists(At(pair.Key))).OrderBy(pair => pair.Value).ThenBy(pair => pair.Key).Select(pair => pair.Key)];
        if (there.Length > 0 && Named(BestName) != At(there[0]))
        {
            AtomicFile.WriteText(Path.Combine(folder, BestName), Path.GetFileName(At(there[0])) + "\n");
        }
    }

    /// <summary>Makes an older checkpoint the latest one again, and removes what came after it.</summary>
    public void GoBack(int step)
    {
        Advance(step);
        if (StepOf(Named(BestName)) > step)
        {
            File.Delete(Path.Combine(folder, BestName));
        }

        foreach (int later in All().Select(StepOf).OfType<int>().Where(later => later > step).ToArray())
        {
            Directory.Move(At(later), At(later) + Removed);
        }

        Clear();
    }

    /// <summary>
    /// Removes checkpoints up to the latest: of their steps, with those to be spared before them, <paramref name="choose"/> says which. The
    /// latest, the best and the newest of those that are <paramref name="needed"/> are spared.
    /// </summary>
    public void Remove(Func<IEnumerable<int>, IEnumerable<int>, IReadOnlyList<int>> choose, Func<int, bool> needed)
    {
        int? latest = StepOf(Named(Latest)), best = StepOf(Named(BestName));
        int[] steps = [.. All().Select(StepOf).OfType<int>().Where(step => step <= latest)];
        int? last = steps.Where(needed).Select(step => (int?)step).Max();
        int[] spared = [.. new[] { latest, best, last }.OfType<int>()];
        foreach (int step in choose(spared, steps))
        {
            // Under its own name it is whole as long as it is there.
            Directory.Move(At(step), At(step) + Removed);
        }

        Clear();
    }

    /// <summary>Removes what a process that was killed has left aside; only whoever has the run may.</summary>
    public void RemoveUnfinished() => AtomicFile.RemoveUnfinished(folder);

    private void Clear()
    {
        foreach (string gone in Directory.EnumerateDirectories(folder, Prefix + "*" + Removed))
        {
            Directory.Delete(gone, recursive: true);
        }
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
        string? named = Named(Latest);
        IEnumerable<string> all = All().OrderDescending(StringComparer.Ordinal);
        if (named is not null && !(Path.GetFileName(named).StartsWith(Prefix, StringComparison.Ordinal) && Directory.Exists(named)))
        {
            Terminal.Warn($"{Path.Combine(folder, Latest)} names no checkpoint that is there; the newest one that is whole is taken.");
            named = null;
        }

        return named is null ? all : all.Where(path => string.CompareOrdinal(Path.GetFileName(path), Path.GetFileName(named)) < 0).Prepend(named);
    }

    private IEnumerable<string> All() => Directory.Exists(folder)
        ? Directory.EnumerateDirectories(folder, Prefix + "*").Where(path => !Path.GetFileName(path).Contains('.'))
        : [];

    private string? Named(string pointer)
    {
        string path = Path.Combine(folder, pointer);
        return File.Exists(path) ? Path.Combine(folder, Path.GetFileName(File.ReadAllText(path).Trim())) : null;
    }

    private static int? StepOf(string? directory) =>
        int.TryParse(Path.GetFileName(directory)?[Math.Min(Prefix.Length, Path.GetFileName(directory)!.Length)..], NumberStyles.None, CultureInfo.InvariantCulture, out int step) ? step : null;
}
