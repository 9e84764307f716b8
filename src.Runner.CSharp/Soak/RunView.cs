using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace Hybrid.Runner.Soak;

/// <summary>A run as it is seen from outside, while another process works in it: nothing is opened that it would have to wait for.</summary>
internal sealed partial class RunView(string root)
{
    /// <summary>Put into a checkpoint that was damaged, so that it is known until the run has written it anew.</summary>
    private const string Mark = ".damaged";

    public string Root => root;

    public string Metrics => Path.Combine(root, "metrics.jsonl");

    public string Evaluations => Path.Combine(root, "evaluations.jsonl");

    private string Folder => Path.Combine(root, "checkpoints");

    private string Pointer => Path.Combine(Folder, "latest");

    /// <summary>The directory of a checkpoint.</summary>
    public string At(int step) => new Checkpoints(root).At(step);

    /// <summary>The steps that processes began with, in the order of their starts.</summary>
    public int[] Starts() => [.. StartLine().Matches(Read(Path.Combine(root, "log.txt"))).Select(match => int.Parse(match.Groups[1].ValueSpan, CultureInfo.InvariantCulture))];

    /// <summary>The steps that are done by what is on the disk.</summary>
    public int Done() => Math.Max(Lines(Metrics).Select(StepOf).Max() + 1 ?? 0, Newest());

    /// <summary>
    /// The newest checkpoint that a run can go on from, 0 where there is none: the one that `latest` names, or the one before where that was
    /// damaged. (A newer one may stand there, of a process that was killed before `latest` moved; nothing asks that it is used.)
    /// </summary>
    public int Newest() => Pointed() is { } named ? Whole().FirstOrDefault(step => step <= named) : Whole().FirstOrDefault();

    /// <summary>The steps of the checkpoints that have their names and were not damaged since, the newest first.</summary>
    public int[] Whole() => [.. Named().Where(step => !File.Exists(Path.Combine(At(step), Mark)))];

    /// <summary>The steps of the checkpoints that have their names, the newest first.</summary>
    public int[] Named()
    {
        try
        {
            return [.. Directory.EnumerateDirectories(Folder).Select(path => CheckpointName().Match(Path.GetFileName(path))).Where(match => match.Success)
                .Select(match => int.Parse(match.Groups[1].ValueSpan, CultureInfo.InvariantCulture)).OrderDescending()];
        }
        catch (IOException)
        {
            return [];
        }
    }

    /// <summary>The step that `latest` names, or null.</summary>
    public int? Latest() => CheckpointName().Match(Read(Pointer).Trim()) is { Success: true } match ? int.Parse(match.Groups[1].ValueSpan, CultureInfo.InvariantCulture) : null;

    /// <summary>The step that `latest` names, where that checkpoint is there, or null.</summary>
    public int? Pointed() => Latest() is { } step && Directory.Exists(At(step)) ? step : null;

    /// <summary>The directory in which a checkpoint is being written, or null.</summary>
    public string? Writing() => Unfinished().FirstOrDefault(path => Path.GetFileName(path).Contains("step-", StringComparison.Ordinal) && Directory.Exists(path));

    /// <summary>Whether `latest` is being moved: it is written aside, or does not name a checkpoint yet that was not there before.</summary>
    public bool Moving(int[] before) => Unfinished().Any(path => Path.GetFileName(path).Contains("latest", StringComparison.Ordinal))
        || Named().Any(step => step > (Latest() ?? -1) && !before.Contains(step));

    /// <summary>Says of a checkpoint that it was damaged.</summary>
    public void MarkDamaged(int step) => File.WriteAllText(Path.Combine(At(step), Mark), "");

    /// <summary>Makes `latest` hold another text.</summary>
    public void Point(string text) => File.WriteAllText(Pointer, text);

    /// <summary>The whole lines of a file, and a last one that may not be whole.</summary>
    public static string[] Lines(string path) => Read(path).Split('\n', StringSplitOptions.RemoveEmptyEntries);

    private string[] Unfinished()
    {
        try
        {
            return [.. Directory.EnumerateFileSystemEntries(Folder, "*.partial", new EnumerationOptions { AttributesToSkip = 0 })];
        }
        catch (IOException)
        {
            return [];
        }
    }

    /// <summary>A file's text, empty where it is not there.</summary>
    private static string Read(string path)
    {
        try
        {
            using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            using StreamReader reader = new(stream);
            return reader.ReadToEnd();
        }
        catch (IOException)
        {
            return "";
        }
    }

    private static int? StepOf(string line)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(line);
            return document.RootElement.GetProperty("step").GetInt32();
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            return null;
        }
    }

    [GeneratedRegex(@"starts at step (\d+)")]
    private static partial Regex StartLine();

    [GeneratedRegex(@"^step-(\d+)$")]
    private static partial Regex CheckpointName();
}
