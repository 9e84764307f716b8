using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Reporting;
using static Hybrid.Report;
using IPanel = Hybrid.Report.IPanel;

namespace Hybrid.Runner.Runs;

/// <summary>The page of several runs.</summary>
/// <param name="directory">Where the page will stand: links to studies lead from there.</param>
/// <param name="smoothing">The weight of the moving average that curves begin with.</param>
internal sealed class RunPage(IReadOnlyList<RunData> runs, string directory, double smoothing)
{
    // More at once would keep a browser busy for too long.
    private const int MostLines = 5000;
    private static readonly RunKind[] kinds = [RunKind.Train, RunKind.ImageTrain, RunKind.Align, RunKind.Other];
    private static readonly JsonSerializerOptions indented = new() { WriteIndented = true };

    /// <summary>The whole page, as the runs are known now; of runs that go on (<paramref name="live"/>) a line that is being written is no news.</summary>
    public Page Build(bool live = false)
    {
        List<IBlock> blocks = [];
        foreach (RunKind kind in kinds.Where(kind => Of(kind).Any()))
        {
            blocks.Add(RunTables.Last(kind, [.. Of(kind).Select(run => run.Run)], smoothing));
        }

        blocks.AddRange(kinds.SelectMany(kind => Figures(kind, _ => default)));

        if (Links() is { } links)
        {
            blocks.Add(links);
        }

        if (runs.Count > 1 && RunTables.Differences("What differs between the configurations", [.. runs.Where(run => run.Kind != RunKind.Study)]) is { } differences)
        {
            blocks.Add(differences);
        }

        blocks.AddRange(runs.Where(run => run.Configuration is not null).Select(Configuration));
        string[] notes = [.. runs.SelectMany(run => Notes(run, live))];
        if (notes.Length > 0)
        {
            blocks.Add(new Hybrid.Report.Text("Notes", string.Join("\n\n", notes)));
        }

        return new Page(
            runs.Count == 1 ? $"Run {runs[0].Name}" : $"{runs.Count} runs",
            runs.Count == 1 ? Status() : string.Join(", ", runs.Select(run => run.Name)) + ".",
            blocks);
    }

    /// <summary>Where the runs stand, in a sentence.</summary>
    public string Status() => string.Join("; ", runs.Select(run => run.Kind switch
    {
        RunKind.Waiting => $"{run.Name}: not begun",
        RunKind.Study => $"{run.Name}: a study",
        _ => $"{run.Name}: {RunTables.Steps(run)} steps",
    })) + ".";

