module Hybrid.Tests.TorchFileTests

open System
open System.IO
open System.IO.Compression
open System.Text
open Expecto
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open TorchSharp

/// Pieces of a pickle.
module internal Py =
    let ofBytes (parts: byte[] list) = Array.concat parts

    let text (s: string) =
        ofBytes [ [| byte 'X' |]; BitConverter.GetBytes(Encoding.UTF8.GetByteCount s); Encoding.UTF8.GetBytes s ]

    let number (n: int) = ofBytes [ [| byte 'J' |]; BitConverter.GetBytes n ]
    let tuple (items: byte[] list) = ofBytes [ [| byte '(' |]; ofBytes items; [| byte 't' |] ]
    let list (items: byte[] list) = ofBytes [ "](" |> Encoding.ASCII.GetBytes; ofBytes items; [| byte 'e' |] ]
    let name (m: string) (n: string) = Encoding.ASCII.GetBytes $"c{m}\n{n}\n"
    let call (f: byte[]) (arguments: byte[] list) = ofBytes [ f; tuple arguments; [| byte 'R' |] ]
    let yes = [| 0x88uy |]
    let no = [| 0x89uy |]
    let none = [| byte 'N' |]

    let dict (items: (byte[] * byte[]) list) =
        ofBytes
            [
                "}(" |> Encoding.ASCII.GetBytes
                items |> List.map (fun (k, v) -> ofBytes [ k; v ]) |> ofBytes
                [| byte 'u' |]
            ]

    let ordered (items: (byte[] * byte[]) list) =
        ofBytes
            [
                call (name "collections" "OrderedDict") []
                [| byte '(' |]
                items |> List.map (fun (k, v) -> ofBytes [ k; v ]) |> ofBytes
                [| byte 'u' |]
                // the attribute that state dicts carry
                dict [ text "_metadata", dict [] ]
                [| byte 'b' |]
            ]

    let storage (kind: string) (key: string) (count: int) (extra: byte[] list) =
        ofBytes
            [
                tuple ([ text "storage"; name "torch" kind; text key; text "cuda:0"; number count ] @ extra)
                [| byte 'Q' |]
            ]

    let tensorOn (storage: byte[]) (offset: int) (shape: int list) (strides: int list) =
        call
            (name "torch._utils" "_rebuild_tensor_v2")
            [
                storage
                number offset
                tuple (List.map number shape)
                tuple (List.map number strides)
                no
                call (name "collections" "OrderedDict") []
            ]

    let tensor kind key count offset shape strides = tensorOn (storage kind key count []) offset shape strides

    let parameter (data: byte[]) =
        call (name "torch._utils" "_rebuild_parameter") [ data; yes; call (name "collections" "OrderedDict") [] ]

    let pickle (value: byte[]) = ofBytes [ [| 0x80uy; 2uy |]; value; [| byte '.' |] ]

let internal floats (count: int) = Array.init count (fun i -> BitConverter.GetBytes(float32 i)) |> Array.concat

let private zipped (level: CompressionLevel) (entries: (string * byte[]) list) : byte[] =
    use stream = new MemoryStream()

    using (new ZipArchive(stream, ZipArchiveMode.Create, true)) (fun zip ->
        for name, bytes in entries do
            use entry = zip.CreateEntry(name, level).Open()
            entry.Write(bytes, 0, bytes.Length))

    stream.ToArray()

let internal archive (value: byte[]) (storages: (string * byte[]) list) : byte[] =
    zipped
        CompressionLevel.NoCompression
        ([ "a/data.pkl", Py.pickle value; "a/byteorder", Encoding.ASCII.GetBytes "little" ]
         @ (storages |> List.map (fun (key, bytes) -> $"a/data/{key}", bytes)))

let private withFile (bytes: byte[]) (test: string -> unit) : unit =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "damaged.pt")
        File.WriteAllBytes(path, bytes)
        test path)

