/// What a training configuration leaves to the machine.
module Hybrid.Tests.TrainSettingsTests

open System
open System.IO
open System.Text.Json
open Expecto
open Hybrid.Runner
open Hybrid.Tests
open Hybrid.Tests.RunSupport
open Hybrid.Tests.Running

let private configuration (folder: Folder) (run: string) = parsed (File.ReadAllText(folder.At $"{run}/run.json"))

let private text (names: string list) (root: JsonElement) =
    (names |> List.fold (fun (element: JsonElement) name -> element.GetProperty name) root).GetString()

let private settled =
    testCase "run.json says what was settled on" (fun () ->
        use folder = new Folder()
        // So narrow a model computes in fp32 on any machine, and gradients with it.
        let config =
            prepare folder ", \"gradients\": \"bf16\", \"memory\": { \"checkpointing\": \"auto\", \"budgetGiB\": 2 }"

        run config (folder.At "run") null |> ignore
        let settled = configuration folder "run"
        Expect.equal (text [ "precision" ] settled) "fp32" "precision"
        Expect.equal (text [ "gradients" ] settled) "fp32" "gradients"
        Expect.equal (text [ "memory"; "checkpointing" ] settled) "none" "checkpointing"
        Expect.stringContains (File.ReadAllText(folder.At "run/log.txt")) "computes in fp32, checkpointing none" "the log")

let private tooLittle =
    testCase "a budget that nothing fits is refused with what it takes, and no run is begun" (fun () ->
        use folder = new Folder()
        let config = prepare folder ", \"memory\": { \"checkpointing\": \"auto\", \"budgetGiB\": 0.01 }"

        fails [ "memory.checkpointing"; "GiB"; "batch.microBatch (2)"; "memory.budgetGiB" ] (fun () ->
            run config (folder.At "run") null |> ignore)

        Expect.isFalse (Directory.Exists(folder.At "run")) "nothing is begun")

let private without =
    testCase "without a budget, what the machine has free decides" (fun () ->
        use folder = new Folder()
        let config = prepare folder ", \"memory\": { \"checkpointing\": \"auto\" }"
        run config (folder.At "run") null |> ignore
        Expect.equal (text [ "memory"; "checkpointing" ] (configuration folder "run")) "none" "a tiny model")

let private goesOn =
    testCase "a run goes on with what it had settled on, by whatever way of checkpointing" (fun () ->
        use folder = new Folder()
        let first = prepare folder ", \"precision\": \"bf16\", \"memory\": { \"checkpointing\": \"selective\" }"
        let whole = run first (folder.At "whole") null

        // Twelve steps, of which the checkpoint after five is gone on from.
        let text = File.ReadAllText first
        let cut = folder.Write("cut.json", text)
        run cut (folder.At "run") null |> ignore
        Directory.Delete(folder.At "run/checkpoints/step-0000012", true)
        Directory.Delete(folder.At "run/checkpoints/step-0000010", true)
        let auto = text.Replace("\"bf16\"", "\"auto\"").Replace("\"selective\"", "\"auto\"")
        let resumed = run (folder.Write("auto.json", auto)) (folder.At "run") "must"

        Expect.equal
            (Running.parsed (File.ReadAllText(folder.At "run/run.json")) |> string)
            (configuration folder "whole" |> string)
            "run.json"

        sameModel whole resumed
        // Another way of checkpointing may be taken; another precision not.
        run (folder.Write("full.json", text.Replace("\"selective\"", "\"full\""))) (folder.At "run") "must" |> ignore

        fails [ "precision"; "\"bf16\" in the run"; "\"fp32\" now" ] (fun () ->
            run (folder.Write("other.json", text.Replace("\"bf16\"", "\"fp32\""))) (folder.At "run") "must" |> ignore))

let private earlier =
    testCase "a run of before there were these settings goes on" (fun () ->
        use folder = new Folder()
        let config = prepare folder ", \"precision\": \"fp32\""
        run config (folder.At "run") null |> ignore
        let file = folder.At "run/run.json"
        let root = (Nodes.JsonNode.Parse(File.ReadAllText file) |> nonNull).AsObject()
        Expect.isTrue (root.Remove "memory" && root.Remove "gradients") "the keys are there"
        File.WriteAllText(file, root.ToJsonString())
        run config (folder.At "run") "must" |> ignore)

let private inspected =
    testCase "inspect says what a step takes" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""

        let at (names: string list) (root: JsonElement) =
            (names |> List.fold (fun (element: JsonElement) name -> element.GetProperty name) root).GetInt64()

        for path, prefix, sequences, positions in
            [ config, [ "memory_bytes" ], 2L, 1151L; folder.At "model.json", [ "memory_bytes"; "step" ], 1L, 32L ] do
            let found = result [ "inspect"; path ]
            Expect.equal (at (prefix @ [ "sequences" ]) found) sequences "the micro-batch"
            Expect.equal (at (prefix @ [ "positions" ]) found) positions "its positions"

            for precision in [ "fp32"; "bf16" ] do
                for way, _ in Hybrid.Checkpointing.names do
                    let parts =
                        (prefix @ [ precision; way ])
                        |> List.fold (fun (element: JsonElement) name -> element.GetProperty name) found
                        |> _.EnumerateObject()
                        |> Seq.map (fun part -> part.Name, part.Value.GetInt64())
                        |> Map

                    let sum = parts |> Map.remove "total" |> Map.values |> Seq.sum
                    Expect.equal parts["total"] sum $"{path}, {precision}, {way}: the parts add up")

let tests =
    TorchLibrary.Load()
    testList "TrainSettings" [ settled; tooLittle; without; goesOn; earlier; inspected ]
