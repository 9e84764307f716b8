/// The rules of a soak: which fault comes next and at which moment, how much it may cost, and whether a run is what it would have
/// been without faults.
namespace Hybrid

open System
open System.Collections.Generic
open System.Text.Json
open System.Text.Json.Nodes

/// What is done to a run.
type SoakFault =
    /// SIGKILL while it trains
    | Kill = 0
    /// SIGKILL while a checkpoint is being written
    | KillInCheckpoint = 1
    /// SIGKILL when a checkpoint is whole, and `latest` has not moved yet
    | KillAtLatest = 2
    /// SIGTERM
    | Terminate = 3
    /// SIGINT, as Ctrl-C sends it
    | Interrupt = 4
    /// A second process in the same directory, which must be refused
    | SecondProcess = 5
    /// SIGKILL, and a file of tensors of the newest checkpoint has lost its end
    | Truncate = 6
    /// SIGKILL, and a bit of such a file has changed
    | FlipBit = 7
    /// SIGKILL, and the newest checkpoint's state.json is empty
    | EmptyState = 8
    /// SIGKILL, and `latest` names nothing that is there
    | LatestNothing = 9
    /// SIGKILL, and the metrics end in half a line
    | TornMetrics = 10
    /// The run's directory is away for some seconds
    | Vanish = 11
    /// SIGKILL of one process of several
    | KillRank = 12
    /// SIGSTOP of one process of several
    | StopRank = 13

/// When a fault comes: while the process starts, or when so many checkpoints have been written since, and then after this share of
/// the time that a start, or the steps between two checkpoints, take.
type SoakMoment =
    {
        /// While the process starts
        Starting: bool
        /// How many have been written since it started
        Checkpoints: int
        /// Of the time between, in [0, 1)
        Share: float
    }

/// A fault that was injected, and what became of it.
type SoakRecord =
    {
        /// The run that it was injected into, counted from 1.
        Run: int
        /// Its number among all faults, counted from 0.
        Number: int
        /// What was done
        Fault: SoakFault
        /// Steps that had been done; null where the process had not begun to train.
        Done: Nullable<int>
        /// The step that the run went on from; null where it did not end, or did not go on.
        Resumed: Nullable<int>
        /// Why it does not count as survived, or null.
        Failure: string | null
    }

    /// Steps that had to be done again.
    member record.Lost: int =
        if record.Done.HasValue && record.Resumed.HasValue then
            max 0 (record.Done.Value - record.Resumed.Value)
        else
            0

/// What became of the faults of a kind.
type SoakTally =
    {
        /// Which kind
        Fault: SoakFault
        /// How many
        Injected: int
        /// How many the run came through
        Survived: int
        /// Steps that had to be done again, a mean
        LostMean: float
        /// Steps that had to be done again, the most
        LostMost: int
    }

/// Where a run is not what it should be: the first step that differs, and how.
type SoakDifference =
    {
        /// Counted from 0
        Step: int
        /// What differs, for a person
        Words: string
    }

