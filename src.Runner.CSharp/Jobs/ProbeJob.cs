using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>Knowledge, few-shot and language-modelling probes of a model, beside another one where it is given.</summary>
internal static class ProbeJob
{
    public static void Run(ProbeCommand command, CancellationToken stop)
    {
        ProbeTask[] tasks = [.. command.Tasks.Select(ProbeTask.Read)];
        if (tasks.GroupBy(task => task.Name).FirstOrDefault(group => group.Count() > 1) is { } twice)
        {
            throw new ConfigurationException($"--tasks: two of the tasks are named {twice.Key}.");
        }

        using Progress progress = new();
        IReadOnlyList<ProbeResult> own = Score(ModelFiles.Open(command.Model), tasks, progress, stop);
        IReadOnlyList<ProbeResult>? other = command.Against.Count == 0 ? null : Score(ModelFiles.Open(command.Against[0]), tasks, progress, stop);
        if (command.Json)
        {
            Json.Write(new { Tasks = tasks.Select((task, i) => (task.Name, Value: ToJson(own[i], other?[i]))).ToDictionary(task => task.Name, task => task.Value) });
            return;
        }

        Console.Out.WriteLine($"{"task",-20}{"n",7}  {"accuracy",-22}{"nats/token",-22}{(other is null ? "" : "against: accuracy")}");
        for (int i = 0; i < tasks.Length; i++)
        {
            string against = other is null ? "" : $"{Show(other[i].Accuracy),-22}{Difference(own[i], other[i])}";
            Console.Out.WriteLine($"{tasks[i].Name,-20}{own[i].Items.Count,7}  {Show(own[i].Accuracy),-22}{Show(own[i].LossPerToken),-22}{against}");
        }
    }

    private static List<ProbeResult> Score(ModelFile opened, ProbeTask[] tasks, Progress progress, CancellationToken stop)
    {
        using ModelFile file = opened;
        using PromptCodec codec = PromptCodec.Beside(file);
        using Model model = file.Open(new Layout { Device = TorchLibrary.Device, Frozen = true });
        List<ProbeResult> results = [];
        foreach (ProbeTask task in tasks)
        {
            using Stage stage = progress.Stage($"{task.Name} by {Path.GetFileName(Path.TrimEndingDirectorySeparator(file.Path))}", task.Items.Sum(item => item.Choices.Count));
            results.Add(ProbeResult.Of(model, codec, task, stop, done => stage.Report(done)));
        }

        return results;
    }

    private static Dictionary<string, object?> ToJson(ProbeResult own, ProbeResult? other)
    {
        Dictionary<string, object?> json = own.ToJson();
        if (other is not null)
        {
            (int gained, int lost, double p) = Compare(own, other);
            Statistics.Interval change = Change(own, other);
            json["against"] = other.ToJson();
            json["difference"] = new Dictionary<string, object>
            {
                ["accuracy"] = change.Mean,
                ["interval"] = new[] { change.Low, change.High },
                ["only_model"] = gained,
                ["only_against"] = lost,
                ["mcnemar_p"] = p,
            };
        }

        return json;
    }

    /// <summary>Items that only one of the two answered, and McNemar's exact p-value of that.</summary>
    private static (int Gained, int Lost, double P) Compare(ProbeResult own, ProbeResult other)
    {
        (bool Own, bool Other)[] pairs = [.. own.Right.Zip(other.Right)];
        int gained = pairs.Count(pair => pair is { Own: true, Other: false }), lost = pairs.Count(pair => pair is { Own: false, Other: true });
        return (gained, lost, Intervals.McNemar(gained, lost));
    }

    private static Statistics.Interval Change(ProbeResult own, ProbeResult other)
    {
        double[] changes = [.. own.Right.Zip(other.Right, (a, b) => (a ? 1.0 : 0.0) - (b ? 1.0 : 0.0))];
        return Intervals.Ratio(0, 10_000, changes, [.. changes.Select(_ => 1.0)]);
    }

    private static string Difference(ProbeResult own, ProbeResult other)
    {
        (int gained, int lost, double p) = Compare(own, other);
        return $"only the model {gained}, only the other {lost}, p {Report.number(2, p)}";
    }

    private static string Show(Statistics.Interval interval) => double.IsNaN(interval.Mean) ? "–" : Report.interval(interval.Mean, interval.Low, interval.High);
}
