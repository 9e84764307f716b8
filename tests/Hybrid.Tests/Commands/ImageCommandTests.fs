/// The image command: pictures to codes and back.
module Hybrid.Tests.ImageCommandTests

open System
open System.IO
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.PrepareSupport
open Hybrid.Tests.Running
open TorchSharp

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
        Expect.equal psnr [ for quality in PictureMeasures.Quality(pixels, back, 64, 64) -> quality.Psnr ] "PSNR"

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

let tests =
    TorchLibrary.Load()
    testList "ImageCommand" [ imageCommand; imageMisfits; imageSizes; perfect ]
