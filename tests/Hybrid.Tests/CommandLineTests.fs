module Hybrid.Tests.CommandLineTests

open System
open Expecto
open Hybrid

let private parse (line: string list) = CommandLine.parse (Array.ofList line)

let private run (line: string list) : ICommand =
    match parse line with
    | :? RunOutcome as outcome -> outcome.Command
    | :? UsageOutcome as outcome -> failtest $"hybrid {line} was refused: {outcome.Text}"
    | _ -> failtest $"hybrid {line} gave help"

let private usage (line: string list) : string =
    match parse line with
    | :? UsageOutcome as outcome -> outcome.Text
    | outcome -> failtest $"hybrid {line} gave {outcome.GetType().Name}"

let private help (line: string list) : string =
    match parse line with
    | :? HelpOutcome as outcome -> outcome.Text
    | outcome -> failtest $"hybrid {line} gave {outcome.GetType().Name}"

/// Checks a field of the command that a line gives.
let private gives<'command when 'command: not null> (line: string list) (check: 'command -> bool) =
    match box (run line) with
    | :? 'command as command -> Expect.isTrue (check command) $"{line} gave {command}"
    | command -> failtest $"{line} gave a {command.GetType().Name}"

/// What a script or a manual may rely on. A change here is a change of the program's face.
let private frozen =
    [
        "study",
        [
            "--preset smoke|tiny|paper"
            "--config F"
            "--out DIR"
            "--resume auto"
            "--dry-run"
            "--seed N"
            "--parallel N"
            "--json"
        ]
        "prepare",
        [
            "--input PATH..."
            "--image-root DIR"
            "--text-tokenizer F"
            "--image-tokenizer PATH"
            "--ema"
            "--precision fp32|bf16"
            "--image-size N"
            "--reducing-gap G"
            "--captions first|all"
            "--max-text-tokens N"
            "--long-text truncate|drop"
            "--pairs-per-shard N"
            "--workers N"
            "--strict"
            "--out DIR"
            "--json"
        ]
        "train", [ "--config F"; "--set KEY VALUE"; "--out DIR"; "--resume auto|must|PATH"; "--json" ]
        "evaluate",
        [
            "--model PATH"
            "--model-config F"
            "--text-rows N"
            "--image-codes K"
            "--tokens PATH"
            "--details"
            "--against PATH"
            "--against-config F"
            "--grid H W"
            "--sequences N"
            "--json"
        ]
        "generate",
        [
            "--model DIR"
            "--prompt TEXT..."
            "--prompts-file F"
            "--count N"
            "--temperature T"
            "--top-k K"
            "--top-p P"
            "--cfg C..."
            "--seed S"
            "--lookahead W"
            "--precision fp32|bf16"
            "--memory-budget MB"
            "--out DIR"
            "--json"
        ]
        "complete",
        [
            "--model PATH"
            "--model-config F"
            "--text-rows N"
            "--image-codes K"
            "--prompt TEXT"
            "--prompt-ids \"1 2 3\""
            "--greedy"
            "--max-tokens N"
            "--json"
        ]
        "probe",
        [
            "--model PATH"
            "--model-config F"
            "--text-rows N"
            "--image-codes K"
            "--against PATH..."
            "--tasks F..."
            "--text F..."
            "--complete TEXT..."
            "--max-tokens N"
            "--shots K"
            "--limit N"
            "--seed S"
            "--json"
        ]
        "align",
        [
            "--model PATH"
            "--tokens PATH"
            "--model-config F"
            "--text-rows N"
            "--image-codes K"
            "--codes F"
            "--text-ids F"
            "--text-embedding F"
            "--initial F"
            "--tokenizer F"
            "--batch N"
            "--steps N"
            "--learning-rate R"
            "--betas A B"
            "--epsilon E"
            "--order sequential|shuffled"
            "--seed S"
            "--held-out N"
            "--control shuffled-captions|random-text..."
            "--nearest N"
            "--nearest-of \"1 2 3\""
            "--codes-of-word TEXT..."
            "--out DIR"
            "--json"
        ]
        "tokenize", [ "--tokenizer F"; "--text S"; "--file F"; "--decode \"1 2 3\""; "--special"; "--json" ]
        "image",
        [
            "encode|decode|reconstruct|train"
            "--tokenizer PATH"
            "--tokenizer-config F"
            "--ema"
            "--precision fp32|bf16"
            "--batch N"
            "--memory-budget MB"
            "--strict"
            "--input PATH..."
            "--kind vqvae|movq"
            "--image-size N"
            "--codes K"
            "--steps N"
            "--config F"
            "--set KEY VALUE"
            "--resume auto"
            "--out DIR"
            "--json"
        ]
        "fid",
        [
            "--real PATH"
            "--generated PATH"
            "--extractor F"
            "--crop none|center"
            "--pre-size N"
            "--pre-filter lanczos|bicubic|bilinear"
            "--resize clean|lanczos|bilinear|none"
            "--input-size N"
            "--scale inception|symmetric|unit|bytes"
            "--entry auto|forward|layers|features"
            "--measures fid|kid|neighbours..."
            "--subsets N"
            "--subset-size N"
            "--neighbours K"
            "--extrapolate"
            "--seed S"
            "--limit N"
            "--batch N"
            "--workers N"
            "--save-features DIR"
            "--strict"
            "--json"
        ]
        "convert",
        [
            "--from PATH"
            "--from-config F"
            "--text-rows N"
            "--image-codes K"
            "--to DIR"
            "--format hf|open_lm|hybrid"
            "--dtype keep|fp32|bf16|fp16"
            "--shard-size SIZE"
            "--json"
        ]
        "bench",
        [
            "prepare|train|generate|load"
            "--text-tokenizer F"
            "--text F..."
            "--image-tokenizer PATH"
            "--pictures PATH..."
            "--image-size N"
            "--threads N"
            "--seconds S"
            "--size small|tiny|160m|1b"
            "--model PATH"
            "--model-config F"
            "--batch N"
            "--micro-batch N"
            "--positions N"
            "--precision bf16|fp32"
            "--steps N"
            "--checkpointing none|selective|full"
            "--profile"
            "--tokens PATH"
            "--new N"
            "--prompt-length N"
            "--top-k K"
            "--guidance G"
            "--lookahead W"
            "--json"
        ]
        "inspect", [ "PATH"; "--json" ]
        "report", [ "RUN..."; "--out F"; "--watch"; "--port N"; "--smoothing B"; "--json" ]
        "doctor", [ "--json" ]
    ]

let private parsing =
    testList
        "parsing"
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

            testCase "tokenize goes both ways" (fun () ->
                gives<TokenizeCommand> [ "tokenize"; "--tokenizer"; "t"; "--text=--- a=b"; "--special" ] (fun c ->
                    c.Text = "--- a=b" && c.Special && isNull (box c.Decode))

                gives<TokenizeCommand> [ "tokenize"; "--tokenizer"; "t"; "--decode"; "5 6" ] (fun c ->
                    match c.Decode with
                    | null -> false
                    | ids -> List.ofSeq ids = [ 5; 6 ]))

            testCase "image takes its action in any place" (fun () ->
                for action, expected in
                    [ "encode", ImageAction.Encode; "decode", ImageAction.Decode; "reconstruct", ImageAction.Reconstruct ] do
                    gives<ImageCommand> [ "image"; action; "--tokenizer"; "v"; "--input"; "a.png"; "--out"; "o" ] (fun c ->
                        c.Action = expected))

            testCase "convert takes a source, a target and a form" (fun () ->
                for word, format in
                    [ "hf", ModelFormat.HuggingFace; "open_lm", ModelFormat.OpenLm; "hybrid", ModelFormat.Hybrid ] do
                    gives<ConvertCommand> [ "convert"; "--from"; "a"; "--to"; "b"; "--format"; word ] (fun c ->
                        c.From.Path = "a"
                        && isNull c.From.Config
                        && c.To = "b"
                        && c.Format = format
                        && c.ElementType = "keep"
                        && c.ShardSize = 5_000_000_000L)

                for size, bytes in
                    [ "7", 7L; "10KB", 10_000L; "3 mb", 3_000_000L; "2GB", 2_000_000_000L; "1GiB", 1L <<< 30; "5B", 5L ] do
                    gives<ConvertCommand>
                        [ "convert"; "--from"; "a"; "--to"; "b"; "--format=hf"; "--dtype=bf16"; "--shard-size"; size ]
                        (fun c -> c.ShardSize = bytes && c.ElementType = "bf16"))

            testCase "image computes as asked, and as usual where it is not" (fun () ->
                let words = [ "image"; "encode"; "--tokenizer"; "v"; "--input"; "a.png"; "--out"; "o" ]

                gives<ImageCommand> words (fun c ->
                    not c.Ema && not c.HalfPrecision && not c.Strict && c.Batch = 16 && not c.MemoryBudget.HasValue)

                gives<ImageCommand>
                    (words @ [ "--ema"; "--precision"; "bf16"; "--batch"; "3"; "--memory-budget"; "500"; "--strict" ])
                    (fun c -> c.Ema && c.HalfPrecision && c.Strict && c.Batch = 3 && c.MemoryBudget = Nullable 500))

            testCase "image train puts its options in the place of configuration keys, before --set" (fun () ->
                gives<ImageTrainCommand>
                    [
                        "image"
                        "train"
                        "--input"
                        "a.tar"
                        "b"
                        "--set"
                        "batch.pictures"
                        "8"
                        "--steps"
                        "10"
                        "--kind"
                        "movq"
                        "--codes"
                        "64"
                        "--image-size"
                        "32"
                        "--out"
                        "o"
                        "--resume"
                        "auto"
                    ]
                    (fun c ->
                        List.ofSeq c.Input = [ "a.tar"; "b" ]
                        && [ for pair in c.Set -> pair.Key, pair.Value ] =
                            [
                                "kind", "movq"
                                "imageSize", "32"
                                "model.codes", "64"
                                "schedule.steps", "10"
                                "batch.pictures", "8"
                            ]
                        && isNull c.Config
                        && c.Resume
                        && not c.Json))

            testCase "bench load makes its own shards or takes some" (fun () ->
                gives<BenchLoadCommand> [ "bench"; "load" ] (fun c ->
                    isNull c.Tokens && (c.Length, c.Batch, c.Seconds) = (1152, 8, 5.0) && not c.Threads.HasValue && not c.Json)

                gives<BenchLoadCommand>
                    [
                        yield! [ "bench"; "load"; "--tokens"; "shards"; "--positions"; "96"; "--batch"; "32" ]
                        yield! [ "--threads"; "3"; "--seconds"; "0.5"; "--json" ]
                    ]
                    (fun c ->
                        c.Tokens = "shards"
                        && (c.Length, c.Batch, c.Seconds) = (96, 32, 0.5)
                        && c.Threads = Nullable 3
                        && c.Json))

            testCase "bench measures what inputs are given for" (fun () ->
                gives<BenchPrepareCommand> [ "bench"; "prepare" ] (fun c ->
                    isNull c.TextTokenizer && c.Text.Count + c.Pictures.Count = 0 && not c.Threads.HasValue && c.Seconds = 5.0)

                gives<BenchPrepareCommand>
                    [
                        "bench"
                        "prepare"
                        "--text-tokenizer"
                        "t"
                        "--text"
                        "a"
                        "b"
                        "--text"
                        "c"
                        "--threads"
                        "2"
                        "--seconds"
                        "0.5"
                    ]
                    (fun c ->
                        c.TextTokenizer = "t"
                        && List.ofSeq c.Text = [ "a"; "b"; "c" ]
                        && c.Threads = Nullable 2
                        && c.Seconds = 0.5))

            testCase "bench train takes a size or a model" (fun () ->
                gives<BenchTrainCommand> [ "bench"; "train" ] (fun c ->
                    isNull c.Shape.Size
                    && isNull (box c.Shape.Model)
                    && c.Shape.HalfPrecision
                    && c.Steps = 8
                    && c.Checkpointing = "none"
                    && not c.Batch.HasValue
                    && not c.Profile)

                gives<BenchTrainCommand>
                    [
                        yield! [ "bench"; "train"; "--size"; "160m"; "--batch"; "4"; "--micro-batch"; "2"; "--positions"; "64" ]
                        yield!
                            [
                                "--precision"
                                "fp32"
                                "--steps"
                                "3"
                                "--threads"
                                "1"
                                "--checkpointing"
                                "full"
                                "--profile"
                                "--json"
                            ]
                    ]
                    (fun c ->
                        c.Shape.Size = "160m"
                        && (c.Batch, c.MicroBatch, c.Shape.Positions, c.Threads) =
                            (Nullable 4, Nullable 2, Nullable 64, Nullable 1)
                        && not c.Shape.HalfPrecision
                        && c.Steps = 3
                        && c.Checkpointing = "full"
                        && c.Profile
                        && c.Json)

                Expect.stringContains
                    (usage [ "bench"; "train"; "--text"; "a" ])
                    "--text belongs to prepare, not to train."
                    "an option of another measurement")

            testCase "bench generate measures a shape, or a model" (fun () ->
                gives<BenchGenerateCommand> [ "bench"; "generate" ] (fun c ->
                    isNull c.Shape.Size
                    && isNull (box c.Shape.Model)
                    && c.Shape.HalfPrecision
                    && not c.Batch.HasValue
                    && not c.New.HasValue
                    && c.PromptLength = 16
                    && c.TopK = 100
                    && c.Guidance = 1.0
                    && c.Lookahead = 1
                    && not c.Threads.HasValue)

                let words = "bench generate --size 160m --batch 2 --new 8 --prompt-length 4 --precision fp32"

                gives<BenchGenerateCommand>
                    (List.ofArray ((words + " --top-k 5 --guidance 3 --lookahead 4 --threads 1").Split ' '))
                    (fun c ->
                        c.Shape.Size = "160m"
                        && not c.Shape.HalfPrecision
                        && c.Batch = Nullable 2
                        && c.New = Nullable 8
                        && c.PromptLength = 4
                        && c.TopK = 5
                        && c.Guidance = 3.0
                        && c.Lookahead = 4
                        && c.Threads = Nullable 1)

                gives<BenchGenerateCommand> [ "bench"; "generate"; "--model"; "m"; "--model-config"; "c" ] (fun c ->
                    match c.Shape.Model with
                    | null -> false
                    | model -> model.Path = "m" && model.Config = "c"))

            testCase "a text may be spelled like an option" (fun () ->
                for text in [ "--json"; "--help"; "-h"; "--text"; "-"; "--"; "\001"; "--text=a" ] do
                    gives<TokenizeCommand> [ "tokenize"; "--tokenizer"; "t"; "--text=" + text ] (fun c ->
                        c.Text = text && not c.Json)

                    gives<CompleteCommand> [ "complete"; "--model"; "m"; "--prompt=" + text ] (fun c ->
                        c.Prompt = text && not c.Json)

                    gives<GenerateCommand> [ "generate"; "--model"; "m"; "--prompt=" + text; "--out"; "o" ] (fun c ->
                        List.ofSeq c.Prompts = [ text ] && not c.Json))

            testCase "inspect takes a path" (fun () ->
                gives<InspectCommand> [ "inspect"; "--json"; "runs/a" ] (fun c -> c.Path = "runs/a" && c.Json))

            testCase "report takes any number of runs" (fun () ->
                gives<ReportCommand> [ "report"; "a"; "b"; "--out"; "o"; "c=d" ] (fun c ->
                    List.ofSeq c.Runs = [ "a"; "b"; "c=d" ]
                    && c.Out = "o"
                    && not c.Watch
                    && not c.Port.HasValue
                    && c.Smoothing = 0.95)

                gives<ReportCommand> [ "report"; "--watch"; "--port"; "8000"; "--smoothing"; "0"; "--out"; "o"; "a" ] (fun c ->
                    List.ofSeq c.Runs = [ "a" ] && c.Watch && c.Port = Nullable 8000 && c.Smoothing = 0.0))

            testCase "doctor takes nothing" (fun () -> gives<DoctorCommand> [ "doctor" ] (fun c -> not c.Json))

            testCase "--key=value is --key value, whatever the value holds" (fun () ->
                gives<InspectCommand> [ "inspect"; "a=b" ] (fun c -> c.Path = "a=b")

                gives<CompleteCommand> [ "complete"; "--model=a=b"; "--prompt=--two\nlines" ] (fun c ->
                    c.Model.Path = "a=b" && c.Prompt = "--two\nlines"))
        ]

