/// Shards made from pairs, and a run on shards up to its pictures.
module Hybrid.Tests.PrepareTests

open System
open System.IO
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.PrepareSupport
open Hybrid.Tests.Running
open TorchSharp

let private shards =
    testCase "pairs become shards with their tokenizers beside them; what cannot be read is counted by reason" (fun () ->
        use folder = new Folder()
        material folder
        let outcome = prepare (command folder "shards")
        Expect.equal (outcome.Pairs, outcome.New) (9L, 9L) "pairs"

        Expect.equal (drops outcome) [ DropReason.MissingCaption, 1L; DropReason.BadPicture, 2L ] "dropped by reason"

        use reader = ShardReader.Open(folder.At "shards")
        reader.Verify()
        Expect.equal reader.Count 9L "pairs of the shards"
        Expect.equal (reader.Info.GridHeight, reader.Info.GridWidth, reader.Info.ImageVocabulary) (2, 2, codes) "the grid"
        use tokenizer = ImageTokenizers.Open(folder.At "image.safetensors")
        let mutable text = 0L

        for place, index in Seq.indexed [ 0; 1; 3; 5; 6; 7; 8; 10; 11 ] do
            let caption, bytes = png index
            let struct (ids, found) = reader.Pair(int64 place)
            text <- text + int64 ids.Length
            Expect.equal ids (WorldVocabulary.encode caption) "the caption's ids"
            let small = Pictures.CentreCropResize(Pictures.Decode(bytes, "a"), 16)
            Expect.equal found (tokenizer.Encode([| small.Pixels |], 16, 16)[0]) "the picture's codes"

        Expect.equal outcome.TextTokens text "text tokens"
        Expect.equal outcome.ImageTokens 36L "image tokens"

        Expect.isGreaterThan
            (Set.count (set [ for i in 0L .. 8L -> let struct (_, found) = reader.Pair i in found ]))
            4
            "pictures differ"

        Expect.equal
            (content (folder.At "shards") |> List.map fst)
            [
                "dropped.jsonl"
                "image_tokenizer.safetensors"
                "manifest.jsonl"
                "prepare.json"
                "shard-00000-000000.safetensors"
                "shard-00001-000000.safetensors"
                "tokenizer.json"
            ]
            "files"

        Expect.equal (File.ReadAllText(folder.At "shards/tokenizer.json")) WorldVocabulary.tokenizerJson "the text tokenizer"
        use beside = TensorFiles.Open(folder.At "shards/image_tokenizer.safetensors")
        Expect.equal (beside.Metadata["grid_height"], beside.Metadata["grid_width"]) ("2", "2") "the grid in its metadata"
        use copy = ImageTokenizers.Open(folder.At "shards")
        let _, bytes = png 0
        let whole = Pictures.Decode(bytes, "a").Pixels
        Expect.equal (copy.Encode([| whole |], 64, 64)) (tokenizer.Encode([| whole |], 64, 64)) "the copy gives the same codes")

