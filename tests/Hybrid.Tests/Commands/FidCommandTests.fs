/// The fid command: features, and what is refused.
module Hybrid.Tests.FidCommandTests

open System
open System.IO
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.FidSupport
open Hybrid.Tests.FormatsSupport
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open TorchSharp

let private golden =
    testCase "fid_a: FID and KID of scipy within 1e-3, fewer samples than dimensions too" (fun () ->
        let folder = Material.shared "golden/fid_a"
        let expected = parsed (File.ReadAllText(Path.Combine(folder, "expected.json")))
        let file name = Path.Combine(folder, name + ".npy")
        let against name measures = measure ([ "--real"; file "real"; "--generated"; file name ] @ measures)
        let found = against "generated" []
        let alone name = number "fid" (against name [ "--measures"; "fid" ])
        near 0.0 1e-6 "FID" (number "fid" expected) (number "fid" found)
        near 0.0 1e-6 "KID" (number "kid_unbiased_all" expected) (number "kid" found)
        near 0.0 1e-6 "few" (number "fid_few" expected) (alone "few")
        near 1e-9 0.0 "same" (number "fid_same" expected) (alone "real")
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
    testList "Fid" [ golden; features; refusals ]