/// Command lines that are wrong, and what the answer must say.
let private wrong =
    [
        [ "stduy" ], [ "There is no command stduy. Did you mean study?"; "See: hybrid --help" ]
        [ "algin" ], [ "There is no command algin. Did you mean align?" ]
        [ "align"; "--out"; "o" ], [ "hybrid align needs one of --model, --codes." ]
        [ "align"; "--codes"; "c"; "--text-ids"; "t"; "--out"; "o" ],
        [ "--codes and --text-ids are given without --text-embedding: they go together." ]
        [ "align"; "--model"; "m"; "--codes"; "c"; "--out"; "o" ], [ "--model and --codes exclude each other" ]
        [
            yield! [ "align"; "--model"; "m"; "--out"; "o"; "--batch"; "1"; "--betas"; "0.9"; "1"; "--order"; "random" ]
            yield! [ "--control"; "shuffled"; "--nearest-of"; "a" ]
        ],
        [
            "--batch needs a whole number of at least 2, but was given '1'."
            "--betas needs a number from 0 to 0.999999999, but was given '1'."
            "--order needs one of sequential, shuffled"
            "--control needs one of shuffled-captions, random-text"
            "--nearest-of needs token ids"
        ]
        [ "probe"; "--model"; "m" ], [ "hybrid probe needs at least one of --tasks, --text, --complete." ]
        [ "--vresion" ], [ "There is no option --vresion. Did you mean --version?" ]
        [ "evaluate" ],
        [ "hybrid evaluate needs --model PATH"; "hybrid evaluate needs --tokens PATH"; "See: hybrid evaluate --help" ]
        [ "complete"; "--modle"; "m"; "--prompt"; "a" ], [ "There is no option --modle. Did you mean --model?" ]
        [ "complete"; "--max_tokens=3"; "--model"; "m"; "--prompt"; "a" ],
        [ "There is no option --max_tokens. Did you mean --max-tokens?" ]
        [ "study"; "--preset"; "tny" ], [ "--preset needs one of smoke, tiny, paper, but was given 'tny'. Did you mean tiny?" ]
        [ "study"; "--resume"; "must" ], [ "--resume needs auto, but was given 'must'." ]
        [ "study"; "--seed"; "1.5" ], [ "--seed needs a whole number, but was given '1.5'." ]
        [ "study"; "--seed"; "1"; "--seed"; "2" ], [ "--seed is given more than once." ]
        [ "study"; "--json=true" ], [ "--json takes no value." ]
        [ "study"; "--out"; "" ], [ "--out needs DIR, but was given nothing." ]
        [ "study"; "tiny" ], [ "'tiny' belongs to no option." ]
        [ "study"; "--out" ], [ "--out needs DIR." ]
        [ "study"; "--out"; "--json" ],
        [ "--out needs DIR, but --json follows. A value that begins with - is written --out=VALUE." ]
        [ "train"; "--config"; "c"; "--out"; "o"; "--set"; "a" ], [ "--set needs KEY VALUE." ]
        [ "prepare"; "--input"; "a"; "--text-tokenizer"; "t"; "--image-size"; "8"; "--out"; "o" ],
        [ "--image-size is given without --image-tokenizer: they go together." ]
        [ "prepare"; "--input"; "--out"; "o" ], [ "--input needs PATH..., but --out follows." ]
        [ "fid"; "--real"; "a"; "--resize"; "cubic"; "--measures"; "fid"; "is"; "--limit"; "1" ],
        [
            "hybrid fid needs --generated PATH"
            "--resize needs one of clean, lanczos, bilinear, none"
            "--measures needs one of fid, kid, neighbours, but was given 'is'"
            "--limit needs a whole number of at least 2"
        ]
        [ "generate"; "--model"; "m"; "--out"; "o" ], [ "hybrid generate needs one of --prompt, --prompts-file." ]
        [ "generate"; "--model"; "m"; "--prompt"; "a"; "--prompts-file"; "f"; "--out"; "o" ],
        [ "--prompt and --prompts-file exclude each other" ]
        [ "generate"; "--model"; "m"; "--prompt"; "a"; "--out"; "o"; "--top-p"; "0" ],
        [ "--top-p needs a number above 0 and at most 1, but was given '0'." ]
        [ "generate"; "--model"; "m"; "--prompt"; "a"; "--out"; "o"; "--count"; "0"; "--cfg"; "NaN" ],
        [
            "--count needs a whole number of at least 1, but was given '0'."
            "--cfg needs a number of at least 0, but was given 'NaN'."
        ]
        [ "generate"; "--model"; "m"; "--prompt"; "a"; "--out"; "o"; "--count"; "9999999999" ], [ "--count needs a whole number" ]
        [ "complete"; "--model"; "m" ], [ "hybrid complete needs one of --prompt, --prompt-ids." ]
        [ "complete"; "--model"; "m"; "--prompt"; "a"; "--prompt-ids"; "1" ], [ "--prompt and --prompt-ids exclude each other" ]
        [ "complete"; "--model"; "m"; "--prompt-ids"; "1 -2" ], [ "--prompt-ids needs token ids such as \"1 2 3\"" ]
        [ "complete"; "--model"; "m"; "--prompt-ids"; " " ], [ "--prompt-ids needs token ids" ]
        [ "evaluate"; "--model"; "m"; "--tokens"; "t"; "--text-rows"; "3" ],
        [ "--text-rows is given without --image-codes: they go together." ]
        [
            "evaluate"
            "--model"
            "m"
            "--tokens"
            "t"
            "--against-config"
            "f"
            "--grid"
            "2"
            "2"
            "--sequences"
            "1"
        ],
        [
            "--against-config goes only with --against."
            "--grid goes only with --details."
            "--sequences goes only with --details."
        ]
        [ "evaluate"; "--model"; "m"; "--tokens"; "t"; "--details"; "--grid"; "2"; "0" ],
        [ "--grid needs a whole number from 1 to 16384, but was given '0'." ]
        [ "evaluate"; "--model"; "m"; "--tokens"; "t"; "--details"; "--grid"; "2" ], [ "--grid needs H W." ]
        [ "convert"; "--from"; "a"; "--to"; "b"; "--format"; "hg"; "--shard-size"; "5 TB" ],
        [
            "--format needs one of hf, open_lm, hybrid, but was given 'hg'. Did you mean hf?"
            "--shard-size needs a size such as 5GB or 500MB, but was given '5 TB'."
        ]
        [ "convert"; "--from"; "a"; "--to"; "b"; "--format"; "hf"; "--shard-size"; "0" ], [ "--shard-size needs a size" ]
        [ "convert"; "--from"; "a"; "--to"; "b"; "--format"; "hf"; "--shard-size"; "99999999999GB" ],
        [ "--shard-size needs a size" ]
        [ "convert" ],
        [
            "hybrid convert needs --from PATH"
            "hybrid convert needs --to DIR"
            "hybrid convert needs --format hf|open_lm|hybrid"
        ]
        [ "image"; "encod"; "--tokenizer"; "v"; "--input"; "a"; "--out"; "o" ],
        [
            "The first word must be one of encode, decode, reconstruct, train, but was given 'encod'. Did you mean encode?"
        ]
        [ "bench"; "load"; "--text"; "a" ], [ "--text belongs to prepare, not to load." ]
        [ "bench"; "load"; "--positions"; "0" ], [ "--positions" ]
        [ "image"; "--tokenizer"; "v"; "--input"; "a"; "--out"; "o" ], [ "hybrid image needs encode|decode|reconstruct|train" ]
        [ "image"; "encode"; "--input"; "a"; "--out"; "o" ], [ "hybrid image encode needs --tokenizer PATH" ]
        [ "image"; "decode"; "--tokenizr"; "v"; "--input"; "a"; "--out"; "o"; "--steps"; "3"; "--resume"; "auto" ],
        [
            "There is no option --tokenizr. Did you mean --tokenizer?"
            "--steps belongs to train, not to decode."
            "--resume belongs to train, not to decode."
        ]
        [ "image"; "train"; "--tokenizer"; "v"; "--out"; "o"; "--kind"; "moqv" ],
        [
            "--tokenizer belongs to encode, decode, reconstruct, not to train."
            "--kind needs one of vqvae, movq, but was given 'moqv'. Did you mean movq?"
            "hybrid image needs --input PATH..."
        ]
        [ "bench"; "generate"; "--pictures"; "p"; "--lookahead"; "0" ],
        [
            "--lookahead needs a whole number from 1 to 1024, but was given '0'."
            "--pictures belongs to prepare, not to generate."
        ]
        [ "report"; "--out"; "o" ], [ "hybrid report needs RUN..." ]
        [ "report"; "a"; "" ], [ "A word must be RUN, but was given nothing."; "hybrid report needs --out F" ]
        [ "report"; "a"; "--out"; "o"; "--port"; "0" ], [ "--port needs a whole number from 1 to 65535, but was given '0'." ]
        [ "report"; "a"; "--out"; "o"; "--smoothing"; "1" ], [ "--smoothing needs a number from 0 to 0.99, but was given '1'." ]
        [ "inspect" ], [ "hybrid inspect needs PATH" ]
        [ "inspect"; "a"; "b" ], [ "'b' belongs to no option." ]
        [ "tokenize"; "--tokenizer=--json"; "--text=a" ], [ "--tokenizer"; "See: hybrid tokenize --help" ]
    ]

