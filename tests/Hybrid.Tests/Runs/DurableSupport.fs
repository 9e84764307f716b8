/// What the tests of runs that are stopped, killed or without their disk share.
module Hybrid.Tests.DurableSupport

open System
open System.Diagnostics
open System.IO
open System.Text.Json.Nodes
open System.Threading
open System.Threading.Tasks
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport

/// A configuration of `prepare` with some of its keys set.
let configured (folder: Folder) (name: string) (values: (string * string) list) : string =
    let text = File.ReadAllText(prepare folder "")
    let pairs = [ for key, value in values -> Collections.Generic.KeyValuePair(key, value) ]
    folder.Write(name, Settings.put pairs text |> accepted "the configuration")

/// Runs until asked to stop after some time; whether it came to the end.
let runFor (config: string) (out: string) (time: TimeSpan) : bool =
    use stop = new CancellationTokenSource(time)
    use progress = Progress.On(TextWriter.Null, TimeProvider.System)

    try
        TrainJob.Run(plan config, out, "auto", stop.Token, progress) |> ignore
        true
    with :? OperationCanceledException ->
        false

/// The lines of a run's metrics without what depends on the clock.
let private metrics (run: string) : string[] =
    File.ReadAllLines(Path.Combine(run, "metrics.jsonl"))
    |> Array.map (fun line ->
        let json = (JsonNode.Parse line |> nonNull).AsObject()

        for name in [ "tokensPerSecond"; "shareOfPeak"; "memoryBytes"; "time" ] do
            json.Remove name |> ignore

        json.ToJsonString())

let steps (run: string) : int[] =
    File.ReadAllLines(Path.Combine(run, "metrics.jsonl"))
    |> Array.map (fun line -> ((parsed line).GetProperty "step").GetInt32())

/// That two runs left the same weights, moments, averages, metrics and evaluations.
let same (whole: string) (other: string) : unit =
    Expect.equal (metrics other) (metrics whole) "the metrics"

    let evaluations run = File.ReadAllLines(Path.Combine(run, "evaluations.jsonl"))
    Expect.equal (evaluations other) (evaluations whole) "the evaluations"
    let newest run = (Checkpoints(run).Newest() |> nonNull).Directory

    for name in [ "model.safetensors"; "optimizer.safetensors"; "ema/model.safetensors" ] do
        let read run = File.ReadAllBytes(Path.Combine(newest run, name))

        if File.Exists(Path.Combine(newest whole, name)) then
            Expect.isTrue (read other = read whole) $"{name} is the same to the bit"

/// A run that nothing happens to, as a process, since how products round may depend on the threads of a process.
let wholeByProcess (config: string) (out: string) : unit =
    let code, _, errors = program [ "train"; "--config"; config; "--out"; out ]
    Expect.equal code 0 errors

let everything =
    [
        "schedule.steps", "200"
        "ema.decay", "0.9"
        "checkpoint.everySteps", "15"
        "checkpoint.keepLast", "2"
        "checkpoint.keepBest", "true"
        "spikes.deviations", "4"
        "spikes.window", "8"
        "spikes.action", "rewind"
        "spikes.limit", "1000"
    ]

/// Starts a training as a process; stderr is gathered.
let start (arguments: string list) (environment: (string * string) list) : Process * Task<string> =
    let running = started environment ("train" :: arguments)
    running, running.StandardError.ReadToEndAsync()
