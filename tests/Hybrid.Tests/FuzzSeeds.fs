/// Valid files of every format that is read, small, made here; and the readers that fuzzing is aimed at.
module Hybrid.Tests.FuzzSeeds

open System
open System.Buffers.Binary
open System.Formats.Tar
open System.IO
open System.IO.Compression
open System.Text
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.FuzzSupport
open SkiaSharp
open TorchSharp

let private utf8 (text: string) = Encoding.UTF8.GetBytes text

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

let private target (name: string) (file: string) (seeds: unit -> byte[] list) (read: string -> int64) : Target =
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

let private torchPickle =
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
let private npyHeader =
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
let private withChecksums (bytes: byte[]) : byte[] =
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

let private samples () =
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

let private readPairs (path: string) : int64 =
    let mutable given = 0L

    for source in PairSource.Open path do
        for next in source.Read(PairReading()) do
            match next.Pair with
            | null -> ()
            | pair -> given <- given + pair.Image.Read().LongLength

    given

let private webDataset = { target "tar" "a.tar" samples readPairs with Tolerant = true }

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

// ---- descriptions ----

let private none (read: string -> unit) (path: string) : int64 =
    read path
    0L

let private json (name: string) (seeds: string list) (read: string -> unit) : Target =
    { target name "a.json" (fun () -> List.map utf8 seeds) (none read) with IsJson = true }

let private openLm =
    """{"hidden_dim":64,"n_layers":2,"n_heads":4,"seq_len":128,"vocab_size":500,"post_embed_norm":false,"weight_tying":true,"model_norm":"gain_only_layer_norm","qk_norm":true,"positional_embedding_type":"head_rotary","ffn_type":"swiglu"}"""

let private llama =
    """{"model_type":"llama","hidden_size":64,"num_hidden_layers":5,"num_attention_heads":8,"num_key_value_heads":4,"intermediate_size":172,"vocab_size":512,"max_position_embeddings":512,"rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":true,"torch_dtype":"float32","hidden_act":"silu","rope_scaling":null,"eos_token_id":2}"""

let private neox =
    """{"model_type":"gpt_neox","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"intermediate_size":256,"vocab_size":512,"max_position_embeddings":128,"layer_norm_eps":1e-5,"rotary_pct":0.25,"rotary_emb_base":10000,"use_parallel_residual":true,"tie_word_embeddings":false,"hidden_act":"gelu"}"""

let private gpt2 =
    """{"model_type":"gpt2","n_embd":64,"n_layer":2,"n_head":4,"vocab_size":512,"n_positions":128,"n_ctx":128,"layer_norm_epsilon":1e-5,"activation_function":"gelu_new","eos_token_id":[1,2]}"""

let private hybrid =
    Api.Descriptions.Write(ModelConfig.openLm 64 2 4 520 128, { TextRows = 500; ImageCodes = 13 })

let private trainConfig =
    """{"model":{"checkpoint":"a"},"vocabulary":{"textRows":300,"imageCodes":64},"data":{"train":["a.json"],"heldOut":["b"],"order":"shuffled","form":"captioned","length":96,"captionDrop":0.1},"trainable":"+norms","newRows":"mean","loss":{"text":1,"image":1,"structure":1,"z":0},"optimizer":{"learningRate":3e-3,"betas":[0.9,0.95],"epsilon":1e-8,"weightDecay":0.1,"decay":"matrices"},"schedule":{"kind":"cosine","warmupSteps":10,"steps":60,"minimumLearningRate":1e-4},"batch":{"sequences":8,"microBatch":8},"clipNorm":1.0,"precision":"fp32","checkpoint":{"everySteps":1000},"seed":0}"""

/// A configuration with so many keys that nobody knows, that comparing them with known ones out of proportion shows.
let private manyKeys =
    trainConfig[.. trainConfig.Length - 2]
    + ","
    + String.Join(",", [ for i in 0..2000 -> $"\"optimiser{i}\":1" ])
    + "}"

