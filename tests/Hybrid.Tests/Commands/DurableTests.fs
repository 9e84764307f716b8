/// Nothing of a run is lost: checkpoints that were altered, directories that vanish, processes that are killed, two runs in one
/// directory, spikes of the loss, and what stays when checkpoints are removed.
module Hybrid.Tests.DurableTests

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open System.Text.Json.Nodes
open System.Threading
open System.Threading.Tasks
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport
open TorchSharp

/// A configuration of `prepare` with some of its keys set.
let private configured (folder: Folder) (name: string) (values: (string * string) list) : string =
    let text = File.ReadAllText(prepare folder "")
    let pairs = [ for key, value in values -> Collections.Generic.KeyValuePair(key, value) ]
    folder.Write(name, Settings.put pairs text |> accepted "the configuration")

/// Runs until asked to stop after some time; whether it came to the end.
let private runFor (config: string) (out: string) (time: TimeSpan) : bool =
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

let private steps (run: string) : int[] =
    File.ReadAllLines(Path.Combine(run, "metrics.jsonl"))
    |> Array.map (fun line -> ((parsed line).GetProperty "step").GetInt32())

/// That two runs left the same weights, moments, averages, metrics and evaluations.
let private same (whole: string) (other: string) : unit =
    Expect.equal (metrics other) (metrics whole) "the metrics"

    let evaluations run = File.ReadAllLines(Path.Combine(run, "evaluations.jsonl"))
    Expect.equal (evaluations other) (evaluations whole) "the evaluations"
    let newest run = (Checkpoints(run).Newest() |> nonNull).Directory

    for name in [ "model.safetensors"; "optimizer.safetensors"; "ema/model.safetensors" ] do
        let read run = File.ReadAllBytes(Path.Combine(newest run, name))

        if File.Exists(Path.Combine(newest whole, name)) then
            Expect.isTrue (read other = read whole) $"{name} is the same to the bit"

/// A run that nothing happens to, as a process, since how products round may depend on the threads of a process.
let private wholeByProcess (config: string) (out: string) : unit =
    let code, _, errors = program [ "train"; "--config"; config; "--out"; out ]
    Expect.equal code 0 errors

let private everything =
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

// ---- Checkpoints ----

let private altered =
    testCase "a checkpoint of which a byte was altered is passed over for the one before, with a sentence that says so" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        let first = run config (folder.At "run") null
        let model = Path.Combine(first.Checkpoint, "model.safetensors")
        let bytes = File.ReadAllBytes model
        bytes[bytes.Length / 2] <- bytes[bytes.Length / 2] ^^^ 1uy
        File.WriteAllBytes(model, bytes)
        fails [ "model.safetensors was altered" ] (fun () -> Checkpoint.Open(first.Checkpoint, true) |> ignore)

        let code, _, errors = program [ "train"; "--config"; config; "--out"; first.Run; "--resume"; "auto" ]

        Expect.equal code 0 errors
        Expect.stringContains errors "model.safetensors was altered" "the warning"
        Expect.stringContains errors "Looking for the one before it" "what is done about it"
        Expect.equal (Checkpoint.Open(first.Checkpoint, true).State.Step) 12 "it was made again"
        Expect.equal (steps first.Run) [| 0..11 |] "a line for each step")

