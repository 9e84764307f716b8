module Hybrid.Tests.SafeTensorsTests

open System
open System.IO
open System.Text
open Expecto
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open TorchSharp

let private types =
    [|
        torch.ScalarType.Float64
        torch.ScalarType.Float32
        torch.ScalarType.Float16
        torch.ScalarType.BFloat16
        torch.ScalarType.Int64
        torch.ScalarType.Int32
        torch.ScalarType.Int16
        torch.ScalarType.Int8
        torch.ScalarType.Byte
        torch.ScalarType.Bool
    |]

let private raw (header: string) (data: int) : byte[] =
    let json = Encoding.UTF8.GetBytes header
    Array.concat [ BitConverter.GetBytes(uint64 json.Length); json; Array.init data byte ]

let private refused (header: string) (data: int) (part: string) =
    testCase $"{header} {data}" (fun () ->
        inFolder (fun folder ->
            let path = Path.Combine(folder, "a.safetensors")
            File.WriteAllBytes(path, raw header data)
            let message = refusal (fun () -> SafeTensorsFile.Open(path).Dispose())
            Expect.stringContains message part "the reason"
            Expect.stringContains message path "the file"))

let private entry name dtype shape first last =
    $"\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{first},{last}]}}"

let private sample (folder: string) =
    let path = Path.Combine(folder, "sample.safetensors")
    use a = tensorOf torch.ScalarType.Float32 [ 3L; 4L ] 1
    use b = tensorOf torch.ScalarType.Bool [ 5L ] 2
    use c = tensorOf torch.ScalarType.Int64 [ 2L; 0L ] 3

    SafeTensorsWriter.Write(
        path,
        [ struct ("a", a); struct ("b", b); struct ("c.d", c) ],
        dict [ "k", "v" ] |> System.Collections.Generic.Dictionary
    )

    File.ReadAllBytes path

