using System.Text.Json.Nodes;
using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>How a training of an image tokenizer ended.</summary>
internal sealed class ImageTrainOutcome
{
    private readonly string run, tokenizer, checkpoint;
    private readonly int steps, trained;
    private readonly ImageTrainPlan plan;
    private readonly IReadOnlyDictionary<Formats.DropReason, long> dropped;
    private readonly string droppedText;
    private readonly JsonObject? last;

    internal ImageTrainOutcome(
        string run, string tokenizer, string checkpoint, int steps, ImageTrainPlan plan, PictureSet pictures, JsonObject? last, ImageEvaluation? heldOut)
    {
        (this.run, this.tokenizer, this.checkpoint, this.steps, this.plan, this.last) = (run, tokenizer, checkpoint, steps, plan, last);
        (trained, dropped, droppedText, HeldOut) = (pictures.Count, pictures.Drops.Counts, pictures.Drops.Said, heldOut);
    }

    /// <summary>What is left of held-out pictures; null where none are held out.</summary>
    public ImageEvaluation? HeldOut { get; }

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson() => new()
    {
        ["run"] = run,
        ["tokenizer"] = tokenizer,
        ["checkpoint"] = checkpoint,
        ["metrics_file"] = Path.Combine(run, "metrics.jsonl"),
        ["steps"] = steps,
        ["parameters"] = plan.Parameters,
        ["stride"] = plan.Stride,
        ["pictures"] = trained,
        ["dropped"] = dropped.ToDictionary(count => count.Key.ToString(), count => count.Value),
        ["metrics"] = last,
        ["held_out"] = HeldOut?.ToJson(),
    };

    /// <summary>The same for a person.</summary>
    public string ToText() => string.Join('\n', [
        $"run         {run}",
        $"tokenizer   {tokenizer}",
        $"trained     {steps:N0} steps on {trained:N0} pictures, {plan.Parameters:N0} parameters, a code for {plan.Stride} × {plan.Stride} pixels",
        $"held out    {HeldOut?.Words ?? "none (data.heldOutShare is 0)"}",
    ]) + droppedText;
}