let private stateFile =
    testCase
        "the state lists length and SHA-256 of every file; lists of lengths are read too, and none leads out of its folder"
        (fun () ->
            use folder = new Folder()
            let outcome = run (configured folder "c.json" [ "ema.decay", "0.5" ]) (folder.At "run") null
            let path = Path.Combine(outcome.Checkpoint, "state.json")
            let json = JsonNode.Parse(File.ReadAllText path) |> nonNull
            let files = (json["files"] |> nonNull).AsObject()

            let there =
                Directory.GetFiles(outcome.Checkpoint, "*", SearchOption.AllDirectories)
                |> Array.map (fun file -> Path.GetRelativePath(outcome.Checkpoint, file))
                |> Array.filter (fun name -> name <> "state.json")
                |> Array.sort

            Expect.equal (files |> Seq.map _.Key |> Seq.sort |> Seq.toArray) there "every file"

            for KeyValue(name, mark) in Seq.toArray files do
                let content = File.ReadAllBytes(Path.Combine(outcome.Checkpoint, name))
                let mark = mark |> nonNull
                Expect.equal ((mark["length"] |> nonNull).GetValue<int64>()) content.LongLength name
                let hash = Convert.ToHexStringLower(Security.Cryptography.SHA256.HashData content)
                Expect.equal ((mark["sha256"] |> nonNull).GetValue<string>()) hash name
                files[name] <- JsonValue.Create content.LongLength

            for key in [ "begun"; "passedOver"; "rewinds"; "losses" ] do
                json.AsObject().Remove key |> ignore

            File.WriteAllText(path, json.ToJsonString())
            Expect.equal (Checkpoint.Open(outcome.Checkpoint, true).State.Step) 12 "a checkpoint of an earlier version"
            folder.Write("run/checkpoints/outside", "x") |> ignore

            for name in [ "../outside"; "/etc/passwd"; ".."; "ema/../../outside"; "a/b/c"; "..\\outside"; "" ] do
                let hostile = json.DeepClone()
                (hostile["files"] |> nonNull).AsObject().Add(name, JsonValue.Create 1L)
                File.WriteAllText(path, hostile.ToJsonString())
                fails [ "is not the name of a file" ] (fun () -> Checkpoint.Open outcome.Checkpoint |> ignore))

let private snapshots =
    testCase
        "a snapshot holds what tensors were when it was taken, writes what the writer writes, and keeps its memory"
        (fun () ->
            use folder = new Folder()
            use _ = torch.NewDisposeScope()
            use snapshot = new Snapshot()
            let tensor = torch.randn ([| 7L; 5L |])

            let take () =
                snapshot.Clear()
                snapshot.Add("a.safetensors", [ Collections.Generic.KeyValuePair("x", tensor) ])
                snapshot.Add("inner/text.txt", "ü")
                snapshot.Copy("a.safetensors/x", tensor)

            let memory = take ()
            SafeTensorsWriter.Write(folder.At "direct.safetensors", [ struct ("x", tensor) ])
            tensor.zero_ () |> ignore
            Directory.CreateDirectory(folder.At "out") |> ignore
            let marks = snapshot.WriteTo(folder.At "out")
            let written = File.ReadAllBytes(folder.At "out/a.safetensors")
            Expect.isTrue (written = File.ReadAllBytes(folder.At "direct.safetensors")) "the same bytes"
            Expect.equal marks["a.safetensors"] (FileMark.Of(folder.At "out/a.safetensors")) "its mark"
            Expect.equal (File.ReadAllText(folder.At "out/inner/text.txt")) "ü" "the text"
            Expect.isTrue (Object.ReferenceEquals(take (), memory)) "the same memory again")

let private policy =
    property "what goes is never among the last, the multiples or the spared, and all else goes" (fun seed ->
        let chooser = Chooser seed
        let all = [ for _ in 0 .. chooser.Int(0, 30) -> chooser.Int(1, 100) ] |> List.distinct |> List.sort
        let spared = [ for _ in 0 .. chooser.Int(0, 2) -> chooser.Int(1, 100) ]
        let last, every = chooser.Int(1, 5), chooser.Of [ None; Some(chooser.Int(1, 20)) ]

        let saving =
            {
                EveryMinutes = None
                Asynchronous = true
                KeepLast = Some last
                KeepEvery = every
                KeepBest = false
                DeadlineMinutes = 1.0
            }

        let removed = Saving.removable saving spared all

        for i, step in List.indexed all do
            let stays =
                i >= all.Length - last || List.contains step spared || (every |> Option.exists (fun n -> step % n = 0))

            Expect.equal (List.contains step removed) (not stays) $"step {step} of {all}"

        Expect.isEmpty (Saving.removable { saving with KeepLast = None } spared all) "without a number all stay")

