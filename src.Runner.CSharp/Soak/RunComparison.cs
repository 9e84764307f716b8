namespace Hybrid.Runner.Soak;

/// <summary>Whether a run came out as another one.</summary>
internal static class RunComparison
{
    /// <summary>
    /// The first difference, or null: metrics and evaluations to the last digit, speeds apart, and all tensors of the newest checkpoint
    /// to the last byte.
    /// </summary>
    public static SoakDifference? Of(string reference, string run)
    {
        RunView wanted = new(reference), there = new(run);
        SoakDifference?[] found =
        [
            SoakRules.difference("metrics.jsonl", RunView.Lines(wanted.Metrics), RunView.Lines(there.Metrics)),
            SoakRules.difference("evaluations.jsonl", RunView.Lines(wanted.Evaluations), RunView.Lines(there.Evaluations)),
            Tensors(wanted, there),
        ];
        return found.OfType<SoakDifference>().MinBy(difference => difference.Step);
    }

    private static SoakDifference? Tensors(RunView wanted, RunView there)
    {
        if (wanted.Latest() is not { } step || there.Latest() != step)
        {
            return new(int.MaxValue, $"latest names the checkpoint of step {there.Latest()?.ToString() ?? "none"} instead of {wanted.Latest()}.");
        }

        string[] names = Names(wanted.At(step)), others = Names(there.At(step));
        if (!names.SequenceEqual(others))
        {
            return new(int.MaxValue, $"the last checkpoint holds {string.Join(", ", others)} instead of {string.Join(", ", names)}.");
        }

        return names.FirstOrDefault(name => !File.ReadAllBytes(Path.Combine(wanted.At(step), name)).AsSpan().SequenceEqual(File.ReadAllBytes(Path.Combine(there.At(step), name)))) is { } other
            ? new(int.MaxValue, $"{other} of the last checkpoint has other bytes.")
            : null;
    }

    private static string[] Names(string checkpoint) =>
        [.. Directory.GetFiles(checkpoint, "*.safetensors").Select(path => Path.GetFileName(path)).Order(StringComparer.Ordinal)];
}
