namespace Hybrid

open System
open System.Collections.Generic

/// What a VQ-GAN's own configuration adds to the names and shapes of its entries, and how it is checked against them.
[<NoEquality; NoComparison>]
type VqGanDescription =
    {
        /// Groups of the group norms.
        Groups: int64 option
        /// Whether codes are directions.
        Directions: bool option
        /// What the description says otherwise than the entries, one sentence each.
        Disagreements: VqGanConfig -> string list
    }

/// Configurations of VQ-GANs, as JSON: MoVQGAN's and taming-transformers' (`embed_dim`, `n_embed`, `ddconfig`), diffusers' VQModel
/// (`block_out_channels`, …) and LlamaGen's (`codebook_size`, `encoder_ch_mult`, …).
module VqGanDescription =

    /// No description: what the entries tell is all there is.
    let none: VqGanDescription = { Groups = None; Directions = None; Disagreements = fun _ -> [] }

    /// Gathers what a configuration says.
    type private Reading() =
        let checks = List<VqGanConfig -> string option>()

        member val Groups: int64 option = None with get, set
        member val Directions: bool option = None with get, set

        /// A value of the configuration, and what the entries make of it.
        member _.Says(key: string, value: 'a, actual: VqGanConfig -> 'a, show: 'a -> string) : unit when 'a: equality =
            checks.Add(fun config ->
                let actual = actual config

                if actual = value then
                    None
                else
                    Some $"{key} is {show value} and the tensors have {show actual}")

        member reading.Result: VqGanDescription =
            {
                Groups = reading.Groups
                Directions = reading.Directions
                Disagreements = fun config -> checks |> Seq.choose (fun check -> check config) |> List.ofSeq
            }

    let private most = 1 <<< 24
    let private showInts (values: int64 list) = "[" + String.Join(", ", values) + "]"
    let private showLevels (values: int list) = "[" + String.Join(", ", values) + "]"
    let private showFlag (flag: bool) = if flag then "true" else "false"

    /// Whether a key is there and says something; one that is null says nothing.
    let private says (fields: JsonFields) (key: string) =
        fields.Ignore [ key ]
        fields.Has key

    let private number (reading: Reading) (fields: JsonFields) (key: string) (actual: VqGanConfig -> int64) =
        if says fields key then
            reading.Says(key, int64 (fields.Int(key, 1, most)), actual, string)

    let private multiples (reading: Reading) (fields: JsonFields) (key: string) (first: int64 option) =
        if says fields key then
            let multiples = fields.Ints(key, 1, 1024) |> List.map int64

            match first with
            | Some first -> reading.Says(key, multiples |> List.map ((*) first), _.Levels, showInts)
            // Without the width that they multiply, only the ratios are known.
            | None -> reading.Says(key, multiples, (fun c -> c.Levels |> List.map (fun level -> level / c.Base)), showInts)

            multiples.Length
        else
            0

    /// A flag that must have one value, whatever its default.
    let private must (fields: JsonFields) (key: string) (value: bool) (because: string) =
        if says fields key && fields.Bool key <> value then
            fields.Error(key, $"must be {showFlag value}: {because}.")

    let private mustBeNull (fields: JsonFields) (key: string) (because: string) =
        if says fields key then
            fields.Error(key, $"must be null: {because}.")

    let private network (reading: Reading) (fields: JsonFields) =
        let first = if says fields "ch" then Some(int64 (fields.Int("ch", 1, most))) else None
        first |> Option.iter (fun first -> reading.Says("ch", first, _.Base, string))
        let levels = multiples reading fields "ch_mult" first
        number reading fields "z_channels" _.Latent
        number reading fields "zq_ch" _.CodeWidth
        number reading fields "in_channels" _.Channels
        number reading fields "out_ch" _.Channels
        number reading fields "num_res_blocks" (fun config -> int64 config.Blocks)

        if fields.Has "resolution" && fields.Has "attn_resolutions" && levels > 0 then
            let resolution, attention = fields.Int("resolution", 1, most), fields.Ints("attn_resolutions", 0, most)

            let having = [ 0 .. levels - 1 ] |> List.filter (fun level -> List.contains (resolution >>> level) attention)

            reading.Says("attn_resolutions, as levels,", having, _.EncoderAttention, showLevels)
            reading.Says("attn_resolutions, as levels of the decoder,", having, _.DecoderAttention, showLevels)

        if says fields "resamp_with_conv" then
            reading.Says("resamp_with_conv", fields.Bool "resamp_with_conv", _.Resampling, showFlag)

        if says fields "attn_type" then
            let middle = fields.Choice("attn_type", [ "vanilla", true; "none", false ])
            reading.Says("attn_type, as attention in the middle,", middle, _.MiddleAttention, showFlag)

        must fields "double_z" false "the encoder's output is quantised, not a mean and a variance"
        must fields "add_conv" false "spatial norms with a convolution of their own are not supported"
        must fields "give_pre_end" false "the decoder must end in a picture"
        must fields "tanh_out" false "a decoder that ends in a tangent is not supported"
        fields.Ignore [ "resolution"; "attn_resolutions"; "dropout"; "temb_ch"; "use_linear_attn"; "use_timestep" ]
        fields.Finish()

    let private taming (reading: Reading) (fields: JsonFields) =
        number reading fields "embed_dim" _.CodeWidth
        number reading fields "n_embed" _.Codes
        mustBeNull fields "remap" "renumbered codes are not supported"
        network reading (fields.Object "ddconfig")

        fields.Ignore
            [
                "lossconfig"
                "learning_rate"
                "base_learning_rate"
                "ckpt_path"
                "ignore_keys"
                "image_key"
                "monitor"
                "colorize_nlabels"
                "sane_index_shape"
                "ema_decay"
                "use_ema"
                "batch_resize_range"
                "scheduler_config"
                "lr_g_factor"
                "kl_weight"
                "temperature_scheduler_config"
                "target"
                "params"
            ]

        fields.Finish()

    /// diffusers' block types, from the picture down: whether each has attention.
    let private attending (fields: JsonFields) (key: string) (plain: string) (attention: string) =
        [
            for level, kind in Seq.indexed (fields.Texts key) do
                if kind = attention then
                    level
                elif kind <> plain then
                    fields.Error(key, $"the block {kind} is not supported; {plain} and {attention} are.")
        ]

    let private diffusers (reading: Reading) (fields: JsonFields) =
        let outputs = fields.Ints("block_out_channels", 1, most) |> List.map int64
        let levels = outputs.Length

        if levels > 0 then
            reading.Says("block_out_channels", outputs, _.Levels, showInts)
            reading.Says("the first of block_out_channels", outputs.Head, _.Base, string)

        number reading fields "in_channels" _.Channels
        number reading fields "out_channels" _.Channels
        number reading fields "layers_per_block" (fun config -> int64 config.Blocks)
        number reading fields "latent_channels" _.Latent
        number reading fields "num_vq_embeddings" _.Codes
        number reading fields "vq_embed_dim" _.CodeWidth

        if says fields "norm_num_groups" then
            reading.Groups <- Some(int64 (fields.Int("norm_num_groups", 1, most)))

        if says fields "norm_type" then
            reading.Says(
                "norm_type",
                fields.Choice("norm_type", [ "group", PlainNorm; "spatial", SpatialNorm ]),
                _.DecoderNorm,
                (fun norm -> if norm = PlainNorm then "group" else "spatial")
            )

        if says fields "act_fn" then
            fields.Choice("act_fn", [ "silu", (); "swish", () ])

        if says fields "mid_block_add_attention" then
            reading.Says("mid_block_add_attention", fields.Bool "mid_block_add_attention", _.MiddleAttention, showFlag)

        if says fields "down_block_types" then
            let having = attending fields "down_block_types" "DownEncoderBlock2D" "AttnDownEncoderBlock2D"
            reading.Says("down_block_types, as levels with attention,", having, _.EncoderAttention, showLevels)

        if says fields "up_block_types" then
            let having =
                attending fields "up_block_types" "UpDecoderBlock2D" "AttnUpDecoderBlock2D"
                |> List.map (fun level -> levels - 1 - level)
                |> List.sort

            reading.Says("up_block_types, as levels with attention,", having, _.DecoderAttention, showLevels)

        if says fields "_class_name" && fields.Text "_class_name" <> "VQModel" then
            fields.Error("_class_name", $"""must be "VQModel", not "{fields.Text "_class_name"}".""")

        // The scale is applied to latents on their way into a diffusion model; nothing between pictures and codes uses it.
        fields.Ignore [ "scaling_factor"; "sample_size"; "lookup_from_codebook"; "force_upcast" ]
        fields.Ignore(fields.Names |> Seq.filter (fun name -> name.StartsWith('_')) |> List.ofSeq)
        fields.Finish()

    let private llamaGen (reading: Reading) (fields: JsonFields) =
        number reading fields "codebook_size" _.Codes
        number reading fields "codebook_embed_dim" _.CodeWidth
        number reading fields "z_channels" _.Latent
        multiples reading fields "encoder_ch_mult" None |> ignore
        multiples reading fields "decoder_ch_mult" None |> ignore

        if says fields "codebook_l2_norm" then
            reading.Directions <- Some(fields.Bool "codebook_l2_norm")

        if says fields "norm_num_groups" then
            reading.Groups <- Some(int64 (fields.Int("norm_num_groups", 1, most)))

        fields.Ignore [ "codebook_show_usage"; "commit_loss_beta"; "entropy_loss_ratio"; "dropout_p" ]
        fields.Finish()

    /// Reads a configuration. Errors: every key that is unknown, mistyped or asks for what is not supported, in one text.
    let parse (text: string) : Result<VqGanDescription, string> =
        let reading = Reading()

        let read (root: JsonFields) =
            if root.Has "ddconfig" then taming reading root
            elif root.Has "params" then taming reading (root.Object "params")
            elif root.Has "model" then taming reading ((root.Object "model").Object "params")
            elif root.Has "block_out_channels" || root.Has "_class_name" then diffusers reading root
            else llamaGen reading root

        match Json.parse text read with
        | Ok() -> Ok reading.Result
        | Error faults -> Error(String.Join(" ", faults))

    /// What parse needs to be told of a configuration that names and shapes do not tell, as JSON; null where they tell all.
    let ofConfig (namesOfLlamaGen: bool) (config: VqGanConfig) : string option =
        let facts =
            [
                if config.Groups <> VqGan.usualGroups then
                    $"\"norm_num_groups\": {config.Groups}"
                if (config.Quantiser = NearestDirection) <> namesOfLlamaGen then
                    $"\"codebook_l2_norm\": {showFlag (config.Quantiser = NearestDirection)}"
            ]

        if facts.IsEmpty then None else Some("{ " + String.Join(", ", facts) + " }")
