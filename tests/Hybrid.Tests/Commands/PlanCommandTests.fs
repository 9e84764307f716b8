/// The command that plans training over many GPUs: its words, its figures, and what it refuses.
module Hybrid.Tests.PlanCommandTests

open System
open System.IO
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Tests.CommandLineRunning
open Hybrid.Tests.Generate

let private cluster = [ "plan"; "--gpus"; "64"; "--gpu-memory"; "80"; "--link"; "100"; "--node-link"; "250" ]

/// What a plan says to a machine.
let private said (line: string list) : JsonElement =
    match run line with
    | :? PlanCommand as command -> PlanJob.Make(command).ToJson().ToJsonString Json.Options |> Running.parsed
    | command -> failtest $"{line} gave {command}"

let private figure (found: JsonElement) (key: string) : float = (found.GetProperty key).GetDouble()

let private words =
    testCase "plan takes a cluster, and the paper's run where nothing else is said" (fun () ->
        gives<PlanCommand> [ "plan"; "--gpus"; "8"; "--gpu-memory"; "80"; "--link"; "25" ] (fun c ->
            c.Gpus = 8
            && c.GpuMemory = 80.0
            && c.Link = 25.0
            && c.NodeGpus = 8
            && not c.NodeLink.HasValue
            && c.Latency = 10.0
            && not c.Peak.HasValue
            && not c.Share.HasValue
            && isNull c.Measured
            && isNull c.Config
            && isNull c.ModelConfig
            && isNull c.Size
            && not c.Sequence.HasValue
            && not c.TokensPerStep.HasValue
            && not c.Tokens.HasValue
            && isNull c.Precision
            && isNull c.Gradients
            && not c.CheckpointLink.HasValue
            && not c.Json)

        gives<PlanCommand>
            [
                yield! cluster
                yield! [ "--node-gpus"; "4"; "--latency"; "5"; "--peak"; "989"; "--share"; "0.4"; "--size"; "7b" ]
                yield! [ "--sequence"; "2048"; "--tokens-per-step"; "4e6"; "--tokens"; "1e12"; "--precision"; "fp32" ]
                yield! [ "--gradients"; "fp32"; "--checkpoint-link"; "2"; "--json" ]
            ]
            (fun c ->
                c.NodeGpus = 4
                && c.NodeLink = Nullable 250.0
                && c.Latency = 5.0
                && c.Peak = Nullable 989.0
                && c.Share = Nullable 0.4
                && c.Size = "7b"
                && c.Sequence = Nullable 2048
                && c.TokensPerStep = Nullable 4e6
                && c.Tokens = Nullable 1e12
                && c.Precision = "fp32"
                && c.Gradients = "fp32"
                && c.CheckpointLink = Nullable 2.0
                && c.Json)

        let text =
            usage
                [
                    yield! [ "plan"; "--gpus"; "0"; "--gpu-memory"; "NaN"; "--link=-1"; "--node-gpus"; "1.5" ]
                    yield! [ "--share"; "1.1"; "--latency=-1"; "--tokens"; "0"; "--size"; "7B"; "--peak"; "Infinity" ]
                ]

        for sentence in
            [
                "--gpus needs a whole number from 1 to 1048576, but was given '0'."
                "--gpu-memory needs a number above 0 and at most 1000000, but was given 'NaN'."
                "--link needs a number above 0 and at most 1000000, but was given '-1'."
                "--node-gpus needs a whole number from 1 to 1024, but was given '1.5'."
                "--share needs a number above 0 and at most 1, but was given '1.1'."
                "--latency needs a number from 0 to 1000000, but was given '-1'."
                "--tokens needs a number from 1 to"
                "--size needs one of small, tiny, 160m, 1b, 7b, but was given '7B'."
                "--peak needs a number above 0 and at most 1000000, but was given 'Infinity'."
            ] do
            Expect.stringContains text sentence "the answer says it"

        Expect.stringContains (usage [ "plan" ]) "hybrid plan needs --gpu-memory GB" "what is needed")

