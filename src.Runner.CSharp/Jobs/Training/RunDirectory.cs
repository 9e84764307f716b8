using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;
using Hybrid.Runner.Runs;

namespace Hybrid.Runner;

/// <summary>
/// A run on disk: run.json (the resolved configuration), metrics.jsonl (an object a step), evaluations.jsonl (an object for each
/// evaluation on held-out data), checkpoints/ and log.txt. It is this process's alone until it is disposed. Lines that cannot be
/// written while the run goes on wait in memory: that is warned of once, and tried again.
/// </summary>
internal sealed class RunDirectory : IDisposable
{
    private static readonly TimeSpan flushInterval = TimeSpan.FromSeconds(0.5);
    private readonly RunLock? alone;
    private readonly bool leads;
    private readonly LineFile log, metrics, evaluations;
    private readonly HashSet<string> failing = [];
    private readonly HashSet<int> evaluated = [];
    private EventFile? events;
    private long flushed;
    private bool begun;

    private RunDirectory(string root, int rank = 0)
    {
        Root = root;
        leads = rank == 0;
        LogFile = leads ? Path.Combine(root, "log.txt") : Path.Combine(root, "ranks", string.Create(CultureInfo.InvariantCulture, $"log-{rank:00000}.txt"));
        Checkpoints = new Checkpoints(root);
        (log, metrics, evaluations) = (new(LogFile), new(MetricsFile), new(EvaluationsFile));
        alone = leads ? RunLock.Take(root) : null;
    }

    public string Root { get; }

    /// <summary>
    /// Whether an event file for TensorBoard is written beside the metrics, from the beginning of the run; one that is there already goes
    /// on in any case. To be said before the run begins.
    /// </summary>
    public bool TensorBoard { get; set; }

    public Checkpoints Checkpoints { get; }

    public string RunFile => Path.Combine(Root, "run.json");

    public string MetricsFile => Path.Combine(Root, "metrics.jsonl");

    public string EvaluationsFile => Path.Combine(Root, "evaluations.jsonl");

    /// <summary>What the steps saw that ended the run because their gradients were not finite.</summary>
    public string NotFiniteFile => Path.Combine(Root, "not-finite.json");

    public string LogFile { get; }

    /// <summary>The directory of a new run. Errors: InputException where something is there already.</summary>
    public static RunDirectory New(string root)
    {
        string full = Path.GetFullPath(root);
        return RunLock.Occupied(full) || File.Exists(full)
            ? throw new InputException($"{root} exists and is not empty; a run does not overwrite another. Go on with it by --resume auto, or choose another --out.")
            : new RunDirectory(full);
    }

    /// <summary>The directory of a run that may be there already. Errors: InputException where something else is.</summary>
    public static RunDirectory Existing(string root)
    {
        string full = Path.GetFullPath(root);
        return RunLock.Occupied(full) && !File.Exists(Path.Combine(full, "run.json"))
            ? throw new InputException($"{root} is not a run: it is not empty and has no run.json. Choose another --out.")
            : new RunDirectory(full);
    }

    /// <summary>
    /// The same directory for another process of a run that rank 0 has taken: it keeps a log of its own, ranks/log-NNNNN.txt, and writes
    /// nothing else.
    /// </summary>
    public static RunDirectory Shared(string root, int rank) => new(Path.GetFullPath(root), rank);

    /// <summary>Whether a path lies in this directory.</summary>
    public bool Holds(string path) => Path.GetFullPath(path).StartsWith(Root + Path.DirectorySeparatorChar, StringComparison.Ordinal);