let private kept =
    testCase "the last checkpoints, multiples and the best stay; `best` names the lowest held-out loss" (fun () ->
        use folder = new Folder()

        let config =
            configured
                folder
                "c.json"
                [
                    "schedule.steps", "40"
                    "checkpoint.everySteps", "4"
                    "checkpoint.keepLast", "2"
                    "checkpoint.keepEvery", "16"
                    "checkpoint.keepBest", "true"
                    "optimizer.learningRate", "0.05"
                ]

        let outcome = run config (folder.At "run") null

        let lowest =
            File.ReadAllLines(folder.At "run/evaluations.jsonl")
            |> Array.map parsed
            |> Array.minBy (fun line -> ((line.GetProperty "loss").GetProperty "total").GetDouble())
            |> fun line -> (line.GetProperty "step").GetInt32()

        let name (step: int) = $"step-{step:D7}"
        Expect.equal (File.ReadAllText(folder.At "run/checkpoints/best").Trim()) (name lowest) "the best"

        Expect.equal
            (Directory.GetDirectories(folder.At "run/checkpoints") |> Array.map (Path.GetFileName >> string) |> Array.sort)
            (List.distinct [ 16; 32; 36; 40; lowest ] |> List.map name |> List.sort |> List.toArray)
            "what stays"

        Expect.equal outcome.Checkpoint (folder.At $"run/checkpoints/{name 40}") "the latest")

let private refusedKeys =
    testCase "keys that have no use are refused" (fun () ->
        use folder = new Folder()

        fails [ "checkpoint.keepEvery"; "checkpoint.keepLast" ] (fun () ->
            plan (configured folder "c.json" [ "checkpoint.keepEvery", "10" ]) |> ignore)

        let text = File.ReadAllText(prepare folder "").Replace(", \"heldOut\": [\"held.npy\"]", "")

        let best = Settings.put [ Collections.Generic.KeyValuePair("checkpoint.keepBest", "true") ] text |> accepted "it"

        fails [ "checkpoint.keepBest"; "data.heldOut" ] (fun () -> plan (folder.Write("d.json", best)) |> ignore))

let private byTheClock =
    testCase "checkpoints by the clock come between those by steps, and change nothing" (fun () ->
        use folder = new Folder()
        let outcome name values = run (configured folder $"{name}.json" values) (folder.At name) null
        let whole = outcome "whole" [ "schedule.steps", "100"; "checkpoint.everySteps", "50" ]

        let clocked =
            outcome "clocked" [ "schedule.steps", "100"; "checkpoint.everySteps", "50"; "checkpoint.everyMinutes", "0.001" ]

        let count (outcome: TrainOutcome) = Directory.GetDirectories(Path.Combine(outcome.Run, "checkpoints")).Length

        Expect.equal (count whole) 2 "by steps"
        Expect.isGreaterThan (count clocked) 2 "by the clock too"
        same whole.Run clocked.Run)

// ---- Going on ----

let private inProcess =
    testCase "a run that is stopped again and again ends as one that was not: averages, spikes and the best included" (fun () ->
        use folder = new Folder()
        let config = configured folder "c.json" everything
        run config (folder.At "whole") null |> ignore
        let mutable stops = 0

        while not (runFor config (folder.At "run") (TimeSpan.FromMilliseconds(500.0 + 97.0 * float (stops % 5))))
              && stops < 200 do
            stops <- stops + 1

        Expect.isGreaterThan stops 0 "it was stopped"
        same (folder.At "whole") (folder.At "run")
        Expect.equal (steps (folder.At "run")) [| 0..199 |] "a line for each step")

/// Starts a training as a process; stderr is gathered.
let private start (arguments: string list) (environment: (string * string) list) : Process * Task<string> =
    let info = ProcessStartInfo("dotnet", RedirectStandardOutput = true, RedirectStandardError = true)

    for argument in Path.Combine(AppContext.BaseDirectory, "hybrid.dll") :: "train" :: arguments do
        info.ArgumentList.Add argument

    info.Environment["HYBRID_THREADS"] <- "1"

    for name, value in environment do
        info.Environment[name] <- value

    match Process.Start info with
    | null -> failtest "the program did not start"
    | running -> running, running.StandardError.ReadToEndAsync()

