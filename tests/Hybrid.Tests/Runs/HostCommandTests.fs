/// The program from end to end: configurations, results for machines, models that do not fit, the forms of data.
module Hybrid.Tests.HostCommandTests

open System
open System.IO
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport

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
            let code, output, _ = ended (started [ "HYBRID_LIBTORCH", value ] [ "doctor" ])
            code, output

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

let private mcNemar =
    testCase "McNemar's exact test" (fun () ->
        Expect.floatClose Accuracy.high (Intervals.McNemar(0, 0)) 1.0 "no pair differs"
        Expect.floatClose Accuracy.high (Intervals.McNemar(1, 9)) (2.0 * 11.0 / 1024.0) "1 of 10"
        Expect.floatClose Accuracy.high (Intervals.McNemar(9, 1)) (2.0 * 11.0 / 1024.0) "9 of 10"
        Expect.floatClose Accuracy.high (Intervals.McNemar(5, 5)) 1.0 "5 of 10")

let tests =
    TorchLibrary.Load()

    testList "HostCommands" [ configurations; machines; misfits; library; openLmTars; shards; mcNemar ]
