/// Pictures of every kind of file against Pillow's reading of them, and files that claim more than they hold.
module Hybrid.Tests.PictureFormatTests

open System
open System.Buffers.Binary
open System.IO
open System.Security.Cryptography
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport

let private hash (bytes: byte[]) = Convert.ToHexStringLower(SHA256.HashData bytes)

/// Small files that Pillow wrote (or that were put together by hand), each with the size and hash of the pixels that Pillow
/// reads from it: first frame, orientation applied, composed on white.
let private kinds =
    File.ReadAllLines(Path.Combine(__SOURCE_DIRECTORY__, "pictures.jsonl"))
    |> Array.map (fun line ->
        use json = JsonDocument.Parse line
        let root = json.RootElement.Clone()
        let text (name: string) = string (root.GetProperty(name).GetString())

        testCase (text "name") (fun () ->
            let picture = Pictures.Decode(ReadOnlyMemory(Convert.FromBase64String(text "bytes")), "the picture")

            Expect.equal
                (picture.Width, picture.Height)
                (root.GetProperty("width").GetInt32(), root.GetProperty("height").GetInt32())
                "size"

            Expect.equal (hash picture.Pixels) (text "sha256") "pixels"))
    |> List.ofArray

/// What Pillow's resize(…, BICUBIC, reducing_gap=…) makes of the square below: side, size, gap, and how the hash begins.
let private gaps =
    [
        203, 16, 1.0, "3170e5eb8d625e22"
        203, 16, 1.5, "3af85092d7515a76"
        203, 16, 3.0, "e6ccd5d6bb52ca57"
        203, 64, 1.0, "211bd36605dffbf0"
        203, 64, 1.5, "bcaffad175284764"
        203, 64, 3.0, "546e00e4cbcbe496"
        203, 96, 1.0, "1bef8da1e625ca3f"
        203, 96, 1.5, "30b0cb48f2a4da74"
        203, 96, 3.0, "30b0cb48f2a4da74"
        256, 16, 1.0, "958d0ce19c3299dc"
        256, 16, 1.5, "301569025944c00f"
        256, 16, 3.0, "1e2cf338225d3deb"
        256, 64, 1.0, "17fd37c5c5c4b16d"
        256, 64, 1.5, "24ad8d62081c152a"
        256, 64, 3.0, "f213afcb1fe4a3b0"
        256, 96, 1.0, "9869d9e4b4deea34"
        256, 96, 1.5, "f8f2a78cbb860085"
        256, 96, 3.0, "f8f2a78cbb860085"
    ]

let private reducing =
    testCase "a reducing gap gives what Pillow's gives" (fun () ->
        for side, size, gap, expected in gaps do
            let pixels =
                [|
                    for y in 0 .. side - 1 do
                        for x in 0 .. side - 1 do
                            for c in 0..2 -> byte ((x * 7 + y * 13 + c * 50 + (x * y) % 31 + x / 20 * 40) &&& 255)
                |]

            let made = Pictures.CentreCropResize(Picture(side, side, pixels), size, Nullable gap)
            let found = hash made.Pixels
            Expect.equal found[..15] expected $"{side} to {size}, gap {gap}")

let private big (value: int) =
    let bytes = Array.zeroCreate 4
    BinaryPrimitives.WriteInt32BigEndian(Span bytes, value)
    bytes

let private little (value: int) =
    let bytes = Array.zeroCreate 4
    BinaryPrimitives.WriteInt32LittleEndian(Span bytes, value)
    bytes

let private crc (bytes: byte[]) =
    let mutable crc = 0xFFFFFFFFu

    for b in bytes do
        crc <- crc ^^^ uint32 b

        for _ in 1..8 do
            crc <- if crc &&& 1u = 1u then (crc >>> 1) ^^^ 0xEDB88320u else crc >>> 1

    big (int (~~~crc))

/// A PNG of one grey, whole or with as much of its content as is wanted.
let private png (width: int) (height: int) (rows: int) =
    let chunk (name: string) (content: byte[]) =
        let body = Array.append (Text.Encoding.ASCII.GetBytes name) content
        Array.concat [ big content.Length; body; crc body ]

    use packed = new MemoryStream()

    do
        use zlib = new Compression.ZLibStream(packed, Compression.CompressionLevel.Fastest, true)
        let row = Array.zeroCreate<byte>(1 + width)

        for _ in 1..rows do
            zlib.Write(row, 0, row.Length)

    Array.concat
        [
            [| 0x89uy; 0x50uy; 0x4Euy; 0x47uy; 13uy; 10uy; 26uy; 10uy |]
            chunk "IHDR" (Array.concat [ big width; big height; [| 8uy; 0uy; 0uy; 0uy; 0uy |] ])
            chunk "IDAT" (packed.ToArray())
            chunk "IEND" [||]
        ]

