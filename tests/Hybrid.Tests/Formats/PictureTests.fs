module Hybrid.Tests.PictureTests

open System
open System.IO
open System.Text.Json
open Expecto
open FsCheck
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open SkiaSharp

let private randomPicture (width: int) (height: int) (seed: int) : Picture =
    let stream = Random.ofSeed (int64 seed)
    Picture(width, height, Array.init (width * height * 3) (fun i -> byte (Random.bits stream (int64 i))))

let private encode (color: SKColorType) (width: int) (height: int) (pixels: byte[]) (format: SKEncodedImageFormat) : byte[] =
    use bitmap = new SKBitmap(SKImageInfo(width, height, color, SKAlphaType.Unpremul))
    Runtime.InteropServices.Marshal.Copy(pixels, 0, bitmap.GetPixels(), pixels.Length)
    use data = bitmap.Encode(format, 100)
    data.ToArray()

let private decode (bytes: byte[]) : Picture = Pictures.Decode(ReadOnlyMemory bytes, "the picture")

let private pixel (picture: Picture) x y =
    let at = 3 * (y * picture.Width + x)
    int picture.Pixels[at], int picture.Pixels[at + 1], int picture.Pixels[at + 2]

/// A JPEG whose left half is dark and whose top right corner is bright, with an EXIF orientation.
let private oriented (orientation: int) : byte[] =
    let pixels =
        [|
            for y in 0..15 do
                for x in 0..31 do
                    let value =
                        if x < 16 then 0uy
                        elif y < 8 then 250uy
                        else 120uy

                    yield! [| value; value; value; 255uy |]
        |]

    let jpeg = encode SKColorType.Rgba8888 32 16 pixels SKEncodedImageFormat.Jpeg

    let exif =
        [|
            0xFFuy
            0xE1uy
            0uy
            34uy
            yield! "Exif\000\000"B
            yield! "II*\000"B
            yield!
                [|
                    8uy
                    0uy
                    0uy
                    0uy
                    1uy
                    0uy
                    0x12uy
                    0x01uy
                    3uy
                    0uy
                    1uy
                    0uy
                    0uy
                    0uy
                    byte orientation
                    0uy
                    0uy
                    0uy
                    0uy
                    0uy
                    0uy
                    0uy
                |]
        |]

    Array.concat [ jpeg[..1]; exif; jpeg[2..] ]

/// An 8 × 8 JPEG of one colour in Adobe's inverted CMYK, put together by hand: no encoder here writes one.
let private cmykRed: byte[] =
    [|
        yield! [| 0xFFuy; 0xD8uy |]
        yield! [| 0xFFuy; 0xEEuy; 0uy; 14uy |]
        yield! "Adobe"B
        yield! [| 0uy; 100uy; 0uy; 0uy; 0uy; 0uy; 0uy |]
        yield! [| 0xFFuy; 0xDBuy; 0uy; 67uy; 0uy |]
        yield! Array.create 64 8uy
        yield! [| 0xFFuy; 0xC0uy; 0uy; 20uy; 8uy; 0uy; 8uy; 0uy; 8uy; 4uy |]
        for channel in 1uy .. 4uy do
            yield! [| channel; 0x11uy; 0uy |]
        // DC codes: 00 for seven bits, 01 for eight; AC code: 0 for the end of the block.
        yield! [| 0xFFuy; 0xC4uy; 0uy; 21uy; 0x00uy; 0uy; 2uy; yield! Array.zeroCreate 14; 7uy; 8uy |]
        yield! [| 0xFFuy; 0xC4uy; 0uy; 20uy; 0x10uy; 1uy; yield! Array.zeroCreate 15; 0uy |]
        yield! [| 0xFFuy; 0xDAuy; 0uy; 14uy; 4uy |]
        for channel in 1uy .. 4uy do
            yield! [| channel; 0uy |]
        yield! [| 0uy; 63uy; 0uy |]
        // C and K: 00 1111111 0 (value 255, no ink); M and Y: 01 01111111 0 (value 0, full ink).
        let bits = "00" + "1111111" + "0" + "01" + "01111111" + "0" + "01" + "01111111" + "0" + "00" + "1111111" + "0"
        let padded = bits.PadRight((bits.Length + 7) / 8 * 8, '1')

        for i in 0..8 .. padded.Length - 8 do
            let value = Convert.ToByte(padded.Substring(i, 8), 2)
            yield value

            if value = 0xFFuy then
                yield 0uy

        yield! [| 0xFFuy; 0xD9uy |]
    |]

let private refusedWith (bytes: byte[]) (part: string) : unit =
    Expect.stringContains (refusal (fun () -> decode bytes |> ignore)) part "the reason"