let private refusedWith (bytes: byte[]) (part: string) : unit =
    withFile bytes (fun path ->
        let message = refusal (fun () -> TorchFile.Open(path).Dispose())
        Expect.stringContains message part "the reason"
        Expect.stringContains message path "the file")

let private values (file: ITensorFile) (name: string) : float32[] =
    use tensor = file.Load name
    use wide = tensor.to_type torch.ScalarType.Float32
    wide.data<float32>().ToArray()

let internal sampleValue =
    Py.dict
        [
            Py.text "epoch", Py.number 3
            Py.text "name", Py.text "run"
            Py.text "evaluation_metrics", Py.list []
            Py.text "done", Py.yes
            Py.text "state_dict",
            Py.ordered
                [
                    Py.text "module._orig_mod.w", Py.tensor "FloatStorage" "0" 6 0 [ 3; 2 ] [ 1; 3 ]
                    Py.text "module.layers.0._orig_mod.b", Py.parameter (Py.tensor "FloatStorage" "0" 6 4 [ 2 ] [ 1 ])
                    Py.text "module.flag", Py.tensor "BoolStorage" "1" 2 0 [ 2 ] [ 1 ]
                    Py.text "module.scalar", Py.tensor "LongStorage" "2" 1 0 [] []
                    Py.text "module.wide", Py.tensor "FloatStorage" "0" 6 1 [ 4; 2 ] [ 0; 1 ]
                ]
        ]

let private sample =
    lazy archive sampleValue [ "0", floats 6; "1", [| 1uy; 0uy |]; "2", BitConverter.GetBytes 77L ]

let internal legacy =
    lazy
        (let magic = [| 0x8Auy; 10uy; 0x6cuy; 0xfcuy; 0x9cuy; 0x46uy; 0xf9uy; 0x20uy; 0x6auy; 0xa8uy; 0x50uy; 0x19uy |]

         Array.concat
             [
                 Py.pickle magic
                 Py.pickle (Py.number 1001)
                 Py.pickle (Py.dict [ Py.text "little_endian", Py.yes ])
                 Py.pickle (
                     Py.dict [ Py.text "w", Py.tensorOn (Py.storage "FloatStorage" "7" 4 [ Py.none ]) 0 [ 2; 2 ] [ 2; 1 ] ]
                 )
                 Py.pickle (Py.list [ Py.text "7" ])
                 BitConverter.GetBytes 4L
                 floats 4
             ])

let private one (value: byte[]) = archive (Py.dict [ Py.text "w", value ]) [ "0", floats 6 ]

