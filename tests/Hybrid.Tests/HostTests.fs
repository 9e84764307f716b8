/// The program from end to end: configurations, runs that stop and go on, checkpoints that are torn, models that do not fit.
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

let private textRows, codes, length = 24, 9, 16
let private vocabulary: Vocabulary = { TextRows = textRows; ImageCodes = codes }

let private description (rows: int) =
    $$"""{ "hidden_dim": 16, "n_layers": 2, "n_heads": 2, "seq_len": 32, "vocab_size": {{rows}}, "post_embed_norm": false, "weight_tying": false }"""

/// Captioned sequences with seeded captions and codes.
let private sequences (seed: int64) (count: int) : int64[][] =
    [|
        for i in 0 .. count - 1 do
            let stream = Random.ofSeed seed |> Random.numbered (int64 i)
            let caption = Array.init (Random.below 5 stream 0L) (fun k -> Random.below textRows stream (int64 k + 1L))
            let picture = Array.init 4 (fun k -> Random.below codes stream (int64 k + 100L))
            Sequence.compose vocabulary Captioned length caption picture
    |]

let private writeTokens (path: string) (rows: int64[][]) =
    NpyFile.Write<int64>(path, ReadOnlyMemory(Array.concat rows), int64 rows.Length, int64 rows[0].Length)

/// A model's description, tokens and a configuration with its changes; the configuration's path.
let private prepare (folder: Folder) (changes: string) : string =
    folder.Write("model.json", description textRows) |> ignore
    writeTokens (folder.At "train.npy") (sequences 1L 20)
    writeTokens (folder.At "held.npy") (sequences 2L 6)

    folder.Write(
        "run-config.json",
        $$"""{ "model": { "config": "model.json" }, "vocabulary": { "textRows": {{textRows}}, "imageCodes": {{codes}} },
             "data": { "train": ["train.npy"], "heldOut": ["held.npy"] },
             "optimizer": { "learningRate": 0.01 }, "schedule": { "steps": 12, "warmupSteps": 2 },
             "batch": { "sequences": 4, "microBatch": 2 }, "checkpoint": { "everySteps": 5 }{{changes}} }"""
    )

let private plan (config: string) = TrainJob.ReadPlan(config, [])

let private run (config: string) (out: string) (resume: string | null) =
    use progress = Progress.On(TextWriter.Null, TimeProvider.System)
    TrainJob.Run(plan config, out, resume, CancellationToken.None, progress)

let private bytes (outcome: TrainOutcome) (name: string) = File.ReadAllBytes(Path.Combine(outcome.Checkpoint, name))

let private sameModel (a: TrainOutcome) (b: TrainOutcome) =
    Expect.isTrue (bytes a "model.safetensors" = bytes b "model.safetensors") "weights are equal bit for bit"
    Expect.isTrue (bytes a "optimizer.safetensors" = bytes b "optimizer.safetensors") "moments are equal bit for bit"

/// The losses that metrics.jsonl holds, by step.
let private losses (outcome: TrainOutcome) =
    File.ReadAllLines(Path.Combine(outcome.Run, "metrics.jsonl"))
    |> Array.map (fun line ->
        use document = JsonDocument.Parse line
        (document.RootElement.GetProperty "step").GetInt32(), (document.RootElement.GetProperty "loss").GetDouble())

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
        Expect.equal resolved.Json (plan (folder.At "run-config.json")).Json "run.json is the resolved configuration"
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

let private configurations =
    testCase "every error of a configuration is named at once, with exit code 2 and nothing written" (fun () ->
        use folder = new Folder()
        prepare folder "" |> ignore

        let bad =
            folder.Write(
                "bad.json",
                """{ "model": {}, "vocabulary": { "textRows": 0, "imageCodes": 9 }, "data": { "train": [], "ordr": "x" },
                     "optimizer": { "learningRate": "fast" }, "schedule": { "steps": 12 }, "batch": { "sequences": 4 }, "sed": 1 }"""
            )

        let code, output, errors = program [ "train"; "--config"; bad; "--out"; folder.At "run"; "--json" ]
        Expect.equal code 2 "exit code"
        Expect.equal output "" "nothing on stdout"

        for key in [ "model:"; "vocabulary.textRows"; "data.train"; "data.ordr"; "optimizer.learningRate"; "sed" ] do
            Expect.stringContains errors key "every key is named"

        Expect.isFalse (Directory.Exists(folder.At "run")) "nothing is written"

        let absent =
            folder.Write("absent.json", File.ReadAllText(folder.At "run-config.json").Replace("train.npy", "gone.npy"))

        let code, _, errors = program [ "train"; "--config"; absent; "--out"; folder.At "run" ]
        Expect.equal code 2 "exit code"
        Expect.stringContains errors "gone.npy" "the missing file is named"
        Expect.isFalse (errors.Contains "   at ") "no stack trace")