let tests =
    testList
        "Pictures"
        [
            testProperty "a PNG gives back its pixels" (fun (seed: int) (width: byte) (height: byte) ->
                let picture = randomPicture (1 + int width % 40) (1 + int height % 40) seed
                let back = decode (Pictures.EncodePng picture)
                Expect.equal (back.Width, back.Height) (picture.Width, picture.Height) "size"
                Expect.equal back.Pixels picture.Pixels "pixels")

            testCase "transparency is composed on white" (fun () ->
                let rgba = [| 10uy; 20uy; 30uy; 255uy; 10uy; 20uy; 30uy; 0uy; 0uy; 100uy; 255uy; 128uy |]
                let picture = decode (encode SKColorType.Rgba8888 3 1 rgba SKEncodedImageFormat.Png)
                Expect.equal (pixel picture 0 0) (10, 20, 30) "opaque"
                Expect.equal (pixel picture 1 0) (255, 255, 255) "transparent"
                Expect.equal (pixel picture 2 0) (127, 177, 255) "half")

            testCase "greyscale, WebP and CMYK" (fun () ->
                let grey = Array.create 256 77uy
                let jpeg = decode (encode SKColorType.Gray8 16 16 grey SKEncodedImageFormat.Jpeg)
                Expect.equal (pixel jpeg 5 5) (77, 77, 77) "grey JPEG"
                let png = decode (encode SKColorType.Gray8 16 16 grey SKEncodedImageFormat.Png)
                Expect.equal (pixel png 5 5) (77, 77, 77) "grey PNG"

                let red =
                    [|
                        for _ in 1..256 do
                            yield! [| 200uy; 30uy; 30uy; 255uy |]
                    |]

                let r, g, b = pixel (decode (encode SKColorType.Rgba8888 16 16 red SKEncodedImageFormat.Webp)) 8 8
                Expect.isTrue (abs (r - 200) <= 3 && abs (g - 30) <= 3 && abs (b - 30) <= 3) $"WebP: {r} {g} {b}"
                let r, g, b = pixel (decode cmykRed) 4 4
                Expect.isTrue (r >= 252 && g <= 3 && b <= 3) $"CMYK: {r} {g} {b}")

            testCase "the EXIF orientation is applied" (fun () ->
                // Where the bright corner and the dark half are once the picture stands as it should.
                let places =
                    [
                        1, (32, 16), (28, 3), (3, 8)
                        2, (32, 16), (3, 3), (28, 8)
                        3, (32, 16), (3, 12), (28, 8)
                        4, (32, 16), (28, 12), (3, 8)
                        5, (16, 32), (3, 28), (8, 3)
                        6, (16, 32), (12, 28), (8, 3)
                        7, (16, 32), (12, 3), (8, 28)
                        8, (16, 32), (3, 3), (8, 28)
                    ]

                for orientation, size, (brightX, brightY), (darkX, darkY) in places do
                    let picture = decode (oriented orientation)
                    Expect.equal (picture.Width, picture.Height) size $"size of {orientation}"
                    let bright, _, _ = pixel picture brightX brightY
                    let dark, _, _ = pixel picture darkX darkY
                    Expect.isTrue (bright > 240 && dark < 10) $"orientation {orientation}: bright {bright}, dark {dark}")

            testProperty
                "resizing keeps a picture of one colour, and size itself changes nothing"
                (fun (seed: int) (width: byte) (size: byte) (value: byte) ->
                    let width, size = 1 + int width % 50, 1 + int size % 70
                    let flat = Picture(width, width, Array.create (width * width * 3) value)
                    Expect.all (Pictures.CentreCropResize(flat, size).Pixels) (fun v -> v = value) "one colour"
                    let picture = randomPicture width width seed
                    Expect.equal (Pictures.CentreCropResize(picture, width).Pixels) picture.Pixels "same size")

            testProperty "resizing agrees with the convolution in floating point" (fun (seed: int) (width: byte) (size: byte) ->
                let width, size = 2 + int width % 40, 1 + int size % 40
                let picture = randomPicture width 1 seed
                let resized = Resampling.Bicubic(ReadOnlySpan picture.Pixels, width, 1, size, 1)
                let scale = float width / float size
                let wide = max 1.0 scale

                let kernel x =
                    let x = abs x

                    if x < 1.0 then 1.5 * x * x * x - 2.5 * x * x + 1.0
                    elif x < 2.0 then -0.5 * x * x * x + 2.5 * x * x - 4.0 * x + 2.0
                    else 0.0

                for i in 0 .. size - 1 do
                    let centre = (float i + 0.5) * scale
                    let weights = [| for k in 0 .. width - 1 -> kernel ((float k + 0.5 - centre) / wide) |]

                    for channel in 0..2 do
                        let sum = Seq.sum (seq { for k in 0 .. width - 1 -> weights[k] * float picture.Pixels[3 * k + channel] })
                        let expected = Math.Clamp(sum / Array.sum weights, 0.0, 255.0)
                        Expect.isLessThan (abs (float resized[3 * i + channel] - expected)) 1.0 "value")

            testCase "the crop is central" (fun () ->
                let picture = randomPicture 7 4 1
                let cropped = Pictures.CentreCropResize(picture, 4)
                Expect.equal (pixel cropped 0 0) (pixel picture 1 0) "the odd pixel is left out on the right")

            testCase "a grid" (fun () ->
                let pictures = [| for i in 0..4 -> Picture(2, 3, Array.create 18 (byte i)) |]
                let grid = Pictures.Grid(pictures, 3, 1)
                Expect.equal (grid.Width, grid.Height) (8, 7) "size"
                Expect.equal (pixel grid 4 5) (4, 4, 4) "the last picture"
                Expect.equal (pixel grid 2 0) (255, 255, 255) "the gap"
                Expect.equal (pixel grid 7 6) (255, 255, 255) "the empty cell")

            testCase "what is no picture, cut short or too large" (fun () ->
                refusedWith [||] "not a JPEG"
                refusedWith "hello"B "not a JPEG"
                let png = Pictures.EncodePng(randomPicture 50 50 3)
                refusedWith png[.. png.Length / 2] "cut short"
                let noise = (randomPicture 48 64 4).Pixels
                let jpeg = encode SKColorType.Rgba8888 48 48 noise SKEncodedImageFormat.Jpeg
                refusedWith jpeg[.. jpeg.Length * 3 / 4] "cut short"

                let claim (width: int) =
                    // The width stands at offset 16 of a PNG; the checksum of its first chunk at 29.
                    let bytes = Array.copy png
                    Buffers.Binary.BinaryPrimitives.WriteInt32BigEndian(Span<byte>(bytes, 16, 4), width)
                    Buffers.Binary.BinaryPrimitives.WriteInt32BigEndian(Span<byte>(bytes, 20, 4), width)
                    let mutable crc = 0xFFFFFFFFu

                    for i in 12..28 do
                        crc <- crc ^^^ uint32 bytes[i]

                        for _ in 1..8 do
                            crc <- if crc &&& 1u = 1u then (crc >>> 1) ^^^ 0xEDB88320u else crc >>> 1

                    Buffers.Binary.BinaryPrimitives.WriteUInt32BigEndian(Span<byte>(bytes, 29, 4), ~~~crc)
                    bytes

                refusedWith (claim 20000) "million"
                refusedWith (claim 9400) "can hold"
                Expect.stringContains (refusal (fun () -> Pictures.Read "/nowhere.png" |> ignore)) "does not exist" "absent")

            damagedFilesAreRefused
                "a damaged PNG is read or refused, nothing else"
                ".png"
                (fun () -> Pictures.EncodePng(randomPicture 20 10 5))
                (fun path -> Pictures.Read path |> ignore)

            damagedFilesAreRefused "a damaged JPEG is read or refused, nothing else" ".jpg" (fun () -> oriented 6) (fun path ->
                Pictures.Read path |> ignore)

            testCase "photographs become what Pillow makes of them, bit for bit" (fun () ->
                use expected = JsonDocument.Parse(File.ReadAllText(Material.shared "golden/vqvae_a/expected.json"))

                let names =
                    [| for name in expected.RootElement.GetProperty("images").EnumerateArray() -> string (name.GetString()) |]

                let mutable found = 0

                for tar in Directory.GetFiles(Material.shared "data/flickr8k", "*.tar") do
                    use reader = new Formats.Tar.TarReader(File.OpenRead tar)
                    let mutable entry = reader.GetNextEntry true

                    while not (isNull entry) do
                        match
                            entry,
                            Array.IndexOf(
                                names,
                                (match entry with
                                 | null -> ""
                                 | e -> e.Name)
                            )
                        with
                        | null, _
                        | _, -1 -> ()
                        | member', i ->
                            use bytes = new MemoryStream()

                            (match member'.DataStream with
                             | null -> ()
                             | stream -> stream.CopyTo bytes)

                            let ours = Pictures.CentreCropResize(decode (bytes.ToArray()), 128)
                            let theirs = Pictures.Read(Material.shared $"golden/vqvae_a/in_{i}.png")
                            Expect.equal ours.Pixels theirs.Pixels names[i]
                            found <- found + 1

                        entry <- reader.GetNextEntry true

                Expect.equal found names.Length "pictures found")
        ]
