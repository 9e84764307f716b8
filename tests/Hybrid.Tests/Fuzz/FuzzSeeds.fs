/// Valid files of tensors, samples and sequences, small, made here; and the readers that fuzzing is aimed at.
module Hybrid.Tests.FuzzSeeds

open System
open System.Formats.Tar
open System.IO
open System.IO.Compression
open System.Text
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.FuzzSupport
open TorchSharp

let utf8 (text: string) = Encoding.UTF8.GetBytes text

let private written (name: string) (write: string -> unit) : byte[] =
    use folder = new Folder()
    write (folder.At name)
    File.ReadAllBytes(folder.At name)

/// The bytes of all tensors of a file, each loaded once.
let private loadAll (file: ITensorFile) : int64 =
    file.Entries.Keys
    |> Seq.sumBy (fun name ->
        use tensor = file.Load name
        tensor.numel () * tensor.element_size ())

let target (name: string) (file: string) (seeds: unit -> byte[] list) (read: string -> int64) : Target =
    {
        Name = name
        File = file
        Beside = []
        Seeds = lazy (seeds ())
        IsJson = false
        Tolerant = false
        Wrap = id
        Read = read
        Most = fun length -> 16L * length + 2_000_000L
    }

// ---- tensors ----

let private readTensors (path: string) : int64 =
    use file = TensorFiles.Open path
    loadAll file

let private torchParts = [ "0", TorchFileTests.floats 6; "1", [| 1uy; 0uy |]; "2", BitConverter.GetBytes 77L ]

let private torchZip =
    target "torch zip" "a.pt" (fun () -> [ TorchFileTests.archive TorchFileTests.sampleValue torchParts ]) readTensors

/// A state dict with so many tensors that work or memory out of proportion shows.
let private manyTensors () =
    TorchFileTests.Py.ordered
        [
            for i in 0..400 do
                TorchFileTests.Py.text $"layers.{i}.weight",
                TorchFileTests.Py.tensor "FloatStorage" "0" 6 (i % 3) [ 1; 3 ] [ 3; 1 ]
        ]

let torchPickle =
    { target
          "pickle in a zip"
          "a.pt"
          (fun () -> [ TorchFileTests.sampleValue; TorchFileTests.sampleValue; manyTensors () ])
          readTensors with
        Wrap = fun pickle -> TorchFileTests.archive pickle torchParts
    }

let private torchLegacy =
    target "torch without zip" "a.pt" (fun () -> [ TorchFileTests.legacy.Value ]) readTensors

let private safeTensors () =
    let file (tensors: (string * torch.Tensor) list) =
        written "a.safetensors" (fun path ->
            SafeTensorsWriter.Write(path, tensors |> List.map (fun (name, tensor) -> struct (name, tensor)))

            for _, tensor in tensors do
                tensor.Dispose())

    [
        file
            [
                "tok_embeddings.weight", FormatsSupport.tensorOf torch.ScalarType.Float32 [ 5L; 3L ] 1
                "layers.0.flag", FormatsSupport.tensorOf torch.ScalarType.Bool [ 7L ] 2
                "empty", FormatsSupport.tensorOf torch.ScalarType.Int64 [ 0L; 2L ] 3
                "half", FormatsSupport.tensorOf torch.ScalarType.BFloat16 [ 2L; 2L; 2L ] 4
            ]
        file [ "scalar", FormatsSupport.tensorOf torch.ScalarType.Float64 [] 5 ]
    ]

/// A safetensors header before 130 bytes of data, its length put right.
let private safeTensorsHeader =
    let seed =
        """{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]},"b":{"dtype":"BOOL","shape":[2],"data_offsets":[64,66]},"c":{"dtype":"U16","shape":[32],"data_offsets":[66,130]}}"""

    let many =
        [ for i in 0..800 -> $"\"t{i}\":{{\"dtype\":\"I8\",\"shape\":[0,{i}],\"data_offsets\":[130,130]}}" ]
        |> String.concat ","

    let seeds () = [ utf8 seed; utf8 seed; utf8 (seed[.. seed.Length - 2] + "," + many + "}") ]

    { target "safetensors header" "a.safetensors" seeds readTensors with
        Wrap = fun header -> Array.concat [ BitConverter.GetBytes header.LongLength; header; Array.zeroCreate 130 ]
    }

