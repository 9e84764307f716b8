/// Small VQ-GANs of several authors in the reference's loops.
module Hybrid.Tests.VqGanModels

open Hybrid.Tests.VqGanReference

/// A model of a reference: pictures to vectors, the cost of codes, codes to pictures.
type Model =
    {
        Weights: Drawn
        Encode: Map -> Map
        Codes: int
        Cost: float[] -> int -> float
        Decode: int -> int -> int[] -> Map
    }

let latent, codeWidth, codeCount = 6, 5, 40

let private bookOf (drawn: Drawn) name = drawn.Get(name, [ codeCount; codeWidth ], 0.0, 0.8)

/// taming-transformers' VQModel and MoVQGAN's MOVQ: names, and the order of their forward passes.
let taming (drawn: Drawn) (spatial: bool) (gumbel: bool) (middle: bool) : Model =
    let style (norm: string -> Map -> Map) =
        {
            Norm = norm
            Shortcut = "nin_shortcut"
            Project = fun name outputs map -> conv1 drawn name outputs map
            Attention = "norm", "q", "k", "v", "proj_out"
        }

    let mid style side width map =
        let map = block drawn style $"{side}.mid.block_1" width map
        let map = if middle then attend style $"{side}.mid.attn_1" map else map
        block drawn style $"{side}.mid.block_2" width map

    let encode picture =
        let style = style (groupNorm drawn 32)
        let mutable h = conv3 drawn "encoder.conv_in" 32 picture
        h <- block drawn style "encoder.down.0.block.0" 32 h
        h <- down drawn "encoder.down.0.downsample.conv" h
        h <- block drawn style "encoder.down.1.block.0" 64 h
        h <- attend style "encoder.down.1.attn.0" h
        h <- mid style "encoder" 64 h
        h <- groupNorm drawn 32 "encoder.norm_out" h |> swish |> conv3 drawn "encoder.conv_out" latent
        conv1 drawn "quant_conv" codeWidth h

    let bookName = if gumbel then "quantize.embed.weight" else "quantize.embedding.weight"

    let cost =
        if gumbel then
            let weight = drawn.Get("quantize.proj.weight", [ codeCount; codeWidth; 1; 1 ], 0.0, 1.0)
            let bias = drawn.Get("quantize.proj.bias", [ codeCount ], 0.0, 0.1)

            fun (vector: float[]) code ->
                -(bias[code] + Seq.sum (seq { for c in 0 .. codeWidth - 1 -> weight[code * codeWidth + c] * vector[c] }))
        else
            distance (bookOf drawn bookName)

    let decode height width codes =
        let quantised = lookup (bookOf drawn bookName) codeWidth height width codes
        let norm = if spatial then spatialNorm drawn quantised else groupNorm drawn 32
        let style = style norm
        let mutable h = conv1 drawn "post_quant_conv" latent quantised
        h <- conv3 drawn "decoder.conv_in" 64 h
        h <- mid style "decoder" 64 h

        for index in 0..1 do
            h <- block drawn style $"decoder.up.1.block.{index}" 64 h
            h <- attend style $"decoder.up.1.attn.{index}" h

        h <- conv3 drawn "decoder.up.1.upsample.conv" 64 (up h)

        for index in 0..1 do
            h <- block drawn style $"decoder.up.0.block.{index}" 32 h

        norm "decoder.norm_out" h |> swish |> conv3 drawn "decoder.conv_out" 3

    { Weights = drawn; Encode = encode; Codes = codeCount; Cost = cost; Decode = decode }

/// LlamaGen's VQ models: blocks in lists, codes that are directions.
let llamaGen (drawn: Drawn) (directions: bool) : Model =
    let norm = groupNorm drawn 32

    let style =
        {
            Norm = norm
            Shortcut = "nin_shortcut"
            Project = fun name outputs map -> conv1 drawn name outputs map
            Attention = "norm", "q", "k", "v", "proj_out"
        }

    let mid side width map =
        map
        |> block drawn style $"{side}.mid.0" width
        |> attend style $"{side}.mid.1"
        |> block drawn style $"{side}.mid.2" width

    let encode picture =
        let mutable h = conv3 drawn "encoder.conv_in" 32 picture

        for level, width in [ 0, 32; 1, 32; 2, 64 ] do
            for index in 0..1 do
                h <- block drawn style $"encoder.conv_blocks.{level}.res.{index}" width h

                if level = 2 then
                    h <- attend style $"encoder.conv_blocks.{level}.attn.{index}" h

            if level < 2 then
                h <- down drawn $"encoder.conv_blocks.{level}.downsample.conv" h

        h <- mid "encoder" 64 h

        norm "encoder.norm_out" h
        |> swish
        |> conv3 drawn "encoder.conv_out" latent
        |> conv1 drawn "quant_conv" codeWidth

    let book = bookOf drawn "quantize.embedding.weight"
    let vectors = if directions then Array.chunkBySize codeWidth book |> Array.collect unit else book

    let decode height width codes =
        let mutable h = lookup vectors codeWidth height width codes |> conv1 drawn "post_quant_conv" latent
        h <- conv3 drawn "decoder.conv_in" 64 h
        h <- mid "decoder" 64 h

        // The list counts from the grid up.
        for place, width in [ 0, 64; 1, 32; 2, 32 ] do
            for index in 0..2 do
                h <- block drawn style $"decoder.conv_blocks.{place}.res.{index}" width h

                if place = 0 then
                    h <- attend style $"decoder.conv_blocks.{place}.attn.{index}" h

            if place < 2 then
                h <- conv3 drawn $"decoder.conv_blocks.{place}.upsample.conv" width (up h)

        norm "decoder.norm_out" h |> swish |> conv3 drawn "decoder.conv_out" 3

    {
        Weights = drawn
        Encode = encode
        Codes = codeCount
        Cost = fun vector -> distance vectors (if directions then unit vector else vector)
        Decode = decode
    }

