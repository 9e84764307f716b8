/// A run outlives its disk: directories that vanish and come back, and disks that are full.
module Hybrid.Tests.DiskTests

open System
open System.Diagnostics
open System.IO
open System.Threading
open System.Threading.Tasks
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.DurableSupport
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport

let private away =
    testCase "a run whose directory is away for a while goes on in memory, and loses nothing" (fun () ->
        use folder = new Folder()

        let config = configured folder "c.json" [ "schedule.steps", "200"; "checkpoint.everySteps", "20" ]
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

let tests =
    TorchLibrary.Load()
    testList "Disk" [ away; deadline; fullDisk; lines ]
