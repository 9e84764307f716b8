namespace Hybrid.Runner;

/// <summary>What a step reports of itself. What is null is not shown.</summary>
internal readonly record struct Metrics
{
    /// <summary>Loss per token over all kinds, in nats.</summary>
    public double? Loss { get; init; }

    public double? Text { get; init; }

    public double? Image { get; init; }

    public double? Structure { get; init; }

    /// <summary>Tokens since the stage began, from which the speed is worked out.</summary>
    public long? Tokens { get; init; }

    /// <summary>The share of the device's matrix peak that is reached.</summary>
    public double? Share { get; init; }

    /// <summary>Bytes of memory that are taken.</summary>
    public long? Memory { get; init; }

    /// <summary>Anything else worth a few words.</summary>
    public string? Note { get; init; }
}
