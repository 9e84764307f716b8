/// What command lines become: tokenize, image, convert, bench, inspect, report, doctor; and how values are spelled.
module Hybrid.Tests.CommandParsingMoreTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.CommandLineRunning

let tests =
    testList
        "CommandLine tokenize to doctor"
        [
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

            testCase "soak takes a number of faults or of minutes" (fun () ->
                gives<SoakCommand> [ "soak"; "--faults"; "50"; "--out"; "o" ] (fun c ->
                    c.Out = "o"
                    && c.FaultCount = Nullable 50
                    && not c.Minutes.HasValue
                    && c.Ranks = 1
                    && c.Seed = 0L
                    && isNull c.Config
                    && not c.Keep)

                gives<SoakCommand>
                    [ "soak"; "--minutes"; "0.5"; "--ranks"; "4"; "--seed"; "-3"; "--config"; "f"; "--keep"; "--out"; "o" ]
                    (fun c -> c.Minutes = Nullable 0.5 && c.Ranks = 4 && c.Seed = -3L && c.Config = "f" && c.Keep)

                Expect.stringContains (usage [ "soak"; "--out"; "o" ]) "one of --minutes, --faults" "neither"

                Expect.stringContains
                    (usage [ "soak"; "--out"; "o"; "--minutes"; "1"; "--faults"; "1" ])
                    "exclude each other"
                    "both")

            testCase "doctor takes nothing" (fun () -> gives<DoctorCommand> [ "doctor" ] (fun c -> not c.Json))

            testCase "--key=value is --key value, whatever the value holds" (fun () ->
                gives<InspectCommand> [ "inspect"; "a=b" ] (fun c -> c.Path = "a=b")

                gives<CompleteCommand> [ "complete"; "--model=a=b"; "--prompt=--two\nlines" ] (fun c ->
                    c.Model.Path = "a=b" && c.Prompt = "--two\nlines"))
        ]