let private paper =
    testCase "the default is the paper's run, and figures follow from each other" (fun () ->
        let found = said cluster
        Expect.equal (figure found "parameters") (float (Decoder.parameterCount Study.paperModel)) "parameters"
        Expect.equal (figure found "flop_per_token") (ModelConfig.flopsPerToken Study.paperModel 1152) "operations"
        Expect.equal (figure found "tokens") Study.paperTokens "tokens"
        near 0.0 0.05 "tokens of a step" Study.paperTokensPerStep (figure found "tokens_per_step")
        Expect.isTrue ((found.GetProperty "predicted").GetBoolean()) "nothing ran"
        let pick = found.GetProperty "pick"
        let tokensPerStep, steps = figure found "tokens_per_step", figure found "steps"
        near 0.0 1e-9 "speed" tokensPerStep (figure pick "tokens_per_second" * figure pick "step_seconds")
        near 0.0 1e-9 "a step" (figure pick "compute_seconds" + figure pick "waiting_seconds") (figure pick "step_seconds")
        near 0.0 1e-9 "days" (steps * figure pick "step_seconds" / 86400.0) (figure pick "days")
        near 0.0 1e-9 "GPU-hours" (24.0 * 64.0 * figure pick "days") (figure pick "gpu_hours")
        Expect.isTrue (steps * tokensPerStep >= 1e11 && (steps - 1.0) * tokensPerStep < 1e11) "steps"

        near
            0.0
            1e-9
            "share of the peak"
            (figure pick "tokens_per_second" * figure found "flop_per_token" / 64.0 / 312e12)
            (figure pick "share_of_peak")

        let parts =
            [ for part in (pick.GetProperty "memory_bytes").EnumerateObject() -> part.Name, part.Value.GetDouble() ]

        let total = parts |> List.find (fun (name, _) -> name = "total") |> snd
        Expect.equal total (parts |> List.sumBy snd |> (+) -total) "parts of the memory"
        Expect.isLessThanOrEqual total (0.9 * 80e9) "it fits"
        let traffic = [ for sent in (pick.GetProperty "traffic").EnumerateArray() -> figure sent "bytes" ]
        near 0.0 1e-9 "what is sent" (List.sum traffic) (figure pick "sent_bytes")
        let stages = [ for stage in (found.GetProperty "stages").EnumerateArray() -> stage ]
        Expect.equal [ for stage in stages -> figure stage "zero" ] [ 0.0; 1.0; 2.0; 3.0 ] "stages"

        for stage in stages do
            if (stage.GetProperty "fits").GetBoolean() then
                Expect.isGreaterThanOrEqual (figure stage "step_seconds") (figure pick "step_seconds") "the pick is the fastest"

        let keys = found.GetProperty "configuration"
        let zero = (keys.GetProperty "distribution").GetProperty "zero"
        Expect.equal (zero.GetDouble()) (figure pick "zero") "the key of the stage"
        let batch = keys.GetProperty "batch"
        Expect.equal (1152.0 * figure batch "sequences") tokensPerStep "sequences over all GPUs"

        Expect.isTrue
            (figure batch "microBatch" * figure pick "accumulation" * 64.0 >= figure batch "sequences")
            "micro-batches make up a step")

let private process' =
    testCase "one object on stdout; a sentence and exit code 1 where nothing fits, 2 where options exclude each other" (fun () ->
        let found = Running.result cluster
        Expect.equal (figure found "gpus") 64.0 "GPUs"

        let code, output, errors =
            Running.program [ "plan"; "--gpus"; "8"; "--gpu-memory"; "8"; "--link"; "100"; "--size"; "7b" ]

        Expect.equal (code, output) (1, "") errors

        for part in [ "nothing fits into GPUs of 8.0 GB"; "a step takes at least 19.6 GB"; "of these"; "--sequence" ] do
            Expect.stringContains errors part "the sentence"

        let code, _, errors = Running.program (cluster @ [ "--size"; "1b"; "--model-config"; "m.json" ])
        Expect.equal code 2 "exit code"
        Expect.stringContains errors "--model-config and --size exclude each other" "the sentence")

let private ofConfiguration =
    testCase "a configuration says what is trained, and options have the last word" (fun () ->
        use folder = new Folder()
        let two = [ "plan"; "--gpus"; "2"; "--gpu-memory"; "8"; "--link"; "1" ]
        let plan more line = said (two @ [ "--config"; RunSupport.prepare folder more ] @ line)
        let found = plan "" []
        let rows = RunSupport.vocabulary.Rows
        Expect.equal (figure found "positions") (float (1152 - 1)) "positions are the length without the last token"
        Expect.equal (figure found "tokens_per_step") (4.0 * 1151.0) "sequences"
        Expect.equal (figure found "steps") 12.0 "steps"
        Expect.equal (found.GetProperty("precision").GetString()) "bf16" "a precision that is left to the machine"
        let model = ModelConfig.openLm 16 2 2 rows 32
        Expect.equal (figure found "parameters") (float (Decoder.parameterCount model)) "the table is extended"
        let frozen = plan """, "trainable": "embedding-head", "precision": "fp32" """ []
        let moments (found: JsonElement) = figure ((found.GetProperty "pick").GetProperty "memory_bytes") "moments"
        Expect.equal (frozen.GetProperty("precision").GetString()) "fp32" "precision"
        Expect.isLessThan (moments frozen) (moments (plan "" [])) "what stays has no moments"

        let other =
            plan "" [ "--sequence"; "64"; "--tokens-per-step"; "8192"; "--tokens"; "81920"; "--precision"; "fp32" ]

        Expect.equal
            (figure other "positions", figure other "tokens_per_step", figure other "steps")
            (64.0, 8192.0, 10.0)
            "options")

