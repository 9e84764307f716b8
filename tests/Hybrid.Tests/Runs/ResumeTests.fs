/// Runs that are stopped, killed or asked to end go on as if nothing had happened; and one run in a directory.
module Hybrid.Tests.ResumeTests

open System
open System.Diagnostics
open System.IO
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Tests.DurableSupport
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport

let private inProcess =
    testCase "a run that is stopped again and again ends as one that was not: averages, spikes and the best included" (fun () ->
        use folder = new Folder()
        let config = configured folder "c.json" everything
        run config (folder.At "whole") null |> ignore
        let mutable stops = 0

        while not (runFor config (folder.At "run") (TimeSpan.FromMilliseconds(500.0 + 297.0 * float stops))) && stops < 200 do
            stops <- stops + 1

        Expect.isGreaterThan stops 0 "it was stopped"
        same (folder.At "whole") (folder.At "run")
        Expect.equal (steps (folder.At "run")) [| 0..199 |] "a line for each step")

let private killed =
    testCase "a run that is killed at random moments ends as one that was not" (fun () ->
        use folder = new Folder()
        let config = configured folder "c.json" (everything @ [ "schedule.steps", "160"; "checkpoint.everySteps", "20" ])
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
        Expect.equal (steps (folder.At "run")) [| 0..159 |] "a line for each step")

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

let private leftovers =
    testCase "what a killed run left half written is gone when it goes on, and stays while another has the run" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        run config (folder.At "run") null |> ignore
        Directory.CreateDirectory(folder.At "run/checkpoints/step-0000007.partial") |> ignore
        folder.Write("run/checkpoints/step-0000007.partial/model.safetensors", "half") |> ignore
        folder.Write("run/checkpoints/.latest.0123.partial", "step-00") |> ignore
        folder.Write("run/.run.json.0123.partial", "{") |> ignore

        let left () = Directory.GetFileSystemEntries(folder.At "run", "*.partial", SearchOption.AllDirectories).Length

        using (RunDirectory.Existing(folder.At "run")) (fun _ ->
            fails [ "another run works in" ] (fun () -> run config (folder.At "run") "auto" |> ignore))

        Expect.equal (left ()) 3 "they may be another's"
        run config (folder.At "run") "auto" |> ignore
        Expect.equal (left ()) 0 "nothing half written"
        Expect.equal (steps (folder.At "run")) [| 0..11 |] "and the run is whole")

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
    testList "Resume" [ inProcess; killed; ragged; locked; leftovers; signals ]