let private resumed =
    testCase "a stopped preparation goes on where it was; the result is the same to the byte" (fun () ->
        use folder = new Folder()
        material folder
        let whole = prepare (command folder "whole")
        let again = prepare (command folder "again")
        let comparable (out: string) = content (folder.At out)
        Expect.equal (comparable "again") (comparable "whole") "deterministic"
        Expect.equal again.New 9L "all new"

        // As a stop after the first source leaves it: one line in the manifest, and a shard that was not finished.
        let manifest = folder.At "again/manifest.jsonl"
        File.WriteAllText(manifest, (File.ReadAllLines manifest)[0] + "\n")
        File.Delete(folder.At "again/shard-00001-000000.safetensors")
        let resumed = prepare (command folder "again")
        Expect.equal (comparable "again") (comparable "whole") "resumed = uninterrupted"
        Expect.equal (resumed.New, resumed.Pairs) (4L, 9L) "only the second source is new"
        Expect.equal (resumed.TextTokens, resumed.ImageTokens) (whole.TextTokens, whole.ImageTokens) "tokens of all pairs"
        Expect.equal (List.ofSeq resumed.Dropped) (List.ofSeq whole.Dropped) "what was dropped before is remembered"
        Expect.equal (prepare (command folder "again")).New 0L "nothing is left to do"

        // A shard that stands there without a line in the manifest is made again, not believed.
        File.WriteAllText(manifest, (File.ReadAllLines manifest)[0] + "\n")
        File.WriteAllText(folder.At "again/shard-00001-000000.safetensors", "torn")
        File.Delete(folder.At "again/image_tokenizer.safetensors")
        prepare (command folder "again") |> ignore
        Expect.equal (comparable "again") (comparable "whole") "made again"

        use stop = new CancellationTokenSource()
        stop.Cancel()

        Expect.throwsT<OperationCanceledException>
            (fun () ->
                use progress = Progress.On(TextWriter.Null, TimeProvider.System)
                PrepareJob.Run(command folder "stopped", progress, stop.Token) |> ignore)
            "stopped"

        Expect.isEmpty (Directory.GetFiles(folder.At "stopped", "*shard*")) "no shard, nor a part of one"
        prepare (command folder "stopped") |> ignore
        Expect.equal (comparable "stopped") (comparable "whole") "and it goes on")

let private refused =
    testCase "shards of another size, tokenizer or input are not mixed, and what makes no sense is refused" (fun () ->
        use folder = new Folder()
        material folder
        let good = command folder "shards"
        prepare good |> ignore
        let before = content (folder.At "shards")
        writeTokenizer (folder.At "other.safetensors") 2L |> ignore

        let other = folder.Write("other.json", WorldVocabulary.tokenizerJson + "\n")

        let refuses (parts: string list) (command: PrepareCommand) = fails parts (fun () -> prepare command |> ignore)

        for changed in
            [
                { good with ImageSize = Nullable 24 }
                { good with ImageTokenizer = folder.At "other.safetensors" }
                { good with TextTokenizer = other }
                { good with Input = [| folder.At "a.tar" |] }
            ] do
            refuses [ folder.At "shards"; "another" ] changed

        Expect.equal (content (folder.At "shards")) before "the shards are as they were"
        let fresh = command folder "fresh"
        refuses [ "--image-size 20"; "multiple of 8" ] { fresh with ImageSize = Nullable 20 }
        refuses [ folder.At "gone.tar" ] { fresh with Input = [| folder.At "gone.tar" |] }
        refuses [ folder.At "gone.json" ] { fresh with TextTokenizer = folder.At "gone.json" }
        refuses [ folder.At "gone.pt" ] { fresh with ImageTokenizer = folder.At "gone.pt" }
        refuses [ "a.tar"; "twice" ] { fresh with Input = [| folder.At "a.tar"; folder.At "b.tar"; folder.At "./a.tar" |] }
        Expect.isFalse (Directory.Exists(folder.At "fresh")) "nothing is written"
        folder.Write("note.txt", "mine") |> ignore
        refuses [ "not empty" ] { good with Out = folder.At "." })

/// A tokenizer in two files that an index lists, as large checkpoints are kept.
let private indexed =
    testCase "a tokenizer in several files is taken as one" (fun () ->
        use folder = new Folder()
        material folder
        let whole = prepare (command folder "whole")
        Directory.CreateDirectory(folder.At "parts") |> ignore

        do
            use file = TensorFiles.Open(folder.At "image.safetensors")
            use _ = torch.NewDisposeScope()
            let tensors = [ for name in file.Entries.Keys -> struct (name, file.Load name) ]

            for part, number in tensors |> List.splitInto 2 |> Seq.zip <| [ 1; 2 ] do
                SafeTensorsWriter.Write(folder.At $"parts/model-{number}.safetensors", part)

            let places =
                [
                    for number, part in Seq.indexed (List.splitInto 2 tensors) do
                        for struct (name, _) in part do
                            $"\"{name}\": \"model-{number + 1}.safetensors\""
                ]

            folder.Write("parts/model.safetensors.index.json", $$"""{ "weight_map": { {{String.concat ", " places}} } }""")
            |> ignore

        let parts = { command folder "from-parts" with ImageTokenizer = folder.At "parts" }
        Expect.equal (prepare parts).Pairs whole.Pairs "pairs"
        Expect.equal (prepare parts).New 0L "known again"
        use a = ShardReader.Open(folder.At "whole")
        use b = ShardReader.Open(folder.At "from-parts")

        for i in 0L .. a.Count - 1L do
            Expect.equal (b.Pair i) (a.Pair i) "the same pairs")