let private machines =
    testCase "with --json every command gives one object and nothing else" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""

        let result (arguments: string list) =
            let code, output, errors = program (arguments @ [ "--json" ])
            Expect.equal code 0 errors
            parsed output

        let trained = result [ "train"; "--config"; config; "--out"; folder.At "run"; "--set"; "schedule.steps"; "3" ]
        Expect.equal ((trained.GetProperty "steps").GetInt32()) 3 "--set is put in"
        let evaluated = result [ "evaluate"; "--model"; folder.At "run"; "--tokens"; folder.At "held.npy" ]
        let loss = evaluated.GetProperty "loss"
        let count = evaluated.GetProperty "count"
        let value (from: JsonElement) (key: string) = (from.GetProperty key).GetDouble()

        let weighted = [ "text"; "image"; "structure" ] |> List.sumBy (fun kind -> value loss kind * value count kind)

        Expect.floatClose Accuracy.high (value loss "total" * value count "total") weighted "the parts add up to the whole"

        let completed =
            result [ "complete"; "--model"; folder.At "run"; "--prompt-ids"; "1 2 3"; "--greedy"; "--max-tokens"; "5" ]

        Expect.equal ((completed.GetProperty "ids").GetArrayLength()) 5 "ids"
        let inspected = result [ "inspect"; folder.At "run" ]
        Expect.equal ((inspected.GetProperty "step").GetInt32()) 3 "step"
        let doctor = result [ "doctor" ]
        Expect.isTrue ((doctor.GetProperty "ok").GetBoolean()) "the machine is well"

        let code, output, errors =
            program [ "evaluate"; "--model"; folder.At "run"; "--tokens"; folder.At "gone.npy"; "--json" ]

        Expect.equal (code, output) (1, "") "a failure leaves stdout empty"
        Expect.stringContains errors "gone.npy" "what is missing is named")

let private misfits =
    testCase "weights that do not fit a description: every missing, unexpected and mis-shaped tensor is named" (fun () ->
        use folder = new Folder()
        let outcome = run (prepare folder "") (folder.At "run") null
        let other = (description vocabulary.Rows).Replace("\"n_layers\": 2", "\"n_layers\": 3")

        let wrong =
            folder.Write(
                "wrong.json",
                other.Replace("\"hidden_dim\": 16", "\"hidden_dim\": 20").Replace("\"post", "\"qk_norm\": true, \"post")
            )

        fails
            [
                "missing: layers.2.attention.in_proj.weight"
                "missing: layers.0.attention.q_norm.weight"
                "tok_embeddings.weight is [40, 16], must be [40, 20]"
            ]
            (fun () -> (ModelFiles.Open(Path.Combine(outcome.Checkpoint, "model.safetensors"), wrong)).Dispose())

        let short =
            folder.Write("short.json", (description vocabulary.Rows).Replace("\"n_layers\": 2", "\"n_layers\": 1"))

        fails [ "unexpected: layers.1.ffn_norm.weight" ] (fun () ->
            (ModelFiles.Open(Path.Combine(outcome.Checkpoint, "model.safetensors"), short)).Dispose()))

let private library =
    testCase "a libtorch folder that is none, or beside the build's own, is refused in a sentence" (fun () ->
        use folder = new Folder()

        let with' (value: string) =
            let start = ProcessStartInfo("dotnet", RedirectStandardOutput = true, RedirectStandardError = true)
            start.ArgumentList.Add(Path.Combine(AppContext.BaseDirectory, "hybrid.dll"))
            start.ArgumentList.Add "doctor"
            start.Environment["HYBRID_LIBTORCH"] <- value

            match Process.Start start with
            | null -> failtest "the program did not start"
            | running ->
                use running = running
                let output = running.StandardOutput.ReadToEnd()
                running.WaitForExit()
                running.ExitCode, output

        let code, output = with' (folder.At "none")
        Expect.equal code 1 "exit code"
        Expect.stringContains output "not a folder" "the folder is missing"
        Expect.stringContains output "-p:Torch=external" "and the mend is named"
        let code, output = with' (folder.At ".")
        Expect.equal code 1 "exit code"
        Expect.stringContains output "holds no" "the library is missing")

let private openLmTars =
    testCase "open_lm's tars are read as open_lm reads them" (fun () ->
        use folder = new Folder()
        let path = folder.At "shard-0000000.tar"

        do
            use tar = new Formats.Tar.TarWriter(File.Create path)

            let add (name: string) (content: byte[]) =
                let entry = Formats.Tar.PaxTarEntry(Formats.Tar.TarEntryType.RegularFile, name)
                entry.DataStream <- new MemoryStream(content)
                tar.WriteEntry entry

            add "000000000000.txt" "[5, 6, '<|endoftext|>', 7]"B
            add "000000000001.json" "[1, 2, -1, -2]"B

            use packed = new MemoryStream()

            do
                use gzip = new Compression.GZipStream(packed, Compression.CompressionLevel.Fastest, true)
                gzip.Write(ReadOnlySpan "[9, 8, 7, 6]"B)

            add "000000000002.json.gz" (packed.ToArray())

        let text: Vocabulary = { TextRows = 50; ImageCodes = 0 }
        let openTar () = TokenData.Open([| path |], text, PairComposer(null, text))
        use source = openTar ()

        Expect.equal
            [ for i in 0L .. source.Count - 1L -> source.Row(i, i) ]
            [ [| 5L; 6L; 0L; 7L |]; [| 1L; 2L; 49L; 48L |]; [| 9L; 8L; 7L; 6L |] ]
            "tokens"

        let whole = File.ReadAllBytes path
        File.WriteAllBytes(path, whole[..700])
        fails [ path ] (fun () -> (openTar ()).Dispose()))

