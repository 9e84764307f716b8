namespace Hybrid.Runner.Soak;

/// <summary>One run with its faults, from its beginning to its end.</summary>
/// <param name="setting">What all runs share.</param>
/// <param name="number">Counted from 1.</param>
/// <param name="root">The run's directory.</param>
/// <param name="reported">Called after each fault.</param>
internal sealed class SoakRun(SoakSetting setting, int number, string root, FaultQueue queue, Action reported, CancellationToken stop)
{
    private readonly RunView view = new(root);
    private readonly List<SoakRecord> records = [];

    // Faults that ended a process, until the next one has begun to train.
    private readonly List<(Injection Fault, int Number)> open = [];

    /// <summary>The faults that were injected.</summary>
    public IReadOnlyList<SoakRecord> Records => records;

    /// <summary>What is wrong with the run that no fault is to blame for, or null.</summary>
    public string? Failure { get; private set; }

    /// <summary>Whether it came to its end.</summary>
    public bool Whole { get; private set; }

    /// <summary>Carries it to its end, or to where it cannot go on, and compares it with the reference.</summary>
    public void Carry(string reference)
    {
        using StreamWriter transcript = new(root + ".txt") { AutoFlush = true };
        TextWriter shared = TextWriter.Synchronized(transcript);
        TrainingProcess Start() => TrainingProcess.Start(["train", "--config", setting.Config, "--out", root, "--resume", "auto"], setting.Ranks, shared);
        FaultInjector injector = new(setting, view, Start, stop);
        bool goesOn = true;
        while (goesOn)
        {
            injector.Expect();
            using TrainingProcess process = Start();
            goesOn = Live(injector, process);
        }

        if (Whole && RunComparison.Of(reference, root) is { } difference)
        {
            Blame(difference);
        }
    }

    /// <summary>The life of one process; whether another one is to follow.</summary>
    private bool Live(FaultInjector injector, TrainingProcess process)
    {
        Injection? fault = null;
        try
        {
            while (queue.Any && fault is not { Ended: true })
            {
                fault = injector.Inject(process, queue.Next, queue.Number);
                if (fault is null)
                {
                    break;
                }

                if (!Settle(injector.Started()))
                {
                    // What was injected into a run that is worth nothing says nothing, and is injected again.
                    return false;
                }

                int injected = queue.Number;
                queue.Advance();
                if (fault.Ended)
                {
                    open.Add((fault, injected));
                }
                else
                {
                    Record(fault, injected, injector.Started(), fault.Failure);
                }

                reported();
            }

            if (fault is not { Ended: true })
            {
                injector.Until(process, () => false);
            }
        }
        catch (TimeoutException)
        {
            process.Kill();
            Lost($"after {setting.Patience.TotalSeconds:0} s it had not gone on.");
            return false;
        }

        if (fault is { Spoilt: true })
        {
            Lost(fault.Failure ?? "");
            return false;
        }

        if (fault is { Ended: true } && !(fault.Fault == SoakFault.Vanish && process.ExitCode == 0))
        {
            return true;
        }

        if (!Settle(injector.Started()))
        {
            return false;
        }

        Whole = process.ExitCode == 0;
        if (!Whole)
        {
            Lost($"it ended with exit code {process.ExitCode}: {process.LastWords()}");
        }

        return false;
    }

    /// <summary>Says of the faults before what they cost, once the process after them has begun to train; false where the run is worth nothing.</summary>
    private bool Settle(int? started)
    {
        if (started is not { } resumed)
        {
            return true;
        }

        bool sound = true;
        foreach (var (fault, injected) in open)
        {
            string? failure = fault.Failure is not null ? fault.Failure
                : resumed == fault.Damaged ? $"it went on from the damaged checkpoint of step {resumed}, as if that were whole."
                : resumed < fault.Earliest ? $"it went on from step {resumed}, although it could have gone on from step {fault.Earliest}{(fault.Done is { } done ? $"; {done} steps had been done" : "")}."
                : null;
            sound &= failure is null || fault.Damaged is null;
            Record(fault, injected, resumed, failure);
        }

        open.Clear();
        return sound;
    }

    private void Record(Injection fault, int injected, int? resumed, string? failure) => records.Add(new(number, injected, fault.Fault, fault.Done, resumed, failure));

    /// <summary>The run cannot go on: the faults since the last start are to blame, or the last one before.</summary>
    private void Lost(string why)
    {
        if (open.Count == 0)
        {
            Blame(new(int.MaxValue, why));
        }

        foreach (var (fault, injected) in open)
        {
            Record(fault, injected, null, fault.Failure ?? $"the run could not go on: {why}");
        }

        open.Clear();
    }

    private void Blame(SoakDifference difference)
    {
        int blamed = SoakRules.blamed(records, difference.Step);
        if (blamed < 0)
        {
            Failure = difference.Words;
        }
        else if (records[blamed].Failure is null)
        {
            records[blamed] = SoakRules.failed(records[blamed], difference.Words);
        }
    }
}
