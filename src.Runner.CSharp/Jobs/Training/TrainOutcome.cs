using System.Text.Json.Nodes;

namespace Hybrid.Runner;

/// <summary>How a run ended.</summary>
internal sealed record TrainOutcome(string Run, string Checkpoint, StepMetrics? Last, Evaluation? HeldOut)
{
    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson() => new()
    {
        ["run"] = Run,
        ["checkpoint"] = Checkpoint,
        ["metrics_file"] = Path.Combine(Run, "metrics.jsonl"),
        ["steps"] = Last is null ? null : Last.Step + 1,
        ["metrics"] = Last?.ToJson() ?? (JsonNode?)null,
        ["held_out"] = HeldOut?.ToJson(),
    };

    /// <summary>The same for a person.</summary>
    public string ToText()
    {
        string text = $"run         {Run}\ncheckpoint  {Checkpoint}";
        if (Last is not null)
        {
            text += $"\nlast step   {Last.Step}, loss {Report.number(4, Last.Loss)} nats (text {Report.number(4, Last.Text)}, image {Report.number(4, Last.Image)}, structure {Report.number(4, Last.Structure)})";
        }

        return HeldOut is null ? text : text + "\n\nheld out\n" + HeldOut.ToText();
    }
}