let private configurations =
    [
        json "model description" [ openLm; llama; neox; gpt2; hybrid ] (fun path ->
            // What the description says is used at once by whoever opens a model.
            let description = ModelDescription.Read path
            Decoder.parameters description.Config |> ignore)
        { json "training configuration" [ trainConfig ] (fun path -> TrainJob.ReadPlan(path, []) |> ignore) with
            Beside = [ "a", [||]; "b", [||] ]
        }
        json "study plan" [ (StudyPlan.toJson Study.tiny).ToJsonString(); """{"preset":"smoke"}""" ] (fun path ->
            match StudyPlan.parse (Files.Text(path, "the plan")) with
            | Ok _ -> ()
            | Error sentences -> raise (InputException(String.concat "\n" sentences)))
        json
            "probe task"
            [
                """{"query": "the dog", "choices": ["is red", "is blue"], "gold": 0}"""
                + "\n"
                + """{"context_options": ["a", "b"], "continuation": "c", "gold": 1}"""
                + "\n"
                + """{"context": "a", "continuation": "b"}"""
                """[{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]"""
            ]
            (fun path -> ProbeTask.Read path |> ignore)
        target
            "state of a checkpoint"
            "state.json"
            (fun () ->
                [
                    utf8 """{"step":3,"position":12,"seed":0,"configuration":"aa","layout":"bb","files":{"state.json":120}}"""
                    utf8 """{"step":3,"position":12,"seed":0,"configuration":"aa","layout":"bb","files":{}}"""
                ])
            (none (fun path -> Checkpoint.Open(string (Path.GetDirectoryName path)) |> ignore))
    ]

// ---- inspect ----

/// What `inspect` says of a file, with --json.
let private inspect (path: string) : int64 =
    (InspectJob.Inspect path).ToJsonString(Json.Options) |> ignore
    0L

let private inspected =
    [
        { target
              "inspect json"
              "a.json"
              (fun () ->
                  List.map
                      utf8
                      [ openLm; llama; hybrid; trainConfig; """{"added_tokens":[],"model":{"type":"BPE","vocab":{"a":0}}}""" ])
              inspect with
            IsJson = true
            Beside = [ "a", [||]; "b", [||] ]
        }
        { target "inspect tar" "a.tar" samples inspect with Wrap = withChecksums }
        { torchPickle with Name = "inspect pickle"; Read = inspect }
        { npyHeader with Name = "inspect npy"; Read = inspect }
    ]

// ---- tokenizers ----

/// Small tokenizers of each kind of model, with many kinds of parts.
let private tokenizers =
    let added =
        """{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":true,"normalized":false,"special":true},{"id":1,"content":"</s>","single_word":true,"lstrip":true,"rstrip":false,"normalized":true,"special":false}"""

    let whole (normalizer: string) (preTokenizer: string) (decoder: string) (model: string) =
        """{"version":"1.0","truncation":null,"padding":null,"added_tokens":[ADDED],"normalizer":NORMALIZER,"pre_tokenizer":PRETOKENIZER,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}},"decoder":DECODER,"model":MODEL}"""
            .Replace("ADDED", added)
            .Replace("NORMALIZER", normalizer)
            .Replace("PRETOKENIZER", preTokenizer)
            .Replace("DECODER", decoder)
            .Replace("MODEL", model)

    let byteLevel = """{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"""

    [
        whole
            """{"type":"NFC"}"""
            byteLevel
            byteLevel
            """{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":"","end_of_word_suffix":"","fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"vocab":{"<s>":0,"</s>":1,"a":2,"b":3,"ab":4,"c":5,"Ġ":6,"Ġa":7},"merges":["a b","Ġ a"]}"""
        whole
            """{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}"""
            "null"
            """{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"""
            """{"type":"BPE","dropout":null,"unk_token":"<unk>","continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,"ignore_merges":false,"vocab":{"<s>":0,"</s>":1,"<unk>":2,"<0x61>":3,"<0xC3>":4,"<0xA9>":5,"▁":6,"b":7,"▁b":8},"merges":[["▁","b"]]}"""
        whole
            """{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Strip","strip_left":true,"strip_right":true},{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "}]}"""
            """{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"""
            """{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"""
            """{"type":"Unigram","unk_id":2,"byte_fallback":false,"vocab":[["<s>",0.0],["</s>",0.0],["<unk>",0.0],["▁a",-1.5],["b",-2.0],["ab",-2.5],["c",-3.5],["▁",-3.0]]}"""
        whole
            """{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}"""
            """{"type":"BertPreTokenizer"}"""
            """{"type":"WordPiece","prefix":"##","cleanup":true}"""
            """{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"<s>":0,"</s>":1,"[UNK]":2,"a":3,"##b":4,"cab":5,"##c":6}}"""
        whole
            """{"type":"Lowercase"}"""
            """{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\s+"},"behavior":"Removed","invert":false},{"type":"Digits","individual_digits":true},{"type":"Punctuation","behavior":"Isolated"},{"type":"WhitespaceSplit"}]}"""
            """{"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":true}"""
            """{"type":"WordLevel","unk_token":"<unk>","vocab":{"<s>":0,"</s>":1,"<unk>":2,"ab":3,"c":4,"1":5}}"""
    ]

