/// Runs from end to end: what they leave, how they stop and go on, checkpoints that are torn, where they start.
module Hybrid.Tests.HostTests

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport

let private finishedRun =
    testCase "a run leaves its configuration, a line for each step, evaluations, checkpoints and a log" (fun () ->
        use folder = new Folder()
        let outcome = run (prepare folder "") (folder.At "run") null
        Expect.equal (losses outcome |> Array.map fst) [| 0..11 |] "a line for each step"
        Expect.equal (File.ReadAllLines(folder.At "run/evaluations.jsonl").Length) 3 "evaluations at steps 5, 10 and 12"

        let checkpoints =
            Directory.GetDirectories(folder.At "run/checkpoints") |> Array.map (Path.GetFileName >> string) |> Array.sort

        Expect.equal checkpoints [| "step-0000005"; "step-0000010"; "step-0000012" |] "checkpoints"
        Expect.equal (File.ReadAllText(folder.At "run/checkpoints/latest").Trim()) "step-0000012" "latest"
        Expect.isTrue (File.Exists(folder.At "run/log.txt")) "log"
        let resolved = TrainPlan(Descriptions.Training("run.json", File.ReadAllText(folder.At "run/run.json"), []))
        // So narrow a model computes in fp32 everywhere.
        let settled = (plan (folder.At "run-config.json")).WithPrecision false
        Expect.equal resolved.Json settled.Json "run.json is the resolved configuration"
        Expect.isLessThan (losses outcome |> Array.last |> snd) (losses outcome |> Array.head |> snd) "the loss falls")

let private stopped (microBatch: string) (cancelAfter: TimeSpan option) =
    let name =
        match cancelAfter with
        | Some time -> $"after {time.TotalMilliseconds} ms"
        | None -> "before its first step"

    testCase $"a run that is stopped {name} saves, and goes on bit for bit ({microBatch})" (fun () ->
        use folder = new Folder()
        let config = prepare folder $", {microBatch}"
        let whole = run config (folder.At "whole") null
        use stop = new CancellationTokenSource()

        match cancelAfter with
        | Some time -> stop.CancelAfter time
        | None -> stop.Cancel()

        try
            use progress = Progress.On(TextWriter.Null, TimeProvider.System)
            TrainJob.Run(plan config, folder.At "run", null, stop.Token, progress) |> ignore
        with :? OperationCanceledException ->
            ()

        Expect.isTrue (File.Exists(folder.At "run/checkpoints/latest")) "what there was is saved"
        let resumed = run config (folder.At "run") "must"
        sameModel whole resumed
        Expect.equal (losses resumed) (losses whole) "the same losses")

let private torn =
    testCase "a torn checkpoint is passed over for the one before, and the steps after that are made again" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        let whole = run config (folder.At "whole") null
        let first = run config (folder.At "run") null
        let model = Path.Combine(first.Checkpoint, "model.safetensors")
        File.WriteAllBytes(model, (File.ReadAllBytes model)[..99])
        Directory.Delete(folder.At "run/checkpoints/step-0000010", true)
        File.AppendAllText(folder.At "run/metrics.jsonl", """{"step": 12, "lo""")
        let resumed = run config (folder.At "run") "auto"
        sameModel whole resumed
        Expect.equal (losses resumed) (losses whole) "each step stands once")

let private refused =
    testCase "a directory that is not empty is refused, and so is going on where that makes no sense" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        run config (folder.At "run") null |> ignore
        let before = File.ReadAllBytes(folder.At "run/metrics.jsonl")
        fails [ "not empty"; "--resume auto" ] (fun () -> run config (folder.At "run") null |> ignore)
        fails [ "no whole checkpoint" ] (fun () -> run config (folder.At "none") "must" |> ignore)
        fails [ "is not a run" ] (fun () -> run config (folder.At ".") "auto" |> ignore)

        let other = prepare folder """, "seed": 7, "clipNorm": 0.5"""
        fails [ "seed: 0 in the run, 7 now"; "clipNorm" ] (fun () -> run other (folder.At "run") "auto" |> ignore)
        Expect.equal (File.ReadAllBytes(folder.At "run/metrics.jsonl")) before "the run is as it was")

let private fromAnother =
    testCase "a new run goes on from the checkpoint of another one" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        let whole = run config (folder.At "whole") null
        let resumed = run config (folder.At "run") (folder.At "whole/checkpoints/step-0000005")
        sameModel whole resumed
        Expect.equal (losses resumed) ((losses whole)[5..]) "the steps from 5 on")

