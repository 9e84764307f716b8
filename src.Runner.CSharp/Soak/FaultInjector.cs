using System.Diagnostics;

namespace Hybrid.Runner.Soak;

/// <summary>Does to a run what a fault asks for, at its moment.</summary>
internal sealed class FaultInjector(SoakSetting setting, RunView view, Func<TrainingProcess> another, CancellationToken stop)
{
    private const int Interrupted = 130;
    private static readonly TimeSpan shortestAway = TimeSpan.FromSeconds(2);

    // The starts that the log had when the process was started, and those that it has once that has begun to train.
    private int before;

    /// <summary>Called before a process is started.</summary>
    public void Expect() => before = view.Starts().Length;

    /// <summary>The step that the process began with, or null where it has not begun to train.</summary>
    public int? Started() => view.Starts() is { } starts && starts.Length > before ? starts[before] : null;

    /// <summary>
    /// Injects a fault into a process. Returns null where it ended by itself before. Errors: TimeoutException where it hangs.
    /// </summary>
    public Injection? Inject(TrainingProcess process, SoakFault fault, int number)
    {
        SoakMoment moment = SoakRules.moment(setting.Seed, number);
        bool there = fault == SoakFault.Kill && moment.Starting ? Starting(process, moment) : Training(process, fault, moment);
        if (!there)
        {
            return null;
        }

        return fault switch
        {
            SoakFault.Kill => Killed(process, fault),
            SoakFault.KillInCheckpoint => InCheckpoint(process, number),
            SoakFault.KillAtLatest => AtLatest(process),
            SoakFault.Terminate => Asked(process, fault, Signals.Terminate),
            SoakFault.Interrupt => Asked(process, fault, Signals.Interrupt),
            SoakFault.SecondProcess => Second(process),
            SoakFault.Vanish => Vanished(process, moment),
            SoakFault.KillRank or SoakFault.StopRank => OneRank(process, fault, number),
            _ => Damage(process, fault, number),
        };
    }

    /// <summary>Waits; false where the process ended before. Errors: TimeoutException, OperationCanceledException.</summary>
    public bool Until(TrainingProcess process, Func<bool> condition, bool keenly = false, TimeSpan? limit = null)
    {
        Stopwatch clock = Stopwatch.StartNew();
        while (!condition())
        {
            if (process.Ended)
            {
                return false;
            }

            stop.ThrowIfCancellationRequested();
            if (clock.Elapsed > (limit ?? setting.Patience))
            {
                throw new TimeoutException();
            }

            if (keenly)
            {
                Thread.Yield();
            }
            else
            {
                Thread.Sleep(5);
            }
        }

        return true;
    }

    private bool Starting(TrainingProcess process, SoakMoment moment) =>
        Until(process, () => Stopwatch.GetElapsedTime(process.Began) >= moment.Share * setting.Start);

    private bool Training(TrainingProcess process, SoakFault fault, SoakMoment moment)
    {
        if (!Until(process, () => Started() is not null))
        {
            return false;
        }

        // A second process takes a while to find out that it is not alone, so the first must not be near its end.
        int first = Started()!.Value, checkpoints = fault == SoakFault.SecondProcess ? 0 : moment.Checkpoints;
        if (fault == SoakFault.SecondProcess && first > setting.Steps / 2)
        {
            return Until(process, () => false);
        }

        // What is damaged has to be whole before.
        int wanted = (first / setting.Interval + checkpoints) * setting.Interval;
        bool damages = fault is >= SoakFault.Truncate and <= SoakFault.LatestNothing;
        if (!Until(process, () => damages ? view.Pointed() is { } newest && newest >= wanted && view.Newest() == newest : wanted == 0 || view.Pointed() >= wanted))
        {
            return false;
        }

        Stopwatch clock = Stopwatch.StartNew();
        return Until(process, () => clock.Elapsed >= moment.Share * setting.Checkpoint);
    }

    /// <summary>Kills the process.</summary>
    private Injection Killed(TrainingProcess process, SoakFault fault)
    {
        process.Kill();
        return Dead(fault);
    }

    /// <summary>What a process that is dead has left.</summary>
    private Injection Dead(SoakFault fault)
    {
        if (Started() is null)
        {
            return new(fault, true) { Earliest = view.Newest() };
        }

        int done = view.Done();
        return new(fault, true) { Done = done, Earliest = SoakRules.earliest(setting.Interval, done, view.Newest()) };
    }

    private Injection? InCheckpoint(TrainingProcess process, int number)
    {
        string? folder = null;
        if (!Until(process, () => (folder = view.Writing()) is not null, keenly: true))
        {
            return null;
        }

        // Some of its files are there already.
        long files = SoakRules.draw(setting.Seed, number, "files", 4);
        Until(process, () => !Directory.Exists(folder!) || CountOf(folder!) >= files, keenly: true);
        process.Kill();
        return Dead(view.Writing() is null ? SoakFault.Kill : SoakFault.KillInCheckpoint);
    }

    private static int CountOf(string folder)
    {
        try
        {
            return Directory.GetFileSystemEntries(folder).Length;
        }
        catch (IOException)
        {
            return 0;
        }
    }

