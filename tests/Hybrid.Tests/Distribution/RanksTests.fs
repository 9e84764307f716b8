/// Runs of several processes, end to end: they need Open MPI and skip, saying so, without.
module Hybrid.Tests.RanksTests

open System
open System.Diagnostics
open System.IO
open System.Threading
open Expecto
open Hybrid.Tests.RunSupport

let private json (path: string) : (int * float) list =
    [
        for line in File.ReadAllLines path do
            let step = Running.parsed line
            (step.GetProperty "step").GetInt32(), (step.GetProperty "loss").GetDouble()
    ]

let private metrics (out: string) = json (Path.Combine(out, "metrics.jsonl"))

let private same (what: string) (wanted: (int * float) list) (found: (int * float) list) =
    Expect.equal (List.map fst found) (List.map fst wanted) $"{what}: each step once"

    for (step, a), (_, b) in List.zip wanted found do
        Expect.isLessThan (abs (a - b)) 1e-4 $"{what}: loss of step {step}"

let private weights (out: string) (step: int) =
    File.ReadAllBytes(Path.Combine(out, "checkpoints", $"step-{step:D7}", "model.safetensors"))

/// A configuration whose steps go on until somebody stops them.
let private endless (folder: Folder) =
    prepare folder """, "distribution": { "silenceSeconds": 2, "timeoutSeconds": 60, "zero": 1 }, "seed": 3"""

let private set (values: (string * string) list) = values |> List.collect (fun (key, value) -> [ "--set"; key; value ])

let private waitFor (what: string) (condition: unit -> bool) =
    let clock = Stopwatch.StartNew()

    while not (condition ()) do
        if clock.Elapsed.TotalSeconds > 60.0 then
            failtest $"{what} did not come"

        Thread.Sleep 20

let private stepsOf (out: string) =
    let path = Path.Combine(out, "metrics.jsonl")
    if File.Exists path then (File.ReadAllLines path).Length else 0

let private signal (name: string) (id: int) =
    use sent = Process.Start("kill", [ "-" + name; string id ])
    sent.WaitForExit()

let private exchanged =
    testCase "what processes exchange is right, of any length, in fp32 and bf16" (fun () ->
        for count, precision in [ 2, "fp32"; 3, "bf16" ] do
            let lengths = [ "4B"; "1000B"; "40KB"; "3MB" ]

            Ranks.run
                count
                ([ "bench"; "collective"; "--seconds"; "0.01"; "--precision"; precision; "--json"; "--bytes" ] @ lengths)
            |> Running.parsed
            |> fun result -> Expect.equal ((result.GetProperty "processes").GetInt32()) count "processes")

let private equivalence =
    testCase "two and four processes train what one does, by each stage of ZeRO, to the same bits each time" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        let code, _, errors = Running.program [ "train"; "--config"; config; "--out"; folder.At "one" ]
        Expect.equal code 0 errors
        let wanted = metrics (folder.At "one")

        for count, zero in [ 2, 0; 2, 1; 2, 2; 2, 3; 4, 2 ] do
            let out = folder.At $"of-{count}-{zero}"

            Ranks.run count ([ "train"; "--config"; config; "--out"; out ] @ set [ "distribution.zero", string zero ])
            |> ignore

            same $"{count} processes, ZeRO {zero}" wanted (metrics out)

        let again = folder.At "again"
        Ranks.run 2 ([ "train"; "--config"; config; "--out"; again ] @ set [ "distribution.zero", "2" ]) |> ignore
        Expect.isTrue (weights again 12 = weights (folder.At "of-2-2") 12) "the same bits"
        Expect.isTrue (File.Exists(Path.Combine(again, "ranks", "log-00001.txt"))) "the log of the second process"

        // What two have begun, one and three go on with.
        for count in [ 1; 3 ] do
            let out = folder.At $"on-{count}"

            let arguments =
                [ "train"; "--config"; config; "--out"; out; "--resume"; Path.Combine(again, "checkpoints", "step-0000005") ]

            if count = 1 then
                let code, _, errors = Running.program arguments
                Expect.equal code 0 errors
            else
                Ranks.run count (arguments @ set [ "distribution.zero", "3" ]) |> ignore

            same $"{count} after two" (List.skip 5 wanted) (metrics out))