let private toPictures =
    testCase "a run on shards longer than its model's positions draws pictures and goes on with captions" (fun () ->
        use folder = new Folder()
        material folder
        prepare (command folder "shards") |> ignore
        let words = WorldVocabulary.words.Length

        folder.Write(
            "model.json",
            $$"""{ "hidden_dim": 16, "n_layers": 1, "n_heads": 2, "seq_len": 8, "vocab_size": {{words}}, "post_embed_norm": false, "weight_tying": false }"""
        )
        |> ignore

        folder.Write(
            "train.json",
            $$"""{ "model": { "config": "model.json" }, "vocabulary": { "textRows": {{words}}, "imageCodes": {{codes}} },
                   "data": { "train": ["shards"], "length": 40 }, "optimizer": { "learningRate": 1e-3 },
                   "schedule": { "steps": 2 }, "batch": { "sequences": 2 } }"""
        )
        |> ignore

        let run = folder.At "run"
        result [ "train"; "--config"; folder.At "train.json"; "--out"; run ] |> ignore
        let losses = result [ "evaluate"; "--model"; run; "--tokens"; folder.At "shards" ]
        Expect.isGreaterThan (losses.GetProperty("loss").GetProperty("image").GetDouble()) 0.0 "an image loss"
        let captions = [ "a red circle"; "a small blue star on sand" ]
        let out = folder.At "drawn"
        let drawn = result ([ "generate"; "--model"; run; "--count"; "2"; "--out"; out; "--prompt" ] @ captions)

        for file in (drawn.GetProperty "files").EnumerateArray() do
            let picture = Pictures.Read(string (file.GetString()))
            Expect.equal (picture.Width, picture.Height) (16, 16) "as large as the shards' pictures"

        Expect.equal ((drawn.GetProperty "files").GetArrayLength()) 4 "two for each caption"
        let completed = result [ "complete"; "--model"; run; "--prompt"; "a red"; "--greedy"; "--max-tokens"; "5" ]
        Expect.isLessThanOrEqual ((completed.GetProperty "ids").GetArrayLength()) 5 "no more than asked for")

let private options =
    testCase "every option of the command line arrives" (fun () ->
        let line =
            "prepare --input a --image-root r --text-tokenizer t --image-tokenizer v --image-size 256 --reducing-gap 1 --captions all "
            + "--max-text-tokens 77 --long-text drop --pairs-per-shard 9 --workers 3 --strict --out o --json"

        match CommandLine.parse (line.Split ' ') with
        | :? RunOutcome as run ->
            let given = run.Command :?> PrepareCommand

            Expect.equal
                given
                {
                    Input = given.Input
                    ImageRoot = "r"
                    TextTokenizer = "t"
                    ImageTokenizer = "v"
                    Ema = false
                    HalfPrecision = false
                    ImageSize = Nullable 256
                    ReducingGap = Nullable 1.0
                    AllCaptions = true
                    MaxTextTokens = Nullable 77
                    DropLongText = true
                    PairsPerShard = 9
                    Workers = Nullable 3
                    Strict = true
                    Out = "o"
                    Json = true
                }
                "the command"
        | _ -> failtest "it was refused")

let tests =
    TorchLibrary.Load()
    testList "Prepare" [ shards; options; resumed; refused; indexed; toPictures ]
