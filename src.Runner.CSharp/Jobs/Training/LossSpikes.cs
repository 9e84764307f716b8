using System.Text.Json.Nodes;
using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>Ends the steps of a run so that it goes back.</summary>
internal sealed class LossSpikeException(int step, double loss, double deviations) : Exception($"the loss spiked at step {step}")
{
    public int Step => step;

    public double Loss => loss;

    public double Deviations => deviations;
}

/// <summary>
/// Watches a run's losses for spikes. Whether a step is one follows from the losses before it alone, and these stand in checkpoints; so
/// a run that goes on from one judges, and goes back, as the run before did.
/// </summary>
internal sealed class LossSpikes(TrainPlan plan, RunDirectory run)
{
    private double[] losses = [];
    private JsonObject? note;

    /// <summary>Sequences passed over so far.</summary>
    public long PassedOver { get; private set; }

    /// <summary>How many times the run went back.</summary>
    public int Rewinds { get; private set; }

    /// <summary>Takes up what a checkpoint remembers.</summary>
    public void Restore(CheckpointState state) => (losses, PassedOver, Rewinds) = (state.Losses, state.PassedOver, state.Rewinds);

    /// <summary>The state with what a run that goes on from it needs to know.</summary>
    public CheckpointState In(CheckpointState state) => state with { Losses = losses, PassedOver = PassedOver, Rewinds = Rewinds };

    /// <summary>
    /// Looks at a step and returns its line for the metrics. Errors: LossSpikeException where the run is to go back; InputException where
    /// it went back as often as it may.
    /// </summary>
    public JsonObject Look(StepMetrics step)
    {
        JsonObject line = step.ToJson();
        if (note is not null)
        {
            (line["rewound"], note) = (note, null);
        }

        double height = plan.Spike(losses, step.Loss);
        if (!double.IsNaN(height))
        {
            string words = $"step {step.Step}: the loss {step.Loss:0.0000} is {height:0.0} deviations above that of the {losses.Length} steps before";
            if (plan.Rewinds && Rewinds >= plan.Config.Spikes.Limit)
            {
                throw new InputException(
                    $"{words}, after the run went back {Rewinds} times already (spikes.limit); lower optimizer.learningRate, look at the data, or raise spikes.limit. The newest checkpoint is from before it.");
            }

            run.Log(words);
            if (plan.Rewinds)
            {
                throw new LossSpikeException(step.Step, step.Loss, height);
            }

            Terminal.Warn(words);
            line["spike"] = Math.Round(height, 3);
        }

        losses = plan.After(losses, step.Loss);
        return line;
    }

    /// <summary>Goes back to a checkpoint: from there the run sees the sequences after those of the step that spiked.</summary>
    public void GoBack(LossSpikeException spike, CheckpointState state)
    {
        int sequences = plan.Config.Sequences, times = Rewinds + 1;
        long next = (long)(spike.Step + 1) * sequences + PassedOver;
        Restore(state);
        (Rewinds, PassedOver) = (times, next - (long)state.Step * sequences);
        note = new JsonObject
        {
            ["step"] = spike.Step,
            ["loss"] = spike.Loss,
            ["deviations"] = Math.Round(spike.Deviations, 3),
            ["passedOver"] = next - state.Position,
        };
        string words = $"step {spike.Step}: the loss spiked; the run went back to step {state.Step} and passed over {next - state.Position} sequences ({times} of at most {plan.Config.Spikes.Limit} times)";
        run.Log(words);
        Terminal.Warn(words);
    }
}
