/// The fid command: features, pictures through an extractor, what is refused.
module Hybrid.Tests.FidCommandTests

open System
open System.IO
open System.Text.Json
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open TorchSharp

let private command (words: string list) : FidCommand =
    match CommandLine.parse (Array.ofList ("fid" :: words)) with
    | :? RunOutcome as run -> run.Command :?> FidCommand
    | :? UsageOutcome as usage -> failtest usage.Text
    | _ -> failtest "no command"

let private measure (words: string list) : JsonElement =
    use progress = Progress.On(TextWriter.Null, TimeProvider.System)
    parsed (FidJob.Measure(command words, progress, CancellationToken.None).ToJson().ToJsonString(Json.Options))

let private number (name: string) (element: JsonElement) = (element.GetProperty name).GetDouble()

let private part (path: string list) (element: JsonElement) =
    path |> List.fold (fun (e: JsonElement) name -> e.GetProperty name) element

let private picture (seed: int) (width: int) (height: int) : Picture =
    let stream = Random.ofSeed (int64 seed)
    Picture(width, height, Array.init (width * height * 3) (fun i -> byte (Random.bits stream (int64 i))))

/// A folder of pictures of these sizes.
let private pictures (folder: Folder) (name: string) (sizes: (int * int) list) : string =
    let path = folder.At name
    Directory.CreateDirectory(Path.Combine(path, "below")) |> ignore

    for i, (width, height) in List.indexed sizes do
        let place = if i % 2 = 0 then path else Path.Combine(path, "below")
        let seed = name.Length * 1000 + i
        File.WriteAllBytes(Path.Combine(place, $"{i:D2}.png"), Pictures.EncodePng(picture seed width height))

    path

/// Sorts rows, since a set has no order.
let private rows (width: int) (values: float[]) = Array.chunkBySize width values |> Array.sortBy (fun row -> row[0])

let private saved (path: string) : float[] =
    use file = NpyFile.Open path
    use tensor = file.Load()
    values tensor

let private golden =
    testCase "fid_a: FID and KID of scipy within 1e-3, fewer samples than dimensions too" (fun () ->
        let folder = shared "golden/fid_a"
        let expected = parsed (File.ReadAllText(Path.Combine(folder, "expected.json")))
        let file name = Path.Combine(folder, name + ".npy")
        let against name = measure [ "--real"; file "real"; "--generated"; file name ]
        let found = against "generated"
        near 0.0 1e-6 "FID" (number "fid" expected) (number "fid" found)
        near 0.0 1e-6 "KID" (number "kid_unbiased_all" expected) (number "kid" found)
        near 0.0 1e-6 "few" (number "fid_few" expected) (number "fid" (against "few"))
        near 1e-9 0.0 "same" (number "fid_same" expected) (number "fid" (against "real"))
        let told = result [ "fid"; "--real"; file "real"; "--generated"; file "generated" ]
        Expect.equal (told.ToString()) (found.ToString()) "the program says the same")

let private features =
    testList
        "features"
        [
            case "of any element type and order give one result, with its protocol" (fun () ->
                use folder = new Folder()
                let chooser = Chooser 1L
                // Values that float16 holds exactly.
                let some count =
                    torch
                        .tensor(Array.init (count * 3) (fun _ -> float32 (chooser.Int(-64, 64)) / 8.0f))
                        .reshape(int64 count, 3L)

                let real, generated = some 20, some 30

                let write name (kind: torch.ScalarType) (tensor: torch.Tensor) =
                    NpyFile.Write(folder.At name, tensor.``to`` kind)
                    folder.At name

                let of' kind =
                    measure
                        [ "--real"; write "r.npy" kind real; "--generated"; write "g.npy" kind generated; "--subset-size"; "10" ]

                let expected = of' torch.float64

                for kind in [ torch.float32; torch.float16 ] do
                    let found = of' kind

                    for key in [ "fid"; "fid_error"; "kid"; "kid_error"; "precision"; "recall"; "density"; "coverage" ] do
                        near 1e-12 1e-12 $"{key} of {kind}" (number key expected) (number key found)

                near 1e-12 1e-12 "FID" (Frechet.ofFeatures real generated).Distance (number "fid" expected)

                Expect.equal
                    (number "n" expected, number "n_real" expected, number "n_generated" expected)
                    (30.0, 20.0, 30.0)
                    "n"

                Expect.equal (number "size" (expected.GetProperty "kid_subsets")) 10.0 "subsets"
                let protocol = expected.GetProperty "protocol"
                Expect.equal (number "width" protocol, number "ddof" protocol, number "seed" protocol) (3.0, 1.0, 0.0) "protocol"

                Expect.equal
                    ((part [ "real"; "sha256" ] protocol).GetString())
                    (Files.Sha256(write "r.npy" torch.float64 real))
                    "hash"

                let notes = [ for note in (expected.GetProperty "notes").EnumerateArray() -> string (note.GetString()) ]
                Expect.isTrue (notes |> List.exists _.StartsWith("FID of fewer than 3,000 samples")) "the bias is said"
                Expect.isTrue (notes |> List.exists _.Contains("depends on both sizes")) "sizes that differ")

            case "measures what is asked for, and no more" (fun () ->
                use folder = new Folder()
                NpyFile.Write(folder.At "a.npy", normals (Chooser 2L) 1.0 [ 40; 2 ])
                let of' words = measure ([ "--real"; folder.At "a.npy"; "--generated"; folder.At "a.npy" ] @ words)

                let none (key: string) (found: JsonElement) =
                    Expect.equal (found.GetProperty key).ValueKind JsonValueKind.Null key

                let found = of' [ "--measures"; "kid" ]
                none "fid" found
                none "precision" found
                Expect.isLessThan (number "kid" found) 0.0 "KID of a set with itself"
                let found = of' [ "--measures"; "fid"; "neighbours"; "--extrapolate"; "--limit"; "30" ]
                none "kid" found
                Expect.equal (number "n" found, number "precision" found) (30.0, 1.0) "limited"
                Expect.equal ((found.GetProperty "fid_by_share").GetArrayLength()) 5 "shares"
                let shares = [| for point in (found.GetProperty "fid_by_share").EnumerateArray() -> number "fid" point |]
                near 1e-9 1e-9 "all" (number "fid" found) shares[0]
                Expect.isLessThan (number "fid_infinity" found) (Array.min shares) "a line that falls with the number of samples")
        ]