/// The rules of a soak as functions of a seed and of what happened.
module SoakRules =

    let private faults =
        [
            SoakFault.Kill, ("kill", "kill -9 at a random time")
            SoakFault.KillInCheckpoint, ("kill-in-checkpoint", "kill -9 while a checkpoint is written")
            SoakFault.KillAtLatest, ("kill-at-latest", "kill -9 while latest moves")
            SoakFault.Terminate, ("sigterm", "SIGTERM")
            SoakFault.Interrupt, ("sigint", "SIGINT")
            SoakFault.SecondProcess, ("second-process", "a second process in the same directory")
            SoakFault.Truncate, ("truncated", "kill -9, then the newest checkpoint is truncated")
            SoakFault.FlipBit, ("flipped-bit", "kill -9, then a bit of the newest checkpoint flips")
            SoakFault.EmptyState, ("empty-state", "kill -9, then its state.json is emptied")
            SoakFault.LatestNothing, ("latest-nothing", "kill -9, then latest names nothing")
            SoakFault.TornMetrics, ("torn-metrics", "kill -9, then metrics.jsonl ends in half a line")
            SoakFault.Vanish, ("vanished-directory", "the directory is away for some seconds")
            SoakFault.KillRank, ("kill-rank", "kill -9 of one rank")
            SoakFault.StopRank, ("stop-rank", "SIGSTOP of one rank")
        ]

    /// A fault's name for machines.
    let key (fault: SoakFault) : string = faults |> List.find (fun (kind, _) -> kind = fault) |> snd |> fst

    /// A fault in words.
    let words (fault: SoakFault) : string = faults |> List.find (fun (kind, _) -> kind = fault) |> snd |> snd

    /// Whether every process of the run is killed with -9.
    let kills (fault: SoakFault) : bool = (words fault).StartsWith "kill -9" && fault <> SoakFault.KillRank

    /// A round: every kind once, and the kills that depend on the moment more often.
    let round (ranks: int) : IReadOnlyList<SoakFault> =
        [|
            for fault, _ in faults do
                match fault with
                | SoakFault.Kill -> yield! [ fault; fault; fault ]
                | SoakFault.KillInCheckpoint
                | SoakFault.KillAtLatest -> yield! [ fault; fault ]
                | SoakFault.KillRank
                | SoakFault.StopRank when ranks = 1 -> ()
                | _ -> fault
        |]

    let private stream (seed: int64) (number: int) (name: string) =
        Random.ofSeed seed |> Random.named "soak" |> Random.named name |> Random.numbered (int64 number)

    /// The fault with a number: rounds one after the other, each in an order of its own.
    let fault (seed: int64) (ranks: int) (number: int) : SoakFault =
        let round = round ranks

        let place =
            Random.permuted (int64 round.Count) (stream seed (number / round.Count) "order") (int64 (number % round.Count))

        round[int place]

    /// When the fault with a number comes. A quarter of those that may do so come while the process starts.
    let moment (seed: int64) (number: int) : SoakMoment =
        let stream = stream seed number "moment"

        {
            Starting = Random.below 4 stream 0L = 0
            Checkpoints = Random.below 4 stream 1L
            Share = Random.uniform stream 2L
        }

    /// A number in [0, count) that belongs to a fault: which file, which bit, which rank.
    let draw (seed: int64) (number: int) (name: string) (count: int64) : int64 =
        min (count - 1L) (int64 (Random.uniform (stream seed number name) 0L * float count))

    /// The earliest step that a run may go on from after it was killed: from the newest checkpoint that was whole, and not from before
    /// the one that precedes the last that was due, which may still have been in writing.
    let earliest (interval: int) (finished: int) (whole: int) : int = max whole (max 0 ((finished / interval - 1) * interval))

    // ---- comparing ----

    /// What depends on the machine's speed and not on the run.
    let private ofSpeed (name: string) : bool =
        List.contains name [ "time"; "shareOfPeak"; "memoryBytes" ]
        || [ "PerSecond"; "_per_second"; "econds" ] |> List.exists name.EndsWith

    let private fields (line: string) : (int * Map<string, string>) option =
        try
            match JsonNode.Parse line with
            | :? JsonObject as json ->
                let shown (node: JsonNode | null) =
                    match node with
                    | null -> "null"
                    | node -> node.ToJsonString()

                let all = Map [ for field in json -> field.Key, shown field.Value ]

                match all |> Map.tryFind "step" |> Option.map Int32.TryParse with
                | Some(true, step) -> Some(step, all |> Map.filter (fun name _ -> not (ofSpeed name)))
                | _ -> None
            | _ -> None
        with :? JsonException ->
            None

    let private shorten (text: string) = if text.Length <= 60 then text else text[..59] + "…"

    /// The first difference of two lists of JSON lines with a `step`, speeds apart; null where they are alike: the same steps in the
    /// same order with the same values to the last digit.
    let difference (file: string) (reference: string seq) (run: string seq) : SoakDifference | null =
        let found step words = Some { Step = step; Words = $"{file}: {words}" }

        let rec compare (step: int) (wanted: string list) (lines: string list) =
            match wanted, lines with
            | [], [] -> None
            | _, line :: _ when (fields line).IsNone -> found step $"after step {step - 1} stands a line that is not whole."
            | line :: _, [] ->
                let missing = fields line |> Option.map fst |> Option.defaultValue step
                found missing $"step {missing} and what comes after it are missing."
            | [], line :: _ ->
                let extra = (fields line).Value |> fst
                found extra $"step {extra} stands there once more than it should."
            | first :: wanted, line :: lines ->
                match fields first, fields line with
                | Some(expected, _), Some(there, _) when there < expected ->
                    found there $"step {there} stands there twice or out of its order."
                | Some(expected, _), Some(there, _) when there > expected -> found expected $"step {expected} is missing."
                | Some(expected, values), Some(_, others) when values <> others ->
                    let names = Set.ofSeq values.Keys + Set.ofSeq others.Keys
                    let name = names |> Seq.find (fun name -> values.TryFind name <> others.TryFind name)
                    let show (side: Map<string, string>) = side.TryFind name |> Option.map shorten |> Option.defaultValue "absent"
                    found expected $"step {expected} has the {name} {show others} instead of {show values}."
                | Some(expected, _), _ -> compare (expected + 1) wanted lines
                | None, _ ->
                    invalidArg (nameof reference) $"{file} of the reference has a line that is not whole: {shorten first}"

        match compare 0 (List.ofSeq reference) (List.ofSeq run) with
        | Some difference -> difference
        | None -> null

    /// The fault, as its place among those of a run, that a difference from some step on is put down to: the last one after which the
    /// run went on from that step or before; −1 where there is none.
    let blamed (records: SoakRecord seq) (step: int) : int =
        records
        |> Seq.tryFindIndexBack (fun record -> not record.Resumed.HasValue || record.Resumed.Value <= step)
        |> Option.defaultValue -1

    /// The record of a fault that did not count as failed, and now does.
    let failed (record: SoakRecord) (why: string) : SoakRecord = { record with Failure = why }

    // ---- adding up ----

    let private tallyOf (fault: SoakFault) (records: SoakRecord list) : SoakTally =
        let lost = records |> List.map _.Lost

        {
            Fault = fault
            Injected = records.Length
            Survived = records |> List.filter (fun record -> isNull record.Failure) |> List.length
            LostMean = if lost.IsEmpty then 0.0 else List.averageBy float lost
            LostMost = if lost.IsEmpty then 0 else List.max lost
        }

    /// What became of the faults of each kind that occurred, in the order of the kinds.
    let tally (records: SoakRecord seq) : IReadOnlyList<SoakTally> =
        let records = List.ofSeq records

        [|
            for fault, _ in faults do
                match records |> List.filter (fun record -> record.Fault = fault) with
                | [] -> ()
                | some -> tallyOf fault some
        |]