let private tensorIndex =
    let seed = """{"metadata":{"total_size":130},"weight_map":{"a":"a.safetensors","b":"b.safetensors"}}"""

    let part (name: string) =
        written name (fun path ->
            use tensor = FormatsSupport.tensorOf torch.ScalarType.Float32 [ 2L ] 1
            SafeTensorsWriter.Write(path, [ struct (name[..0], tensor) ]))

    let read (path: string) =
        use file = TensorFiles.Open(string (Path.GetDirectoryName path))
        loadAll file

    { target "safetensors index" "model.safetensors.index.json" (fun () -> [ utf8 seed ]) read with
        Beside = [ for name in [ "a.safetensors"; "b.safetensors" ] -> name, part name ]
        IsJson = true
    }

let private npy =
    let seeds () =
        [
            written "a.npy" (fun path -> NpyFile.Write<int64>(path, ReadOnlyMemory [| 1L .. 12L |], 3L, 4L))
            written "a.npy" (fun path -> NpyFile.Write<uint16>(path, ReadOnlyMemory [| 1us .. 12us |], 2L, 3L, 2L))
            written "a.npy" (fun path -> NpyFile.Write<float32>(path, ReadOnlyMemory [| 1.0f; 2.0f |], 2L))
        ]

    let read (path: string) =
        use file = NpyFile.Open path
        use tensor = file.Load()
        tensor.numel () * tensor.element_size ()

    target "npy" "a.npy" seeds read

/// A .npy header before 96 bytes of data, its length put right.
let npyHeader =
    { npy with
        Name = "npy header"
        Seeds =
            lazy
                [
                    utf8 "{'descr': '<i8', 'fortran_order': False, 'shape': (3, 4), }\n"
                    utf8 "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3, 4), }\n"
                ]
        Wrap =
            fun header ->
                let length = min header.Length 65535

                Array.concat
                    [ [| 0x93uy; yield! "NUMPY"B; 1uy; 0uy |]; BitConverter.GetBytes(uint16 length); header; Array.zeroCreate 96 ]
    }

// ---- archives of samples and of sequences ----

let private tar (format: TarEntryFormat) (members: (string * byte[]) list) : byte[] =
    use stream = new MemoryStream()

    using (new TarWriter(stream, format, true)) (fun writer ->
        for name, bytes in members do
            let kind =
                if format = TarEntryFormat.V7 then
                    TarEntryType.V7RegularFile
                else
                    TarEntryType.RegularFile

            let entry: TarEntry =
                match format with
                | TarEntryFormat.Pax -> PaxTarEntry(kind, name)
                | TarEntryFormat.Gnu -> GnuTarEntry(kind, name)
                | TarEntryFormat.Ustar -> UstarTarEntry(kind, name)
                | _ -> V7TarEntry(kind, name)

            entry.DataStream <- new MemoryStream(bytes)
            writer.WriteEntry entry)

    stream.ToArray()

let private gzip (text: string) : byte[] =
    use stream = new MemoryStream()

    using (new GZipStream(stream, CompressionLevel.Fastest, true)) (fun packed -> packed.Write(utf8 text))
    stream.ToArray()

/// Headers' checksums put right, as far as the headers can be followed.
let withChecksums (bytes: byte[]) : byte[] =
    let mutable at = 0

    while at >= 0 && at + 512 <= bytes.Length do
        let header = bytes.AsSpan(at, 512)

        if header.ContainsAnyExcept 0uy then
            header.Slice(148, 8).Fill ' 'B
            let mutable sum = 0

            for b in header do
                sum <- sum + int b

            utf8(Convert.ToString(sum, 8).PadLeft(6, '0') + "\000 ").CopyTo(header.Slice 148)
            let digits = Encoding.Latin1.GetString(header.Slice(124, 11)).Trim([| ' '; '\000' |])

            let size =
                if digits.Length > 0 && digits |> Seq.forall (fun c -> c >= '0' && c <= '7') then
                    Convert.ToInt64(digits, 8)
                else
                    0L

            let next = int64 at + 512L + (size + 511L) / 512L * 512L
            at <- if next > int64 bytes.Length then -1 else int next
        else
            at <- -1

    bytes

let samples () =
    let members =
        [
            "a.jpg", utf8 "the picture a"
            "a.txt", utf8 " a dog \n"
            "d/b.PNG", utf8 "b"
            "d/b.json", utf8 """{"caption":"a cat","captions":["a cat","two cats",3],"key":"b"}"""
            "c.webp", utf8 "c"
        ]

    let long = String.replicate 30 "long/" + "f.jpeg", utf8 "f"

    [
        tar TarEntryFormat.Pax (members @ [ long ])
        tar TarEntryFormat.Gnu (members @ [ long ])
        tar TarEntryFormat.Ustar members
        tar TarEntryFormat.V7 members
    ]

let readPairs (path: string) : int64 =
    let mutable given = 0L

    for source in PairSource.Open path do
        for next in source.Read(PairReading()) do
            match next.Pair with
            | null -> ()
            | pair -> given <- given + pair.Image.Read().LongLength

    given

