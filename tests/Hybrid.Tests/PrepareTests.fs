/// Pictures to codes and back: shards made from pairs, the image command, and a run on shards up to its pictures.
module Hybrid.Tests.PrepareTests

open System
open System.Formats.Tar
open System.IO
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.Running
open TorchSharp

let private codes, patch = 32, 8

/// A small image tokenizer of random weights: 8 × 8 pixels a code, 32 codes.
let private writeTokenizer (path: string) (seed: int64) =
    let config =
        { SceneVqVae.defaults with
            Width = 16L
            InnerWidth = 8L
            DecoderBlocks = 1
            Codes = int64 codes
            CodeWidth = 4L
        }

    let stream = Random.ofSeed seed
    use _ = torch.NewDisposeScope()

    // The codebook is all zeros before training: every picture would get the same codes.
    let tensors =
        [
            for spec in ImageTokenizer.parameters (SceneTokenizer config) do
                let own = Random.named spec.Name stream
                let count = List.fold (*) 1L spec.Shape

                let values = Array.init (int count) (fun i -> float32 (0.2 * Random.normal own (int64 i)))

                struct (spec.Name, torch.tensor(values).reshape(List.toArray spec.Shape))
        ]

    SafeTensorsWriter.Write(path, tensors)
    path

let private png (index: int) : string * byte[] =
    let caption, pixels = World.pair 3L Split.Train (int64 index)
    caption, Pictures.EncodePng(Picture(64, 64, pixels))

let private writeTar (path: string) (members: (string * byte[]) list) =
    use tar = new TarWriter(File.Create path)

    for name, bytes in members do
        tar.WriteEntry(PaxTarEntry(TarEntryType.RegularFile, name, DataStream = new MemoryStream(bytes)))

/// The pair of a number as the members of a tar.
let private pair (index: int) =
    let caption, bytes = png index
    [ $"{index:D6}.png", bytes; $"{index:D6}.txt", Text.Encoding.UTF8.GetBytes caption ]

let private broken (index: int) =
    let caption, bytes = png index
    [ $"{index:D6}.png", bytes[.. bytes.Length / 2]; $"{index:D6}.txt", Text.Encoding.UTF8.GetBytes caption ]

/// Two tars of 5 and 4 pairs, among them a torn picture, one that is text, and one without a caption; both tokenizers.
let private material (folder: Folder) =
    writeTar (folder.At "a.tar") (List.concat [ pair 0; pair 1; broken 2; pair 3; [ "000004.png", snd (png 4) ]; pair 5; pair 6 ])

    writeTar
        (folder.At "b.tar")
        (List.concat [ pair 7; pair 8; [ "000009.png", "no picture"B; "000009.txt", "a"B ]; pair 10; pair 11 ])

    folder.Write("tokenizer.json", WorldVocabulary.tokenizerJson) |> ignore
    writeTokenizer (folder.At "image.safetensors") 1L |> ignore

let private command (folder: Folder) (out: string) : PrepareCommand =
    {
        Input = [| folder.At "a.tar"; folder.At "b.tar" |]
        TextTokenizer = folder.At "tokenizer.json"
        ImageTokenizer = folder.At "image.safetensors"
        Ema = false
        ImageSize = 16
        Out = folder.At out
        Json = false
    }

let private prepare (command: PrepareCommand) =
    use progress = Progress.On(TextWriter.Null, TimeProvider.System)
    PrepareJob.Run(command, progress, CancellationToken.None)

/// Every file of a folder by name, with its bytes.
let private content (folder: string) =
    [
        for path in Directory.EnumerateFiles folder |> Seq.sort do
            string (Path.GetFileName path), Convert.ToHexString(Security.Cryptography.SHA256.HashData(File.ReadAllBytes path))
    ]

let private shards =
    testCase "pairs become shards with their tokenizers beside them; what cannot be read is counted by reason" (fun () ->
        use folder = new Folder()
        material folder
        let outcome = prepare (command folder "shards")
        Expect.equal (outcome.Pairs, outcome.New) (9L, 9L) "pairs"

        Expect.equal
            (outcome.Dropped |> Seq.map (fun drop -> drop.Key, drop.Value) |> Seq.sort |> List.ofSeq)
            [ DropReason.MissingCaption, 1L; DropReason.BadPicture, 2L ]
            "dropped by reason"

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
                { good with ImageSize = 24 }
                { good with ImageTokenizer = folder.At "other.safetensors" }
                { good with TextTokenizer = other }
                { good with Input = [| folder.At "a.tar" |] }
            ] do
            refuses [ folder.At "shards"; "another" ] changed

        Expect.equal (content (folder.At "shards")) before "the shards are as they were"
        let fresh = command folder "fresh"
        refuses [ "--image-size 20"; "multiple of 8" ] { fresh with ImageSize = 20 }
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

