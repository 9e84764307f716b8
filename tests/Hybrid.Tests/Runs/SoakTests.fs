/// Soaks: which faults come when, what they may cost, what counts as a difference, and a few faults from end to end.
module Hybrid.Tests.SoakTests

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Soak
open Hybrid.Tests.Generate
open Hybrid.Tests.Running

// ---- what comes when ----

let private rounds =
    property2
        "each round holds every kind, in an order of its own, and the ranks' faults with several ranks only"
        (1, 4)
        (0, 20)
        (fun seed ranks round ->
            let all = List.ofSeq (SoakRules.round ranks)
            let these = [ for i in 0 .. all.Length - 1 -> SoakRules.fault seed ranks (round * all.Length + i) ]
            Expect.equal (List.sort these) (List.sort all) "the round"
            Expect.equal (Set.count (Set.ofList all)) (if ranks = 1 then 12 else 14) "kinds")

let private orders =
    testCase "rounds differ, and so do seeds" (fun () ->
        let round seed number =
            let length = (SoakRules.round 1).Count
            [ for i in 0 .. length - 1 -> SoakRules.fault seed 1 (number * length + i) ]

        Expect.notEqual (round 0L 0) (round 0L 1) "rounds"
        Expect.notEqual (round 0L 0) (round 1L 0) "seeds")

let private moments =
    testCase "moments and draws take every value, and no other" (fun () ->
        let moments = [ for number in 0..999 -> SoakRules.moment 5L number ]
        Expect.equal (moments |> List.map _.Checkpoints |> Set.ofList) (set [ 0..3 ]) "checkpoints"
        Expect.all moments (fun moment -> moment.Share >= 0.0 && moment.Share < 1.0) "shares"
        let starting = moments |> List.filter _.Starting |> List.length
        Expect.isTrue (starting > 200 && starting < 300) $"{starting} of 1000 while the process starts"
        Expect.equal (set [ for number in 0..99 -> SoakRules.draw 5L number "rank" 3L ]) (set [ 0L .. 2L ]) "draws")

let private earliest =
    property3
        "a run never goes on from before its newest checkpoint, nor loses two intervals"
        (1, 50)
        (0, 1000)
        (0, 1000)
        (fun _ interval finished back ->
            let whole = max 0 (finished - back)
            let step = SoakRules.earliest interval finished whole
            Expect.isTrue (step >= whole) "the newest that is whole"
            Expect.isTrue (step <= max whole finished) "no step that was not done"
            Expect.isTrue (finished - step < 2 * interval) "what may be lost")

// ---- what counts as a difference ----

let private line (step: int) (loss: float) (speed: float) : string =
    $$"""{"step":{{step}},"loss":{{loss}},"counts":{"text":4},"tokensPerSecond":{{speed}}}"""

let private alike =
    property1 "the same steps with the same losses are alike, whatever their speeds" (0, 40) (fun seed steps ->
        let chooser = Chooser seed
        let losses = [ for _ in 1..steps -> chooser.Float(0.0, 9.0) ]
        let lines () = losses |> List.mapi (fun step loss -> line step loss (chooser.Float(1.0, 1e6)))
        Expect.isNull (SoakRules.difference "metrics.jsonl" (lines ()) (lines ())) "no difference")

let private differs =
    property1
        "a step that is missing, doubled, out of order, torn or another is found, with its number"
        (2, 40)
        (fun seed steps ->
            let chooser = Chooser seed
            let lines = [ for step in 0 .. steps - 1 -> line step (chooser.Float(0.0, 9.0)) 1.0 ]
            let at = chooser.Int(0, steps - 2)

            let changes =
                [
                    "missing", at, List.removeAt at lines
                    "doubled", at, List.insertAt at lines[at] lines
                    "swapped", at, lines |> List.updateAt at lines[at + 1] |> List.updateAt (at + 1) lines[at]
                    "torn", at, lines |> List.updateAt at (lines[at].Substring(0, 9))
                    "cut off", at, List.truncate at lines
                    "longer", steps - 1, lines @ [ List.last lines ]
                    // The last digit of a double.
                    "another", at, lines |> List.updateAt at (line at 9.0000000000000018 1.0)
                    "without a key", at, lines |> List.updateAt at $$"""{"step":{{at}},"tokensPerSecond":1}"""
                ]

            for name, step, changed in changes do
                match SoakRules.difference "metrics.jsonl" lines changed with
                | null -> failtest $"{name}: not found"
                | found ->
                    Expect.stringContains found.Words "metrics.jsonl" name
                    // A doubled line shows where the next one should stand.
                    let shown = if name = "doubled" then [ step; step + 1 ] else [ step ]
                    Expect.contains shown found.Step $"{name}: {found.Words}")