let private webDataset = { target "tar" "a.tar" samples readPairs with Tolerant = true }

/// A tar that is packed whole.
let private packed =
    let pack (bytes: byte[]) =
        use stream = new MemoryStream()

        using (new GZipStream(stream, CompressionLevel.Fastest)) (fun zip -> zip.Write(ReadOnlySpan bytes))
        stream.ToArray()

    { target "packed tar" "a.tar.gz" (fun () -> samples () |> List.map pack) readPairs with
        Tolerant = true
    }

let private webDatasetHeaders = { webDataset with Name = "tar with right checksums"; Wrap = withChecksums }

let private readSequences (path: string) : int64 =
    use file = SequenceFiles.Open(path, 100)
    let mutable given = 0L

    for i in 0L .. file.Count - 1L do
        given <- given + 4L * (file.Row i).LongLength

    given

let private sequenceTar =
    let seeds () =
        [
            tar
                TarEntryFormat.Ustar
                [
                    "0.txt", utf8 "[1, 2, '<|endoftext|>', \"it's\", -1]"
                    "1.json", utf8 "[3, \"<|endoftext|>\", 4]"
                    "2.json.gz", gzip "[5, -2]"
                ]
        ]

    { target "tar of sequences" "a.tar" seeds readSequences with Wrap = withChecksums }

let private gzipped =
    { target "gzip member" "a.tar" (fun () -> [ gzip "[5, -2]"; gzip ("[" + String.replicate 300 "1," + "1]") ]) readSequences with
        Wrap = fun bytes -> tar TarEntryFormat.Ustar [ "2.json.gz", bytes ]
        // A list of ids may unpack to a hundred times its packed length.
        Most = fun length -> 400L * length + 2_000_000L
    }

let private pythonList =
    { target "Python list" "a.tar" (fun () -> [ utf8 "[1, 2, '<|endoftext|>', \"it's\", -1]" ]) readSequences with
        Wrap = fun bytes -> tar TarEntryFormat.Ustar [ "2.txt", bytes ]
    }

let private tables =
    let table (file: string) (seed: string) =
        { target $"table {Path.GetExtension file}" file (fun () -> [ utf8 seed ]) readPairs with
            Tolerant = true
        }

    [
        table "a.jsonl" "{\"file\":\"a.jsonl\",\"caption\":\"a dog\"}\n{\"file_name\":\"b.png\",\"captions\":[\"a\",\"b\"]}\n"
        table "a.csv" "file,caption\na.csv,\"a \"\"dog\"\", red\"\nb.png,a cat\n"
        table "a.tsv" "image\ttext\na.tsv\ta dog\n"
    ]

// ---- shards ----

let private shardFolder (folder: string) =
    use writer =
        new ShardWriter(
            ShardManifest.Create(folder, true),
            ShardInfo(300, 64, 2, 3, 96, "centre", "aa", "bb"),
            3,
            "s",
            "the source"
        )

    for i in 0..4 do
        writer.Add(ReadOnlySpan [| i; i + 1 |], ReadOnlySpan [| i; 1; 2; 3; 4; 5 |])

    writer.Finish()

let private readShards (folder: string) : int64 =
    use reader = ShardReader.Open folder
    let mutable given = 0L

    for i in 0L .. reader.Count - 1L do
        let struct (text, codes) = reader.Pair i
        given <- given + 4L * (text.LongLength + codes.LongLength)

    given

let private shardFiles =
    lazy
        (use folder = new Folder()
         shardFolder (folder.At ".")

         Directory.GetFiles(folder.At ".")
         |> Array.map (fun path -> string (Path.GetFileName path), File.ReadAllBytes path))

let private shardPart (name: string) (part: string) =
    let seeds () = shardFiles.Value |> Array.filter (fun (file, _) -> file.Contains part) |> Array.map snd |> List.ofArray
    let file = shardFiles.Value |> Array.map fst |> Array.find (fun file -> file.Contains part)

    { target name file seeds (fun path -> readShards (string (Path.GetDirectoryName path))) with
        Beside = shardFiles.Value |> Array.filter (fun (other, _) -> other <> file) |> List.ofArray
    }

/// The readers of these files.
let binary: Target list =
    [
        torchZip
        torchPickle
        torchLegacy
        packed
        target "safetensors" "a.safetensors" safeTensors readTensors
        safeTensorsHeader
        tensorIndex
        npy
        npyHeader
        webDataset
        webDatasetHeaders
        sequenceTar
        gzipped
        pythonList
        yield! tables
        shardPart "shard" "000000"
        shardPart "manifest" "manifest"
    ]