let private ints (json: Text.Json.JsonElement) = [ for value in json.EnumerateArray() -> value.GetInt32() ]

let private imageCommand =
    testCase "image encode, decode and reconstruct agree with each other and with the tokenizer" (fun () ->
        use folder = new Folder()
        material folder
        let tokenizer = folder.At "image.safetensors"
        Directory.CreateDirectory(folder.At "pictures") |> ignore

        for i in 0..2 do
            File.WriteAllBytes(folder.At $"pictures/p{i}.png", snd (png i))

        let image action input out =
            result [ "image"; action; "--tokenizer"; tokenizer; "--input"; folder.At input; "--out"; folder.At out ]

        let encoded = image "encode" "pictures" "encoded"
        Expect.equal (ints (encoded.GetProperty "grid")) [ 8; 8 ] "the grid"
        let found = [ for picture in (encoded.GetProperty "codes").EnumerateArray() -> ints picture ]
        use direct = ImageTokenizers.Open tokenizer
        let pixels = [| for i in 0..2 -> Pictures.Decode(ReadOnlyMemory(snd (png i)), "a").Pixels |]
        let expected = direct.Encode(pixels, 64, 64)
        Expect.equal found [ for codes in expected -> List.ofArray codes ] "codes"
        Expect.equal (parsed(File.ReadAllText(folder.At "encoded/codes.json")).ToString()) (encoded.ToString()) "codes.json"
        use array = NpyFile.Open(folder.At "encoded/codes.npy")
        Expect.equal array.Shape [| 3L; 8L; 8L |] "codes.npy"
        let decoded = image "decode" "encoded/codes.npy" "decoded"
        let files = [ for file in (decoded.GetProperty "files").EnumerateArray() -> string (file.GetString()) ]
        Expect.equal (files |> List.map Path.GetFileName) [ for i in 0..2 -> $"codes-000{i}.png" ] "a picture for each grid"
        let back = direct.Decode(expected, 8, 8)
        let rebuilt = image "reconstruct" "pictures" "rebuilt"
        Expect.equal [ for picture in (rebuilt.GetProperty "codes").EnumerateArray() -> ints picture ] found "the same codes"
        let psnr = [ for value in (rebuilt.GetProperty "psnr").EnumerateArray() -> value.GetDouble() ]
        Expect.equal psnr (List.ofArray (PictureTokenizer.Psnr(pixels, back, 64, 64))) "PSNR"

        for i in 0..2 do
            Expect.equal (Pictures.Read files[i]).Pixels back[i] "decoded"
            Expect.equal (Pictures.Read(folder.At $"rebuilt/000{i}-p{i}.png")).Pixels back[i] "reconstructed"

        Expect.isTrue (File.Exists(folder.At "rebuilt/codes.npy")) "reconstruct keeps the codes too")

let private image (folder: Folder) action (inputs: string list) : ImageCommand =
    {
        Action = action
        Tokenizer = folder.At "image.safetensors"
        TokenizerConfig = null
        Ema = false
        HalfPrecision = false
        Batch = 16
        MemoryBudget = Nullable()
        Strict = false
        Input = inputs
        Out = folder.At "out"
        Json = false
    }

let private imageMisfits =
    testCase "codes and pictures that a tokenizer cannot take are refused in a sentence, and nothing is written" (fun () ->
        use folder = new Folder()
        material folder

        let refuses parts action (inputs: string list) =
            fails parts (fun () -> ImageJob.Run(image folder action inputs, CancellationToken.None))

        let codesOf (name: string) (values: int64[]) (shape: int64 list) =
            NpyFile.Write<int64>(folder.At name, ReadOnlyMemory values, List.toArray shape)
            [ folder.At name ]

        let decode = ImageAction.Decode
        refuses [ "high.npy"; "32"; "0 to 31" ] decode (codesOf "high.npy" [| 0L; 1L; 2L; 32L |] [ 1L; 2L; 2L ])
        refuses [ "low.npy"; "-1" ] decode (codesOf "low.npy" [| 0L; 1L; 2L; -1L |] [ 1L; 2L; 2L ])
        refuses [ "far.npy"; "4294967296" ] decode (codesOf "far.npy" [| 0L; 1L; 2L; 4294967296L |] [ 1L; 2L; 2L ])
        refuses [ "flat.npy"; "[3]" ] decode (codesOf "flat.npy" [| 0L; 1L; 2L |] [ 3L ])
        refuses [ "oblong.npy"; "[1, 6]" ] decode (codesOf "oblong.npy" [| 0L .. 5L |] [ 1L; 6L ])
        refuses [ "none.npy"; "no codes" ] decode (codesOf "none.npy" [||] [ 0L; 2L; 2L ])
        NpyFile.Write<float32>(folder.At "halves.npy", ReadOnlyMemory [| 0.5f; 1.0f; 2.0f; 3.0f |], 1L, 2L, 2L)
        refuses [ "halves.npy"; "whole numbers" ] decode [ folder.At "halves.npy" ]
        refuses [ "gone.npy" ] decode [ folder.At "gone.npy" ]
        let encode = ImageAction.Encode
        refuses [ "gone.png" ] encode [ folder.At "gone.png" ]
        refuses [ "tokenizer.json" ] encode [ folder.At "tokenizer.json" ]
        Directory.CreateDirectory(folder.At "empty") |> ignore
        refuses [ "empty"; "no pictures" ] encode [ folder.At "empty" ]
        File.WriteAllBytes(folder.At "small.png", Pictures.EncodePng(Picture(8, 7, Array.zeroCreate (8 * 7 * 3))))
        refuses [ "small.png"; "8 × 7" ] encode [ folder.At "small.png" ]
        Expect.isFalse (Directory.Exists(folder.At "out")) "nothing is written")

