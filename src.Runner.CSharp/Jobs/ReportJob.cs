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
            WriteEvents(command, runs);
            Say(command, runs, written, null);
            return;
        }

        using RunWatch watch = new(runs, page, command.Port);
        // What the file is for is tried before anyone waits for it.
        WrittenReport first = ReportFiles.Write(page.Build(), file);
        WriteEvents(command, runs);
        Say(command, runs, first, watch.Address);
        watch.Serve(stop).GetAwaiter().GetResult();
        foreach (RunData run in runs)
        {
            run.Read();
        }

        ReportFiles.Write(page.Build(), file);
        WriteEvents(command, runs);
        Terminal.Say($"wrote {file}");
        stop.ThrowIfCancellationRequested();
    }

    /// <summary>Event files for TensorBoard, in a folder for each run and for each arm of a study.</summary>
    private static void WriteEvents(ReportCommand command, IReadOnlyList<RunData> runs)
    {
        if (command.TensorBoard is not { } root)
        {
            return;
        }

        foreach (RunData run in runs.Where(run => Directory.Exists(run.Path)))
        {
            string arms = Path.Combine(run.Path, "arms"), own = Path.Combine(root, run.Name);
            if (run.Metrics.Any || run.Evaluations.Any)
            {
                _ = new EventFile(run.Path, own);
            }

            foreach (string arm in Directory.Exists(arms) ? Directory.GetDirectories(arms) : [])
            {
                _ = new EventFile(arm, Path.Combine(own, Path.GetFileName(arm)));
            }
        }
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
                Tensorboard = command.TensorBoard,
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
        if (command.TensorBoard is { } events)
        {
            Console.Out.WriteLine($"Event files: tensorboard --logdir {events}");
        }

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