/// diffusers' VQModel. `old`: the names of attention before 2023. The encoder has 8 groups; a decoder with spatial norms always 32.
let diffusers (drawn: Drawn) (spatial: bool) (old: bool) (middle: bool) : Model =
    let first, second = if spatial then 32, 64 else 16, 24

    let style (norm: string -> Map -> Map) attentionNorm =
        {
            Norm = norm
            Shortcut = "conv_shortcut"
            Project = fun name outputs map -> linear drawn name outputs map
            Attention =
                if old then
                    attentionNorm, "query", "key", "value", "proj_attn"
                else
                    attentionNorm, "to_q", "to_k", "to_v", "to_out.0"
        }

    let mid style side width map =
        let map = block drawn style $"{side}.mid_block.resnets.0" width map
        let map = if middle then attend style $"{side}.mid_block.attentions.0" map else map
        block drawn style $"{side}.mid_block.resnets.1" width map

    let encode picture =
        let style = style (groupNorm drawn 8) "group_norm"
        let mutable h = conv3 drawn "encoder.conv_in" first picture
        h <- block drawn style "encoder.down_blocks.0.resnets.0" first h
        h <- down drawn "encoder.down_blocks.0.downsamplers.0.conv" h
        h <- block drawn style "encoder.down_blocks.1.resnets.0" second h
        h <- attend style "encoder.down_blocks.1.attentions.0" h
        h <- mid style "encoder" second h
        h <- groupNorm drawn 8 "encoder.conv_norm_out" h |> swish |> conv3 drawn "encoder.conv_out" latent
        conv1 drawn "quant_conv" codeWidth h

    let book = bookOf drawn "quantize.embedding.weight"

    let decode height width codes =
        let quantised = lookup book codeWidth height width codes
        let norm = if spatial then spatialNorm drawn quantised else groupNorm drawn 8
        let style = style norm (if spatial then "spatial_norm" else "group_norm")
        let mutable h = conv1 drawn "post_quant_conv" latent quantised
        h <- conv3 drawn "decoder.conv_in" second h
        h <- mid style "decoder" second h

        for index in 0..1 do
            h <- block drawn style $"decoder.up_blocks.0.resnets.{index}" second h

        h <- conv3 drawn "decoder.up_blocks.0.upsamplers.0.conv" second (up h)

        // Attention on the way up stands at another level than on the way down.
        for index in 0..1 do
            h <- block drawn style $"decoder.up_blocks.1.resnets.{index}" first h
            h <- attend style $"decoder.up_blocks.1.attentions.{index}" h

        norm "decoder.conv_norm_out" h |> swish |> conv3 drawn "decoder.conv_out" 3

    { Weights = drawn; Encode = encode; Codes = codeCount; Cost = distance book; Decode = decode }

let diffusersConfig (spatial: bool) (middle: bool) =
    let widths, norm = (if spatial then "[32, 64]" else "[16, 24]"), (if spatial then "spatial" else "group")

    $$"""{ "_class_name": "VQModel", "_diffusers_version": "0.27.0", "act_fn": "silu", "block_out_channels": {{widths}},
           "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], "in_channels": 3, "latent_channels": {{latent}},
           "layers_per_block": 1, "norm_num_groups": 8, "norm_type": "{{norm}}", "num_vq_embeddings": {{codeCount}},
           "out_channels": 3, "sample_size": 32, "scaling_factor": 0.18215, "vq_embed_dim": {{codeWidth}},
           "mid_block_add_attention": {{(if middle then "true" else "false")}},
           "up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"] }"""
