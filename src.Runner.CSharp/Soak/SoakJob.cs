using System.Diagnostics;
using System.Globalization;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Soak;

/// <summary>
/// Runs that are killed, stopped and damaged at random moments and go on, and whether they come out as one that was left alone.
/// </summary>
internal static class SoakJob
{
    // Runs in a row that no fault found its place in.
    private const int MostIdle = 3;

    /// <summary>Carries out the command; false where a fault was not survived. Errors: InputException, ConfigurationException.</summary>
    public static bool Run(SoakCommand command, CancellationToken stop)
    {
        if (OperatingSystem.IsWindows())
        {
            throw new InputException("hybrid soak needs signals, which Windows does not have; it runs on Linux and macOS.");
        }

        string directory = Path.GetFullPath(command.Out);
        Files.RequireFree(command.Out, "--out");
        bool made = !Directory.Exists(directory);
        Directory.CreateDirectory(directory);
        Signals.LetInterrupt();
        SoakOutcome outcome;
        try
        {
            outcome = Carry(command, directory, stop);
        }
        catch (OperationCanceledException) when (!command.Keep)
        {
            Clear(directory, made);
            throw;
        }

        if (!command.Keep && outcome.Good)
        {
            Clear(directory, removed: false);
        }

        AtomicFile.WriteText(Path.Combine(directory, "soak.json"), Json.Text(outcome.ToJson()) + "\n");
        if (command.Json)
        {
            Json.Write(outcome.ToJson());
        }
        else
        {
            Console.Out.WriteLine(outcome.ToText());
        }

        return outcome.Good;
    }

    private static SoakOutcome Carry(SoakCommand command, string directory, CancellationToken stop)
    {
        Stopwatch clock = Stopwatch.StartNew();
        string config = command.Config is { } given ? Path.GetFullPath(given) : SoakMaterial.Write(Path.Combine(directory, "data"), command.Seed);
        SoakSetting setting = SoakSetting.Of(config, command.Ranks, command.Seed);
        string reference = Path.Combine(directory, "reference");
        using Progress progress = new();
        using (progress.Stage("the run without faults", 0))
        {
            setting = Reference(setting, reference, stop);
        }

        FaultQueue queue = new(setting, command.FaultCount, command.Minutes is { } minutes ? TimeSpan.FromMinutes(minutes) : null);
        List<SoakRecord> records = [];
        List<SoakFailure> failures = [];
        int runs = 0, equal = 0, idle = 0;
        using Stage stage = progress.Stage("faults", queue.Progress.Total);
        while (queue.Any)
        {
            runs++;
            string root = Path.Combine(directory, "run-" + runs.ToString("0000", CultureInfo.InvariantCulture));
            SoakRun run = new(setting, runs, root, queue, Report, stop);
            run.Carry(reference);
            records.AddRange(run.Records);
            SoakFailure[] wrong =
            [
                .. run.Records.Where(record => record.Failure is not null).Select(record => new SoakFailure(runs, record, record.Failure!, root)),
                .. run.Failure is { } why ? [new SoakFailure(runs, null, why, root)] : Array.Empty<SoakFailure>(),
            ];
            failures.AddRange(wrong);
            foreach (SoakFailure failure in wrong)
            {
                Terminal.Warn($"run {runs}{(failure.Fault is { } fault ? $", {SoakRules.words(fault.Fault)}" : "")}: {failure.Why}");
            }

            equal += run.Whole && wrong.Length == 0 ? 1 : 0;
            if (wrong.Length == 0 && !command.Keep)
            {
                Remove(root);
            }

            idle = run.Records.Count == 0 ? idle + 1 : 0;
            if (idle > 0 && run.Failure is { } alone)
            {
                throw new InputException($"a run fails without a fault: {alone} It is kept in {root}.");
            }

            if (idle >= MostIdle)
            {
                queue.Skip();
                idle = 0;
            }

            Report();

            void Report() => stage.Report(queue.Progress.Done, new Metrics { Note = $"run {runs}, {queue.Injected} faults, {failures.Count} not survived" });
        }

        return new(setting, records, failures, runs, equal, clock.Elapsed);
    }

    /// <summary>The run that nothing is done to, and how long it takes.</summary>
    private static SoakSetting Reference(SoakSetting setting, string root, CancellationToken stop)
    {
        using StreamWriter transcript = new(root + ".txt") { AutoFlush = true };
        using TrainingProcess process = TrainingProcess.Start(["train", "--config", setting.Config, "--out", root], setting.Ranks, TextWriter.Synchronized(transcript));
        RunView view = new(root);
        TimeSpan? started = null;
        while (!process.Ended)
        {
            stop.ThrowIfCancellationRequested();
            if (started is null && view.Starts().Length > 0)
            {
                started = Stopwatch.GetElapsedTime(process.Began);
            }

            Thread.Sleep(5);
        }

        TimeSpan whole = Stopwatch.GetElapsedTime(process.Began);
        return process.ExitCode == 0
            ? setting with { Start = started ?? whole / 2, Run = whole - (started ?? whole / 2) }
            : throw new InputException($"the run without faults ended with exit code {process.ExitCode}: {process.LastWords()}");
    }

    /// <summary>Removes a run and what stands beside it under its name.</summary>
    private static void Remove(string root)
    {
        string folder = Path.GetDirectoryName(root)!, name = Path.GetFileName(root);
        foreach (string path in Directory.EnumerateFileSystemEntries(folder, name + "*").ToArray())
        {
            if (Directory.Exists(path))
            {
                Directory.Delete(path, recursive: true);
            }
            else
            {
                File.Delete(path);
            }
        }
    }

    /// <summary>Removes what a soak has put into its directory, and the directory where it was made for it.</summary>
    private static void Clear(string directory, bool removed)
    {
        foreach (string name in new[] { "data", "reference", "run-" })
        {
            Remove(Path.Combine(directory, name));
        }

        if (removed)
        {
            Directory.Delete(directory);
        }
    }
}
