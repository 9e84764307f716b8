/// What command lines become: study, prepare, train, evaluate, generate, fid, complete, probe, align.
module Hybrid.Tests.CommandParsingTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.CommandLineRunning

let tests =
    testList
        "CommandLine study to align"
        [
            testCase "study has defaults" (fun () ->
                gives<StudyCommand> [ "study" ] (fun c ->
                    c.Preset = "tiny"
                    && isNull c.Out
                    && isNull c.Config
                    && not c.Resume
                    && not c.DryRun
                    && not c.Seed.HasValue
                    && not c.Parallel.HasValue
                    && not c.Json))

            testCase "study takes every option" (fun () ->
                gives<StudyCommand>
                    [
                        "study"
                        "--preset"
                        "paper"
                        "--config"
                        "c.json"
                        "--out"
                        "o"
                        "--resume"
                        "auto"
                        "--dry-run"
                        "--seed"
                        "-7"
                        "--parallel"
                        "2"
                        "--json"
                    ]
                    (fun c ->
                        c =
                            {
                                Preset = "paper"
                                Config = "c.json"
                                Out = "o"
                                Resume = true
                                DryRun = true
                                Seed = Nullable -7L
                                Parallel = Nullable 2
                                TensorBoard = false
                                Json = true
                            }))

            testCase "prepare gathers inputs from one option and from several" (fun () ->
                gives<PrepareCommand>
                    [
                        "prepare"
                        "--input"
                        "a.tar"
                        "b.tar"
                        "--text-tokenizer"
                        "t"
                        "--image-tokenizer"
                        "v"
                        "--image-size"
                        "128"
                        "--input"
                        "c"
                        "--out"
                        "o"
                    ]
                    (fun c ->
                        List.ofSeq c.Input = [ "a.tar"; "b.tar"; "c" ]
                        && c.ImageSize = Nullable 128
                        && c.TextTokenizer = "t"
                        && c.ImageTokenizer = "v"
                        && (isNull c.ImageRoot && not c.AllCaptions && not c.DropLongText && not c.Strict)
                        && (not c.ReducingGap.HasValue && not c.MaxTextTokens.HasValue && not c.Workers.HasValue)
                        && c.PairsPerShard = 2048))

            testCase "train keeps the order of --set and takes negative values" (fun () ->
                gives<TrainCommand>
                    [ "train"; "--config"; "c"; "--set"; "a.b"; "-1"; "--set"; "c"; "x=y"; "--out"; "o"; "--resume"; "runs/a" ]
                    (fun c -> [ for pair in c.Set -> pair.Key, pair.Value ] = [ "a.b", "-1"; "c", "x=y" ] && c.Resume = "runs/a"))

            testCase "evaluate reads the layout of an open_lm checkpoint" (fun () ->
                gives<EvaluateCommand>
                    [
                        "evaluate"
                        "--model"
                        "e.pt"
                        "--model-config"
                        "m.json"
                        "--text-rows"
                        "300"
                        "--image-codes"
                        "64"
                        "--tokens"
                        "t.npy"
                    ]
                    (fun c ->
                        c.Model = { Path = "e.pt"; Config = "m.json"; TextRows = Nullable 300; ImageCodes = Nullable 64 }
                        && c.Tokens = "t.npy"
                        && not c.Details
                        && isNull c.Against))

            testCase "evaluate takes what details need" (fun () ->
                let line = [ "evaluate"; "--model"; "m"; "--tokens"; "t"; "--details" ]

                gives<EvaluateCommand> line (fun c ->
                    c.Details && isNull c.Against && c.Sample = 32 && not c.GridHeight.HasValue && not c.GridWidth.HasValue)

                gives<EvaluateCommand>
                    (line @ [ "--against"; "a.pt"; "--against-config"; "a.json"; "--grid"; "4"; "8"; "--sequences"; "5" ])
                    (fun c ->
                        c.Against = { Path = "a.pt"; Config = "a.json"; TextRows = Nullable(); ImageCodes = Nullable() }
                        && (c.GridHeight, c.GridWidth, c.Sample) = (Nullable 4, Nullable 8, 5)))

            testCase "generate has defaults and ranges" (fun () ->
                gives<GenerateCommand>
                    [
                        "generate"
                        "--model"
                        "m"
                        "--prompt"
                        "a red circle"
                        "--out"
                        "o"
                        "--top-p"
                        "1"
                        "--temperature"
                        "0"
                    ]
                    (fun c ->
                        c.Count = 1
                        && c.Temperature = 0.0
                        && c.TopP = Nullable 1.0
                        && not c.TopK.HasValue
                        && List.ofSeq c.Guidance = [ 1.0 ]
                        && isNull c.PromptsFile
                        && c.Lookahead = 1
                        && not c.HalfPrecision
                        && not c.MemoryBudget.HasValue
                        && c.Seed = 0L)

                gives<GenerateCommand>
                    [ "generate"; "--model"; "m"; "--prompts-file"; "captions.txt"; "--cfg"; "1"; "2.5"; "4"; "1"; "--out"; "o" ]
                    (fun c -> c.Prompts.Count = 0 && c.PromptsFile = "captions.txt" && List.ofSeq c.Guidance = [ 1.0; 2.5; 4.0 ])

                gives<GenerateCommand>
                    [
                        "generate"
                        "--model"
                        "m"
                        "--prompt"
                        "a"
                        "--out"
                        "o"
                        "--lookahead"
                        "8"
                        "--precision"
                        "bf16"
                        "--memory-budget"
                        "500"
                    ]
                    (fun c -> c.Lookahead = 8 && c.HalfPrecision && c.MemoryBudget = Nullable 500))

            testCase "fid has the defaults of clean-fid, and each choice" (fun () ->
                gives<FidCommand> [ "fid"; "--real"; "a.npy"; "--generated"; "b.npy" ] (fun c ->
                    c.Real = "a.npy"
                    && c.Generated = "b.npy"
                    && isNull c.Extractor
                    && not c.CenterCrop
                    && not c.PreSize.HasValue
                    && (c.PreFilter, c.Resize, c.InputSize, c.Scale, c.Entry) = ("lanczos", "clean", 299, "inception", "auto")
                    && List.ofSeq c.Measures = [ "fid"; "kid"; "neighbours" ]
                    && (c.Subsets, c.SubsetSize, c.Neighbours, c.Seed, c.Batch) = (100, 1000, 3, 0L, 32)
                    && not c.Extrapolate
                    && not c.Limit.HasValue
                    && not c.Workers.HasValue
                    && isNull c.SaveFeatures
                    && not c.Strict
                    && not c.Json)

                let words =
                    "fid --real a --generated b --extractor e.pt --crop center --pre-size 256 --pre-filter bicubic --resize bilinear "
                    + "--input-size 224 --scale unit --entry forward --measures kid fid --subsets 9 --subset-size 50 --neighbours 5 "
                    + "--extrapolate --seed 7 --limit 1000 --batch 8 --workers 2 --save-features kept --strict --json"

                gives<FidCommand> (List.ofArray (words.Split ' ')) (fun c ->
                    c.Extractor = "e.pt"
                    && c.CenterCrop
                    && c.PreSize = Nullable 256
                    && (c.PreFilter, c.Resize, c.InputSize, c.Scale, c.Entry) = ("bicubic", "bilinear", 224, "unit", "forward")
                    && List.ofSeq c.Measures = [ "kid"; "fid" ]
                    && (c.Subsets, c.SubsetSize, c.Neighbours, c.Seed, c.Batch) = (9, 50, 5, 7L, 8)
                    && c.Extrapolate
                    && c.Limit = Nullable 1000
                    && c.Workers = Nullable 2
                    && c.SaveFeatures = "kept"
                    && c.Strict
                    && c.Json))

            testCase "complete takes a prompt or ids" (fun () ->
                gives<CompleteCommand> [ "complete"; "--model"; "m"; "--prompt"; "" ] (fun c ->
                    c.Prompt = "" && isNull (box c.PromptIds) && c.MaxTokens = 100 && not c.Greedy)

                gives<CompleteCommand> [ "complete"; "--model"; "m"; "--prompt-ids"; " 1 2,  3"; "--greedy" ] (fun c ->
                    match c.PromptIds with
                    | null -> false
                    | ids -> isNull c.Prompt && List.ofSeq ids = [ 1; 2; 3 ] && c.Greedy))

            testCase "probe compares with another model" (fun () ->
                gives<ProbeCommand> [ "probe"; "--model"; "m"; "--against"; "n"; "--tasks"; "a.jsonl"; "b.jsonl" ] (fun c ->
                    List.ofSeq c.Against = [ "n" ] && List.ofSeq c.Tasks = [ "a.jsonl"; "b.jsonl" ] && c.MaxTokens = 40)

                gives<ProbeCommand>
                    [
                        yield! "probe --model m --against a b --text t.txt --max-tokens 5".Split ' '
                        "--complete=-x y"
                        yield! "--shots 0 --limit 3 --seed -1 --json".Split ' '
                    ]
                    (fun c ->
                        List.ofSeq c.Against = [ "a"; "b" ]
                        && c.Tasks.Count = 0
                        && List.ofSeq c.Texts = [ "t.txt" ]
                        && List.ofSeq c.Prompts = [ "-x y" ]
                        && (c.MaxTokens, c.Shots, c.Limit, c.Seed) = (5, Nullable 0, Nullable 3, Nullable -1L)
                        && c.Json))

            testCase "align takes a model or tables" (fun () ->
                gives<AlignCommand> [ "align"; "--model"; "m"; "--tokens"; "t"; "--out"; "o" ] (fun c ->
                    (match c.Model with
                     | null -> false
                     | model -> model.Path = "m")
                    && (c.Tokens, c.Out, c.Steps, c.LearningRate, c.Epsilon, c.Seed) = ("t", "o", 1000, 0.01, 1e-6, 0L)
                    && List.ofSeq c.Betas = [ 0.9; 0.98 ]
                    && c.Shuffled
                    && (c.HeldOut, c.Nearest, c.Batch) = (0, 5, Nullable())
                    && isNull (box c.NearestOf)
                    && c.Controls.Count + c.Words.Count = 0)

                let tables = "align --codes c --text-ids i --text-embedding e --initial n --order sequential --betas 0.8 0.9"
                let more = "--batch 64 --steps 60 --learning-rate 0.1 --epsilon 1e-8 --seed 3 --held-out 5 --nearest 2 --json"

                gives<AlignCommand>
                    [
                        yield! (tables + " " + more).Split ' '
                        yield!
                            [ "--control"; "random-text"; "shuffled-captions"; "--codes-of-word"; "red"; "a dog"; "--out"; "o" ]
                        yield! [ "--nearest-of"; "1 2" ]
                    ]
                    (fun c ->
                        isNull (box c.Model)
                        && (c.Codes, c.TextIds, c.TextEmbedding, c.Initial) = ("c", "i", "e", "n")
                        && (c.Batch, c.Steps, c.LearningRate, c.Epsilon) = (Nullable 64, 60, 0.1, 1e-8)
                        && List.ofSeq c.Betas = [ 0.8; 0.9 ]
                        && not c.Shuffled
                        && (c.Seed, c.HeldOut, c.Nearest) = (3L, 5, 2)
                        && List.ofSeq c.Controls = [ "random-text"; "shuffled-captions" ]
                        && List.ofSeq c.Words = [ "red"; "a dog" ]
                        && (match c.NearestOf with
                            | null -> false
                            | codes -> List.ofSeq codes = [ 1; 2 ])
                        && c.Json))
        ]