    private Injection? AtLatest(TrainingProcess process)
    {
        int[] before = view.Named();
        if (!Until(process, () => view.Moving(before), keenly: true))
        {
            return null;
        }

        process.Kill();
        return Dead(view.Moving(before) ? SoakFault.KillAtLatest : SoakFault.Kill);
    }

    /// <summary>Asks the process to stop: it has to save where it is.</summary>
    private Injection? Asked(TrainingProcess process, SoakFault fault, int signal)
    {
        process.Signal(signal);
        Wait(process, setting.Patience);
        if (process.ExitCode == 0)
        {
            return null;
        }

        Injection left = Dead(fault);
        string? failure = process.ExitCode != Interrupted ? $"it ended with exit code {process.ExitCode} instead of {Interrupted}: {process.LastWords()}"
            : view.Latest() is null ? "it ended without a checkpoint."
            : null;
        return new(fault, true) { Done = left.Done, Earliest = left.Done ?? 0, Failure = failure };
    }

    private Injection? Second(TrainingProcess process)
    {
        int starts = view.Starts().Length;
        using TrainingProcess second = another();
        Until(process, () => second.Ended || view.Starts().Length > starts);
        if (process.Ended)
        {
            // It came to its end first, and there is nothing to be refused any more.
            return null;
        }

        if (!second.Ended)
        {
            second.Kill();
            process.Kill();
            return new(SoakFault.SecondProcess, true) { Failure = "the second process was not refused and trained in the same directory.", Spoilt = true };
        }

        return new(SoakFault.SecondProcess, false)
        {
            Failure = second.ExitCode is 1 or 2 ? null : $"the second process ended with exit code {second.ExitCode}: {second.LastWords()}",
        };
    }

    private Injection Vanished(TrainingProcess process, SoakMoment moment)
    {
        string away = view.Root + ".away";
        TimeSpan time = shortestAway + (1 + moment.Share) * setting.Checkpoint;
        Directory.Move(view.Root, away);
        try
        {
            Stopwatch clock = Stopwatch.StartNew();
            Until(process, () => clock.Elapsed >= time);
        }
        finally
        {
            // What was written in its place meanwhile is out of sight again, as under a disk that is mounted again.
            if (Path.Exists(view.Root))
            {
                Directory.Move(view.Root, $"{view.Root}.meanwhile-{Guid.NewGuid():N}");
            }

            Directory.Move(away, view.Root);
        }

        int? named = view.Latest();
        Until(process, () => view.Latest() != named);
        if (!process.Ended || process.ExitCode == 0)
        {
            return new(SoakFault.Vanish, process.Ended);
        }

        Injection left = Dead(SoakFault.Vanish);
        return new(SoakFault.Vanish, true)
        {
            Done = left.Done,
            Earliest = left.Earliest,
            Failure = $"it ended with exit code {process.ExitCode} while its directory was away for {time.TotalSeconds:0.0} s: {process.LastWords()}",
        };
    }

    private Injection? Damage(TrainingProcess process, SoakFault fault, int number)
    {
        process.Kill();
        if (fault is SoakFault.TornMetrics or SoakFault.LatestNothing)
        {
            Injection left = Dead(fault);
            FileDamage.Of(fault, view, null, setting.Seed, number);
            return left;
        }

        int damaged = view.Pointed() ?? view.Named()[0], done = view.Done();
        FileDamage.Of(fault, view, damaged, setting.Seed, number);
        view.MarkDamaged(damaged);
        return new(fault, true) { Done = done, Damaged = damaged, Earliest = view.Newest() };
    }

    private Injection OneRank(TrainingProcess process, SoakFault fault, int number)
    {
        int rank = (int)SoakRules.draw(setting.Seed, number, "rank", setting.Ranks);
        bool stopped = fault == SoakFault.StopRank;
        if (process.Ranks().TryGetValue(rank, out int id))
        {
            Signals.Send(id, stopped ? Signals.Stop : Signals.Kill);
        }

        Stopwatch clock = Stopwatch.StartNew();
        string? failure = null;
        try
        {
            Wait(process, SoakSetting.RankLimit);
            int[] left = [.. process.Ranks().Where(pair => !stopped || pair.Key != rank).Select(pair => pair.Key)];
            failure = process.ExitCode == 0 && view.Done() >= setting.Steps ? null // it came to its end by itself before
                : process.ExitCode == 0 ? "the run ended with exit code 0, although it was not done."
                : left.Length > 0 ? $"rank {string.Join(", ", left)} went on running."
                : !process.HasSaid($"rank {rank}") ? $"nothing named rank {rank}: {process.LastWords()}"
                : null;
        }
        catch (TimeoutException)
        {
            failure = $"{(stopped ? "with one rank hanging" : "without one rank")} the others still ran after {clock.Elapsed.TotalSeconds:0} s.";
        }

        process.Kill();
        Injection dead = Dead(fault);
        return new(fault, true) { Done = dead.Done, Earliest = dead.Earliest, Failure = failure };
    }

    private void Wait(TrainingProcess process, TimeSpan limit) => Until(process, () => false, limit: limit);
}
