using System.Globalization;

namespace Hybrid.Runner.Soak;

/// <summary>Something that did not come out right.</summary>
/// <param name="Run">The run's number.</param>
/// <param name="Fault">The fault that is to blame, or null.</param>
/// <param name="Why">What was wrong, in a sentence.</param>
/// <param name="Kept">Where the run is.</param>
internal sealed record SoakFailure(int Run, SoakRecord? Fault, string Why, string Kept);

/// <summary>What a soak came to.</summary>
/// <param name="Setting">What its runs shared.</param>
/// <param name="Records">All faults, in order.</param>
/// <param name="Failures">What did not come out right.</param>
/// <param name="Runs">Runs that were begun.</param>
/// <param name="Equal">Runs that came to their end and out as the reference.</param>
/// <param name="Time">From the beginning to the end.</param>
internal sealed record SoakOutcome(SoakSetting Setting, IReadOnlyList<SoakRecord> Records, IReadOnlyList<SoakFailure> Failures, int Runs, int Equal, TimeSpan Time)
{
    public bool Good => Failures.Count == 0;

    private int Survived => Records.Count(record => record.Failure is null);

    private int Kills => Records.Count(record => SoakRules.kills(record.Fault));

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson() => new()
    {
        ["ok"] = Good,
        ["injected"] = Records.Count,
        ["survived"] = Survived,
        ["kills"] = Kills,
        ["lost_mean"] = Mean,
        ["lost_most"] = Most,
        ["by_kind"] = SoakRules.tally(Records).Select(kind => new { Kind = SoakRules.key(kind.Fault), kind.Injected, kind.Survived, kind.LostMean, kind.LostMost }),
        ["runs"] = Runs,
        ["runs_equal"] = Equal,
        ["steps"] = Setting.Steps,
        ["checkpoint_every"] = Setting.Interval,
        ["ranks"] = Setting.Ranks,
        ["seed"] = Setting.Seed,
        ["seconds"] = Math.Round(Time.TotalSeconds, 1),
        ["failures"] = Failures.Select(failure => new
        {
            failure.Run,
            Fault = failure.Fault?.Number,
            Kind = failure.Fault is { } fault ? SoakRules.key(fault.Fault) : null,
            failure.Why,
            failure.Kept,
        }),
    };

    /// <summary>The same for a person.</summary>
    public string ToText()
    {
        const int wide = 50;
        List<string> lines = [$"{"fault",-wide}  injected  survived  steps lost: mean  most"];
        lines.AddRange(SoakRules.tally(Records).Select(kind => Row(SoakRules.words(kind.Fault), kind.Injected, kind.Survived, kind.LostMean, kind.LostMost)));
        lines.Add(Row("all", Records.Count, Survived, Mean, Most));
        lines.Add("");
        lines.Add($"{Kills} kills; {Equal} of {Runs} runs came out as the one without faults; {Setting.Steps} steps a run, a checkpoint every {Setting.Interval}; {Stage.Duration(Time)}");
        lines.AddRange(Failures.Select(failure =>
            $"NOT SURVIVED  run {failure.Run}{(failure.Fault is { } fault ? $", fault {fault.Number}, {SoakRules.words(fault.Fault)}" : "")}: {failure.Why} It is kept in {failure.Kept}."));
        return string.Join("\n", lines);

        string Row(string name, int injected, int survived, double mean, int most) =>
            $"{name,-wide}  {injected,8}  {survived,8}  {mean.ToString("0.0", CultureInfo.InvariantCulture),16}  {most,4}";
    }

    private double Mean => Records.Count == 0 ? 0 : Records.Average(record => record.Lost);

    private int Most => Records.Count == 0 ? 0 : Records.Max(record => record.Lost);
}
