/// The fid command on pictures: what an extractor is given, and what is kept of it.
module Hybrid.Tests.FidExtractionTests

open System
open System.IO
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.FidSupport
open Hybrid.Tests.Generate
open Hybrid.Tests.Running

let tests =
    TorchLibrary.Load()

    testList
        "FidExtraction"
        [
            case "as they are: features are what the extractor says, from folders and tars, and can be kept" (fun () ->
                use folder = new Folder()
                let sizes = [ 5, 4; 8, 8; 5, 4; 7, 3; 8, 8; 5, 4 ]
                let real, generated = pictures folder "real" sizes, pictures folder "generated" sizes
                let extractor = folder.At "mean.pt"
                TorchScripts.ofExpression extractor mean

                let options =
                    [ "--extractor"; extractor; "--resize"; "none"; "--scale"; "bytes"; "--batch"; "4"; "--neighbours"; "2" ]

                let found = measure ([ "--real"; real; "--generated"; generated; "--save-features"; folder.At "kept" ] @ options)

                let means (path: string) =
                    Directory.GetFiles(path, "*.png", SearchOption.AllDirectories)
                    |> Array.map (fun file ->
                        let pixels = (Pictures.Read file).Pixels |> Array.map float

                        Array.init 3 (fun c ->
                            pixels |> Array.indexed |> Array.filter (fun (i, _) -> i % 3 = c) |> Array.averageBy snd))
                    |> Array.sortBy (fun row -> row[0])

                let close what expected actual = close 1e-3 1e-6 what (Array.concat expected) (Array.concat actual)
                close "real" (means real) (rows 3 (saved (folder.At "kept/real.npy")))
                close "generated" (means generated) (rows 3 (saved (folder.At "kept/generated.npy")))
                near 1e-2 1e-4 "FID" (FidelityReference.frechet (means real) (means generated)) (number "fid" found)
                let protocol = found.GetProperty "protocol"
                Expect.equal (number "n" (protocol.GetProperty "real")) 6.0 "n"

                Expect.equal
                    ((part [ "extraction"; "extractor_sha256" ] protocol).GetString())
                    (Files.Sha256 extractor)
                    "extractor"

                // The kept features stand for the pictures, on one side or both.
                for again in
                    [
                        measure ([ "--real"; folder.At "kept/real.npy"; "--generated"; generated ] @ options)
                        measure
                            [
                                "--real"
                                folder.At "kept/real.npy"
                                "--generated"
                                folder.At "kept/generated.npy"
                                "--neighbours"
                                "2"
                            ]
                    ] do
                    Expect.equal (number "fid" again, number "kid" again) (number "fid" found, number "kid" found) "kept"

                let kept = parsed (File.ReadAllText(folder.At "kept/real.json"))

                Expect.equal
                    ((part [ "set"; "sha256" ] kept).GetString())
                    ((part [ "real"; "sha256" ] protocol).GetString())
                    "origin"

                fails [ "not extracted alike"; "scale is \"x\" of the real set and \"x / 255\" of the generated one" ] (fun () ->
                    measure (
                        [ "--real"; folder.At "kept/real.npy"; "--generated"; generated ]
                        @ (options |> List.map (fun word -> if word = "bytes" then "unit" else word))
                    )
                    |> ignore)

                // The same pictures in a tar, packed or not.
                for packed in [ false; true ] do
                    let tar = folder.At(if packed then "real.tar.gz" else "real.tar")

                    (use file = File.Create tar
                     use zip = new Compression.GZipStream(file, Compression.CompressionLevel.Fastest)
                     let stream: Stream = if packed then zip else file
                     Formats.Tar.TarFile.CreateFromDirectory(real, stream, false))

                    let again = measure ([ "--real"; tar; "--generated"; generated ] @ options)
                    near 1e-9 1e-9 "tar" (number "fid" found) (number "fid" again)
                    let hash (json: JsonElement) = (part [ "protocol"; "real"; "sha256" ] json).GetString()
                    Expect.equal (hash again) (hash found) "the same names and bytes")

            case "clean: cropped, stored smaller, then resized with fractions and scaled, as each step says" (fun () ->
                use folder = new Folder()
                let path = pictures folder "real" [ 9, 6; 6, 9; 7, 7; 12, 5 ]
                TorchScripts.ofExpression (folder.At "all.pt") "torch.flatten(x, 1)"

                let features words =
                    let out = folder.At(string (Guid.NewGuid()))

                    measure (
                        [
                            "--real"
                            path
                            "--generated"
                            path
                            "--extractor"
                            folder.At "all.pt"
                            "--measures"
                            "kid"
                            "--input-size"
                            "5"
                        ]
                        @ words
                        @ [ "--save-features"; out ]
                    )
                    |> ignore

                    rows 75 (saved (Path.Combine(out, "real.npy")))

                let expected (prepare: Picture -> float32[]) (scale: float -> float) =
                    Directory.GetFiles(path, "*.png", SearchOption.AllDirectories)
                    |> Array.map (fun file ->
                        prepare (Pictures.Read file) |> Array.map (fun x -> scale (min 255.0 (max 0.0 (float x)))))
                    |> Array.sortBy (fun row -> row[0])

                let same what expected found = close 1e-5 1e-6 what (Array.concat expected) (Array.concat found)
                let resize filter p = FloatResampling.Resize(p, 5, 5, filter)
                let inception x = (x - 128.0) / 128.0
                same "clean" (expected (resize ResamplingFilter.Bicubic) inception) (features [])

                same
                    "lanczos"
                    (expected (resize ResamplingFilter.Lanczos) (fun x -> x / 255.0))
                    (features [ "--resize"; "lanczos"; "--scale"; "unit" ])

                let stored (p: Picture) =
                    let side = min p.Width p.Height
                    let square = Pictures.Crop(p, (p.Width - side) / 2, (p.Height - side) / 2, side, side)
                    Picture(8, 8, Resampling.Resize(square.Pixels, side, side, 8, 8, ResamplingFilter.Lanczos))

                same
                    "LlamaGen's"
                    (expected (stored >> resize ResamplingFilter.Bicubic) (fun x -> 2.0 * x / 255.0 - 1.0))
                    (features [ "--crop"; "center"; "--pre-size"; "8"; "--scale"; "symmetric" ])

                // Half a pixel between two: bilinear without antialiasing at whole factors takes the neighbours of each new middle.
                let interpolated (p: Picture) =
                    [|
                        for c in 0..2 do
                            for y in 0..4 do
                                for x in 0..4 do
                                    let place length i = max 0.0 ((float i + 0.5) * float length / 5.0 - 0.5)
                                    let v, u = place p.Height y, place p.Width x
                                    let at y x = float p.Pixels[3 * (min (p.Height - 1) y * p.Width + min (p.Width - 1) x) + c]
                                    let top, left = int v, int u
                                    let a, b = v - float top, u - float left

                                    float32 (
                                        (1.0 - a) * ((1.0 - b) * at top left + b * at top (left + 1))
                                        + a * ((1.0 - b) * at (top + 1) left + b * at (top + 1) (left + 1))
                                    )
                    |]

                same "bilinear" (expected interpolated inception) (features [ "--resize"; "bilinear" ]))

            case "Inception in NVIDIA's form: its layers on scaled values, or the module itself on bytes" (fun () ->
                use folder = new Folder()
                let path = pictures folder "real" [ 4, 4; 4, 4; 4, 4; 4, 4 ]
                TorchScripts.inNvidiasForm (folder.At "inception.pt")

                let features words =
                    let out = folder.At(string (Guid.NewGuid()))

                    let found =
                        measure (
                            [ "--real"; path; "--generated"; path; "--extractor"; folder.At "inception.pt"; "--measures"; "kid" ]
                            @ words
                            @ [ "--save-features"; out ]
                        )

                    (part [ "protocol"; "extraction"; "entry" ] found).GetString(), saved (Path.Combine(out, "real.npy"))

                let entry, layers = features [ "--input-size"; "4" ]
                Expect.equal entry "layers" "resized"
                let entry, inside = features [ "--resize"; "none"; "--scale"; "bytes" ]
                Expect.equal entry "features" "as they are"
                close 1e-6 1e-6 "the same features" layers inside
                let entry, outside = features [ "--resize"; "none"; "--scale"; "bytes"; "--entry"; "forward" ]
                Expect.equal entry "forward" "asked for"
                close 1e-3 1e-5 "what the module itself gives" (layers |> Array.map (fun x -> 1000.0 * x)) outside)

            case "a list of generated pictures is followed, its contact sheet is none, and strengths are not mixed" (fun () ->
                use folder = new Folder()
                let path = pictures folder "drawn" [ 4, 4; 4, 4; 4, 4; 4, 4; 4, 4 ]
                File.Move(Path.Combine(path, "04.png"), Path.Combine(path, "grid.png"))
                TorchScripts.ofExpression (folder.At "mean.pt") mean
                let list = Path.Combine(path, "pictures.jsonl")

                let found () =
                    measure
                        [
                            "--real"
                            path
                            "--generated"
                            path
                            "--extractor"
                            folder.At "mean.pt"
                            "--input-size"
                            "4"
                            "--measures"
                            "kid"
                        ]

                let names = [ "00.png"; "below/01.png"; "02.png"; "below/03.png" ]

                File.WriteAllLines(
                    list,
                    names |> List.map (fun name -> $$"""{ "file": "{{name}}", "caption": "a", "cfg": 2 }""")
                )

                Expect.equal (number "n" (found ())) 4.0 "four of five"
                File.AppendAllText(list, """{ "file": "00.png", "cfg": 1.5 }""")
                fails [ "strengths 1.5, 2 of guidance"; Path.Combine(path, "cfg-2") ] (fun () -> found () |> ignore)
                File.WriteAllText(list, """{ "file": "../00.png" }""")
                fails [ "pictures.jsonl, line 1"; "no picture within the directory" ] (fun () -> found () |> ignore)
                File.WriteAllText(list, "[")
                fails [ "pictures.jsonl, line 1" ] (fun () -> found () |> ignore))
        ]