    /// <summary>
    /// Begins writing: the resolved configuration, and metrics of steps before <paramref name="firstStep"/> only, because later
    /// ones will be made again. <paramref name="begunAt"/> is the step at which the run began; a line that is missing since is warned of.
    /// </summary>
    public void Begin(string configuration, int firstStep, int begunAt = 0)
    {
        begun = true;
        if (!leads)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(LogFile)!);
            Trace.To(LogFile);
            return;
        }

        AtomicFile.RemoveUnfinished(Root);
        Checkpoints.RemoveUnfinished();
        AtomicFile.WriteText(RunFile, configuration + "\n");
        int[] there = GoBack(firstStep);
        if (TensorBoard || EventFile.In(Root))
        {
            events = new EventFile(Root);
        }

        int missing = firstStep - begunAt - there.Count(step => step >= begunAt);
        if (missing > 0)
        {
            string words = $"{MetricsFile} lacks {missing} of the steps {begunAt} to {firstStep - 1}, which were made before; they stay missing";
            Terminal.Warn(words);
            Log(words);
        }

        Trace.To(LogFile);
    }

    /// <summary>Keeps the metrics of steps before one, and the evaluations up to it; returns the steps whose metrics are kept.</summary>
    public int[] GoBack(int step)
    {
        if (!leads)
        {
            return [];
        }

        Sync();
        evaluated.Clear();
        Keep(EvaluationsFile, other => other <= step);
        int[] kept = Keep(MetricsFile, other => other < step);
        events?.Restart();
        return kept;
    }

    /// <summary>
    /// The keys in which the configuration of the run differs from another one, apart from those under the objects that a run may
    /// change when it goes on (<paramref name="free"/>).
    /// </summary>
    public IReadOnlyList<string> Differences(string configuration, params IReadOnlyList<string> free)
    {
        try
        {
            return RunConfiguration.Differences(Files.Text(RunFile, "the configuration of the run"), configuration, free);
        }
        catch (JsonException error)
        {
            throw new InputException($"{RunFile} is not valid JSON: {error.Message}", error);
        }
    }

    /// <summary>Adds a line to the log.</summary>
    public void Log(string line)
    {
        log.Add($"{DateTimeOffset.UtcNow:yyyy-MM-dd HH:mm:ss}Z {line}");
        TryFlush(log);
    }

    public void Add(StepMetrics step) => Add(step.ToJson());

    /// <summary>Adds a line to the metrics; its first key is <c>step</c>, its last becomes the time, in seconds since 1970.</summary>
    public void Add(JsonObject step)
    {
        if (!leads)
        {
            return;
        }

        step["time"] = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() / 1e3;
        string line = step.ToJsonString();
        metrics.Add(line);
        events?.Add(line);
        if (Stopwatch.GetElapsedTime(flushed) >= flushInterval)
        {
            Flush();
        }
    }

    /// <summary>Hands what was added to the system, where it takes it.</summary>
    public void Flush()
    {
        flushed = Stopwatch.GetTimestamp();
        TryFlush(metrics);
        TryFlush(evaluations);
        TryFlush(log);
        if (events is not null)
        {
            TryFlush(events.File);
        }
    }

    /// <summary>Puts metrics and evaluations onto the disk. Errors: IOException, UnauthorizedAccessException; the lines then wait on.</summary>
    public void Sync()
    {
        RequireThere();
        metrics.Flush(toDisk: true);
        evaluations.Flush(toDisk: true);
    }

    /// <summary>That the run is where it was: an empty directory in its place is another one. Errors: IOException.</summary>
    public void RequireThere()
    {
        if (!File.Exists(RunFile))
        {
            throw new DirectoryNotFoundException($"the directory of the run, {Root}, is not there any more.");
        }
    }

    /// <summary>Writes down what steps without a finite gradient saw.</summary>
    public void Keep(NotFiniteSteps found)
    {
        Flush();
        if (!leads)
        {
            return;
        }

        try
        {
            RequireThere();
            AtomicFile.WriteText(NotFiniteFile, found.ToJson().ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n");
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // What ends the run is said all the same.
            Terminal.Warn($"{NotFiniteFile} could not be written: {error.Message}");
        }
    }

    public void Add(int step, Evaluation evaluation) => Add(step, evaluation.ToJson()!);

    /// <summary>Adds a line to the evaluations.</summary>
    public void Add(int step, IReadOnlyDictionary<string, object?> evaluation)
    {
        Dictionary<string, object?> line = new() { ["step"] = step };
        foreach (var (key, value) in evaluation)
        {
            line[key] = value;
        }

        if (leads)
        {
            string text = Json.Text(line);
            evaluations.Add(text);
            events?.Add(text, heldOut: true);
        }

        evaluated.Add(step);
        TryFlush(evaluations);
    }

    /// <summary>The held-out losses that the evaluations have, by step.</summary>
    public IReadOnlyDictionary<int, double> HeldOutLosses()
    {
        Dictionary<int, double> losses = [];
        foreach (string line in File.Exists(EvaluationsFile) ? File.ReadLines(EvaluationsFile) : [])
        {
            if (StepOf(line) is { } step && JsonNode.Parse(line)?["loss"] is JsonObject loss && loss["total"] is JsonValue total && total.TryGetValue(out double value))
            {
                losses[step] = value;
            }
        }

        return losses;
    }

    /// <summary>Whether the evaluations have a line of a step.</summary>
    public bool Evaluated(int step) => evaluated.Contains(step) || File.Exists(EvaluationsFile) && File.ReadLines(EvaluationsFile).Any(line => StepOf(line) == step);

    public void Dispose()
    {
        if (begun)
        {
            Flush();
        }

        Trace.To(null);
        alone?.Dispose();
    }

    private void TryFlush(LineFile file)
    {
        string name = Path.GetFileName(file.Path);
        try
        {
            RequireThere();
            file.Flush();
            if (Failing(name, false))
            {
                Terminal.Say($"{name} is written again; nothing of it was lost");
            }
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            if (Failing(name, true))
            {
                Terminal.Warn($"{name} cannot be written just now: {error.Message} The run goes on; the lines wait in memory.");
            }
        }
    }

    /// <summary>Notes whether a file fails; whether that is new.</summary>
    private bool Failing(string name, bool fails)
    {
        lock (failing)
        {
            return fails ? failing.Add(name) : failing.Remove(name);
        }
    }

    /// <summary>
    /// Leaves in a file the lines of the steps that are wanted, each step once (the line that was written last) and in order, and nothing
    /// that was cut off; returns these steps.
    /// </summary>
    private static int[] Keep(string path, Func<int, bool> wanted)
    {
        if (!File.Exists(path))
        {
            return [];
        }

        string text = File.ReadAllText(path);
        SortedDictionary<int, string> kept = [];
        foreach (string line in text.Split('\n'))
        {
            if (StepOf(line) is { } step && wanted(step))
            {
                kept[step] = line;
            }
        }

        string whole = string.Concat(kept.Values.Select(line => line + "\n"));
        if (whole != text)
        {
            AtomicFile.WriteText(path, whole);
        }

        return [.. kept.Keys];
    }

    /// <summary>The step of a line, or null where the line was cut off.</summary>
    private static int? StepOf(string line)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(line);
            return document.RootElement.GetProperty("step").GetInt32();
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
        {
            return null;
        }
    }
}
