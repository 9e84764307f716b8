using System.Text.Json.Nodes;

namespace Hybrid.Runner;

/// <summary>What one step of training measured; losses in nats per token of their kind, NaN where there was none.</summary>
internal sealed record StepMetrics
{
    /// <summary>Counted from 0.</summary>
    public required int Step { get; init; }

    public required double Loss { get; init; }

    public required double Text { get; init; }

    public required double Image { get; init; }

    public required double Structure { get; init; }

    /// <summary>Targets of text, image and structure.</summary>
    public required IReadOnlyList<long> Counts { get; init; }

    public required double LearningRate { get; init; }

    /// <summary>The gradient's norm before clipping.</summary>
    public required double GradientNorm { get; init; }

    public required double TokensPerSecond { get; init; }

    /// <summary>The share of the device's matrix peak that this speed is; null where that was not measured.</summary>
    public double? ShareOfPeak { get; init; }

    /// <summary>Bytes of the GPU's memory that are taken, or of this process in the host's.</summary>
    public long? MemoryBytes { get; init; }

    /// <summary>Whether the update was left out because the gradient was not finite.</summary>
    public bool Skipped => !double.IsFinite(GradientNorm);

    /// <summary>The line of metrics.jsonl; what is not a number is null.</summary>
    public JsonObject ToJson() => new()
    {
        ["step"] = Step,
        ["loss"] = Finite(Loss),
        ["text"] = Finite(Text),
        ["image"] = Finite(Image),
        ["structure"] = Finite(Structure),
        ["counts"] = new JsonObject { ["text"] = Counts[0], ["image"] = Counts[1], ["structure"] = Counts[2] },
        ["learningRate"] = LearningRate,
        ["gradNorm"] = Finite(GradientNorm),
        ["tokensPerSecond"] = Math.Round(TokensPerSecond, 1),
        ["shareOfPeak"] = ShareOfPeak is { } share ? Math.Round(share, 4) : null,
        ["memoryBytes"] = MemoryBytes,
        ["skipped"] = Skipped,
    };

    private static JsonNode? Finite(double value) => double.IsFinite(value) ? JsonValue.Create(value) : null;
}
