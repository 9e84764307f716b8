using Hybrid.Runner.Reporting;
using Hybrid.Runner.Runs;

namespace Hybrid.Runner;

/// <summary>Curves of several runs on one page, on disk and, while they go on, served on this machine.</summary>
internal static class ReportJob
{
    /// <summary>Carries the command out.</summary>
    public static void Run(ReportCommand command, CancellationToken stop)
    {
        string file = PageFile(command.Out);
        IReadOnlyList<RunData> runs = RunData.Open(command.Runs, later: command.Watch);
        RunPage page = new(runs, Path.GetDirectoryName(Path.GetFullPath(file))!, command.Smoothing);
        if (!command.Watch)
        {
            if (command.Port is not null)
            {
                throw new ConfigurationException("--port belongs to --watch: without it nothing is served.");
            }

            WrittenReport written = ReportFiles.Write(page.Build(), file);
            Say(command, runs, written, null);
            return;
        }

        using RunWatch watch = new(runs, page, command.Port);
        // What the file is for is tried before anyone waits for it.
        Say(command, runs, ReportFiles.Write(page.Build(), file), watch.Address);
        watch.Serve(stop).GetAwaiter().GetResult();
        foreach (RunData run in runs)
        {
            run.Read();
        }

        ReportFiles.Write(page.Build(), file);
        Terminal.Say($"wrote {file}");
        stop.ThrowIfCancellationRequested();
    }

    private static void Say(ReportCommand command, IReadOnlyList<RunData> runs, WrittenReport written, string? address)
    {
        foreach (string note in written.Notes)
        {
            Terminal.Warn(note);
        }

        if (command.Json)
        {
            Json.Write(new
            {
                written.Page,
                written.Markdown,
                written.Figures,
                written.Data,
                Address = address,
                Runs = runs.Select(run => new { run.Name, run.Path, Kind = Word(run.Kind), Steps = run.Metrics.Steps.Count, Skipped = run.Metrics.Skipped + run.Evaluations.Skipped }),
            });
            return;
        }

        foreach (RunData run in runs)
        {
            Console.Out.WriteLine($"{run.Name}: {Word(run.Kind)}, {RunTables.Steps(run)} steps");
        }

        Console.Out.WriteLine($"Report: {Path.GetFullPath(written.Page)}");
        if (address is not null)
        {
            Console.Out.WriteLine($"Served at {address} until Ctrl-C");
        }

        Console.Out.Flush();
    }

    private static string Word(RunKind kind) => kind switch
    {
        RunKind.Train => "train",
        RunKind.ImageTrain => "image train",
        RunKind.Align => "align",
        RunKind.Study => "study",
        RunKind.Waiting => "not begun",
        _ => "other",
    };

    /// <summary>The page's file: the name where it is one of HTML, else report.html in the directory.</summary>
    private static string PageFile(string path) =>
        Path.GetExtension(path).ToLowerInvariant() is ".html" or ".htm" && !Directory.Exists(path) ? path : Path.Combine(path, "report.html");
}