let tests =
    testList
        "TorchFile"
        [
            testCase "names, strides, scalars and prefixes of a checkpoint" (fun () ->
                withFile sample.Value (fun path ->
                    use file = TorchFile.Open path
                    Expect.equal (List.ofSeq file.Entries.Keys) [ "w"; "layers.0.b"; "flag"; "scalar"; "wide" ] "names"
                    Expect.equal (values file "w") [| 0.0f; 3.0f; 1.0f; 4.0f; 2.0f; 5.0f |] "a turned view"
                    Expect.equal (values file "layers.0.b") [| 4.0f; 5.0f |] "an offset"
                    Expect.equal (values file "wide") [| 1.0f; 2.0f; 1.0f; 2.0f; 1.0f; 2.0f; 1.0f; 2.0f |] "stride 0"
                    Expect.equal (values file "scalar") [| 77.0f |] "no axis"
                    Expect.equal (values file "flag") [| 1.0f; 0.0f |] "booleans"
                    Expect.equal file.Entries["scalar"].Type torch.ScalarType.Int64 "type"
                    let metadata = file.Metadata |> Seq.map (fun pair -> pair.Key, pair.Value) |> List.ofSeq
                    Expect.equal metadata [ "epoch", "3"; "name", "run"; "done", "true" ] "metadata"))

            testCase "the format before zip" (fun () ->
                withFile legacy.Value (fun path ->
                    use file = TorchFile.Open path
                    Expect.equal (values file "w") [| 0.0f; 1.0f; 2.0f; 3.0f |] "values"))

            testCase "model. is stripped only where every name has it" (fun () ->
                let w = Py.tensor "FloatStorage" "0" 6 0 [ 6 ] [ 1 ]

                let names keys =
                    let mutable found = []

                    withFile (archive (Py.dict (keys |> List.map (fun key -> Py.text key, w))) [ "0", floats 6 ]) (fun path ->
                        use file = TorchFile.Open path
                        found <- List.ofSeq file.Entries.Keys)

                    found

                Expect.equal (names [ "model.a"; "model.b" ]) [ "a"; "b" ] "all have it"
                Expect.equal (names [ "model.a"; "b" ]) [ "model.a"; "b" ] "some have it"
                Expect.equal (names [ "module.module.a"; "module.model.b" ]) [ "a"; "model.b" ] "module. is stripped everywhere")

            testCase "nothing is executed: any other name is refused where it stands" (fun () ->
                let attack = Py.call (Py.name "os" "system") [ Py.text "touch executed" ]
                refusedWith (one attack) "os.system"
                refusedWith (one attack) "offset"
                refusedWith (one (Py.call (Py.name "builtins" "eval") [ Py.text "1" ])) "builtins.eval"
                refusedWith (one (Py.name "torch.hub" "load")) "torch.hub.load"
                refusedWith (one (Py.ofBytes [ Py.text "os"; Py.text "system"; [| 0x93uy |] ])) "os.system"
                refusedWith (one (Py.ofBytes [ Py.name "torch" "Size"; Py.tuple []; [| 0x81uy |] ])) "torch.Size"
                refusedWith (one (Encoding.ASCII.GetBytes "I1\n")) "opcode 0x49"
                Expect.isFalse (File.Exists "executed") "nothing ran")

            testCase "tensors that leave their storage, or lie" (fun () ->
                refusedWith (one (Py.tensor "FloatStorage" "0" 6 1 [ 6 ] [ 1 ])) "leaves its storage"
                refusedWith (one (Py.tensor "FloatStorage" "0" 6 0 [ 2; 2 ] [ 5; 1 ])) "leaves its storage"
                refusedWith (one (Py.tensor "FloatStorage" "0" 6 -1 [ 1 ] [ 1 ])) "leaves its storage"
                refusedWith (one (Py.tensor "FloatStorage" "0" 6 0 [ 2 ] [ -1 ])) "whole numbers"
                refusedWith (one (Py.tensor "FloatStorage" "0" 5 0 [ 1 ] [ 1 ])) "24 bytes"
                refusedWith (one (Py.tensor "FloatStorage" "9" 6 0 [ 1 ] [ 1 ])) "a/data/9"
                refusedWith (one (Py.tensor "ComplexFloatStorage" "0" 6 0 [ 1 ] [ 1 ])) "ComplexFloatStorage"

                withFile (one (Py.tensor "FloatStorage" "0" 6 0 [ 100000; 100000 ] [ 0; 0 ])) (fun path ->
                    use file = TorchFile.Open path
                    Expect.stringContains (refusal (fun () -> (file.Load "w").Dispose())) "repeats" "a huge repetition"))

            testCase "files that are something else" (fun () ->
                refusedWith [||] "0 bytes"
                refusedWith (Encoding.ASCII.GetBytes "hello, world") "neither"
                refusedWith (sample.Value[.. sample.Value.Length / 2]) "cut short"
                refusedWith (zipped CompressionLevel.NoCompression [ "a/b", [| 1uy |] ]) "no data.pkl"
                let w = Py.pickle (Py.dict [ Py.text "w", Py.tensor "FloatStorage" "0" 6 0 [ 6 ] [ 1 ] ])
                let entries = [ "a/data.pkl", w; "a/data/0", floats 6 ]

                refusedWith
                    (zipped CompressionLevel.Optimal [ "a/data.pkl", Array.append w (Array.zeroCreate 1000) ])
                    "compressed"

                refusedWith
                    (zipped CompressionLevel.NoCompression (("a/byteorder", Encoding.ASCII.GetBytes "big") :: entries))
                    "big-endian"

                refusedWith (zipped CompressionLevel.NoCompression (("a/constants.pkl", w) :: entries)) "TorchScript"
                refusedWith (archive (Py.dict [ Py.text "lr", Py.number 1 ]) []) "its keys are: lr"
                refusedWith (archive (Py.number 1) []) "no dict of tensors")

            testCase "a pickle that repeats itself does not grow" (fun () ->
                // One list of pairs, remembered, and turned into an OrderedDict again and again.
                let pair = Py.tuple [ Py.text "a"; Py.number 1 ]
                let big = Py.ofBytes [ Py.list (List.replicate 3000 pair); [| byte 'q'; 0uy |] ]
                let again = Py.ofBytes [ Py.name "collections" "OrderedDict"; [| byte 'h'; 0uy; 0x85uy; byte 'R' |] ]
                refusedWith (archive (Py.list (big :: List.replicate 3000 again)) []) "repeats itself")

            testCase "a dict that contains itself is no trouble" (fun () ->
                let cyclic =
                    Py.ofBytes
                        [
                            [| byte '}'; byte 'q'; 0uy |]
                            Py.text "self"
                            [| byte 'h'; 0uy; byte 's' |]
                            Py.text "w"
                            Py.tensor "FloatStorage" "0" 6 0 [ 6 ] [ 1 ]
                            [| byte 's' |]
                        ]

                withFile (archive cyclic [ "0", floats 6 ]) (fun path ->
                    use file = TorchFile.Open path
                    Expect.equal (values file "w") [| 0.0f; 1.0f; 2.0f; 3.0f; 4.0f; 5.0f |] "values"))

            damagedFilesAreRefused
                "a damaged zip file is read or refused, nothing else"
                ".pt"
                (fun () -> sample.Value)
                (fun path ->
                    use file = TorchFile.Open path
                    loadAll file)

            damagedFilesAreRefused
                "a damaged old file is read or refused, nothing else"
                ".pt"
                (fun () -> legacy.Value)
                (fun path ->
                    use file = TorchFile.Open path
                    loadAll file)

            testCase "an open_lm checkpoint" (fun () ->
                use file = TorchFile.Open(Material.shared "golden/lm_a/epoch_1.pt")
                let model = File.ReadAllText(Material.shared "golden/lm_a/model.json")
                use json = System.Text.Json.JsonDocument.Parse model
                let number (key: string) = json.RootElement.GetProperty(key).GetInt64()
                let width = number "hidden_dim"
                Expect.equal file.Entries["tok_embeddings.weight"].Shape [| number "vocab_size"; width |] "embedding"
                Expect.equal file.Entries["output.weight"].Shape [| number "vocab_size"; width |] "head"

                for layer in 0L .. number "n_layers" - 1L do
                    Expect.equal
                        file.Entries[$"layers.{layer}.attention.in_proj.weight"].Shape
                        [| 3L * width; width |]
                        "queries, keys, values"

                for entry in file.Entries.Values do
                    Expect.equal entry.Type torch.ScalarType.Float32 "type"
                    Expect.isFalse (entry.Name.StartsWith "module.") "prefix"

                Expect.equal file.Metadata["epoch"] "1" "epoch"
                loadAll file)

            testCase "a checkpoint from a GPU" (fun () ->
                use file = TensorFiles.Open(Material.shared "data/vqvae_photos/vqvae.pt")

                Expect.isTrue
                    (file.Entries.Values
                     |> Seq.exists (fun entry ->
                         entry.Shape.AsSpan().SequenceEqual(ReadOnlySpan [| 512L; 128L |])
                         || entry.Shape.AsSpan().SequenceEqual(ReadOnlySpan [| 128L; 512L |])))
                    "codebook"

                loadAll file)
        ]