let private shards =
    testCase "a run on token shards is the run on their composed sequences; long captions lose their ends" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""

        let pairs =
            [|
                for i in 0..19 do
                    let stream = Random.ofSeed 5L |> Random.numbered (int64 i)
                    let draw below first count = Array.init count (fun k -> Random.below below stream (int64 (first + k)))
                    draw textRows 1 (Random.below 9 stream 0L), draw codes 100 4
            |]

        do
            let info = ShardInfo(textRows, codes, 2, 2, 8, "centre", "00", "11")
            use writer = new ShardWriter(ShardManifest.Create(folder.At "shards"), info, 7)

            for caption, picture in pairs do
                writer.Add(ReadOnlySpan caption, ReadOnlySpan picture)

            writer.Finish()

        let limit = Sequence.captionLimit length 4
        Expect.exists pairs (fun (caption, _) -> caption.Length > limit) "some captions are too long"

        writeTokens
            (folder.At "train.npy")
            [|
                for caption, picture in pairs ->
                    Sequence.compose vocabulary Captioned length (Array.truncate limit caption) picture
            |]

        let ready = run config (folder.At "ready") null

        let onShards = File.ReadAllText(config).Replace("\"train.npy\"]", $"\"shards\"], \"length\": {length}")

        let composed = run (folder.Write("shards.json", onShards)) (folder.At "composed") null
        sameModel ready composed
        let tooLong = pairs |> Seq.filter (fun (caption, _) -> caption.Length > limit) |> Seq.length

        Expect.equal
            (File.ReadAllLines(folder.At "composed/log.txt")
             |> Seq.filter _.Contains($"{tooLong} of 20 captions are longer than the {limit} tokens")
             |> Seq.length)
            1
            "the log says once how many"

        use source = TokenData.Open([| folder.At "shards" |], vocabulary, PairComposer(null, vocabulary))
        let longest = pairs |> Array.map (fun (caption, _) -> caption.Length) |> Array.max
        Expect.equal source.Length (longest + 4 + 6) "evaluation takes captions whole"

        let small: Vocabulary = { TextRows = textRows; ImageCodes = codes - 1 }

        fails [ $"{codes} image codes" ] (fun () ->
            (TokenData.Open([| folder.At "shards" |], small, PairComposer(null, small))).Dispose()))

let private interrupted =
    testCase "Ctrl-C saves and ends with 130" (fun () ->
        if OperatingSystem.IsWindows() then
            skiptest "there is no kill command here"

        use folder = new Folder()
        let config = prepare folder ""
        let start = ProcessStartInfo("dotnet", RedirectStandardOutput = true, RedirectStandardError = true)

        for argument in
            [
                Path.Combine(AppContext.BaseDirectory, "hybrid.dll")
                "train"
                "--config"
                config
                "--out"
                folder.At "run"
                "--json"
                "--set"
                "schedule.steps"
                "100000000"
            ] do
            start.ArgumentList.Add argument

        start.Environment["HYBRID_THREADS"] <- "1"

        match Process.Start start with
        | null -> failtest "the program did not start"
        | running ->
            use running = running
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
                parsed (
                    File.ReadAllText(Path.Combine((Checkpoints(folder.At "run").Newest() |> nonNull).Directory, "state.json"))
                )

            let last = File.ReadLines(folder.At "run/metrics.jsonl") |> Seq.last |> parsed

            Expect.equal
                ((last.GetProperty "step").GetInt32() + 1)
                ((state.GetProperty "step").GetInt32())
                "the last step is saved")

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
        Expect.stringContains (File.ReadAllText(folder.At "run/log.txt")) "failed: the gradient was not finite" "the log says so")

let private mcNemar =
    testCase "McNemar's exact test" (fun () ->
        Expect.floatClose Accuracy.high (Intervals.McNemar(0, 0)) 1.0 "no pair differs"
        Expect.floatClose Accuracy.high (Intervals.McNemar(1, 9)) (2.0 * 11.0 / 1024.0) "1 of 10"
        Expect.floatClose Accuracy.high (Intervals.McNemar(9, 1)) (2.0 * 11.0 / 1024.0) "9 of 10"
        Expect.floatClose Accuracy.high (Intervals.McNemar(5, 5)) 1.0 "5 of 10")

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
            configurations
            machines
            misfits
            library
            openLmTars
            shards
            interrupted
            notFinite
            mcNemar
        ]
