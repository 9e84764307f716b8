using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// A run on disk: run.json (the resolved configuration), metrics.jsonl (an object a step), evaluations.jsonl (an object for each
/// evaluation on held-out data), checkpoints/ and log.txt.
/// </summary>
public sealed class RunDirectory : IDisposable
{
    private StreamWriter? log;
    private StreamWriter? metrics;

    private RunDirectory(string root)
    {
        Root = root;
        Checkpoints = new Checkpoints(root);
    }

    public string Root { get; }

    public Checkpoints Checkpoints { get; }

    public string RunFile => Path.Combine(Root, "run.json");

    public string MetricsFile => Path.Combine(Root, "metrics.jsonl");

    public string EvaluationsFile => Path.Combine(Root, "evaluations.jsonl");

    public string LogFile => Path.Combine(Root, "log.txt");

    /// <summary>The directory of a new run. Errors: InputException where something is there already.</summary>
    public static RunDirectory New(string root)
    {
        string full = Path.GetFullPath(root);
        return Files.Occupied(full) || File.Exists(full)
            ? throw new InputException($"{root} exists and is not empty; a run does not overwrite another. Go on with it by --resume auto, or choose another --out.")
            : new RunDirectory(full);
    }

    /// <summary>The directory of a run that may be there already. Errors: InputException where something else is.</summary>
    public static RunDirectory Existing(string root)
    {
        RunDirectory run = new(Path.GetFullPath(root));
        return Files.Occupied(run.Root) && !File.Exists(run.RunFile)
            ? throw new InputException($"{root} is not a run: it is not empty and has no run.json. Choose another --out.")
            : run;
    }

    /// <summary>SHA-256 of a resolved configuration.</summary>
    public static string Hash(TrainPlan plan) => Hash(plan.Json);

    /// <summary>SHA-256 of a resolved configuration.</summary>
    public static string Hash(string configuration) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(configuration)));

    /// <summary>
    /// Begins writing: the resolved configuration, and metrics of steps before <paramref name="firstStep"/> only, because later
    /// ones will be made again.
    /// </summary>
    public void Begin(string configuration, int firstStep)
    {
        Directory.CreateDirectory(Root);
        AtomicFile.WriteText(RunFile, configuration + "\n");
        Keep(MetricsFile, step => step < firstStep);
        Keep(EvaluationsFile, step => step <= firstStep);
        log = new StreamWriter(LogFile, append: true) { AutoFlush = true };
        metrics = new StreamWriter(MetricsFile, append: true);
        Trace.To(LogFile);
    }

    /// <summary>
    /// The keys in which the configuration of the run differs from another one, apart from those under the objects that a run may
    /// change when it goes on (<paramref name="free"/>).
    /// </summary>
    public IReadOnlyList<string> Differences(string configuration, params IReadOnlyList<string> free)
    {
        try
        {
            return Differences(Files.Text(RunFile, "the configuration of the run"), configuration, free);
        }
        catch (JsonException error)
        {
            throw new InputException($"{RunFile} is not valid JSON: {error.Message}", error);
        }
    }

    /// <summary>The keys in which one configuration differs from another, apart from those under some objects.</summary>
    public static IReadOnlyList<string> Differences(string begun, string configuration, IReadOnlyList<string> free)
    {
        SortedDictionary<string, string> old = Flat(JsonNode.Parse(begun)), now = Flat(JsonNode.Parse(configuration));
        return
        [
            .. old.Keys.Union(now.Keys).Order(StringComparer.Ordinal)
                .Where(key => !free.Any(name => key.StartsWith(name + ".", StringComparison.Ordinal)))
                .Where(key => old.GetValueOrDefault(key) != now.GetValueOrDefault(key))
                .Select(key => $"{key}: {old.GetValueOrDefault(key) ?? "absent"} in the run, {now.GetValueOrDefault(key) ?? "absent"} now"),
        ];
    }

    /// <summary>Adds a line to the log.</summary>
    public void Log(string line) => log?.WriteLine($"{DateTimeOffset.UtcNow:yyyy-MM-dd HH:mm:ss}Z {line}");

    public void Add(StepMetrics step) => Add(step.ToJson());

    /// <summary>Adds a line to the metrics; its first key is <c>step</c>.</summary>
    public void Add(JsonObject step) => metrics?.WriteLine(step.ToJsonString());

    /// <summary>Puts the metrics that were added onto the disk's side.</summary>
    public void Flush() => metrics?.Flush();

    public void Add(int step, Evaluation evaluation) => Add(step, evaluation.ToJson()!);

    /// <summary>Adds a line to the evaluations.</summary>
    public void Add(int step, IReadOnlyDictionary<string, object?> evaluation)
    {
        Dictionary<string, object?> line = new() { ["step"] = step };
        foreach (var (key, value) in evaluation)
        {
            line[key] = value;
        }

        File.AppendAllText(EvaluationsFile, Json.Text(line) + "\n");
    }

    /// <summary>Whether the evaluations have a line of a step.</summary>
    public bool Evaluated(int step) => File.Exists(EvaluationsFile) && File.ReadLines(EvaluationsFile).Any(line => StepOf(line) == step);

    public void Dispose()
    {
        metrics?.Dispose();
        log?.Dispose();
        Trace.To(null);
    }

    private static void Keep(string path, Func<int, bool> wanted)
    {
        if (!File.Exists(path))
        {
            return;
        }

        string[] lines = File.ReadAllLines(path);
        string[] kept = [.. lines.Where(line => StepOf(line) is { } step && wanted(step))];
        if (kept.Length < lines.Length)
        {
            AtomicFile.WriteText(path, string.Concat(kept.Select(line => line + "\n")));
        }
    }

    /// <summary>The step of a line, or null where the line was cut off.</summary>
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

    /// <summary>The leaves of an object by their dotted names, as JSON.</summary>
    internal static SortedDictionary<string, string> Flat(JsonNode? root)
    {
        SortedDictionary<string, string> flat = new(StringComparer.Ordinal);
        void Visit(string path, JsonNode? node)
        {
            if (node is JsonObject fields)
            {
                foreach (var (name, value) in fields)
                {
                    Visit(path.Length == 0 ? name : $"{path}.{name}", value);
                }
            }
            else
            {
                flat[path] = node?.ToJsonString() ?? "null";
            }
        }

        Visit("", root);
        return flat;
    }
}
