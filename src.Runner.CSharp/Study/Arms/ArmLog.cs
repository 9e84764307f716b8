using System.Text.Json;
using Hybrid.Runner.Runs;

namespace Hybrid.Runner.Study;

/// <summary>
/// An arm's losses as they come, in a directory that <c>hybrid report</c> takes for a run: metrics.jsonl, a line for each step, and
/// evaluations.jsonl. What the study itself goes on with are its stages; these files are for looking.
/// </summary>
internal sealed class ArmLog : IDisposable
{
    private static readonly JsonSerializerOptions Options = new() { DefaultIgnoreCondition = System.Text.Json.Serialization.JsonIgnoreCondition.WhenWritingNull };

    private readonly StreamWriter metrics, evaluations;
    private readonly EventFile? events;

    /// <summary>Begins an arm's files anew, with an event file for TensorBoard where that is asked for.</summary>
    public ArmLog(string directory, bool tensorBoard)
    {
        Directory.CreateDirectory(directory);
        metrics = new StreamWriter(Path.Combine(directory, "metrics.jsonl")) { AutoFlush = true };
        evaluations = new StreamWriter(Path.Combine(directory, "evaluations.jsonl")) { AutoFlush = true };
        events = tensorBoard || EventFile.In(directory) ? new EventFile(directory) : null;
    }

    /// <summary>The training losses of a step, counted from 1.</summary>
    public void Step(int step, double total, double text, double image, double learningRate) =>
        Write(metrics, new { step, loss = Finite(total), text = Finite(text), image = Finite(image), learningRate, time = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() / 1e3 });

    /// <summary>The held-out losses after some steps.</summary>
    public void Evaluation(ArmEvaluation found) => Write(
        evaluations,
        new { step = found.Step, loss = new { total = Finite(found.Total), text = Finite(found.Text), image = Finite(found.Image), structure = Finite(found.Structure) } });

    private void Write<T>(StreamWriter file, T line)
    {
        string text = JsonSerializer.Serialize(line, Options);
        file.WriteLine(text);
        events?.Add(text, heldOut: file == evaluations);
        events?.File.Flush();
    }

    public void Dispose()
    {
        metrics.Dispose();
        evaluations.Dispose();
    }

    private static double? Finite(double value) => double.IsFinite(value) ? value : null;
}