let private ofDescription =
    testCase "a model's description gives the model" (fun () ->
        use folder = new Folder()
        let path = folder.Write("model.json", RunSupport.description 500)
        let found = said (cluster @ [ "--model-config"; path; "--sequence"; "32" ])
        let model = ModelConfig.openLm 16 2 2 500 32
        Expect.equal (figure found "parameters") (float (Decoder.parameterCount model)) "parameters"

        for line, part in
            [
                [ "--model-config"; folder.At "none.json" ], "is not there"
                [ "--model-config"; folder.Write("torn.json", "{ \"hidden_dim\": 1") ], "is not valid JSON"
                [ "--config"; folder.At "none.json" ], "the configuration is not there"
                [ "--gradients"; "bf16"; "--precision"; "fp32" ], "--gradients bf16 goes only with --precision bf16"
                [ "--tokens-per-step"; "1e12"; "--sequence"; "1" ], "--tokens-per-step"
            ] do
            Running.fails [ part ] (fun () -> said (cluster @ line) |> ignore))

let private ofMeasurement =
    testCase "a measurement stands in the place of peak and share" (fun () ->
        use folder = new Folder()

        let measurement (speed: string) =
            folder.Write(
                "bench.json",
                $"""{{ "model": "1b", "checkpointing": "none", "tokens_per_second": {speed}, "flop_per_token": 8899350528, "matrix_peak_flops": 4e14, "profile": null }}"""
            )

        let found = said (cluster @ [ "--measured"; measurement "20000" ])
        near 0.0 1e-9 "operations" (20000.0 * 8899350528.0) (figure found "gpu_flops_per_second")
        Expect.equal (figure found "gpu_peak_flops") 4e14 "peak"
        let pick = found.GetProperty "pick"
        near 0.0 1e-9 "computing" (figure found "tokens_per_step" / 64.0 / 20000.0) (figure pick "compute_seconds")

        for text in [ "0"; "-1"; "1e400"; "\"NaN\""; "null"; "" ] do
            Running.fails [ "bench.json" ] (fun () -> said (cluster @ [ "--measured"; measurement text ]) |> ignore)

        Running.fails [ "the measurement is not there" ] (fun () -> said (cluster @ [ "--measured"; folder.At "no" ]) |> ignore)
        let folderPath = Path.GetDirectoryName(folder.At "x") |> string
        Running.fails [ "is a directory" ] (fun () -> said (cluster @ [ "--measured"; folderPath ]) |> ignore)

        Running.fails [ "--measured and --peak exclude each other" ] (fun () ->
            said (cluster @ [ "--measured"; measurement "1"; "--peak"; "1" ]) |> ignore))

let private text =
    testCase "the table for a person has a line for each stage, and says what does not fit" (fun () ->
        let line =
            [ "plan"; "--gpus"; "8"; "--gpu-memory"; "80"; "--link"; "250"; "--size"; "7b"; "--checkpoint-link"; "2" ]

        match run line with
        | :? PlanCommand as command ->
            let lines = PlanJob.Make(command).ToText().Split '\n' |> List.ofArray
            let beginning (start: string) = lines |> List.filter (fun line -> line.TrimStart().StartsWith start)

            for zero in 0..3 do
                let rows = beginning $"{zero}  "
                Expect.hasLength rows 1 $"stage {zero}"
                Expect.equal (rows.Head.Contains "does not fit") (zero < 1) rows.Head

            Expect.hasLength (lines |> List.filter _.EndsWith("← picked")) 1 "one is picked"
            Expect.hasLength (lines |> List.filter _.StartsWith("predicted")) 1 "that it is predicted"
            Expect.hasLength (beginning "checkpoint ") 1 "how long a checkpoint takes"
            let keys = (beginning "configuration").Head
            use document = JsonDocument.Parse(keys.Substring(keys.IndexOf '{'))
            Expect.equal (document.RootElement.GetProperty("precision").GetString()) "bf16" "keys to paste"
        | command -> failtest $"{command}")

let tests = testList "Plan" [ words; paper; process'; ofConfiguration; ofDescription; ofMeasurement; text ]