// ---- adding up ----

let private recordOf (chooser: Chooser) (number: int) : SoakRecord =
    let finished = chooser.Int(0, 100)
    let faults = SoakRules.round 1

    {
        Run = 1
        Number = number
        Fault = faults[chooser.Int(0, faults.Count - 1)]
        Done = (if chooser.Int(0, 4) = 0 then Nullable() else Nullable finished)
        Resumed = (if chooser.Int(0, 4) = 0 then Nullable() else Nullable(chooser.Int(0, finished)))
        Failure = (if chooser.Int(0, 3) = 0 then "it was so" else null)
    }

let private tallies =
    property1 "the kinds add up to all faults" (0, 60) (fun seed count ->
        let chooser = Chooser seed
        let records = [ for number in 0 .. count - 1 -> recordOf chooser number ]
        let tally = List.ofSeq (SoakRules.tally records)
        Expect.equal (tally |> List.sumBy _.Injected) count "injected"

        Expect.equal
            (tally |> List.sumBy _.Survived)
            (records |> List.filter (fun record -> isNull record.Failure) |> List.length)
            "survived"

        let most = tally |> List.map _.LostMost |> List.fold max 0
        Expect.equal most (records |> List.map _.Lost |> List.fold max 0) "the most that was lost"

        near
            0.0
            1e-9
            "lost in all"
            (records |> List.sumBy (fun record -> float record.Lost))
            (tally |> List.sumBy (fun kind -> kind.LostMean * float kind.Injected)))

let private blames =
    testCase "a difference is put down to the last fault that the run went on from before it" (fun () ->
        let chooser = Chooser 1L

        let records =
            [ for step in [ 0; 20; 60; 40 ] -> { recordOf chooser step with Resumed = Nullable step; Failure = null } ]

        Expect.equal (SoakRules.blamed records 70) 3 "after all of them"
        Expect.equal (SoakRules.blamed records 40) 3 "the step that it went on from"
        Expect.equal (SoakRules.blamed records 30) 1 "made before the last two"
        Expect.equal (SoakRules.blamed records 5) 0 "the first"
        Expect.equal (SoakRules.blamed records[1..] 5) -1 "before any")

// ---- runs ----

let private compared =
    testCase "runs are compared to the last byte" (fun () ->
        use folder = new Folder()
        let config = RunSupport.prepare folder ""
        let reference = RunSupport.run config (folder.At "reference") null
        let same = RunSupport.run config (folder.At "same") null

        let words (run: string) =
            match RunComparison.Of(reference.Run, run) with
            | null -> ""
            | difference -> difference.Words

        Expect.equal (words same.Run) "" "the same run"
        let moments = Path.Combine(same.Checkpoint, "optimizer.safetensors")
        let bytes = File.ReadAllBytes moments
        bytes[bytes.Length - 1] <- bytes[bytes.Length - 1] ^^^ 1uy
        File.WriteAllBytes(moments, bytes)
        Expect.stringContains (words same.Run) "optimizer.safetensors" "a bit of the moments"
        let other = RunSupport.run (RunSupport.prepare folder """, "seed": 1""") (folder.At "other") null
        Expect.stringContains (words other.Run) "step 0 has the" "another seed")

let private pointers =
    testCase "where latest names nothing, the newest checkpoint that is whole is taken" (fun () ->
        use folder = new Folder()
        let config = RunSupport.prepare folder ""
        let outcome = RunSupport.run config (folder.At "run") null

        for pointer in [ ""; "\n"; "\000\000"; "step-9999999\n"; "a\n"; "..\n"; "step-\n" ] do
            File.WriteAllText(folder.At "run/checkpoints/latest", pointer)

            match Checkpoints(outcome.Run).Newest() with
            | null -> failtest $"'{pointer}': no checkpoint"
            | newest -> Expect.equal newest.State.Step 12 $"'{pointer}'")

/// A run of a second or less, with a checkpoint every few steps.
let private shortRun (folder: Folder) =
    RunSupport.prepare folder "" |> ignore

    let text =
        File
            .ReadAllText(folder.At "run-config.json")
            .Replace("\"steps\": 12", "\"steps\": 80")
            .Replace("\"everySteps\": 5", "\"everySteps\": 10")

    folder.Write("soak-config.json", text)

