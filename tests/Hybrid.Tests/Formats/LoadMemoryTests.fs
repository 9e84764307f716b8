/// Peak memory of loading a model, measured from outside as the system counts it.
module Hybrid.Tests.LoadMemoryTests

open System
open System.IO
open System.Text
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open TorchSharp

/// The largest resident memory that a run of the program had, in bytes.
let private peak (arguments: string list) : int64 = (Watching.watch (fun () -> false) arguments).Peak

let private config = { ModelConfig.openLm 1024 3 8 6000 64 with FeedForwardWidth = ModelConfig.swiGluWidth 1024 }

let private description (rows: int) (width: int) (layers: int) =
    $"""{{"hidden_dim":{width},"n_layers":{layers},"n_heads":8,"seq_len":64,"vocab_size":{rows},"post_embed_norm":false,"weight_tying":false}}"""

let private sources (kind: torch.ScalarType) (config: ModelConfig) : TensorSource[] =
    [|
        for parameter in Architecture.Parameters config ->
            TensorSource(
                parameter.Name,
                kind,
                parameter.Shape,
                fun () ->
                    use ones = torch.full (parameter.Shape, Scalars.Of 0.01, dtype = torch.ScalarType.Float32)
                    ones.to_type kind
            )
    |]

let private pickled (parts: byte[] list) = Array.concat ([ [| 0x80uy; 2uy |] ] @ parts @ [ [| byte '.' |] ])
let private ascii (text: string) = Encoding.ASCII.GetBytes text
let private word (n: int) = Array.append [| byte 'J' |] (BitConverter.GetBytes n)
let private text (s: string) = Array.concat [ [| byte 'X' |]; BitConverter.GetBytes s.Length; ascii s ]
let private tuple (items: byte[] list) = Array.concat ([ ascii "(" ] @ items @ [ ascii "t" ])

/// torch.save's format before zip.
let private writeLegacy (path: string) (tensors: TensorSource[]) =
    let tensor (i: int) (source: TensorSource) =
        let count = int (Array.fold (*) 1L source.Shape)
        let strides = source.Shape |> Array.mapi (fun axis _ -> Array.fold (*) 1L source.Shape[axis + 1 ..])

        Array.concat
            [
                text source.Name
                ascii "ctorch._utils\n_rebuild_tensor_v2\n"
                tuple
                    [
                        tuple
                            [ text "storage"; ascii "ctorch\nFloatStorage\n"; text (string i); text "cpu"; word count; ascii "N" ]
                        ascii "Q"
                        word 0
                        tuple (source.Shape |> Array.map (int >> word) |> List.ofArray)
                        tuple (strides |> Array.map (int >> word) |> List.ofArray)
                        [| 0x89uy |]
                        ascii "ccollections\nOrderedDict\n)R"
                    ]
                ascii "R"
            ]

    use stream = File.Create path
    let put (bytes: byte[]) = stream.Write(bytes, 0, bytes.Length)
    put (pickled [ [| 0x8Auy; 10uy; 0x6cuy; 0xfcuy; 0x9cuy; 0x46uy; 0xf9uy; 0x20uy; 0x6auy; 0xa8uy; 0x50uy; 0x19uy |] ])
    put (pickled [ word 1001 ])
    put (pickled [ ascii "}("; text "little_endian"; [| 0x88uy |]; ascii "u" ])
    put (pickled [ ascii "}("; Array.concat (Array.mapi tensor tensors); ascii "u" ])
    put (pickled [ ascii "]("; Array.concat [| for i in 0 .. tensors.Length - 1 -> text (string i) |]; ascii "e" ])

    for source in tensors do
        put (BitConverter.GetBytes(source.Bytes / 4L))
        source.Copy(fun bytes -> stream.Write bytes)

let private writers =
    [
        "safetensors",
        torch.ScalarType.Float32,
        (fun (path: string) (tensors: TensorSource[]) -> SafeTensorsWriter.Write(path, tensors))
        "safetensors in bf16", torch.ScalarType.BFloat16, (fun path tensors -> SafeTensorsWriter.Write(path, tensors))
        "a .pt", torch.ScalarType.Float32, (fun path tensors -> TorchWriter.Write(path, 0L, "weights", tensors, [||]))
        "a .pt of before zip", torch.ScalarType.Float32, writeLegacy
    ]

let private loading = [ "--prompt-ids"; "1"; "--max-tokens"; "1"; "--greedy"; "--json" ]

let private baseline =
    lazy
        (let mutable found = 0L

         inFolder (fun folder ->
             let weights, json = Path.Combine(folder, "w.safetensors"), Path.Combine(folder, "model.json")
             let small = ModelConfig.openLm 16 3 8 32 64
             File.WriteAllText(json, description 32 16 3)
             SafeTensorsWriter.Write(weights, sources torch.ScalarType.Float32 small)
             found <- peak ([ "complete"; "--model"; weights; "--model-config"; json ] @ loading))

         found)

let tests =
    testSequenced (
        testList
            "Load memory"
            [
                for name, kind, write in writers do
                    testCase $"loading {name} takes at most 1.2 times the model" (fun () ->
                        if not (File.Exists "/proc/self/status") then
                            skiptest "this system does not tell the peak memory of a process"

                        inFolder (fun folder ->
                            let weights, json = Path.Combine(folder, "weights"), Path.Combine(folder, "model.json")
                            File.WriteAllText(json, description 6000 1024 3)
                            write weights (sources kind config)

                            let inMemory =
                                4L * (Architecture.Parameters config |> Seq.sumBy (fun p -> Array.fold (*) 1L p.Shape))

                            Expect.isGreaterThan inMemory 180_000_000L "a model that is large beside the program"

                            let most =
                                peak ([ "complete"; "--model"; weights; "--model-config"; json ] @ loading) - baseline.Value

                            Expect.isLessThan
                                (float most)
                                (1.2 * float inMemory)
                                $"peak memory beyond the program's own, of a model of {inMemory} bytes"))
            ]
    )
