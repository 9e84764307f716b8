namespace Hybrid.Runner.Soak;

/// <summary>A fault that was injected.</summary>
/// <param name="Fault">Its kind: a kill that missed its moment is one at a random time.</param>
/// <param name="Ended">Whether the process has ended by it.</param>
internal sealed record Injection(SoakFault Fault, bool Ended)
{
    /// <summary>Steps that were done; null where the process had not begun to train.</summary>
    public int? Done { get; init; }

    /// <summary>The earliest step that the run may go on from.</summary>
    public int Earliest { get; init; }

    /// <summary>A checkpoint that the run may not go on from, or null.</summary>
    public int? Damaged { get; init; }

    /// <summary>What was wrong at once, or null.</summary>
    public string? Failure { get; init; }

    /// <summary>Whether the run is worth nothing any more.</summary>
    public bool Spoilt { get; init; }
}