let private killed =
    testCase "a run that is killed at random moments ends as one that was not" (fun () ->
        use folder = new Folder()
        let config = configured folder "c.json" (everything @ [ "schedule.steps", "240"; "checkpoint.everySteps", "20" ])
        wholeByProcess config (folder.At "whole")
        let stream = Random.ofSeed 20L
        let mutable kills = 0
        let mutable ended = false

        while not ended do
            let running, errors = start [ "--config"; config; "--out"; folder.At "run"; "--resume"; "auto" ] []
            use running = running

            let before =
                if File.Exists(folder.At "run/checkpoints/latest") then
                    File.ReadAllText(folder.At "run/checkpoints/latest")
                else
                    ""

            let patience = Stopwatch.StartNew()

            // Once it goes on, at any moment: in the middle of writing too.
            while not running.HasExited
                  && patience.Elapsed < TimeSpan.FromSeconds 60.0
                  && (kills >= 2
                      || not (File.Exists(folder.At "run/checkpoints/latest"))
                      || File.ReadAllText(folder.At "run/checkpoints/latest") = before) do
                Thread.Sleep 3

            if kills < 2 && not running.HasExited then
                Thread.Sleep(int (100.0 * Random.uniform stream (int64 kills)))
                running.Kill()
                kills <- kills + 1

            running.WaitForExit()

            if running.ExitCode = 0 then
                ended <- true
            else
                Expect.equal running.ExitCode 137 errors.Result

        Expect.isGreaterThan kills 0 "it was killed"
        same (folder.At "whole") (folder.At "run")
        Expect.equal (steps (folder.At "run")) [| 0..239 |] "a line for each step")

let private ragged =
    testCase "lines that are cut off, doubled or without their end are mended, and lost ones are told of" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        let whole = run config (folder.At "whole") null

        let broken (change: string[] -> string) =
            let out = folder.At(Guid.NewGuid().ToString "N")
            runFor config out TimeSpan.Zero |> ignore
            Directory.Delete(out, true)
            run config out null |> ignore
            let path = Path.Combine(out, "metrics.jsonl")
            File.WriteAllText(path, change (File.ReadAllLines path))
            Directory.Delete(Path.Combine(out, "checkpoints/step-0000012"), true)
            run config out "auto" |> ignore
            out

        let join (lines: string[]) = String.Join("\n", lines)
        same whole.Run (broken (fun lines -> join lines[..9]))
        same whole.Run (broken (fun lines -> join lines + "\n" + lines[3] + "\n" + lines[4][..20]))
        same whole.Run (broken (fun lines -> join lines + "\n" + String('\000', 50)))
        let lost = broken (fun lines -> join lines[2..6] + "\n")
        Expect.equal (steps lost) [| 2; 3; 4; 5; 6; 10; 11 |] "what was lost stays lost"
        Expect.stringContains (File.ReadAllText(Path.Combine(lost, "log.txt"))) "lacks 5 of the steps 0 to 9" "the log says so")

// ---- One run in a directory ----

let private locked =
    testCase "two runs in one directory are refused, with who has it; what a killed one leaves is no hindrance" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""

        using (RunDirectory.Existing(folder.At "run")) (fun _ ->
            for again in [ false; true ] do
                fails
                    [ "another run works in"; $"process {Environment.ProcessId}"; Environment.MachineName; "since" ]
                    (fun () -> run config (folder.At "run") (if again then "auto" else null) |> ignore))

        Expect.isFalse (Directory.Exists(folder.At "run")) "a directory without a run is gone again"
        Directory.CreateDirectory(folder.At "run") |> ignore
        folder.Write("run/run.lock", "process 1 on nowhere") |> ignore
        let outcome = run config (folder.At "run") null
        Expect.equal (losses outcome |> Array.length) 12 "it ran"
        Expect.isFalse (File.Exists(folder.At "run/run.lock")) "the lock is gone")

// ---- Disks ----