let private flagOf (option: string) = (option.Split ' ')[0]

let tests =
    testList
        "CommandLine"
        [
            parsing

            testList
                "wrong use"
                [
                    for line, sentences in wrong do
                        testCase ("hybrid " + String.Join(' ', line)) (fun () ->
                            let text = usage line

                            for sentence in sentences do
                                Expect.stringContains text sentence "the answer says it")
                ]

            testCase "one mistake gives one sentence" (fun () ->
                for line in [ [ "complete"; "--modle"; "m"; "--prompt"; "a" ]; [ "study"; "--out" ]; [ "inspect" ] ] do
                    Expect.hasLength ((usage line).Split '\n') 2 $"{line}: a sentence and where to look")

            testCase "the commands and their options are frozen" (fun () ->
                Expect.equal (List.ofSeq CommandLine.commands) (List.map fst frozen) "commands"

                for command, options in frozen do
                    Expect.equal (List.ofSeq (CommandLine.options command)) options command)

            testCase "hybrid alone says what to do first and lists every command" (fun () ->
                let text = help []
                Expect.stringContains text "hybrid study" "the main job"

                for command in CommandLine.commands do
                    Expect.stringContains text $"\n  {command} " command

                for line in [ [ "--help" ]; [ "-h" ]; [ "help" ] ] do
                    Expect.equal (help line) text $"{line}")

            testCase "the help of a command names its options and gives an example" (fun () ->
                for command, options in frozen do
                    let text = help [ command; "--help" ]
                    Expect.equal (help [ "help"; command ]) text "both ways"
                    let example = text.Substring(text.IndexOf "Example:")
                    Expect.stringContains example $"  hybrid {command}" "example"

                    for option in options do
                        Expect.stringContains text $"\n  {option}" command)

            testCase "the examples parse" (fun () ->
                for command in CommandLine.commands do
                    let text = help [ command; "--help" ]
                    let example = text.Substring(text.IndexOf "Example:" + 8).Replace("\\\n", " ")

                    let words =
                        example.Split '"'
                        |> Array.mapi (fun i part ->
                            if i % 2 = 1 then
                                [| part |]
                            else
                                part.Split([| ' '; '\n' |], StringSplitOptions.RemoveEmptyEntries))
                        |> Array.concat
                        |> List.ofArray

                    run (List.tail words) |> ignore)

            testCase "help fits 80 columns" (fun () ->
                for text in help [] :: [ for command in CommandLine.commands -> help [ command; "--help" ] ] do
                    for line in text.Split '\n' do
                        Expect.isLessThanOrEqual line.Length 80 line)

            testCase "help wins over mistakes" (fun () ->
                Expect.stringContains (help [ "train"; "--nonsense"; "--help" ]) "hybrid train" "help")

            testCase "--version is one line" (fun () ->
                Expect.equal (help [ "--version" ]) $"hybrid {CommandLine.version}" "version"
                Expect.isTrue (Char.IsDigit CommandLine.version[0]) CommandLine.version)

            testCase "every option is spelled in one way only" (fun () ->
                for command, options in frozen do
                    let flags = options |> List.map flagOf
                    Expect.equal (List.distinct flags) flags command
                    Expect.contains flags "--json" command)

            testProperty "no words make the parser fail" (fun (seed: int) ->
                let vocabulary =
                    [|
                        for command, options in frozen do
                            command
                            yield! options |> List.map flagOf
                        "--"
                        "-"
                        "="
                        ""
                        "--="
                        "1 2"
                        "-1"
                        "nan"
                        "--out=x"
                        "--set=a"
                        "a=b"
                        "--help="
                        "-h=1"
                        "ü"
                    |]

                let stream = Random.ofSeed (int64 seed)
                let count = Random.below 8 stream 0L

                let words = [ for i in 1..count -> vocabulary[Random.below vocabulary.Length stream (int64 i)] ]

                match parse words with
                | :? UsageOutcome as outcome -> outcome.Text.Contains "See: hybrid"
                | :? HelpOutcome as outcome -> outcome.Text <> ""
                | :? RunOutcome as outcome -> not (isNull (box outcome.Command))
                | _ -> false)
        ]
