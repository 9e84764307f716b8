using System.Text.Json.Nodes;
using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>What the last of some steps in a row saw whose gradients were not finite.</summary>
/// <param name="Step">The last of them.</param>
/// <param name="Row">How many they are.</param>
/// <param name="FirstPosition">The position of its first sequence in the order of the run.</param>
/// <param name="Places">Its sequences by their places in the source.</param>
/// <param name="Source">The name of the source.</param>
internal sealed record NotFiniteSteps(int Step, int Row, long FirstPosition, IReadOnlyList<long> Places, string Source)
{
    internal static NotFiniteSteps Of(ISequenceSource source, TrainPlan plan, int step, int row, long passedOver) =>
        new(step, row, (long)step * plan.Config.Sequences + passedOver, BatchFeed.Places(source, plan, step, passedOver), source.Name);

    /// <summary>The sentence for a person.</summary>
    public string Sentence =>
        $"the gradient was not finite in {Row} steps in a row, up to step {Step} (positions {FirstPosition} to {FirstPosition + Places.Count - 1}, which are the sequences {string.Join(", ", Places)} of {Source}); lower optimizer.learningRate or look at these sequences. The weights are those of before these steps.";

    /// <summary>The same for machines.</summary>
    public JsonObject ToJson() => new()
    {
        ["step"] = Step,
        ["stepsInARow"] = Row,
        ["positions"] = new JsonArray(FirstPosition, FirstPosition + Places.Count - 1),
        ["sequences"] = new JsonArray([.. Places.Select(place => (JsonNode)place)]),
        ["source"] = Source,
    };
}
