module Hybrid.Tests.NpyTests

open System
open System.IO
open System.Text
open Expecto
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open TorchSharp

let private types =
    [|
        torch.ScalarType.Float64
        torch.ScalarType.Float32
        torch.ScalarType.Float16
        torch.ScalarType.Int64
        torch.ScalarType.Int32
        torch.ScalarType.Int16
        torch.ScalarType.Int8
        torch.ScalarType.Byte
        torch.ScalarType.Bool
    |]

let private header (version: byte) (dict: string) (data: byte[]) : byte[] =
    let text = Encoding.UTF8.GetBytes(dict + "\n")

    let length =
        if version = 1uy then
            BitConverter.GetBytes(uint16 text.Length)
        else
            BitConverter.GetBytes(uint32 text.Length)

    Array.concat [ [| 0x93uy |]; Encoding.ASCII.GetBytes "NUMPY"; [| version; 0uy |]; length; text; data ]

let private withFile (bytes: byte[]) (test: string -> unit) : unit =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "damaged.npy")
        File.WriteAllBytes(path, bytes)
        test path)

let private ints (values: int list) = values |> List.map BitConverter.GetBytes |> Array.concat

let private refusedWith (bytes: byte[]) (part: string) : unit =
    withFile bytes (fun path ->
        let message = refusal (fun () -> NpyFile.Open(path).Dispose())
        Expect.stringContains message part "the reason"
        Expect.stringContains message path "the file")

let tests =
    testList
        "Npy"
        [
            testProperty
                "what is written is read back, of every type and shape"
                (fun (seed: int) (axes: byte list) (kind: byte) ->
                    inFolder (fun folder ->
                        let path = Path.Combine(folder, "a.npy")
                        let shape = axes |> List.truncate 4 |> List.map (fun axis -> int64 (axis % 5uy))
                        use tensor = tensorOf types[int kind % types.Length] shape seed
                        NpyFile.Write(path, tensor)
                        use file = NpyFile.Open path
                        use loaded = file.Load()
                        Expect.equal loaded.dtype tensor.dtype "type"
                        Expect.equal loaded.shape tensor.shape "shape"
                        Expect.isTrue (loaded.Equals(tensor)) "values"))

            testCase "Fortran order, and versions 2 and 3" (fun () ->
                for version in [ 1uy; 2uy; 3uy ] do
                    withFile
                        (header version "{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }" (ints [ 1; 4; 2; 5; 3; 6 ]))
                        (fun path ->
                            use file = NpyFile.Open path
                            use loaded = file.Load()
                            Expect.equal loaded.shape [| 2L; 3L |] "shape"
                            Expect.isTrue (loaded.is_contiguous ()) "row-major"
                            Expect.equal (loaded.data<int>().ToArray()) [| 1; 2; 3; 4; 5; 6 |] "values"))

            testCase "rows of ids from int64, int32 and uint16" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "a.npy")
                    let row = Array.zeroCreate<int> 3

                    let check () =
                        use file = NpyFile.Open path
                        file.ReadRow(1L, Span row)
                        Expect.equal row [| 3; 4; 5 |] "row"

                    NpyFile.Write<int64>(path, ReadOnlyMemory [| 0L .. 5L |], 2L, 3L)
                    check ()
                    NpyFile.Write<int>(path, ReadOnlyMemory [| 0..5 |], 2L, 3L)
                    check ()
                    NpyFile.Write<uint16>(path, ReadOnlyMemory [| 0us .. 5us |], 2L, 3L)
                    check ()
                    use loaded = NpyFile.Open(path).Load()
                    Expect.equal loaded.dtype torch.ScalarType.Int32 "uint16 is loaded as int32"
                    NpyFile.Write<int64>(path, ReadOnlyMemory [| 0L; 1L <<< 40 |], 1L, 2L)
                    use file = NpyFile.Open path

                    Expect.stringContains
                        (refusal (fun () -> file.ReadRow(0L, Span(Array.zeroCreate<int> 2))))
                        "column 1"
                        "no id"

                    NpyFile.Write<float32>(path, ReadOnlyMemory [| 0.0f |], 1L, 1L)
                    use file = NpyFile.Open path
                    Expect.stringContains (refusal (fun () -> file.ReadRow(0L, Span(Array.zeroCreate<int> 1)))) "<f4" "no ids"))

            testCase "the file of NumPy itself" (fun () ->
                use file = NpyFile.Open(Material.shared "golden/lm_a/tokens.npy")
                Expect.equal file.Shape [| 6L; 40L |] "shape"
                let bytes = File.ReadAllBytes(Material.shared "golden/lm_a/tokens.npy")

                inFolder (fun folder ->
                    use tensor = file.Load()
                    let path = Path.Combine(folder, "a.npy")
                    NpyFile.Write(path, tensor)
                    Expect.equal (File.ReadAllBytes path) bytes "written as NumPy writes it"))

            testCase "refusals" (fun () ->
                refusedWith [||] "not a .npy"
                refusedWith (header 4uy "{}" [||]) "version 4"
                refusedWith (header 1uy "{'descr': '>i4', 'fortran_order': False, 'shape': (1,), }" (ints [ 1 ])) ">i4"
                refusedWith (header 1uy "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" (ints [ 1 ])) "|O"
                refusedWith (header 1uy "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }" (ints [ 1 ])) "takes 8 bytes"

                refusedWith
                    (header 1uy "{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }" (ints [ 1 ]))
                    "too large"

                refusedWith (header 1uy "{'descr': '<i4', 'fortran_order': False, 'shape': (-1,), }" (ints [ 1 ])) "whole number"
                refusedWith (header 1uy "{'descr': '<i4', 'fortran_order': 0, 'shape': (1,), }" (ints [ 1 ])) "True nor False"
                refusedWith (header 1uy "{'descr': '<i4', 'shape': (1,), }" (ints [ 1 ])) "alone"

                refusedWith
                    (header 1uy "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }" (ints [ 1 ]))
                    "quotes"

                refusedWith (header 1uy "__import__('os').system('ls')" [||]) "missing")

            damagedFilesAreRefused
                "a damaged file is read or refused, nothing else"
                ".npy"
                (fun () ->
                    header
                        1uy
                        "{'descr': '<i8', 'fortran_order': False, 'shape': (4, 5), }"
                        (Array.init 160 (fun i -> if i % 8 = 0 then byte i else 0uy)))
                (fun path ->
                    use file = NpyFile.Open path
                    use _ = file.Load()

                    if file.Shape.Length = 2 && file.Shape[0] > 0L then
                        file.ReadRow(file.Shape[0] - 1L, Span(Array.zeroCreate<int>(int file.Shape[1]))))
        ]
