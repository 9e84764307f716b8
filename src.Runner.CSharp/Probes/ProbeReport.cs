using System.Globalization;
using System.Text;

namespace Hybrid.Runner;

/// <summary>How a model goes on from a text, taking its first choice every time.</summary>
internal sealed record ProbeCompletion(string Text, int[] Ids);

/// <summary>All that one model was asked.</summary>
internal sealed record ProbeScores(string Path, IReadOnlyList<ProbeResult> Tasks, IReadOnlyList<ProbeText> Texts, IReadOnlyList<ProbeCompletion> Completions);

/// <summary>Probes of several models beside each other. The first one is the model before training, the last one the model asked about.</summary>
internal sealed class ProbeReport(IReadOnlyList<ProbeTask> tasks, IReadOnlyList<string> prompts, IReadOnlyList<ProbeScores> models)
{
    private const int NameWidth = 24;

    private ProbeScores Model => models[^1];

    /// <summary>Null where only one model was asked.</summary>
    private ProbeScores? Before => models.Count > 1 ? models[0] : null;

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson()
    {
        Dictionary<string, object?> json = new() { ["tasks"] = tasks.Select((task, i) => (task.Name, Value: Task(i))).ToDictionary(task => task.Name, task => task.Value) };
        if (Model.Texts.Count > 0)
        {
            json["texts"] = Model.Texts.Select((text, i) => (text.Name, Value: Text(i))).ToDictionary(text => text.Name, text => text.Value);
        }

        if (prompts.Count > 0)
        {
            json["completions"] = prompts.Select((prompt, i) => new
            {
                Prompt = prompt,
                Continuations = models.Select(model => new { Model = model.Path, model.Completions[i].Text, model.Completions[i].Ids }).ToArray(),
            }).ToArray();
        }

        json["models"] = models.Select(model => model.Path).ToArray();
        return json;
    }

    /// <summary>Tables for a person, at most 80 characters wide but for texts.</summary>
    public string ToText()
    {
        StringBuilder text = new();
        if (tasks.Count > 0)
        {
            text.AppendLine($"{"task",-NameWidth}{"accuracy",-26}{"nats/token",-22}");
            for (int i = 0; i < tasks.Count; i++)
            {
                string[] cells = [.. models.Select(model => $"{Show(model.Tasks[i].Accuracy),-26}{Show(model.Tasks[i].LossPerToken)}")];
                Rows(text, $"{tasks[i].Name} ({Model.Tasks[i].Items.Count:N0})", cells, after => Compared(models[after].Tasks[i], models[0].Tasks[i]));
            }
        }

        if (Model.Texts.Count > 0)
        {
            text.AppendLine(text.Length > 0 ? "\n" + $"{"text",-NameWidth}{"nats/token",-26}{"bits/byte",-22}" : $"{"text",-NameWidth}{"nats/token",-26}{"bits/byte",-22}");
            for (int i = 0; i < Model.Texts.Count; i++)
            {
                string[] cells = [.. models.Select(model => $"{Show(model.Texts[i].LossPerToken),-26}{(model.Texts[i].LossPerByte / Math.Log(2)).ToString("0.000", CultureInfo.InvariantCulture)}")];
                Rows(text, $"{Model.Texts[i].Name} ({Model.Texts[i].Tokens:N0})", cells, after =>
                    ProbeText.Change(models[after].Texts[i].Scores, models[0].Texts[i].Scores) is { } change ? $"nats/token {Show(change)} against the first" : "other tokens than the first: compare bits");
            }
        }

        for (int i = 0; i < prompts.Count; i++)
        {
            text.AppendLine(text.Length > 0 ? $"\n\"{prompts[i]}\"" : $"\"{prompts[i]}\"");
            foreach (ProbeScores model in models)
            {
                text.AppendLine($"  {Named(model),-NameWidth}{Shown(model.Completions[i])}");
            }
        }

        return text.ToString().TrimEnd();
    }

    private static string Show(Statistics.Interval interval) => double.IsNaN(interval.Mean) ? "–" : Hybrid.Report.interval(interval.Mean, interval.Low, interval.High);

    private static string Compared(ProbeResult result, ProbeResult before)
    {
        (int gained, int lost, double p) = result.Compare(before);
        return $"{gained} won, {lost} lost against the first: p {Hybrid.Report.number(2, p)}";
    }

    private static string Shown(ProbeCompletion completion) => completion.Text.Trim().Length > 0 || completion.Ids.Length == 0
        ? completion.Text.ReplaceLineEndings("⏎")
        : $"({completion.Ids.Length} tokens without text)";

    private static string Cut(string text, int width) => text.Length <= width ? text : "…" + text[^(width - 1)..];

    private string Named(ProbeScores model) => Cut(Path.TrimEndingDirectorySeparator(model.Path), NameWidth - 3);

    /// <summary>A row where there is one model; else a row for each under a line of its own, with what the later ones come to against the first.</summary>
    private void Rows(StringBuilder text, string name, string[] cells, Func<int, string> compared)
    {
        if (cells.Length == 1)
        {
            text.AppendLine($"{Cut(name, NameWidth - 1),-NameWidth}{cells[0]}");
            return;
        }

        text.AppendLine(name);
        for (int i = 0; i < cells.Length; i++)
        {
            text.AppendLine($"{"  " + Named(models[i]),-NameWidth}{cells[i]}");
            if (i > 0)
            {
                text.AppendLine($"{"",-NameWidth}{compared(i)}");
            }
        }
    }

    private Dictionary<string, object?> Task(int index)
    {
        ProbeResult own = Model.Tasks[index];
        Dictionary<string, object?> json = own.ToJson();
        if (Before is { } before)
        {
            json["against"] = before.Tasks[index].ToJson();
            json["difference"] = own.Against(before.Tasks[index]);
            json["series"] = models.Select(model =>
            {
                Dictionary<string, object?> one = model.Tasks[index].Summary();
                one["model"] = model.Path;
                one["difference"] = ReferenceEquals(model, before) ? null : model.Tasks[index].Against(before.Tasks[index]);
                return one;
            }).ToArray();
        }

        return json;
    }

    private Dictionary<string, object?> Text(int index)
    {
        Dictionary<string, object?> json = Model.Texts[index].ToJson(Before?.Texts[index]);
        if (Before is { } before)
        {
            json["series"] = models.Select(model =>
            {
                Dictionary<string, object?> one = model.Texts[index].ToJson(ReferenceEquals(model, before) ? null : before.Texts[index]);
                one["model"] = model.Path;
                return one;
            }).ToArray();
        }

        return json;
    }
}
