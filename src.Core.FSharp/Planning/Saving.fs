/// The parts of a training configuration that keep a run safe: when it saves and what it keeps, what it does about spikes of its loss,
/// and how its process ends when it is interrupted.
namespace Hybrid

open System.Text.Json.Nodes
open Hybrid.JsonForm

/// When a run saves, beside every so many steps, and what it keeps.
type Saving =
    {
        /// Minutes between checkpoints
        EveryMinutes: float option
        /// Whether steps go on while a checkpoint is being written
        Asynchronous: bool
        /// How many checkpoints stay; all when absent
        KeepLast: int option
        /// Checkpoints after a multiple of so many steps stay for ever
        KeepEvery: int option
        /// Whether the checkpoint with the lowest held-out loss stays
        KeepBest: bool
        /// How long a run goes on while no checkpoint can be written
        DeadlineMinutes: float
    }

/// What a run does about a spike of its loss.
[<RequireQualifiedAccess>]
type SpikeAction =
    /// Says so and goes on
    | Warn
    /// Goes back to the newest checkpoint and passes over the sequences up to the spike
    | Rewind

/// What counts as a spike of the loss, and what is done about it.
type SpikeRule =
    {
        /// Deviations above the mean of the steps before; nothing is a spike when absent
        Deviations: float option
        /// How many steps before
        Window: int
        /// What is done about it
        Action: SpikeAction
        /// How many times a run may go back
        Limit: int
    }

/// Reading and writing when a run saves, and which checkpoints may go.
module Saving =

    let private million = 1_000_000_000

    /// Reads the keys of `checkpoint` but for everySteps; `measured` says whether there are held-out data.
    let read (measured: bool) (json: JsonFields) : Saving =
        let saving =
            {
                EveryMinutes = json.OptionalFloat("everyMinutes", 0.001, 1e6)
                Asynchronous = json.Bool("asynchronous", true)
                KeepLast = json.OptionalInt("keepLast", 1, million)
                KeepEvery = json.OptionalInt("keepEvery", 1, million)
                KeepBest = json.Bool("keepBest", false)
                DeadlineMinutes = json.Float("deadlineMinutes", 0.0, 1e6, 30.0)
            }

        if json.Sound && saving.KeepEvery.IsSome && saving.KeepLast.IsNone then
            json.Error("keepEvery", "has no use where all checkpoints stay; give checkpoint.keepLast beside it.")

        if json.Sound && saving.KeepBest && not measured then
            json.Error("keepBest", "needs held-out data to say which checkpoint is the best; give data.heldOut.")

        saving

    let private actions = [ "warn", SpikeAction.Warn; "rewind", SpikeAction.Rewind ]

    /// Reads the keys of `spikes`.
    let readSpikes (json: JsonFields) : SpikeRule =
        {
            Deviations = json.OptionalFloat("deviations", 0.1, 1e6)
            Window = json.Int("window", 2, 100_000, 100)
            Action = json.Choice("action", actions, SpikeAction.Warn)
            Limit = json.Int("limit", 1, million, 3)
        }

    /// The keys of `checkpoint` but for everySteps, with their values.
    let fields (saving: Saving) : (string * (JsonNode | null)) list =
        [
            "everyMinutes", orNull saving.EveryMinutes
            "asynchronous", value saving.Asynchronous
            "keepLast", orNull saving.KeepLast
            "keepEvery", orNull saving.KeepEvery
            "keepBest", value saving.KeepBest
            "deadlineMinutes", value saving.DeadlineMinutes
        ]

    /// The keys of `spikes`, with their values.
    let spikeFields (rule: SpikeRule) : (string * (JsonNode | null)) list =
        [
            "deviations", orNull rule.Deviations
            "window", value rule.Window
            "action", value (nameIn actions rule.Action)
            "limit", value rule.Limit
        ]

    /// Which checkpoints of a run may go, of those after these numbers of steps (rising): all but the last `KeepLast`, multiples of
    /// `KeepEvery`, and those that `spared` names (the latest, the best).
    let removable (saving: Saving) (spared: int list) (steps: int list) : int list =
        match saving.KeepLast with
        | None -> []
        | Some count ->
            let kept = steps |> List.rev |> List.truncate count
            let forEver step = saving.KeepEvery |> Option.exists (fun every -> step % every = 0)

            steps |> List.filter (fun step -> not (List.contains step kept || List.contains step spared || forEver step))

/// Spikes of the loss: a step whose loss is far above what the steps before it had. A value, so that a run that goes on from a
/// checkpoint judges as the one before did.
module Spikes =

    // Below this share of the mean, differences are rounding.
    let private leastDeviation = 1e-6

    /// How many deviations a loss is above the mean of the losses before it; none while these are fewer than the window, and of a loss
    /// that is not finite. The deviation is that of the losses as a whole (divided by their number).
    let height (rule: SpikeRule) (before: float[]) (loss: float) : float option =
        if rule.Deviations.IsNone || before.Length < rule.Window || not (System.Double.IsFinite loss) then
            None
        else
            let mean = Array.average before
            let variance = before |> Array.averageBy (fun x -> (x - mean) * (x - mean))
            Some((loss - mean) / max (sqrt variance) (leastDeviation * abs mean + System.Double.Epsilon))

    /// Whether such a height is a spike.
    let isSpike (rule: SpikeRule) (height: float option) : bool =
        match rule.Deviations, height with
        | Some limit, Some height -> height > limit
        | _ -> false

    /// The losses that the next step is held against: the last of these and the step's own, where that is finite.
    let after (rule: SpikeRule) (before: float[]) (loss: float) : float[] =
        if rule.Deviations.IsNone || not (System.Double.IsFinite loss) then
            before
        else
            let all = Array.append before [| loss |]
            all[max 0 (all.Length - rule.Window) ..]
