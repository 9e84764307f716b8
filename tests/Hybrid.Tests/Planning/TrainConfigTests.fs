module Hybrid.Tests.TrainConfigTests

open System.Collections.Generic
open System.Text.Json.Nodes
open Expecto
open Hybrid
open Hybrid.Tests.Generate

let private minimal =
    """{"model": {"config": "model.json"}, "vocabulary": {"textRows": 300, "imageCodes": 64}, "data": {"train": ["tokens.npy"]},
        "optimizer": {"learningRate": 3e-3}, "schedule": {"steps": 60}, "batch": {"sequences": 8}}"""

let private example =
    """{"model": {"checkpoint": "epoch_0.pt", "config": "model.json"}, "initialisation": "pretrained",
        "vocabulary": {"textRows": 300, "imageCodes": 64}, "data": {"train": ["tokens.npy"], "order": "sequential"},
        "optimizer": {"learningRate": 3e-3, "betas": [0.9, 0.95], "epsilon": 1e-8, "weightDecay": 0.1, "decay": "matrices"},
        "schedule": {"kind": "cosine", "warmupSteps": 10, "steps": 60, "minimumLearningRate": 1e-4},
        "batch": {"sequences": 8, "microBatch": 8}, "clipNorm": 1.0, "precision": "fp32", "checkpoint": {"everySteps": 1000},
        "seed": 0}"""

let private generated (seed: int64) : TrainConfig =
    let chooser = Chooser seed
    let checkpoint = if chooser.Bool() then Some "a/ü \"quoted\".pt" else None
    let modelFile = if checkpoint.IsNone || chooser.Bool() then Some "model.json" else None
    let sequences = chooser.Int(1, 1000)
    let peak = chooser.Float(0.0, 1.0)
    let precision = chooser.Of [ Auto; Given Fp32; Given Bf16 ]
    let heldOut = [ for i in 1 .. chooser.Int(0, 3) -> $"held-{i}.safetensors" ]
    let trainable = chooser.Of(List.map snd Trainable.presets)
    let keepLast = chooser.Of [ None; Some(chooser.Int(1, 100)) ]

    {
        Checkpoint = checkpoint
        ModelConfigFile = modelFile
        Initialisation = if checkpoint.IsSome && chooser.Bool() then Pretrained else RandomWeights
        Vocabulary = { TextRows = chooser.Int(1, 60000); ImageCodes = chooser.Int(0, 20000) }
        Train = [ for i in 0 .. chooser.Int(0, 3) -> $"shard-{i}.safetensors" ]
        HeldOut = heldOut
        Order = chooser.Of [ Shuffled; Sequential ]
        Form = chooser.Of [ Captioned; ImageOnly; TextOnly; CaptionDropped ]
        Length = chooser.Int(2, 5000)
        CaptionDrop = chooser.Float(0.0, 1.0)
        Trainable = trainable
        Distribution =
            {
                Zero = if trainable = Trainable.All then chooser.Int(0, 3) else chooser.Int(0, 2)
                Overlap = chooser.Bool()
                BucketMiB = chooser.Int(1, 1024)
                SilenceSeconds = chooser.Float(1.0, 86400.0)
                TimeoutSeconds = chooser.Float(1.0, 604800.0)
            }
        NewRows = chooser.Of("./aligned" :: "rows.npy" :: TrainConfig.newRows)
        LossWeights = chooser.Float(0.0, 2.0), chooser.Float(0.0, 2.0), chooser.Float(0.0, 2.0), chooser.Float(0.0, 1e-3)
        Optimizer =
            {
                Betas = chooser.Float(0.0, 0.99), chooser.Float(0.0, 0.99)
                Epsilon = chooser.Float(1e-12, 1e-4)
                WeightDecay = chooser.Float(0.0, 1.0)
                Decay = chooser.Of [ Parameters.Matrices; Parameters.All ]
                ClipNorm = chooser.Of [ None; Some(chooser.Float(0.1, 10.0)) ]
            }
        Schedule =
            {
                Kind = chooser.Of [ Cosine; Constant ]
                Peak = peak
                Minimum = chooser.Float(0.0, 1e-3)
                WarmupSteps = chooser.Int(0, 100)
                Steps = chooser.Int(1, 100000)
            }
        Sequences = sequences
        MicroBatch = chooser.Int(1, sequences)
        Padding = chooser.Of [ Dropped; Kept ]
        Precision = precision
        Gradients = if precision = Given Fp32 then Fp32 else chooser.Of [ Fp32; Bf16 ]
        Checkpointing = chooser.Of(Auto :: [ for _, choice in Checkpointing.names -> Given choice ])
        MemoryBudget = chooser.Of [ None; Some(chooser.Float(0.1, 1000.0)) ]
        CheckpointEvery = chooser.Int(1, 100000)
        Saving =
            {
                EveryMinutes = chooser.Of [ None; Some(chooser.Float(0.01, 100.0)) ]
                Asynchronous = chooser.Bool()
                KeepLast = keepLast
                KeepEvery = if keepLast.IsSome then chooser.Of [ None; Some(chooser.Int(1, 100000)) ] else None
                KeepBest = not heldOut.IsEmpty && chooser.Bool()
                DeadlineMinutes = chooser.Float(0.0, 100.0)
            }
        AverageDecay = chooser.Of [ None; Some(chooser.Float(0.0, 0.9999)) ]
        Spikes =
            {
                Deviations = chooser.Of [ None; Some(chooser.Float(0.2, 100.0)) ]
                Window = chooser.Int(2, 1000)
                Action = chooser.Of [ SpikeAction.Warn; SpikeAction.Rewind ]
                Limit = chooser.Int(1, 10)
            }
        InterruptedExit = chooser.Int(1, 255)
        Seed = int64 (chooser.Int(-1000, 1000)) * 4_000_000_000_000_000L
    }