let private away =
    testCase "a run whose directory is away for a while goes on in memory, and loses nothing" (fun () ->
        use folder = new Folder()

        let values = [ "schedule.steps", "400"; "checkpoint.everySteps", "20" ]
        let config = configured folder "c.json" values
        run config (folder.At "whole") null |> ignore
        use over = new ManualResetEventSlim()

        let mover =
            Task.Run(fun () ->
                while not (File.Exists(folder.At "run/checkpoints/latest")) do
                    Thread.Sleep 1

                let mutable moves = 0

                while not over.IsSet && moves < 3 do
                    Directory.Move(folder.At "run", folder.At "elsewhere")
                    Thread.Sleep 150

                    // Nothing may be made in its place.
                    if Directory.Exists(folder.At "run") then
                        failtest "another directory was made where the run was"

                    Directory.Move(folder.At "elsewhere", folder.At "run")
                    moves <- moves + 1
                    Thread.Sleep 100

                moves)

        try
            run config (folder.At "run") null |> ignore
        finally
            over.Set()

        Expect.isGreaterThan mover.Result 0 "it was away"
        same (folder.At "whole") (folder.At "run")
        let log = File.ReadAllText(folder.At "run/log.txt")
        Expect.stringContains log "done" "the log is whole")

let private deadline =
    testCase "a run that cannot save before the deadline stops with a sentence, and what was there is whole" (fun () ->
        use folder = new Folder()

        let config =
            configured
                folder
                "c.json"
                [ "schedule.steps", "100000000"; "checkpoint.everySteps", "20"; "checkpoint.deadlineMinutes", "0.005" ]

        let mover =
            Task.Run(fun () ->
                while not (File.Exists(folder.At "run/checkpoints/latest")) do
                    Thread.Sleep 1

                Directory.Move(folder.At "run", folder.At "elsewhere"))

        fails [ "no checkpoint could be written for 0.01 minutes"; "--resume auto" ] (fun () ->
            run config (folder.At "run") null |> ignore)

        mover.Wait()
        let newest = Checkpoints(folder.At "elsewhere").Newest true |> nonNull
        Expect.isGreaterThan newest.State.Step 0 "a whole checkpoint"
        Expect.isFalse (Directory.Exists(folder.At "run")) "nothing was made in its place"
        let there = steps (folder.At "elsewhere")
        Expect.equal there[.. newest.State.Step - 1] [| 0 .. newest.State.Step - 1 |] "its metrics")

let private fullDisk =
    testCase "a full disk does not end a run" (fun () ->
        let script (folder: Folder) config =
            let disk, errors, small, out = folder.At "disk", folder.At "errors", folder.At "disk/run", folder.At "run"
            let hybrid = Path.Combine(AppContext.BaseDirectory, "hybrid.dll")

            String.concat
                "\n"
                [
                    "set -e"
                    $"mkdir {disk}"
                    $"mount -t tmpfs -o size=2m tmpfs {disk}"
                    $"dotnet {hybrid} train --config {config} --out {small} 2> {errors} &"
                    "pid=$!"
                    // Room comes back after the run has met the full disk.
                    $"for i in $(seq 600); do grep -q 'cannot be written' {errors} && break; sleep 0.1; done"
                    "sleep 0.5"
                    $"mount -o remount,size=64m {disk}"
                    "code=0; wait $pid || code=$?"
                    $"cp -r {small} {out}"
                    "exit $code"
                ]

        use folder = new Folder()

        if not (OperatingSystem.IsLinux()) then
            skiptest "there is no tmpfs here"

        let unshare (script: string) =
            let info = ProcessStartInfo("unshare", [ "-m"; "sh"; "-c"; script ], RedirectStandardError = true)

            info.Environment["HYBRID_THREADS"] <- "1"
            use running = Process.Start info |> nonNull
            let errors = running.StandardError.ReadToEnd()
            running.WaitForExit()
            running.ExitCode, errors

        let permitted =
            try
                let place = folder.At "try"
                fst (unshare $"mkdir {place} && mount -t tmpfs -o size=1m tmpfs {place}") = 0
            with :? ComponentModel.Win32Exception ->
                false

        if not permitted then
            skiptest "this process may not mount a file system of its own"

        // Fourteen checkpoints of 0.34 MB do not fit into 2 MB.
        let config = configured folder "c.json" [ "schedule.steps", "70" ]
        wholeByProcess config (folder.At "whole")
        let code, errors = unshare (script folder config)
        let said = File.ReadAllText(folder.At "errors")
        Expect.equal code 0 $"{errors}\n{said}"
        Expect.stringContains said "a checkpoint cannot be written just now" "the warning"
        same (folder.At "whole") (folder.At "run"))

