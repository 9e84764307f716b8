using System.Text.Json;
using System.Text.Json.Nodes;

namespace Hybrid.Runner.Runs;

/// <summary>What a run is of.</summary>
internal enum RunKind
{
    /// <summary>Not begun.</summary>
    Waiting,
    Train,
    ImageTrain,
    Align,
    Study,
    Other,
}

/// <summary>A run on disk as a report shows it.</summary>
internal sealed class RunData
{
    private const string MetricsName = "metrics.jsonl", EvaluationsName = "evaluations.jsonl", Description = "run.json", Alignment = "align.json";
    private readonly List<(string Name, MetricsFile Metrics)> controls = [];

    private RunData(string path, string name)
    {
        (Path, Name) = (path, name);
        Metrics = new(System.IO.Path.Combine(path, MetricsName));
        Evaluations = new(System.IO.Path.Combine(path, EvaluationsName));
    }

    public string Path { get; }

    /// <summary>What the run is called on the page; no other run of the page is.</summary>
    public string Name { get; }

    public RunKind Kind { get; private set; }

    /// <summary>The text of run.json, or what an alignment says of itself; null where there is none yet.</summary>
    public string? Configuration { get; private set; }

    /// <summary>A value for each step.</summary>
    public MetricsFile Metrics { get; }

    /// <summary>Values on held-out data, now and then.</summary>
    public MetricsFile Evaluations { get; }

    /// <summary>What an alignment measured on its controls, by their names; a line for each of its own.</summary>
    public IReadOnlyList<(string Name, MetricsFile Metrics)> Controls => controls;

    /// <summary>
    /// Runs by their directories, read for the first time. Errors: InputException where one is no run, or, unless it may begin
    /// <paramref name="later"/>, is not there.
    /// </summary>
    public static IReadOnlyList<RunData> Open(IReadOnlyList<string> paths, bool later)
    {
        string[] full = [.. paths.Select(path => System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(path)))];
        if (full.GroupBy(path => path).FirstOrDefault(group => group.Count() > 1) is { } twice)
        {
            throw new InputException($"{twice.Key} is given twice; a run stands on the page once.");
        }

        string[] names = Names(full);
        List<RunData> runs = [];
        for (int i = 0; i < full.Length; i++)
        {
            RunData run = new(full[i], names[i]);
            if (File.Exists(full[i]))
            {
                throw new InputException($"{paths[i]} is a file; a run is a directory with {Description} or {MetricsName}.");
            }

            if (!run.Begun && !(later && !Files.Occupied(full[i])))
            {
                throw new InputException(
                    Directory.Exists(full[i])
                        ? $"{paths[i]} is no run: it holds neither {Description} nor {MetricsName}."
                        : $"there is no run at {paths[i]}{(later ? "" : "; with --watch a run may begin later")}.");
            }

            run.Read();
            runs.Add(run);
        }

        return runs;
    }

    /// <summary>Reads what has come since the last time. Errors: InputException where run.json is no JSON object.</summary>
    public void Read()
    {
        if (Configuration is null && File.Exists(System.IO.Path.Combine(Path, Description)))
        {
            Configuration = Object(System.IO.Path.Combine(Path, Description)).Text;
        }
        else if (Configuration is null && File.Exists(System.IO.Path.Combine(Path, Alignment)))
        {
            JsonObject whole = Object(System.IO.Path.Combine(Path, Alignment)).Root;
            Configuration = new JsonObject { ["configuration"] = whole["configuration"]?.DeepClone(), ["sha256"] = whole["sha256"]?.DeepClone() }.ToJsonString();
            FindControls();
        }

        Metrics.Read();
        Evaluations.Read();
        controls.ForEach(control => control.Metrics.Read());
        Kind = Recognise();
    }

    /// <summary>The leaves of run.json by their dotted names.</summary>
    public SortedDictionary<string, string> Keys() => RunConfiguration.Flat(Configuration is null ? null : JsonNode.Parse(Configuration));

    private bool Begun => File.Exists(System.IO.Path.Combine(Path, Description)) || File.Exists(System.IO.Path.Combine(Path, MetricsName));

    private RunKind Recognise()
    {
        bool Measures(params string[] names) => names.All(Metrics.Names.Contains);
        JsonObject? root = Configuration is null ? null : (JsonObject)JsonNode.Parse(Configuration)!;
        bool Holds(params string[] names) => root is not null && names.All(root.ContainsKey);
        return Holds("job", "plan") ? RunKind.Study
            : Measures("loss", "temperature") ? RunKind.Align
            : Measures("psnr") || Holds("imageSize") ? RunKind.ImageTrain
            : Measures("loss", "learningRate") || Holds("schedule", "data") ? RunKind.Train
            : Metrics.Any || root is not null ? RunKind.Other
            : RunKind.Waiting;
    }

    /// <summary>The files metrics.NAME.jsonl.</summary>
    private void FindControls()
    {
        const string start = "metrics.", end = ".jsonl";
        foreach (string file in Directory.EnumerateFiles(Path, start + "*" + end).Order(StringComparer.Ordinal))
        {
            string name = System.IO.Path.GetFileName(file);
            if (name.Length > start.Length + end.Length)
            {
                controls.Add((name[start.Length..^end.Length], new MetricsFile(file)));
            }
        }
    }

    private static (string Text, JsonObject Root) Object(string path)
    {
        string text = Files.Text(path, "the configuration of the run");
        try
        {
            if (JsonNode.Parse(text, documentOptions: new() { AllowDuplicateProperties = false }) is JsonObject root)
            {
                root.ToJsonString();
                return (text.TrimEnd(), root);
            }
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            throw new InputException($"{path} is not valid JSON: {error.Message}", error);
        }

        throw new InputException($"{path} must hold a JSON object, the configuration of a run.");
    }

    /// <summary>For each path as many of its last parts as tell it from the others.</summary>
    private static string[] Names(string[] paths)
    {
        string[][] parts = [.. paths.Select(path => path.Split(System.IO.Path.DirectorySeparatorChar, StringSplitOptions.RemoveEmptyEntries))];
        string Last(string[] path, int count) => path.Length == 0 ? "/" : string.Join('/', path.TakeLast(count));
        return
        [
            .. parts.Select(own =>
            {
                int count = 1;
                while (count < own.Length && parts.Count(other => Last(other, count) == Last(own, count)) > 1)
                {
                    count++;
                }

                return Last(own, count);
            }),
        ];
    }
}