/// A run of two processes in its steps, which `act` disturbs; its exit code and what it said.
let private disturbed (folder: Folder) (act: Process -> int list -> unit) : int * string =
    let config, out = endless folder, folder.At "run"

    let running =
        Ranks.start 2 [] ([ "train"; "--config"; config; "--out"; out ] @ set [ "schedule.steps", "1000000" ])

    waitFor "the tenth step" (fun () -> stepsOf out > 10)
    let ids = Ranks.processesOf out
    Expect.hasLength ids 2 "two processes"
    act running ids
    let code, _, errors = Ranks.ended 60.0 running
    waitFor "the end of all processes" (fun () -> (Ranks.processesOf out).IsEmpty)
    code, errors

let private rankOf (id: int) =
    let variables = File.ReadAllText($"/proc/{id}/environ").Split '\000'

    variables
    |> Array.pick (fun v -> if v.StartsWith "OMPI_COMM_WORLD_RANK=" then Some(int (v.Split('=')[1])) else None)

let private killed =
    testCase
        "when a process is killed, the others stop, one says which it was, and the run goes on from its last checkpoint"
        (fun () ->
            use folder = new Folder()
            let second (ids: int list) = ids |> List.find (fun id -> rankOf id = 1)
            let code, errors = disturbed folder (fun _ ids -> signal "KILL" (second ids))
            Expect.notEqual code 0 "exit code"
            Expect.stringContains errors "rank 1 (" errors
            Expect.stringContains errors "ended without a word, after step" errors

            let arguments = [ "train"; "--config"; folder.At "run-config.json"; "--out"; folder.At "run"; "--resume"; "must" ]

            let last = metrics (folder.At "run") |> List.last |> fst
            let more = last + 5

            let running = Ranks.start 2 [] (arguments @ set [ "schedule.steps", "1000000" ])
            waitFor "steps after it" (fun () -> stepsOf (folder.At "run") > more)
            signal "USR1" running.Id
            Ranks.ended 60.0 running |> ignore
            let steps = metrics (folder.At "run") |> List.map fst
            Expect.equal steps [ 0 .. steps.Length - 1 ] "each step once")

let private stopped =
    testCase "a process that is stopped is named by the others within the time that is set" (fun () ->
        use folder = new Folder()

        let code, errors = disturbed folder (fun _ ids -> signal "STOP" (ids |> List.find (fun id -> rankOf id = 1)))

        Expect.notEqual code 0 "exit code"
        Expect.stringContains errors "has not been heard of for 2 s" errors)

let private announced =
    testCase "a signal stops all processes after the same step, saved, with the exit code that was asked for" (fun () ->
        use folder = new Folder()
        let code, errors = disturbed folder (fun running _ -> signal "USR1" running.Id)
        Expect.equal code 130 errors
        let out = folder.At "run"
        let latest = File.ReadAllText(Path.Combine(out, "checkpoints", "latest")).Trim()
        Expect.equal latest $"step-{stepsOf out:D7}" "nothing is lost")

let private refusals =
    testCase "what processes cannot do together is refused in a sentence" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""

        let code, _, errors =
            Ranks.ended
                60.0
                (Ranks.start 2 [] ([ "train"; "--config"; config; "--out"; folder.At "x" ] @ set [ "batch.sequences", "1" ]))

        Expect.equal code 2 errors
        Expect.stringContains errors "batch.sequences: is 1, but there are 2 processes" errors)

let private hosts =
    testCase "two hosts, joined by TCP alone, exchange what is right and train what one does" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        let code, _, errors = Running.program [ "train"; "--config"; config; "--out"; folder.At "one" ]
        Expect.equal code 0 errors

        let code, _, errors =
            Ranks.onTwoHosts (
                [ "train"; "--config"; config; "--out"; folder.At "two" ]
                @ set [ "distribution.zero", "2"; "distribution.bucketMiB", "1" ]
            )

        if code = 77 then
            skiptest errors

        Expect.equal code 0 errors
        same "two hosts" (metrics (folder.At "one")) (metrics (folder.At "two")))

let tests =
    testSequenced (testList "Ranks" [ exchanged; equivalence; killed; stopped; announced; refusals; hosts ])