    /// <summary>Changes when a page that shows some lines cannot go on by getting more: with another figure, curve or beginning.</summary>
    public string Structure()
    {
        StringBuilder text = new();
        foreach (Figure figure in kinds.SelectMany(kind => Figures(kind, _ => new(int.MaxValue, int.MaxValue))))
        {
            text.Append(figure.Name).Append('\n');
            foreach (IPanel panel in figure.Panels)
            {
                text.Append(panel.Title).Append('\n').AppendJoin('\n', ((CurvePanel)panel).Curves.Select(curve => curve.Name)).Append('\n');
            }
        }

        foreach (RunData run in runs)
        {
            text.Append(CultureInfo.InvariantCulture, $"{run.Kind} {run.Metrics.Generation} {run.Evaluations.Generation} {run.Configuration?.Length}\n");
        }

        return Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text.ToString())))[..16];
    }

    /// <summary>
    /// As JSON, what a page that has the lines before <paramref name="after"/> does not have yet: points of curves, cells of tables, where the
    /// runs stand. What is not such a position counts as the beginning.
    /// </summary>
    public string Points(string after)
    {
        RunPosition[] from = Parse(after);
        RunPosition[] next = [.. runs.Select((run, i) => new RunPosition(
            Math.Min(run.Metrics.Steps.Count, from[i].Metrics + MostLines), Math.Min(run.Evaluations.Steps.Count, from[i].Evaluations + MostLines)))];
        bool more = runs.Where((run, i) => next[i].Metrics < run.Metrics.Steps.Count || next[i].Evaluations < run.Evaluations.Steps.Count).Any();
        Dictionary<RunData, RunPosition> starts = runs.Select((run, i) => (run, i)).ToDictionary(each => each.run, each => from[each.i]);

        return FigureData.Write(json =>
        {
            json.WriteStartObject();
            json.WriteString("structure", Structure());
            json.WriteString("status", Status());
            json.WriteString("after", string.Join(',', next.Select(position => string.Create(CultureInfo.InvariantCulture, $"{position.Metrics}.{position.Evaluations}"))));
            json.WriteBoolean("more", more);
            json.WriteStartObject("figures");
            foreach (Figure figure in kinds.SelectMany(kind => Figures(kind, run => starts[run])))
            {
                if (figure.Panels.OfType<CurvePanel>().SelectMany(panel => panel.Curves).Any(curve => curve.X.Length > 0))
                {
                    json.WritePropertyName(figure.Name);
                    FigureData.Whole(json, more ? Cut(figure) : figure);
                }
            }

            json.WriteEndObject();
            json.WriteStartObject("tables");
            foreach (RunKind kind in kinds.Where(kind => Of(kind).Any()))
            {
                Table table = RunTables.Last(kind, [.. Of(kind).Select(run => run.Run)], smoothing);
                json.WriteStartArray(new Anchors().Of(table.Title));
                foreach (IReadOnlyList<string> row in table.Rows)
                {
                    json.WriteStartArray();
                    foreach (string cell in row)
                    {
                        json.WriteStringValue(cell);
                    }

                    json.WriteEndArray();
                }

                json.WriteEndArray();
            }

            json.WriteEndObject();
            json.WriteEndObject();
        });
    }

    private static Figure Cut(Figure figure) => new(
        figure.Name, figure.Title, figure.Source, figure.Paper, figure.Found,
        [
            .. figure.Panels.Cast<CurvePanel>().Select(panel => new CurvePanel(
                panel.Title, panel.X, panel.Y,
                [.. panel.Curves.Select(curve => new Curve(curve.Name, [.. curve.X.Take(MostLines)], [.. curve.Y.Take(MostLines)], [], [], curve.Dashed, curve.Series, curve.Smoothing, curve.Exponential))],
                panel.Marks)),
        ]);

    private IEnumerable<(RunData Run, int Series)> Of(RunKind kind) => runs.Select((run, i) => (run, i)).Where(run => run.run.Kind == kind);

    private IEnumerable<Figure> Figures(RunKind kind, Func<RunData, RunPosition> from) =>
        Of(kind).Any() ? RunFigures.Of(kind, [.. Of(kind).Select(run => (run.Run, run.Series, from(run.Run)))], smoothing) : [];

    private Links? Links()
    {
        RunData[] studies = [.. runs.Where(run => run.Kind == RunKind.Study)];
        Link[] links =
        [
            .. studies.Where(study => File.Exists(Path.Combine(study.Path, "report.html"))).Select(study => link(
                study.Name,
                string.Join('/', Path.GetRelativePath(Path.GetFullPath(directory), Path.Combine(study.Path, "report.html")).Split(Path.DirectorySeparatorChar).Select(Uri.EscapeDataString)))),
        ];
        return links.Length > 0 ? new Links("Studies", links) : null;
    }

    private static Folded Configuration(RunData run)
    {
        string text = run.Configuration!;
        List<IBlock> blocks =
        [
            new Hybrid.Report.Text("", $"SHA-256 of the configuration{(run.Kind is RunKind.Train or RunKind.ImageTrain ? ", as checkpoints name it" : "")}: {RunConfiguration.Hash(text)}."),
            new Code(JsonNode.Parse(text)!.ToJsonString(indented)),
        ];
        return new Folded($"Configuration of {run.Name}", blocks);
    }

    private static IEnumerable<string> Notes(RunData run, bool live)
    {
        foreach (var (file, name) in new[] { (run.Metrics, "metrics.jsonl"), (run.Evaluations, "evaluations.jsonl") })
        {
            if (file.Skipped > 0)
            {
                yield return $"{run.Name}: {(file.Skipped == 1 ? "a line" : $"{file.Skipped} lines")} of {name} {(file.Skipped == 1 ? "is" : "are")} left out: no JSON object with a step.";
            }

            if (file.Torn && !live)
            {
                yield return $"{run.Name}: the last line of {name} is cut off and left out; the run may be writing it.";
            }
        }

        if (run.Kind == RunKind.Study && !File.Exists(Path.Combine(run.Path, "report.html")))
        {
            yield return $"{run.Name} is a study without a report yet; hybrid study --out DIR --resume auto finishes it.";
        }
    }

    private RunPosition[] Parse(string after)
    {
        RunPosition[] positions = new RunPosition[runs.Count];
        string[] parts = after.Split(',');
        for (int i = 0; parts.Length == runs.Count && i < parts.Length; i++)
        {
            string[] numbers = parts[i].Split('.');
            if (numbers.Length == 2 && int.TryParse(numbers[0], NumberStyles.None, CultureInfo.InvariantCulture, out int metrics)
                && int.TryParse(numbers[1], NumberStyles.None, CultureInfo.InvariantCulture, out int evaluations))
            {
                positions[i] = new(Math.Min(metrics, runs[i].Metrics.Steps.Count), Math.Min(evaluations, runs[i].Evaluations.Steps.Count));
            }
        }

        return positions;
    }
}
