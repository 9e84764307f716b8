module Hybrid.Tests.TensorFilesTests

open System.IO
open Expecto
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open TorchSharp

let private source (name: string) (seed: int) =
    TensorSource(name, torch.ScalarType.Float32, [| 3L; 4L |], (fun () -> tensorOf torch.ScalarType.Float32 [ 3L; 4L ] seed))

let private pickled (path: string) (tensors: TensorSource list) = TorchWriter.Write(path, 0L, "x", List.toArray tensors, [||])
let private safe (path: string) (tensors: TensorSource list) = SafeTensorsWriter.Write(path, tensors)

let private index (folder: string) (name: string) (places: (string * string) list) =
    let lines = places |> List.map (fun (tensor, file) -> $"\"{tensor}\":\"{file}\"") |> String.concat ","
    File.WriteAllText(Path.Combine(folder, name), $"{{\"metadata\":{{}},\"weight_map\":{{{lines}}}}}")

let private check (path: string) (names: (string * int) list) =
    use file = TensorFiles.Open path
    Expect.equal (Seq.sort file.Entries.Keys |> List.ofSeq) (names |> List.map fst |> List.sort) "names"

    for name, seed in names do
        use found = file.Load name
        use wanted = tensorOf torch.ScalarType.Float32 [ 3L; 4L ] seed
        Expect.equal (found.data<float32>().ToArray()) (wanted.data<float32>().ToArray()) name

let private forms =
    [
        "safetensors", "model.safetensors.index.json", "model-0000", ".safetensors", safe
        "pickles", "pytorch_model.bin.index.json", "pytorch_model-0000", ".bin", pickled
    ]

let tests =
    testList
        "TensorFiles"
        [
            testCase "a folder with pytorch_model.bin" (fun () ->
                inFolder (fun folder ->
                    pickled (Path.Combine(folder, "pytorch_model.bin")) [ source "a" 1; source "b" 2 ]
                    check folder [ "a", 1; "b", 2 ]
                    safe (Path.Combine(folder, "model.safetensors")) [ source "a" 3 ]
                    check folder [ "a", 3 ]))

            for kind, name, stem, extension, write in forms do
                let part i = $"{stem}{i}{extension}"

                testCase $"an index of {kind}" (fun () ->
                    inFolder (fun folder ->
                        // Every name of the first file begins with model., none of the second: neither is shortened.
                        write (Path.Combine(folder, part 1)) [ source "model.a" 1; source "model.b" 2 ]
                        write (Path.Combine(folder, part 2)) [ source "lm_head.weight" 3 ]
                        index folder name [ "model.a", part 1; "model.b", part 1; "lm_head.weight", part 2 ]
                        check folder [ "model.a", 1; "model.b", 2; "lm_head.weight", 3 ]
                        check (Path.Combine(folder, name)) [ "model.a", 1; "model.b", 2; "lm_head.weight", 3 ]))

                testCase $"an index of {kind} whose files are not all there names them" (fun () ->
                    inFolder (fun folder ->
                        write (Path.Combine(folder, part 1)) [ source "a" 1 ]
                        index folder name [ "a", part 1; "b", part 2; "c", part 3 ]
                        let message = refusal (fun () -> TensorFiles.Open(folder).Dispose())
                        Expect.stringContains message name "the index"
                        Expect.stringContains message $"{part 2}, {part 3}" "the files"))

                testCase $"an index of {kind} that lists a tensor which its file lacks names it" (fun () ->
                    inFolder (fun folder ->
                        write (Path.Combine(folder, part 1)) [ source "a" 1 ]
                        write (Path.Combine(folder, part 2)) [ source "b" 1 ]
                        index folder name [ "a", part 1; "b", part 2; "c", part 2 ]
                        let message = refusal (fun () -> TensorFiles.Open(folder).Dispose())
                        Expect.stringContains message $"c ({part 2})" "the tensor and the file"
                        index folder name [ "a", part 2; "b", part 2; "c", part 1 ]
                        let message = refusal (fun () -> TensorFiles.Open(folder).Dispose())
                        Expect.stringContains message $"a ({part 2})" "a tensor that stands in another file"
                        Expect.stringContains message $"c ({part 1})" "and one in none"))

                testCase $"an index of {kind} cannot name files elsewhere" (fun () ->
                    inFolder (fun folder ->
                        for elsewhere in [ "../w.bin"; "/etc/passwd"; ".."; "" ] do
                            index folder name [ "a", elsewhere ]
                            let message = refusal (fun () -> TensorFiles.Open(folder).Dispose())
                            Expect.stringContains message "is not the name of a file in the same folder" elsewhere))

            testCase "a folder without weights names what it looked for" (fun () ->
                inFolder (fun folder ->
                    let message = refusal (fun () -> TensorFiles.Open(folder).Dispose())
                    Expect.stringContains message "pytorch_model.bin" "the names"))

            testCase "pieces of a tensor are its elements, contiguous or not" (fun () ->
                inFolder (fun folder ->
                    for path, write in [ "a.safetensors", safe; "a.pt", pickled ] do
                        let path = Path.Combine(folder, path)
                        write path [ source "a" 5 ]
                        use file = TensorFiles.Open path
                        use whole = file.Load "a"
                        let values = whole.data<float32>().ToArray()

                        for first in 0..12 do
                            for count in 0 .. 12 - first do
                                use piece = torch.zeros (int64 count, dtype = torch.float32)
                                file.Read("a", int64 first, piece)

                                Expect.equal
                                    (piece.data<float32>().ToArray())
                                    values[first .. first + count - 1]
                                    $"{first} + {count}"

                        use tooLong = torch.zeros (5L, dtype = torch.float32)
                        Expect.throws (fun () -> file.Read("a", 8L, tooLong)) "beyond the end"
                        use other = torch.zeros (2L, dtype = torch.float64)
                        Expect.throws (fun () -> file.Read("a", 0L, other)) "another type"))
        ]