let private starts =
    testCase "pre-trained tables are extended or taken as they are, and the twins share their new rows" (fun () ->
        use folder = new Folder()

        // The text model sees text alone, without marks and codes.
        let config = File.ReadAllText(prepare folder "")
        writeTokens (folder.At "text.npy") [| for row in sequences 3L 8 -> row |> Array.map (fun id -> id % int64 textRows) |]

        let textConfig =
            config
                .Replace($"\"imageCodes\": {codes}", "\"imageCodes\": 0")
                .Replace("train.npy", "text.npy")
                .Replace("held.npy", "text.npy")

        let pretrained = run (folder.Write("text-config.json", textConfig)) (folder.At "text") null

        // A learning rate of 0 shows the start itself.
        let config =
            config
                .Replace("\"config\": \"model.json\"", "\"checkpoint\": \"text\"")
                .Replace("\"schedule\": { \"steps\": 12, \"warmupSteps\": 2 }", "\"schedule\": { \"steps\": 1 }")
                .Replace("0.01", "0")

        let grown = run (folder.Write("grown.json", config)) (folder.At "grown") null

        let twin =
            run
                (folder.Write("twin.json", config.Replace("\"vocabulary\"", "\"initialisation\": \"random\", \"vocabulary\"")))
                (folder.At "twin")
                null

        let again = run (folder.Write("again.json", config.Replace("\"text\"", "\"grown\""))) (folder.At "again") null
        use oldFile = ModelFiles.Open pretrained.Run
        use grownFile = ModelFiles.Open grown.Run
        use twinFile = ModelFiles.Open twin.Run
        Expect.equal grownFile.Config.Rows vocabulary.Rows "rows of the grown table"

        for table in [ "tok_embeddings.weight"; "output.weight" ] do
            let values (file: ModelFile) = file.Load(table).data<float32>().ToArray()
            let before, after, other = values oldFile, values grownFile, values twinFile
            Expect.equal after[.. before.Length - 1] before "old rows are as they were"
            Expect.equal after[before.Length ..] other[before.Length ..] "the twins share their new rows"
            Expect.notEqual other[.. before.Length - 1] before "the twin's old rows are random"

        Expect.isTrue
            (bytes again "model.safetensors" = bytes grown "model.safetensors")
            "a table that holds all rows is taken as it is")

let private interrupted =
    testCase "Ctrl-C saves and ends with 130" (fun () ->
        if OperatingSystem.IsWindows() then
            skiptest "there is no kill command here"

        use folder = new Folder()
        let config = prepare folder ""
        let settings = [ "--json"; "--set"; "schedule.steps"; "100000000" ]
        use running = started [] ([ "train"; "--config"; config; "--out"; folder.At "run" ] @ settings)
        let errors = running.StandardError.ReadToEndAsync()
        let patience = Stopwatch.StartNew()

        while not (File.Exists(folder.At "run/checkpoints/latest")) && patience.Elapsed < TimeSpan.FromSeconds 60.0 do
            Thread.Sleep 20

        use kill = Process.Start("kill", [ "-INT"; string running.Id ])
        kill.WaitForExit()
        let output = running.StandardOutput.ReadToEnd()
        running.WaitForExit()
        Expect.equal running.ExitCode 130 errors.Result
        Expect.equal output "" "nothing on stdout"

        let state =
            parsed (File.ReadAllText(Path.Combine((Checkpoints(folder.At "run").Newest() |> nonNull).Directory, "state.json")))

        let last = File.ReadLines(folder.At "run/metrics.jsonl") |> Seq.last |> parsed

        Expect.equal ((last.GetProperty "step").GetInt32() + 1) ((state.GetProperty "step").GetInt32()) "the last step is saved")

let private notFinite =
    testCase "twenty steps without a finite gradient end a run, with the sequences named and the weights as they were" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        let whole = run config (folder.At "whole") null
        Directory.CreateDirectory(folder.At "broken") |> ignore
        File.Copy(Path.Combine(whole.Checkpoint, "config.json"), folder.At "broken/config.json")

        do
            use file = TensorFiles.Open(Path.Combine(whole.Checkpoint, "model.safetensors"))
            use _ = TorchSharp.torch.NewDisposeScope()
            let tensors = [ for name in file.Entries.Keys -> struct (name, file.Load name) ]
            let struct (_, norm) = tensors |> List.find (fun struct (name, _) -> name = "norm.weight")
            norm.fill_ (nanf |> TorchSharp.Scalar.op_Implicit) |> ignore
            SafeTensorsWriter.Write(folder.At "broken/model.safetensors", tensors)

        let broken =
            File
                .ReadAllText(config)
                .Replace("\"config\": \"model.json\"", "\"checkpoint\": \"broken\"")
                .Replace("\"steps\": 12", "\"steps\": 400")
                .Replace("\"everySteps\": 5", "\"everySteps\": 400")

        fails [ "not finite"; "train.npy" ] (fun () ->
            run (folder.Write("broken.json", broken)) (folder.At "run") null |> ignore)

        let lines = File.ReadAllLines(folder.At "run/metrics.jsonl")
        Expect.isGreaterThanOrEqual lines.Length 20 "every step is recorded"
        Expect.isTrue (((parsed lines[0]).GetProperty "skipped").GetBoolean()) "the update was left out"
        Expect.stringContains (File.ReadAllText(folder.At "run/log.txt")) "failed: the gradient was not finite" "the log says so"
        let identity = parsed (File.ReadAllText(folder.At "run/not-finite.json"))
        let last = (parsed (Array.last lines)).GetProperty("step").GetInt32()
        Expect.equal ((identity.GetProperty "step").GetInt32()) last "the last of the steps"

        let positions = [ for position in (identity.GetProperty "positions").EnumerateArray() -> position.GetInt64() ]
        Expect.equal positions [ int64 last * 4L; int64 last * 4L + 3L ] "its positions"
        let places = [ for place in (identity.GetProperty "sequences").EnumerateArray() -> place.GetInt64() ]

        Expect.equal
            places
            [ for position in int64 last * 4L .. int64 last * 4L + 3L -> Compose.Place(20L, 0L, true, position) ]
            "its sequences"

        Expect.stringContains ((identity.GetProperty "source").GetString() |> nonNull) "train.npy" "where they are from")

let tests =
    TorchLibrary.Load()

    testList
        "Host"
        [
            finishedRun
            stopped "\"precision\": \"fp32\"" None
            stopped "\"precision\": \"fp32\"" (Some(TimeSpan.FromMilliseconds 120.0))
            stopped "\"precision\": \"bf16\", \"trainable\": \"new-rows\"" (Some(TimeSpan.FromMilliseconds 60.0))
            torn
            refused
            fromAnother
            starts
            interrupted
            notFinite
        ]