let private tokenizer =
    json "tokenizer.json" tokenizers (fun path ->
        use tokenizer = HuggingFaceTokenizer.Open path
        let ids = tokenizer.Encode("ab <s> cab  1é</s>b!", true)
        tokenizer.Decode ids |> ignore
        tokenizer.Decode(ids, true) |> ignore
        tokenizer.Encode(" ", false) |> ignore
        tokenizer.Encode("\000a\u0301 \r\n☃", false) |> ignore

        tokenizer.Decode
            [|
                for id in 0 .. min 20 (tokenizer.VocabularySize - 1) do
                    if not (isNull (tokenizer.TokenOf id)) then
                        id
            |]
        |> ignore)

// ---- pictures ----

let private encoded (format: SKEncodedImageFormat) (width: int) (height: int) (alpha: bool) : byte[] =
    use bitmap =
        new SKBitmap(
            SKImageInfo(width, height, SKColorType.Rgba8888, (if alpha then SKAlphaType.Unpremul else SKAlphaType.Opaque))
        )

    for y in 0 .. height - 1 do
        for x in 0 .. width - 1 do
            bitmap.SetPixel(x, y, SKColor(byte (x * 9), byte (y * 11), byte (x * y), (if alpha then byte (x * 20) else 255uy)))

    use data = bitmap.Encode(format, 80)
    data.ToArray()

let private crc32 (bytes: ReadOnlySpan<byte>) : uint32 =
    let mutable crc = UInt32.MaxValue

    for b in bytes do
        crc <- crc ^^^ uint32 b

        for _ in 1..8 do
            crc <- (crc >>> 1) ^^^ (if crc &&& 1u = 1u then 0xEDB88320u else 0u)

    ~~~crc

/// A PNG's chunks with their checksums put right.
let private withCrc (bytes: byte[]) : byte[] =
    let mutable at = 8L

    while at >= 0L && at + 12L <= bytes.LongLength do
        let length = int64 (BinaryPrimitives.ReadUInt32BigEndian(ReadOnlySpan(bytes, int at, 4)))

        if at + 12L + length <= bytes.LongLength then
            let crc = crc32 (ReadOnlySpan(bytes, int at + 4, int length + 4))
            BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(int (at + 8L + length)), crc)
            at <- at + 12L + length
        else
            at <- -1L

    bytes

let private pictures =
    let picture (name: string) (formats: SKEncodedImageFormat list) (wrap: byte[] -> byte[]) =
        { target
              name
              "a.picture"
              (fun () ->
                  [
                      for format in formats do
                          encoded format 17 13 true
                          encoded format 24 16 false
                  ])
              (fun path ->
                  let picture = Pictures.Read path
                  Pictures.CentreCropResize(picture, 8) |> ignore
                  picture.Pixels.LongLength) with
            Wrap = wrap
            // Compressed pixels: what deflate can hold at most for PNG and JPEG, the limit of pixels for WebP.
            Most = fun length -> max (25_000L * length) (3L * Pictures.MaximumPixels)
        }

    [
        picture "png" [ SKEncodedImageFormat.Png ] withCrc
        picture "jpeg" [ SKEncodedImageFormat.Jpeg ] id
        picture "webp" [ SKEncodedImageFormat.Webp ] id
        picture "pictures" [ SKEncodedImageFormat.Png; SKEncodedImageFormat.Jpeg; SKEncodedImageFormat.Webp ] id
    ]

/// Every reader of a file that may come from someone else.
let targets: Target list =
    [
        torchZip
        torchPickle
        torchLegacy
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
        yield! configurations
        yield! inspected
        tokenizer
        yield! pictures
    ]