let private setting (pairs: (string * string) list) (text: string) =
    Settings.put [ for key, value in pairs -> KeyValuePair(key, value) ] text

let private parsed (text: string) = TrainConfig.parse text |> accepted "the configuration"

let tests =
    testList
        "TrainConfig"
        [
            property "toJson and parse are inverse" (fun seed ->
                let config = generated seed
                Expect.equal (TrainConfig.toJson config |> parsed) config "the configuration read back")

            property "the resolved file shows every key" (fun seed ->
                let root = (JsonNode.Parse(TrainConfig.toJson (generated seed)) |> nonNull).AsObject()

                for key in
                    [
                        "model"
                        "initialisation"
                        "vocabulary"
                        "data"
                        "trainable"
                        "newRows"
                        "loss"
                        "optimizer"
                        "schedule"
                        "batch"
                        "clipNorm"
                        "precision"
                        "gradients"
                        "memory"
                        "checkpoint"
                        "ema"
                        "spikes"
                        "interruption"
                        "distribution"
                        "seed"
                    ] do
                    Expect.isTrue (root.ContainsKey key) key)

            testCase "what may be left out has its default" (fun () ->
                let config = parsed minimal

                Expect.equal
                    config
                    {
                        Checkpoint = None
                        ModelConfigFile = Some "model.json"
                        Initialisation = RandomWeights
                        Vocabulary = { TextRows = 300; ImageCodes = 64 }
                        Train = [ "tokens.npy" ]
                        HeldOut = []
                        Order = Shuffled
                        Form = Captioned
                        Length = 1152
                        CaptionDrop = 0.0
                        Trainable = Trainable.All
                        NewRows = "normal"
                        LossWeights = (1.0, 1.0, 1.0, 0.0)
                        Optimizer =
                            {
                                Betas = (0.9, 0.95)
                                Epsilon = 1e-8
                                WeightDecay = 0.1
                                Decay = Parameters.Matrices
                                ClipNorm = Some 1.0
                            }
                        Schedule = { Kind = Cosine; Peak = 3e-3; Minimum = 0.0; WarmupSteps = 0; Steps = 60 }
                        Sequences = 8
                        MicroBatch = 8
                        Padding = Dropped
                        Precision = Auto
                        Gradients = Fp32
                        Checkpointing = Given Checkpointing.None
                        MemoryBudget = None
                        CheckpointEvery = 1000
                        Saving =
                            {
                                EveryMinutes = None
                                Asynchronous = true
                                KeepLast = None
                                KeepEvery = None
                                KeepBest = false
                                DeadlineMinutes = 30.0
                            }
                        AverageDecay = None
                        Distribution =
                            { Zero = 0; Overlap = true; BucketMiB = 64; SilenceSeconds = 30.0; TimeoutSeconds = 600.0 }
                        Spikes = { Deviations = None; Window = 100; Action = SpikeAction.Warn; Limit = 3 }
                        InterruptedExit = 130
                        Seed = 0L
                    }
                    "defaults")

            testCase "a full configuration means what its keys say" (fun () ->
                let config = parsed example
                Expect.equal config.Checkpoint (Some "epoch_0.pt") "checkpoint"
                Expect.equal config.Initialisation Pretrained "initialisation"
                Expect.equal config.Order Sequential "order"

                Expect.equal
                    config.Schedule
                    { Kind = Cosine; Peak = 3e-3; Minimum = 1e-4; WarmupSteps = 10; Steps = 60 }
                    "schedule")

            testCase "a checkpoint alone starts from it" (fun () ->
                let text = minimal.Replace("""{"config": "model.json"}""", """{"checkpoint": "x.pt"}""")
                Expect.equal (parsed text).Initialisation Pretrained "initialisation")

            testCase "clipNorm may be null, which clips nothing" (fun () ->
                let text = minimal.Replace("\"batch\"", "\"clipNorm\": null, \"batch\"")
                Expect.equal (parsed text).Optimizer.ClipNorm None "no clipping"
                Expect.equal (parsed (TrainConfig.toJson (parsed text))).Optimizer.ClipNorm None "after a round trip"
                let text = minimal.Replace("\"batch\"", "\"clipNorm\": 0, \"batch\"")
                TrainConfig.parse text |> errorsAt "a clip of 0" [ "clipNorm" ])

            testCase "precision and what is kept are given, or left to the machine" (fun () ->
                let at (values: (string * string) list) =
                    setting values minimal |> Result.bind TrainConfig.parse |> accepted "set"

                let open' =
                    at [ "precision", "auto"; "gradients", "bf16"; "memory.checkpointing", "auto"; "memory.budgetGiB", "1.5" ]

                Expect.equal (open'.Precision, open'.Checkpointing, open'.MemoryBudget) (Auto, Auto, Some 1.5) "left open"
                let half = TrainConfig.withPrecision Bf16 open'
                Expect.equal (half.Precision, half.Gradients) (Given Bf16, Bf16) "settled on bf16"
                Expect.equal (TrainConfig.withPrecision Fp32 half) half "what is given stays"
                let single = TrainConfig.withPrecision Fp32 open'
                Expect.equal (single.Precision, single.Gradients) (Given Fp32, Fp32) "settled on fp32, and gradients with it"
                Expect.equal (parsed (TrainConfig.toJson single)) single "the settled one can be read"
                let full = TrainConfig.withCheckpointing Checkpointing.Full open'
                Expect.equal full.Checkpointing (Given Checkpointing.Full) "settled on full"
                Expect.equal (TrainConfig.withCheckpointing Checkpointing.None full) full "what is given stays"

                for name, choice in Checkpointing.names do
                    Expect.equal (at [ "memory.checkpointing", name ]).Checkpointing (Given choice) name

                setting [ "precision", "fp32"; "gradients", "bf16" ] minimal
                |> Result.bind TrainConfig.parse
                |> errorsAt "bf16 gradients of fp32" [ "gradients" ])

            testCase "everything that is missing is named at once" (fun () ->
                TrainConfig.parse "{}"
                |> errorsAt "an empty document" [ "model"; "vocabulary"; "data"; "optimizer"; "schedule"; "batch" ]

                TrainConfig.parse """{"model": {}, "vocabulary": {}, "data": {}, "optimizer": {}, "schedule": {}, "batch": {}}"""
                |> errorsAt
                    "empty objects"
                    [
                        "model"
                        "vocabulary.textRows"
                        "vocabulary.imageCodes"
                        "data.train"
                        "optimizer.learningRate"
                        "schedule.steps"
                        "batch.sequences"
                    ])

            testCase "everything that is mistyped or unknown is named at once" (fun () ->
                let text =
                    """{"model": {"checkpoint": 1, "config": "model.json", "weights": "x"}, "initialisation": "warm",
                        "vocabulary": {"textRows": 0, "imageCodes": -1}, "data": {"train": [], "order": 1, "form": "picture",
                        "length": 1, "captionDrop": 1.5, "heldOut": "x"},
                        "optimizer": {"learningRate": "fast", "betas": [0.9, 1.0], "epsilon": -1, "weightDecay": null, "decay": "some"},
                        "schedule": {"kind": "linear", "warmupSteps": -1, "steps": 0, "minimumLearningRate": "0"},
                        "batch": {"sequences": 0, "microBatch": 0.5, "padding": "gone"}, "clipNorm": "1", "precision": "fp16",
                        "gradients": "fp8", "memory": {"checkpointing": "some", "budgetGiB": 0, "budget": 1},
                        "loss": {"text": -1, "image": "1", "structure": [], "z": null, "zz": 1},
                        "checkpoint": {"everySteps": 0}, "seed": 0.5, "trainable": "none", "newRows": "zero", "sede": 1}"""

                TrainConfig.parse text
                |> errorsAt
                    "a configuration full of errors"
                    [
                        "model.checkpoint"
                        "model.weights"
                        "initialisation"
                        "vocabulary.textRows"
                        "vocabulary.imageCodes"
                        "data.train"
                        "data.order"
                        "data.form"
                        "data.length"
                        "data.captionDrop"
                        "data.heldOut"
                        "optimizer.learningRate"
                        "optimizer.betas"
                        "optimizer.epsilon"
                        "optimizer.weightDecay"
                        "optimizer.decay"
                        "schedule.kind"
                        "schedule.warmupSteps"
                        "schedule.steps"
                        "schedule.minimumLearningRate"
                        "batch.sequences"
                        "batch.microBatch"
                        "batch.padding"
                        "clipNorm"
                        "precision"
                        "gradients"
                        "memory.checkpointing"
                        "memory.budgetGiB"
                        "memory.budget"
                        "loss.text"
                        "loss.image"
                        "loss.structure"
                        "loss.z"
                        "loss.zz"
                        "checkpoint.everySteps"
                        "seed"
                        "trainable"
                        "newRows"
                        "sede"
                    ])

            testCase "a pretrained start needs a checkpoint" (fun () ->
                let text = minimal.Replace("\"batch\"", "\"initialisation\": \"pretrained\", \"batch\"")
                TrainConfig.parse text |> errorsAt "pretrained without a model" [ "initialisation" ])

            property "any one unknown key anywhere is named with its path" (fun seed ->
                let chooser = Chooser seed
                let root = (JsonNode.Parse(TrainConfig.toJson (generated seed)) |> nonNull).AsObject()
                let inner = [ "model"; "vocabulary"; "data"; "optimizer"; "schedule"; "batch"; "loss"; "checkpoint"; "memory" ]
                let place = chooser.Of("" :: inner)
                let target = if place = "" then root else (root[place] |> nonNull).AsObject()
                target["surplus"] <- JsonValue.Create 1
                let path = if place = "" then "surplus" else place + ".surplus"
                TrainConfig.parse (root.ToJsonString()) |> errorsAt path [ path ])

            testCase "set puts values at dotted names" (fun () ->
                let text =
                    setting
                        [
                            "optimizer.learningRate", "0.5"
                            "schedule.kind", "constant"
                            "data.train", """["a.npy", "b.npy"]"""
                            "loss.z", "1e-4"
                            "clipNorm", "null"
                            "seed", "7"
                            "seed", "8"
                        ]
                        minimal
                    |> accepted "set"

                let config = parsed text
                Expect.equal config.Schedule.Peak 0.5 "a number"
                Expect.equal config.Schedule.Kind Constant "a word without quotes"
                Expect.equal config.Train [ "a.npy"; "b.npy" ] "a list"
                Expect.equal config.LossWeights (1.0, 1.0, 1.0, 1e-4) "an object that was not there"
                Expect.equal config.Optimizer.ClipNorm None "null"
                Expect.equal config.Seed 8L "the last of two"
                Expect.equal { config with Seed = 0L }.Sequences 8 "what was not set stays")

            testCase "set refuses, with a sentence, what it cannot do" (fun () ->
                for pairs, text in
                    [
                        [ "seed.deep", "1" ], """{"seed": 1}"""
                        [ "data.train.first", "1" ], """{"data": {"train": []}}"""
                        [ "seed", "1" ], "[]"
                        [ "seed", "1" ], "{"
                        [ "seed", "1" ], ""
                        [ "", "1" ], "{}"
                        [ "a..b", "1" ], "{}"
                        [ "seed", "1" ], """{"data": {"x": 1}, "data": {"x": 2}}"""
                        [ "data.y", "1" ], """{"data": {"x": 1, "x": 2}}"""
                    ] do
                    match setting pairs text with
                    | Ok result -> failtest $"%A{pairs} on {text} was accepted: {result}"
                    | Error errors -> Expect.equal errors.Length 1 $"%A{pairs} on {text}: one sentence")

            testCase "set keeps a repeated key an error" (fun () ->
                // Whatever --set touches, a key given twice elsewhere must not pass unseen.
                let text = minimal.Replace("\"schedule\"", "\"seed\": 1, \"seed\": 2, \"schedule\"")
                TrainConfig.parse text |> errorsAt "a repeated key" [ "seed" ]
                Expect.isError (setting [ "clipNorm", "2" ] text |> Result.bind TrainConfig.parse) "after set")
        ]
