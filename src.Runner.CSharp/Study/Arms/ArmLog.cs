using System.Text.Json;

namespace Hybrid.Runner.Study;

/// <summary>
/// An arm's losses as they come, in a directory that <c>hybrid report</c> takes for a run: metrics.jsonl, a line for each step, and
/// evaluations.jsonl. What the study itself goes on with are its stages; these files are for looking.
/// </summary>
internal sealed class ArmLog : IDisposable
{
    private static readonly JsonSerializerOptions Options = new() { DefaultIgnoreCondition = System.Text.Json.Serialization.JsonIgnoreCondition.WhenWritingNull };

    private readonly StreamWriter metrics, evaluations;

    /// <summary>Begins an arm's files anew.</summary>
    public ArmLog(string directory)
    {
        Directory.CreateDirectory(directory);
        metrics = new StreamWriter(Path.Combine(directory, "metrics.jsonl")) { AutoFlush = true };
        evaluations = new StreamWriter(Path.Combine(directory, "evaluations.jsonl")) { AutoFlush = true };
    }

    /// <summary>The training losses of a step, counted from 1.</summary>
    public void Step(int step, double total, double text, double image, double learningRate) =>
        metrics.WriteLine(JsonSerializer.Serialize(new { step, loss = Finite(total), text = Finite(text), image = Finite(image), learningRate }, Options));

    /// <summary>The held-out losses after some steps.</summary>
    public void Evaluation(ArmEvaluation found) => evaluations.WriteLine(JsonSerializer.Serialize(
        new { step = found.Step, loss = new { total = Finite(found.Total), text = Finite(found.Text), image = Finite(found.Image), structure = Finite(found.Structure) } },
        Options));

    public void Dispose()
    {
        metrics.Dispose();
        evaluations.Dispose();
    }

    private static double? Finite(double value) => double.IsFinite(value) ? value : null;
}