let private lines =
    property "lines of a file that is away now and then stand there once, whole and in order" (fun seed ->
        use folder = new Folder()
        let chooser = Chooser seed
        Directory.CreateDirectory(folder.At "there") |> ignore
        let file = LineFile(folder.At "there/lines")
        let mutable present = true

        for i in 0..40 do
            if chooser.Int(0, 5) = 0 then
                if present then
                    Directory.Move(folder.At "there", folder.At "away")
                else
                    Directory.Move(folder.At "away", folder.At "there")

                present <- not present

            file.Add $"line {i}"

            if chooser.Bool() then
                try
                    file.Flush(chooser.Bool())
                    Expect.isTrue present "it was there"
                with :? IOException ->
                    Expect.isFalse present "it was away"

        if not present then
            Directory.Move(folder.At "away", folder.At "there")

        file.Flush true
        Expect.equal (File.ReadAllLines(folder.At "there/lines")) [| for i in 0..40 -> $"line {i}" |] "the lines")

// ---- Averages ----

let private averages (trainable: string) =
    testCase $"the average of the weights is what its definition says, and a model that opens (trainable: {trainable})" (fun () ->
        use folder = new Folder()

        let config =
            configured
                folder
                "c.json"
                [ "checkpoint.everySteps", "1"; "ema.decay", "0.75"; "schedule.steps", "5"; "trainable", trainable ]

        run config (folder.At "run") null |> ignore
        use _ = torch.NewDisposeScope()

        let weights (step: int) (sub: string) =
            use file = ModelFiles.Open(folder.At $"run/checkpoints/step-{step:D7}{sub}")
            dict [ for parameter in Architecture.Parameters file.Config -> parameter.Name, file.Load parameter.Name ]

        for step in 2..5 do
            let before, now, average = weights (step - 1) "/ema", weights step "", weights step "/ema"

            for KeyValue(name, value) in average do
                let expected = before[name] * (0.75).ToScalar() + now[name] * (0.25).ToScalar()
                let difference = (value - expected).abs().max().item<float32>()
                Expect.isLessThan difference 1e-6f $"{name} after {step} steps"

        let now, average = weights 5 "", weights 5 "/ema"
        let apart = now["output.weight"].ne average["output.weight"]
        Expect.isTrue (apart.any().item<bool>()) "the average is not the weights")

// ---- Spikes ----

let private heights =
    property "a spike is judged by mean and deviation of the window before it" (fun seed ->
        let chooser = Chooser seed
        let window = chooser.Int(2, 20)
        let rule = { Deviations = Some 3.0; Window = window; Action = SpikeAction.Warn; Limit = 1 }
        let mutable before: float[] = [||]
        let all = [| for _ in 0..60 -> chooser.Float(0.0, 10.0) |]

        for i, loss in Array.indexed all do
            match Spikes.height rule before loss with
            | None -> Expect.isLessThan i window "too few"
            | Some height ->
                let last = all[i - window .. i - 1]
                let mean = Array.average last
                let deviation = sqrt (Array.average [| for x in last -> (x - mean) ** 2.0 |])
                near 1e-9 1e-6 "height" ((loss - mean) / deviation) height

            before <- Spikes.after rule before loss

        Expect.equal (Spikes.after rule before nan) before "what is not finite is left out"
        Expect.isNone (Spikes.height rule before nan) "and is no spike"
        Expect.isEmpty (Spikes.after { rule with Deviations = None } [||] 1.0) "nothing is kept where nothing is a spike")