let private mean = "torch.mean(x, [2, 3])"

let private extraction =
    testList
        "pictures"
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

let private refusals =
    testList
        "refuses"
        [
            case "what is no set" (fun () ->
                use folder = new Folder()

                let write name (tensor: torch.Tensor) =
                    NpyFile.Write(folder.At name, tensor)
                    folder.At name

                let good = normals (Chooser 1L) 1.0 [ 6; 3 ]
                let real = write "good.npy" good
                let says wanted path = fails wanted (fun () -> measure [ "--real"; real; "--generated"; path ] |> ignore)
                says [ folder.At "absent.npy"; "does not exist" ] (folder.At "absent.npy")
                says [ folder.At "absent"; "does not exist" ] (folder.At "absent")
                says [ "holds 1 sample"; "two at least" ] (write "one.npy" (good.narrow (0L, 0L, 1L)))
                says [ "the generated set"; "[pictures, width]" ] (write "flat.npy" (good.reshape 18L))
                says [ "float16, float32 or float64" ] (write "ids.npy" (good.``to`` torch.int64))
                says [ "3 wide and the generated ones 2" ] (write "narrow.npy" (good.narrow (1L, 0L, 2L)))
                let broken = good.clone ()
                broken[4L, 2L] <- torch.tensor Double.PositiveInfinity
                says [ "nan.npy"; "row 4, column 2" ] (write "nan.npy" broken)
                says [ "pictures need --extractor F" ] (pictures folder "set" [ 4, 4 ])

                fails [ "both sets are features already" ] (fun () ->
                    measure [ "--real"; real; "--generated"; real; "--save-features"; folder.At "kept" ] |> ignore))

            case "pictures that cannot be read: named and counted, or the end" (fun () ->
                use folder = new Folder()
                let path = pictures folder "real" [ 4, 4; 4, 4; 4, 4; 4, 4 ]
                File.WriteAllText(Path.Combine(path, "broken.png"), "no picture")
                TorchScripts.ofExpression (folder.At "mean.pt") mean

                let found words =
                    measure (
                        [ "--real"; path; "--generated"; path; "--extractor"; folder.At "mean.pt"; "--measures"; "kid" ] @ words
                    )

                Expect.equal (number "left_out" (part [ "protocol"; "real" ] (found []))) 1.0 "counted"
                fails [ "broken.png" ] (fun () -> found [ "--strict" ] |> ignore)
                let all = folder.At "all"
                Directory.CreateDirectory all |> ignore
                let options = [ "--generated"; path; "--extractor"; folder.At "mean.pt" ]
                fails [ all; "no picture" ] (fun () -> measure ([ "--real"; all ] @ options) |> ignore)
                File.WriteAllText(Path.Combine(all, "broken.png"), "no picture")
                fails [ "none of 1 pictures" ] (fun () -> measure ([ "--real"; all ] @ options) |> ignore))

            case "what is no extractor" (fun () ->
                use folder = new Folder()
                let path = pictures folder "real" [ 4, 4; 4, 4; 4, 4 ]
                let file = folder.At "extractor.pt"
                let words = [ "--real"; path; "--generated"; path; "--extractor"; file; "--input-size"; "4" ]
                let says wanted = fails wanted (fun () -> measure words |> ignore)
                says [ file; "does not exist" ]
                File.WriteAllText(file, "no program")
                says [ file; "not a TorchScript file" ]

                (use stream = File.Create file
                 let zip = TorchZipWriter(stream, "weights")
                 zip.Add("data.pkl", [| 0x80uy; 2uy; byte '}'; byte '.' |])
                 zip.Add("version", "3\n"B)
                 zip.Finish())

                says [ file; "holds weights and no program" ]
                TorchScripts.ofExpression file "torch.mul(x, 2)"
                says [ "[3, 3, 4, 4] for 3 pictures of [3, 4, 4]"; "averaged or flattened inside the extractor" ]
                TorchScripts.ofExpression file "torch.mean(torch.reshape(x, [7, 1]), [0])"
                says [ "fails on [3, 3, 4, 4] pictures"; "--input-size"; "--entry" ]
                TorchScripts.ofExpression file "torch.div(torch.mean(x, [2, 3]), 0)"
                says [ "not finite in row 0" ]
                TorchScripts.ofExpression file mean
                fails [ "no part named layers" ] (fun () -> measure (words @ [ "--entry"; "layers" ]) |> ignore))
        ]

let tests =
    TorchLibrary.Load()
    testList "Fid" [ golden; features; extraction; refusals ]
