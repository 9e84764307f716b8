using System.Globalization;
using System.Text.Json.Nodes;
using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>A plan for many GPUs as it is said to a person or a machine. All of it is predicted.</summary>
/// <param name="Model">What the model is called: a size, or a file.</param>
/// <param name="Work">What is to be trained.</param>
/// <param name="Cluster">What it is trained on.</param>
/// <param name="Peak">Floating-point operations per second of a GPU at most.</param>
/// <param name="Outcome">What came out.</param>
/// <param name="Measured">Whether the GPU's rate was measured.</param>
/// <param name="CheckpointLink">Bytes per second that all processes write together, or null.</param>
internal sealed record PlanReport(
    string Model, ScalingWork Work, Cluster Cluster, double Peak, ScalingOutcome Outcome, bool Measured, double? CheckpointLink)
{
    private const double SecondsPerDay = 86400, SecondsPerHour = 3600;
    private const double NearEnough = 0.05;
    private static readonly CultureInfo invariant = CultureInfo.InvariantCulture;

    private double FlopsPerToken => Architecture.FlopsPerToken(Work.Model, Work.Positions);

    private long Steps => (long)Math.Ceiling(Work.Tokens / Outcome.TokensPerStep);

    // Each GPU takes whole sequences, at least one.
    private string Asked => Math.Abs(Outcome.TokensPerStep / Work.TokensPerStep - 1) > NearEnough ? $" ({Whole(Work.TokensPerStep)} were asked for)" : "";

    private bool Half => Work.Precision == Precision.Bf16;

    private bool HalfGradients => Half && Work.Gradients == Precision.Bf16;

    /// <summary>What goes into a training configuration.</summary>
    private JsonObject Keys
    {
        get
        {
            ScalingChoice choice = Outcome.Pick.Choice;
            JsonObject keys = new()
            {
                ["distribution"] = new JsonObject { ["zero"] = choice.Zero, ["overlap"] = Cluster.Gpus > 1 },
                ["memory"] = new JsonObject { ["checkpointing"] = Scalings.Checkpointing(choice) },
                ["batch"] = new JsonObject { ["sequences"] = Outcome.Sequences * Cluster.Gpus, ["microBatch"] = choice.MicroBatch },
                ["precision"] = Half ? "bf16" : "fp32",
            };
            if (HalfGradients)
            {
                keys["gradients"] = "bf16";
            }

            keys["schedule"] = new JsonObject { ["steps"] = Steps };
            return keys;
        }
    }

    /// <summary>One object for machines: bytes, seconds, operations.</summary>
    public JsonObject ToJson() => new()
    {
        ["predicted"] = true,
        ["model"] = Model,
        ["parameters"] = Decoder.parameterCount(Work.Model),
        ["flop_per_token"] = FlopsPerToken,
        ["precision"] = Half ? "bf16" : "fp32",
        ["gradients"] = HalfGradients ? "bf16" : "fp32",
        ["positions"] = Work.Positions,
        ["tokens_per_step"] = Outcome.TokensPerStep,
        ["tokens"] = Work.Tokens,
        ["steps"] = Steps,
        ["gpus"] = Cluster.Gpus,
        ["nodes"] = Cluster.Nodes,
        ["gpu_memory_bytes"] = Cluster.GpuMemory,
        ["filled_share"] = Scaling.fill,
        ["link_bytes_per_second"] = Cluster.Link,
        ["node_link_bytes_per_second"] = Cluster.NodeLink,
        ["latency_seconds"] = Cluster.Latency,
        ["gpu_flops_per_second"] = Cluster.Rate,
        ["gpu_peak_flops"] = Peak,
        ["measured"] = Measured,
        ["stages"] = new JsonArray([.. Outcome.Stages.Select(stage => stage.Step is { } step ? Said(step) : new JsonObject { ["zero"] = stage.Zero, ["fits"] = false, ["least_memory_bytes"] = stage.Least })]),
        ["pick"] = Picked(),
        ["configuration"] = Keys,
    };

    /// <summary>A table and what follows from it, for a person.</summary>
    public string ToText()
    {
        ScalingStep pick = Outcome.Pick;
        List<string> lines =
        [
            Line("model", $"{Model}: {Whole(Decoder.parameterCount(Work.Model))} parameters, {Figure(FlopsPerToken / 1e9, 2)} GFLOP a token, in {(Half ? "bf16" : "fp32")}, gradients added in {(HalfGradients ? "bf16" : "fp32")}"),
            Line("GPUs", $"{Whole(Cluster.Gpus)} in {Count(Cluster.Nodes, "node")}, {Figure(Cluster.GpuMemory / 1e9, 1)} GB each, of which {Figure(Scaling.fill * Cluster.GpuMemory / 1e9, 1)} are filled"),
            Line("links", (Cluster.Nodes > 1 ? $"{Figure(Cluster.Link / 1e9, 1)} GB/s between nodes, " : "") + $"{Figure(Cluster.NodeLink / 1e9, 1)} GB/s within a node, {Figure(Cluster.Latency * 1e6, 1)} µs a message"),
            Line("a GPU computes", $"{Figure(Cluster.Rate / 1e12, 1)} TFLOP/s while it waits for nothing, {Figure(100 * Cluster.Rate / Peak, 1)} % of its peak of {Figure(Peak / 1e12, 1)}{(Measured ? ", measured" : "")}"),
            Line("a step", $"{Count(Outcome.Sequences * Cluster.Gpus, "sequence")} of {Whole(Work.Positions)} positions, {Whole(Outcome.TokensPerStep)} tokens{Asked}, {Count(Outcome.Sequences, "sequence")} a GPU"),
            "",
            "predicted, for each GPU and step; 1 GB = 10⁹ bytes:",
            "",
            .. Table(pick),
            "",
            Line("picked", $"ZeRO {pick.Choice.Zero}, checkpointing {Scalings.Checkpointing(pick.Choice)}, {Count(pick.Choice.Accumulation, "micro-batch", "micro-batches")} of {pick.Choice.MicroBatch}"),
            Line("memory", string.Join(", ", StepMemories.Parts(pick.Memory).Select(part => $"{part.Name} {Figure(part.Bytes / 1e9, 2)}")) + " GB"),
            .. Scalings.Traffic(pick).Select((sent, i) => Line(
                i == 0 ? "sent" : "", $"{sent.Collective}: {Figure(sent.Bytes / 1e9, 2)} GB in {Count((long)sent.Calls, "call")}, {Figure(sent.Seconds, 3)} s, of which {Figure(sent.Exposed, 3)} s are waited for")),
            Line("rate", $"{Whole(Rate(pick))} tokens/s, {Whole(Rate(pick) / Cluster.Gpus)} a GPU, {Figure(100 * ShareOfPeak(pick), 1)} % of the peak"),
            Line("run", $"{Whole(Work.Tokens)} tokens in {Count(Steps, "step")}: {Figure(Days(pick), 2)} days, {Whole(GpuHours(pick))} GPU-hours"),
        ];
        if (CheckpointLink is { } link)
        {
            double bytes = Scalings.CheckpointBytes(Work);
            lines.Add(Line("checkpoint", $"{Figure(bytes / 1e9, 2)} GB, {Figure(bytes / link, 1)} s at {Figure(link / 1e9, 1)} GB/s beside the steps"));
        }

        lines.Add(Line("configuration", Keys.ToJsonString(Json.Options)));
        return string.Join('\n', lines);
    }

    private double Rate(ScalingStep step) => Outcome.TokensPerStep / step.Seconds;

    private double ShareOfPeak(ScalingStep step) => Rate(step) * FlopsPerToken / Cluster.Gpus / Peak;

    private double Days(ScalingStep step) => Steps * step.Seconds / SecondsPerDay;

    private double GpuHours(ScalingStep step) => Steps * step.Seconds / SecondsPerHour * Cluster.Gpus;

    private List<string> Table(ScalingStep pick)
    {
        List<string[]> rows = [["ZeRO", "micro-batches", "checkpointing", "memory GB", "sent GB", "compute s", "sending s", "waiting s", "tokens/s", "days", ""]];
        List<string> lines = [];
        rows.AddRange(Outcome.Stages.Select(stage => stage.Step is { } step
            ? (string[])[
                $"{stage.Zero}", $"{step.Choice.Accumulation} × {step.Choice.MicroBatch}", Scalings.Checkpointing(step.Choice), Figure(step.Memory.Total / 1e9, 1),
                Figure(step.Bytes / 1e9, 2), Figure(step.Compute, 3), Figure(step.Communication, 3), Figure(step.Exposed, 3), Whole(Rate(step)),
                Figure(Days(step), 2), ReferenceEquals(step, pick) ? "← picked" : ""]
            : [$"{stage.Zero}", "", "", Figure(stage.Least / 1e9, 1), "", "", "", "", "", "", "does not fit"]));
        int[] widths = [.. Enumerable.Range(0, rows[0].Length).Select(column => rows.Max(row => row[column].Length))];
        foreach (string[] row in rows)
        {
            // The last column is words.
            lines.Add(string.Join("  ", row.Select((cell, column) => column == row.Length - 1 ? cell : cell.PadLeft(widths[column]))).TrimEnd());
        }

        return lines;
    }

    private JsonObject Said(ScalingStep step)
    {
        JsonObject memory = [];
        foreach (MemoryPart part in StepMemories.Parts(step.Memory))
        {
            memory[part.Name] = part.Bytes;
        }

        return new()
        {
            ["zero"] = step.Choice.Zero,
            ["fits"] = true,
            ["checkpointing"] = Scalings.Checkpointing(step.Choice),
            ["accumulation"] = step.Choice.Accumulation,
            ["micro_batch"] = step.Choice.MicroBatch,
            ["memory_bytes"] = memory,
            ["sent_bytes"] = step.Bytes,
            ["traffic"] = new JsonArray([.. Scalings.Traffic(step).Select(sent => new JsonObject
            {
                ["collective"] = sent.Collective,
                ["bytes"] = sent.Bytes,
                ["calls"] = sent.Calls,
                ["seconds"] = sent.Seconds,
                ["waiting_seconds"] = sent.Exposed,
            })]),
            ["compute_seconds"] = step.Compute,
            ["sending_seconds"] = step.Communication,
            ["waiting_seconds"] = step.Exposed,
            ["step_seconds"] = step.Seconds,
            ["tokens_per_second"] = Rate(step),
            ["share_of_peak"] = ShareOfPeak(step),
            ["days"] = Days(step),
            ["gpu_hours"] = GpuHours(step),
        };
    }

    private JsonObject Picked()
    {
        JsonObject picked = Said(Outcome.Pick);
        picked.Remove("fits");
        picked["batch_sequences"] = Outcome.Sequences * Cluster.Gpus;
        if (CheckpointLink is { } link)
        {
            double bytes = Scalings.CheckpointBytes(Work);
            picked["checkpoint_bytes"] = bytes;
            picked["checkpoint_seconds"] = bytes / link;
        }

        return picked;
    }

    private static string Line(string name, string text) => $"{name,-14}  {text}";

    private static string Count(long count, string one, string? several = null) => $"{Whole(count)} {(count == 1 ? one : several ?? one + "s")}";

    private static string Whole(double value) => value.ToString("N0", invariant);

    private static string Figure(double value, int digits) => value.ToString("N" + digits, invariant);
}