/// A seed whose first faults are of these kinds, in some order, and soon after their processes have begun to train.
let private seedOf (kinds: SoakFault list) : int64 =
    let numbers = [ 0 .. kinds.Length - 1 ]

    Seq.initInfinite int64
    |> Seq.find (fun seed ->
        List.sort (numbers |> List.map (SoakRules.fault seed 1)) = List.sort kinds
        && numbers |> List.forall (fun number -> (SoakRules.moment seed number).Checkpoints <= 1))

let private windows () =
    if OperatingSystem.IsWindows() then
        skiptest "there are no signals here"

let private survived =
    testCase "a run that is killed, stopped and damaged comes out as if nothing had been" (fun () ->
        windows ()
        use folder = new Folder()
        let seed = seedOf [ SoakFault.KillInCheckpoint; SoakFault.Terminate; SoakFault.Truncate ]

        let soak =
            result [ "soak"; "--faults"; "3"; "--seed"; string seed; "--config"; shortRun folder; "--out"; folder.At "soak" ]

        Expect.isTrue ((soak.GetProperty "ok").GetBoolean()) $"{soak}"
        Expect.equal ((soak.GetProperty "injected").GetInt32()) 3 "injected"
        Expect.equal ((soak.GetProperty "survived").GetInt32()) 3 "survived"
        Expect.isLessThan ((soak.GetProperty "lost_most").GetInt32()) 30 "steps lost"

        Expect.equal
            ((soak.GetProperty "runs").GetInt32())
            ((soak.GetProperty "runs_equal").GetInt32())
            "runs that came out alike"

        let left = Directory.GetFileSystemEntries(folder.At "soak") |> Array.map (Path.GetFileName >> string)
        Expect.equal left [| "soak.json" |] "what came out right is not kept"
        use kept = JsonDocument.Parse(File.ReadAllText(folder.At "soak/soak.json"))
        Expect.isTrue (JsonElement.DeepEquals(kept.RootElement, soak)) "soak.json is the result")

let private refused =
    testCase "a soak refuses a directory that is not empty, and a run with too few checkpoints" (fun () ->
        windows ()
        use folder = new Folder()
        let config = RunSupport.prepare folder ""
        let code, _, errors = program [ "soak"; "--faults"; "1"; "--out"; folder.At "." ]
        Expect.equal (code, errors.Contains "not empty") (1, true) errors
        let code, _, errors = program [ "soak"; "--faults"; "1"; "--config"; config; "--out"; folder.At "soak" ]
        Expect.equal (code, errors.Contains "at most 3") (2, true) errors)

/// The processes that a soak started and that are running.
let private children (soak: int) : string list =
    [
        for folder in Directory.GetDirectories "/proc" do
            let environment =
                try
                    File.ReadAllText(Path.Combine(folder, "environ"))
                with
                | :? IOException
                | :? UnauthorizedAccessException -> ""

            if (environment.Split '\000') |> Array.contains $"{Keeper.Variable}={soak}" then
                folder
    ]

let private interruptedBy (signal: string) (check: Folder -> int -> unit) =
    testCase $"a soak that gets SIG{signal} leaves no process behind" (fun () ->
        if not (OperatingSystem.IsLinux()) then
            skiptest "processes are looked for in /proc"

        use folder = new Folder()
        use soak = started [] [ "soak"; "--minutes"; "5"; "--out"; folder.At "soak" ]

        let until (what: string) (condition: unit -> bool) =
            let patience = Stopwatch.StartNew()

            while not (condition ()) do
                if patience.Elapsed > TimeSpan.FromSeconds 60.0 then
                    soak.Kill()
                    failtest $"{what} has not come about within a minute"

                Thread.Sleep 20

        until "a child" (fun () -> not (children soak.Id).IsEmpty)
        use kill = Process.Start("kill", [ "-" + signal; string soak.Id ])
        kill.WaitForExit()
        until "the end" (fun () -> soak.HasExited)
        until "the children's end" (fun () -> (children soak.Id).IsEmpty)
        check folder soak.ExitCode)

let tests =
    testList
        "Soak"
        [
            rounds
            orders
            moments
            earliest
            alike
            differs
            tallies
            blames
            compared
            pointers
            survived
            refused
            interruptedBy "TERM" (fun folder code ->
                Expect.equal code 130 "the exit code"
                Expect.isFalse (Directory.Exists(folder.At "soak")) "nothing is left")
            interruptedBy "KILL" (fun _ code -> Expect.equal code 137 "the exit code")
        ]