let private bombs =
    testCase "small files that claim large pictures are refused before they cost memory" (fun () ->
        use bitmap = new SkiaSharp.SKBitmap(16, 16)
        let encoded format = bitmap.Encode(format, 90).ToArray()
        let jpeg, webp = encoded SkiaSharp.SKEncodedImageFormat.Jpeg, encoded SkiaSharp.SKEncodedImageFormat.Webp

        let frame = seq { 0 .. jpeg.Length - 2 } |> Seq.find (fun i -> jpeg[i] = 0xFFuy && jpeg[i + 1] = 0xC0uy)
        let hugeJpeg = Array.copy jpeg
        Array.blit [| 0xEAuy; 0x60uy; 0xEAuy; 0x60uy |] 0 hugeJpeg (frame + 5) 4

        // 14 bits each of width and height in VP8's frame header.
        let start =
            seq { 0 .. webp.Length - 3 }
            |> Seq.tryFind (fun i -> webp[i] = 0x9Duy && webp[i + 1] = 0x01uy && webp[i + 2] = 0x2Auy)

        let gif =
            Array.concat
                [
                    "GIF89a"B
                    [| 0x60uy; 0xEAuy; 0x60uy; 0xEAuy; 0x80uy; 0uy; 0uy; 0uy; 0uy; 0uy; 255uy; 255uy; 255uy |]
                    [| 0x2Cuy; 0uy; 0uy; 0uy; 0uy; 0x60uy; 0xEAuy; 0x60uy; 0xEAuy; 0uy; 2uy; 2uy; 0x44uy; 1uy; 0uy; 0x3Buy |]
                ]

        let bmp =
            Array.concat
                [
                    "BM"B
                    little 70
                    little 0
                    little 54
                    little 40
                    little 60000
                    little 60000
                    [| 1uy; 0uy; 24uy; 0uy |]
                    Array.zeroCreate 24
                    Array.zeroCreate 16
                ]

        let huge =
            [
                "PNG", png 60000 60000 1
                "a whole PNG of 100 megapixels", png 10000 10000 10000
                "PNG within the limit, without content", png 9000 9000 1
                "JPEG", hugeJpeg
                match start with
                | Some at ->
                    let bytes = Array.copy webp
                    Array.blit [| 0xFFuy; 0x3Fuy; 0xFFuy; 0x3Fuy |] 0 bytes (at + 3) 4
                    "WebP", bytes
                | None -> ()
                "GIF", gif
                "BMP", bmp
            ]

        Expect.isTrue (start.IsSome) "the WebP's header was found"

        for name, bytes in huge do
            let before = Environment.WorkingSet

            try
                Pictures.Decode(ReadOnlyMemory bytes, name) |> ignore
                failtest $"{name} was decoded"
            with :? InputException as refusal ->
                Expect.isTrue
                    (refusal.Message.Contains "million"
                     || refusal.Message.Contains "can hold"
                     || refusal.Message.Contains "not a JPEG")
                    refusal.Message

            Expect.isLessThan (Environment.WorkingSet - before) 100_000_000L $"{name}: memory")

let private damaged =
    let animated =
        lazy
            (File.ReadAllLines(Path.Combine(__SOURCE_DIRECTORY__, "pictures.jsonl"))
             |> Array.map (fun line ->
                 use json = JsonDocument.Parse line

                 string (json.RootElement.GetProperty("name").GetString()),
                 Convert.FromBase64String(string (json.RootElement.GetProperty("bytes").GetString())))
             |> dict)

    [
        for name, extension in
            [
                "animated gif", ".gif"
                "animated webp", ".webp"
                "palette bmp", ".bmp"
                "turned by EXIF png", ".png"
                "Adobe YCCK jpg", ".jpg"
            ] ->
            damagedFilesAreRefused
                $"a damaged {extension} is read or refused, nothing else"
                extension
                (fun () -> animated.Value[name])
                (fun path -> Pictures.Read path |> ignore)
    ]

let tests = testList "PictureFormats" (kinds @ [ reducing; bombs ] @ damaged)