let private rewinds =
    testCase "after a spike the run goes back, passes over the sequences up to it, and keeps one line for each step" (fun () ->
        use folder = new Folder()

        let config =
            configured folder "c.json" (everything @ [ "checkpoint.keepLast", "null"; "spikes.deviations", "2.6" ])

        let outcome = run config (folder.At "run") null
        Expect.equal (losses outcome |> Array.map fst) [| 0..199 |] "a line for each step"
        let lines = File.ReadAllLines(folder.At "run/metrics.jsonl") |> Array.map parsed

        let noted =
            lines
            |> Array.filter (fun line -> fst (line.TryGetProperty "rewound"))
            |> Array.map (fun line -> (line.GetProperty "step").GetInt32(), line.GetProperty "rewound")

        Expect.isNonEmpty noted "it went back"

        for step, note in noted do
            Expect.equal (step % 15) 0 "to a checkpoint"
            Expect.isGreaterThanOrEqual ((note.GetProperty "step").GetInt32()) step "from a step after it"
            Expect.isGreaterThan ((note.GetProperty "deviations").GetDouble()) 2.6 "because of a spike"

        let state = (Checkpoints(folder.At "run").Newest() |> nonNull).State
        Expect.equal state.Position (200L * 4L + state.PassedOver) "the position"
        Expect.isGreaterThan state.PassedOver 0L "sequences were passed over"
        Expect.isGreaterThanOrEqual state.Rewinds noted.Length "times"

        let limited = configured folder "d.json" (everything @ [ "spikes.limit", "1"; "spikes.deviations", "2.6" ])

        fails [ "went back 1 times already"; "spikes.limit" ] (fun () -> run limited (folder.At "limited") null |> ignore)

        let warned = configured folder "e.json" (everything @ [ "spikes.action", "warn" ])
        run warned (folder.At "warned") null |> ignore

        Expect.isTrue
            (File.ReadAllLines(folder.At "warned/metrics.jsonl") |> Array.exists (fun line -> line.Contains "\"spike\":"))
            "the line says that it was a spike"

        Expect.equal ((Checkpoints(folder.At "warned").Newest() |> nonNull).State.Position) 800L "no sequence was passed over")

// ---- Signals ----

let private signals =
    testCase "SIGUSR1 saves and ends with the code that configuration or environment name" (fun () ->
        if not (OperatingSystem.IsLinux()) then
            skiptest "SIGUSR1 has another number here"

        use folder = new Folder()
        let config = configured folder "c.json" [ "schedule.steps", "100000000"; "interruption.exitCode", "85" ]

        for i, (environment, wanted) in List.indexed [ [], 85; [ RunStoppedException.Variable, "75" ], 75 ] do
            let out = folder.At $"run-{i}"
            let running, errors = start [ "--config"; config; "--out"; out ] environment
            use running = running
            let patience = Stopwatch.StartNew()

            while not (File.Exists(Path.Combine(out, "checkpoints/latest"))) && patience.Elapsed < TimeSpan.FromSeconds 60.0 do
                Thread.Sleep 20

            use kill = Process.Start("kill", [ "-USR1"; string running.Id ])
            kill.WaitForExit()
            running.WaitForExit()
            Expect.equal running.ExitCode wanted errors.Result
            let step = (Checkpoints(out).Newest true |> nonNull).State.Step
            Expect.equal (steps out) [| 0 .. step - 1 |] "every step is saved"

        let code, _, errors =
            let running, errors =
                start [ "--config"; config; "--out"; folder.At "run-2" ] [ RunStoppedException.Variable, "soon" ]

            running.WaitForExit()
            running.ExitCode, (), errors.Result

        Expect.equal code 2 errors
        Expect.stringContains errors "HYBRID_REQUEUE_EXIT" "the variable is named")

let tests =
    TorchLibrary.Load()

    testList
        "Durable"
        [
            altered
            stateFile
            snapshots
            policy
            kept
            refusedKeys
            byTheClock
            inProcess
            killed
            ragged
            locked
            away
            deadline
            fullDisk
            lines
            averages "all"
            averages "new-rows"
            heights
            rewinds
            signals
        ]
