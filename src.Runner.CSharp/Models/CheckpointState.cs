using System.Text.Json;
using System.Text.Json.Nodes;

namespace Hybrid.Runner;

/// <summary>Where a run stands when a checkpoint is written.</summary>
/// <param name="Step">Steps that are done.</param>
/// <param name="Position">Sequences that were seen or passed over.</param>
/// <param name="Seed">The seed of the run.</param>
/// <param name="Configuration">SHA-256 of the resolved configuration.</param>
/// <param name="Layout">The optimizer's layout; moments of another one do not fit.</param>
public sealed record CheckpointState(int Step, long Position, long Seed, string Configuration, string Layout)
{
    /// <summary>The step at which the run in this directory began: 0, or that of another run's checkpoint.</summary>
    public int Begun { get; init; }

    /// <summary>Sequences of <see cref="Position"/> that were passed over because the loss spiked.</summary>
    public long PassedOver { get; init; }

    /// <summary>How many times the run went back.</summary>
    public int Rewinds { get; init; }

    /// <summary>The losses that the next step is held against; empty where nothing is a spike.</summary>
    public double[] Losses { get; init; } = [];

    internal static CheckpointState Read(JsonElement root)
    {
        string Word(string name) => root.GetProperty(name).GetString() ?? "";
        long Number(string name) => root.TryGetProperty(name, out JsonElement value) ? value.GetInt64() : 0;
        return new(root.GetProperty("step").GetInt32(), root.GetProperty("position").GetInt64(), root.GetProperty("seed").GetInt64(), Word("configuration"), Word("layout"))
        {
            Begun = (int)Number("begun"),
            PassedOver = Number("passedOver"),
            Rewinds = (int)Number("rewinds"),
            Losses = root.TryGetProperty("losses", out JsonElement losses) ? [.. losses.EnumerateArray().Select(loss => loss.GetDouble())] : [],
        };
    }

    internal JsonObject ToJson() => new()
    {
        ["step"] = Step,
        ["position"] = Position,
        ["seed"] = Seed,
        ["configuration"] = Configuration,
        ["layout"] = Layout,
        ["begun"] = Begun,
        ["passedOver"] = PassedOver,
        ["rewinds"] = Rewinds,
        ["losses"] = new JsonArray([.. Losses.Select(loss => (JsonNode)loss)]),
    };
}