let private imageSizes =
    testCase "pictures of several sizes are cut to whole codes, and files of one name make pictures of several" (fun () ->
        use folder = new Folder()
        material folder
        let picture = Pictures.Decode(ReadOnlyMemory(snd (png 0)), "a")
        let write (name: string) picture = File.WriteAllBytes(folder.At name, Pictures.EncodePng picture)
        write "whole.png" picture
        write "cut.png" (Pictures.Crop(picture, 0, 0, 45, 30))
        let inputs = [ folder.At "whole.png"; folder.At "cut.png" ]
        ImageJob.Run(image folder ImageAction.Encode inputs, CancellationToken.None)
        let json = parsed (File.ReadAllText(folder.At "out/codes.json"))
        Expect.equal [ for grid in (json.GetProperty "grids").EnumerateArray() -> ints grid ] [ [ 8; 8 ]; [ 3; 5 ] ] "grids"
        use tokenizer = ImageTokenizers.Open(folder.At "image.safetensors")
        let middle = Pictures.Crop(picture, 2, 3, 40, 24)

        Expect.equal
            (ints ((json.GetProperty "codes")[1]))
            (List.ofArray (tokenizer.Encode([| middle.Pixels |], 24, 40)[0]))
            "the middle is kept"

        for part in [ "a"; "b" ] do
            Directory.CreateDirectory(folder.At part) |> ignore
            NpyFile.Write<int64>(folder.At $"{part}/codes.npy", ReadOnlyMemory [| 0L; 1L; 2L; 3L |], 1L, 4L)

        let both = [ folder.At "a/codes.npy"; folder.At "b/codes.npy" ]
        let out = folder.At "both"
        ImageJob.Run({ image folder ImageAction.Decode both with Out = out }, CancellationToken.None)
        Expect.equal (Directory.GetFiles out).Length 2 "two pictures"

        fails [ "not empty" ] (fun () ->
            ImageJob.Run({ image folder ImageAction.Decode both with Out = out }, CancellationToken.None)))

/// A tokenizer whose pictures are all grey 128.
let private perfect =
    testCase "a picture that comes back without a loss has no PSNR, and that does not break the result" (fun () ->
        use folder = new Folder()
        material folder

        do
            use file = TensorFiles.Open(folder.At "image.safetensors")
            use _ = torch.NewDisposeScope()

            let tensors =
                [
                    for name in file.Entries.Keys do
                        struct (name,
                                (if name.StartsWith "decoder.patch" then
                                     torch.zeros_like (file.Load name)
                                 else
                                     file.Load name))
                ]

            SafeTensorsWriter.Write(folder.At "grey.safetensors", tensors)

        use tokenizer = ImageTokenizers.Open(folder.At "grey.safetensors")
        let grey = tokenizer.Decode([| [| 0 |] |], 1, 1)[0]
        File.WriteAllBytes(folder.At "grey.png", Pictures.EncodePng(Picture(patch, patch, grey)))

        let command =
            { image folder ImageAction.Reconstruct [ folder.At "grey.png" ] with
                Tokenizer = folder.At "grey.safetensors"
            }

        ImageJob.Run(command, CancellationToken.None)
        let json = parsed (File.ReadAllText(folder.At "out/codes.json"))
        let first = json.GetProperty("psnr").EnumerateArray() |> Seq.head
        Expect.equal first.ValueKind Text.Json.JsonValueKind.Null "infinite"
        Expect.equal (json.GetProperty("psnr_mean").ValueKind) Text.Json.JsonValueKind.Null "infinite")

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

let tests =
    TorchLibrary.Load()
    testList "Prepare" [ shards; resumed; refused; indexed; imageCommand; imageMisfits; imageSizes; perfect; toPictures ]
