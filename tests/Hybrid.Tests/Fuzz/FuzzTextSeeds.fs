/// Valid descriptions, tokenizers and pictures, small, made here; and the readers that fuzzing is aimed at.
module Hybrid.Tests.FuzzTextSeeds

open System
open System.Buffers.Binary
open System.IO
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.FuzzSeeds
open Hybrid.Tests.FuzzSupport
open SkiaSharp

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

let private others =
    [
        """{"model_type":"mistral","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":90,"vocab_size":512,"max_position_embeddings":64,"sliding_window":8,"rope_parameters":{"rope_type":"yarn","factor":4.0,"rope_theta":10000.0,"original_max_position_embeddings":16}}"""
        """{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":90,"vocab_size":512,"max_position_embeddings":64,"use_sliding_window":false,"rope_scaling":{"type":"dynamic","factor":2.0}}"""
        """{"model_type":"stablelm","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":4,"intermediate_size":90,"vocab_size":512,"max_position_embeddings":64,"partial_rotary_factor":0.25,"use_qkv_bias":true,"hybrid":{"textRows":400,"imageCodes":100,"extendedAt":[400]}}"""
        """{"model_type":"openlm","params_args_dict":{"model":"open_lm_11m","qk_norm":true,"model_norm":"gain_only_lp_layer_norm","vocab_size":512}}"""
    ]

let private imageTraining =
    """{"kind":"movq","imageSize":32,"model":{"width":32,"codes":64},"schedule":{"steps":10},"batch":{"pictures":4},"seed":1}"""

let private imageDescriptions =
    [
        """{"embed_dim":4,"n_embed":64,"ddconfig":{"double_z":false,"z_channels":4,"resolution":32,"in_channels":3,"out_ch":3,"ch":32,"ch_mult":[1,2],"num_res_blocks":1,"attn_resolutions":[16],"dropout":0.0}}"""
        """{"_class_name":"VQModel","block_out_channels":[32,64],"layers_per_block":1,"latent_channels":4,"num_vq_embeddings":64,"vq_embed_dim":4,"norm_num_groups":32,"norm_type":"spatial","scaling_factor":0.18}"""
        """{"codebook_size":64,"codebook_embed_dim":8,"codebook_l2_norm":true,"encoder_ch_mult":[1,2],"decoder_ch_mult":[1,2],"z_channels":32}"""
    ]

/// The entries of a small VQ-GAN, and with them what is made once only in a process.
let private imageEntries =
    lazy
        (let config = VqGanTokenizer { VqGan.moVq67M with Base = 32L; Levels = [ 32L; 64L ]; Blocks = 1; Codes = 64L }
         let entries = ImageTokenizer.parameters config |> List.map (fun spec -> spec.Name, List.toArray spec.Shape)
         ImageTokenizer.recognise None false entries |> ignore
         entries)

let private recogniseImage (path: string) : unit =
    match ImageTokenizer.recognise (Some(Files.Text(path, "the configuration"))) false imageEntries.Value with
    | Ok _ -> ()
    | Error sentence -> raise (InputException sentence)

let private pairDocuments =
    [
        """{"images":[{"id":1,"file_name":"p.png"},{"id":2,"file_name":"../q.png"}],"annotations":[{"image_id":1,"id":1,"caption":"a dog"},{"image_id":2,"id":2,"caption":"b"},{"image_id":9,"id":3,"caption":"c"}]}"""
        """{"images":[{"filename":"p.png","sentences":[{"raw":"a dog"},{"raw":"a cat"}],"split":"train"}]}"""
        """[{"file":"p.png","caption":"a dog"},{"image":"none.png","captions":["a","b"]}]"""
    ]

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
        json "model description" ([ openLm; llama; neox; gpt2; hybrid ] @ others) (fun path ->
            // What the description says is used at once by whoever opens a model.
            let description = ModelDescription.Read path
            Decoder.parameters description.Config |> ignore)
        { json "training configuration" [ trainConfig ] (fun path -> TrainJob.ReadPlan(path, []) |> ignore) with
            Beside = [ "a", [||]; "b", [||] ]
        }
        json "image tokenizer training" [ imageTraining ] (fun path ->
            match ImageTrainConfig.parse (Files.Text(path, "the configuration")) with
            | Ok config -> ImageTrainConfig.tokenizer config |> ImageTokenizer.parameters |> ignore
            | Error sentences -> raise (InputException(String.concat "\n" sentences)))
        { json "image configuration" imageDescriptions recogniseImage with
            Seeds =
                lazy
                    (imageEntries.Force() |> ignore
                     List.map utf8 imageDescriptions)
        }
        { target "captions in JSON" "a.json" (fun () -> List.map utf8 pairDocuments) readPairs with
            IsJson = true
            Beside = [ "p.png", [| 1uy; 2uy |] ]
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
                """{"sub_label": "a", "obj_label": "b", "template": "[X] is [Y]."}"""
                + "\n"
                + """{"sub_label": "c", "obj_label": "d", "template": "[X] is [Y]."}"""
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
let targets: Target list = [ yield! binary; yield! configurations; yield! inspected; tokenizer; yield! pictures ]
