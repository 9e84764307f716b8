using System.Diagnostics;

namespace Hybrid.Runner.Soak;

/// <summary>The faults that are still to be injected: a number of them, or until some time has passed.</summary>
internal sealed class FaultQueue(SoakSetting setting, int? most, TimeSpan? time)
{
    private readonly Stopwatch clock = Stopwatch.StartNew();

    /// <summary>Faults that were injected.</summary>
    public int Injected { get; private set; }

    /// <summary>The number of the next one.</summary>
    public int Number { get; private set; }

    /// <summary>The next one.</summary>
    public SoakFault Next => SoakRules.fault(setting.Seed, setting.Ranks, Number);

    /// <summary>Whether there is a next one.</summary>
    public bool Any => most is { } count ? Injected < count : clock.Elapsed < time;

    /// <summary>The next one was injected.</summary>
    public void Advance() => (Injected, Number) = (Injected + 1, Number + 1);

    /// <summary>The next one finds no place in a run.</summary>
    public void Skip() => Number++;

    /// <summary>What is done of how much: faults, or seconds.</summary>
    public (long Done, long Total) Progress => most is { } count ? (Injected, count) : ((long)Math.Min(clock.Elapsed.TotalSeconds, time!.Value.TotalSeconds), (long)Math.Ceiling(time!.Value.TotalSeconds));
}
