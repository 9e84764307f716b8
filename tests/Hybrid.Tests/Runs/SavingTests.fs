/// What a checkpoint holds, how it is known to be whole, and which of them stay.
module Hybrid.Tests.SavingTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.DurableSupport
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport
open TorchSharp

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

let tests =
    TorchLibrary.Load()

    testList
        "Saving"
        [ altered; stateFile; snapshots; policy; kept; refusedKeys; byTheClock; averages "all"; averages "new-rows" ]