let tests =
    testList
        "SafeTensors"
        [
            testProperty "what is written is read back, of every type and shape" (fun (seed: int) (axes: byte list) ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "a.safetensors")
                    let shape = axes |> List.truncate 4 |> List.map (fun axis -> int64 (axis % 5uy))

                    let tensors =
                        [ for i in 0 .. types.Length - 1 -> struct ($"tensor {i} \"é\"", tensorOf types[i] shape (seed + i)) ]

                    SafeTensorsWriter.Write(path, tensors)
                    use file = SafeTensorsFile.Open path
                    Expect.equal file.Entries.Count types.Length "number of tensors"

                    for struct (name, tensor) in tensors do
                        use loaded = file.Load name
                        Expect.equal loaded.dtype tensor.dtype "type"
                        Expect.equal loaded.shape tensor.shape "shape"
                        Expect.isTrue (loaded.Equals(tensor)) $"values of {name}"
                        tensor.Dispose()))

            testCase "strided tensors are written in row-major order" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "a.safetensors")
                    use tensor = tensorOf torch.ScalarType.Float32 [ 4L; 6L ] 5
                    use turned = tensor.t().slice(0L, 1L, 6L, 2L)
                    SafeTensorsWriter.Write(path, [ struct ("turned", turned) ])
                    use file = SafeTensorsFile.Open path
                    use loaded = file.Load "turned"
                    Expect.isTrue (loaded.Equals(turned)) "values"))

            testCase "the data begins at a multiple of eight and metadata is kept" (fun () ->
                inFolder (fun folder ->
                    let bytes = sample folder
                    Expect.equal (BitConverter.ToUInt64(bytes, 0) % 8UL) 0UL "length of the header"
                    use file = SafeTensorsFile.Open(Path.Combine(folder, "sample.safetensors"))
                    Expect.equal file.Metadata["k"] "v" "metadata"
                    Expect.equal (Directory.GetFiles folder).Length 1 "no file stays behind"))

            testProperty "columns of unknown length are read back by ranges" (fun (seed: int) (counts: byte list) ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "shard.safetensors")
                    let stream = Random.ofSeed (int64 seed)

                    let rows =
                        [|
                            for i in 0 .. List.sumBy int counts - 1 ->
                                Array.init 3 (fun j -> uint16 (Random.bits stream (int64 (3 * i + j))))
                        |]

                    use writer = new SafeTensorsWriter(path)
                    let codes = writer.AddColumn<uint16>("codes", 3L)
                    let ids = writer.AddColumn<int> "ids"
                    let offsets = writer.AddColumn<int64> "offsets"

                    for row in rows do
                        codes.Append(ReadOnlySpan row)
                        ids.Append(ReadOnlySpan [| -7 |])
                        offsets.Append(ReadOnlySpan [| Int64.MaxValue |])

                    Expect.equal codes.Rows (int64 rows.Length) "rows so far"
                    Expect.isFalse (File.Exists path) "no file before the end"
                    writer.Finish()
                    use file = SafeTensorsFile.Open path
                    Expect.equal file.Entries["codes"].Shape [| int64 rows.Length; 3L |] "shape"
                    Expect.equal (file.StoredType "codes") "U16" "type"

                    rows
                    |> Array.iteri (fun i row ->
                        Expect.equal (file.AsUInt16("codes", 3L * int64 i, 3).ToArray()) row "row"
                        Expect.equal (file.AsInt32("ids", int64 i, 1)[0]) -7 "id"
                        Expect.equal (file.AsInt64("offsets", int64 i, 1)[0]) Int64.MaxValue "offset")

                    use loaded = file.Load "codes"
                    Expect.equal loaded.dtype torch.ScalarType.Int32 "U16 is loaded as int32"
                    let expected = rows |> Array.concat |> Array.map int

                    if expected.Length > 0 then
                        Expect.equal (loaded.data<int>().ToArray()) expected "values"

                    Expect.equal (Directory.GetFiles folder) [| path |] "no file stays behind"))

            testCase "an unfinished file leaves nothing" (fun () ->
                inFolder (fun folder ->
                    let writer = new SafeTensorsWriter(Path.Combine(folder, "a.safetensors"))
                    let column = writer.AddColumn<int>("x", 2L)
                    column.Append(ReadOnlySpan [| 1 |])
                    Expect.throwsT<InvalidOperationException> (fun () -> writer.Finish()) "half a row"
                    writer.Dispose()
                    Expect.isEmpty (Directory.GetFileSystemEntries folder) "nothing stays behind"))

            testCase "a wrong type, name or range is said" (fun () ->
                inFolder (fun folder ->
                    sample folder |> ignore
                    use file = SafeTensorsFile.Open(Path.Combine(folder, "sample.safetensors"))
                    Expect.stringContains (refusal (fun () -> (file.Load "z").Dispose())) "no tensor \"z\"" "absent"
                    Expect.stringContains (refusal (fun () -> file.AsInt32("a", 0L, 1).ToArray() |> ignore)) "F32" "type"

                    Expect.throwsT<ArgumentOutOfRangeException>
                        (fun () -> file.AsSingle("a", 10L, 3).ToArray() |> ignore)
                        "range"))

            testList
                "refusals"
                [
                    refused "{}" 3 "belong to none"
                    refused ("{" + entry "a" "F32" "[2]" 0 8 + "}") 4 "cut short"
                    refused ("{" + entry "a" "F32" "[2]" 0 4 + "}") 4 "do not hold"
                    refused ("{" + entry "a" "F32" "[1]" 4 8 + "}") 8 "leaves a hole"
                    refused ("{" + entry "a" "F32" "[1]" 0 4 + "," + entry "b" "F32" "[1]" 2 6 + "}") 6 "overlaps"
                    refused ("{" + entry "a" "F32" "[1]" 0 4 + "," + entry "a" "F32" "[1]" 4 8 + "}") 8 "twice"
                    refused ("{" + entry "a" "F9" "[1]" 0 4 + "}") 4 "F9"
                    refused ("{" + entry "a" "F32" "[4611686018427387904,4]" 0 4 + "}") 4 "too large"
                    refused ("{" + entry "a" "F32" "[4611686018427387904,0,4]" 0 0 + "}") 0 "too large"
                    refused ("{" + entry "a" "F32" "[-1]" 0 4 + "}") 4 "whole number"
                    refused ("{" + entry "a" "F32" "[1e400]" 0 4 + "}") 4 "whole number"
                    refused ("{" + entry "a" "F32" "[99999999999999999999]" 0 4 + "}") 4 "whole number"
                    refused "{\"a\":3}" 0 "not an object"
                    refused "{\"__metadata__\":{\"a\":3}}" 0 "metadata"
                    refused "[1]" 0 "opening brace"
                    refused "{\"a\":" 0 "well-formed"
                ]

            testCase "short, absent and foreign files" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "a.safetensors")
                    Expect.stringContains (refusal (fun () -> SafeTensorsFile.Open(path).Dispose())) "does not exist" "absent"
                    Expect.stringContains (refusal (fun () -> SafeTensorsFile.Open(folder).Dispose())) "folder" "folder"
                    File.WriteAllBytes(path, [||])
                    Expect.stringContains (refusal (fun () -> SafeTensorsFile.Open(path).Dispose())) "0 bytes" "empty"
                    File.WriteAllBytes(path, Array.create 100 0xFFuy)
                    Expect.stringContains (refusal (fun () -> SafeTensorsFile.Open(path).Dispose())) "claims" "huge claim"))

            damagedFilesAreRefused
                "a damaged file is read or refused, nothing else"
                ".safetensors"
                (fun () ->
                    let mutable bytes = [||]
                    inFolder (fun folder -> bytes <- sample folder)
                    bytes)
                (fun path ->
                    use file = SafeTensorsFile.Open path
                    loadAll file)

            testCase "a checkpoint of Hugging Face opens" (fun () ->
                use file = TensorFiles.Open(Material.shared "data/stories260K")
                loadAll file
                Expect.equal file.Entries["model.embed_tokens.weight"].Shape [| 512L; 64L |] "embedding")

            testCase "a file or folder appears whole or not at all" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "checkpoint")

                    let fill (text: string) (inner: string) =
                        File.WriteAllText(Path.Combine(inner, "a.txt"), text)
                        Directory.CreateDirectory(Path.Combine(inner, "b")) |> ignore
                        File.WriteAllText(Path.Combine(inner, "b", "c.txt"), text)

                    AtomicFile.WriteFolder(path, fill "one")

                    Expect.stringContains
                        (refusal (fun () -> AtomicFile.WriteFolder(path, fill "two")))
                        "exists already"
                        "not replaced"

                    Expect.throwsT<InvalidOperationException>
                        (fun () ->
                            AtomicFile.WriteFolder(
                                path,
                                (fun inner ->
                                    fill "two" inner
                                    raise (InvalidOperationException())),
                                true
                            ))
                        "the writer's own failure"

                    Expect.equal (File.ReadAllText(Path.Combine(path, "b", "c.txt"))) "one" "the old one is untouched"
                    AtomicFile.WriteFolder(path, fill "two", true)
                    Expect.equal (File.ReadAllText(Path.Combine(path, "a.txt"))) "two" "replaced"
                    let file = Path.Combine(folder, "f.txt")
                    AtomicFile.WriteText(file, "é")
                    Expect.equal (File.ReadAllBytes file) [| 0xC3uy; 0xA9uy |] "UTF-8 without a mark"

                    Expect.throwsT<InvalidOperationException>
                        (fun () ->
                            AtomicFile.Write(
                                file,
                                fun stream ->
                                    stream.WriteByte 1uy
                                    raise (InvalidOperationException())
                            ))
                        "the writer's own failure"

                    Expect.equal (File.ReadAllText file) "é" "the old file is untouched"
                    Expect.equal (Directory.GetFileSystemEntries folder).Length 2 "nothing else stays behind"))
        ]
