/// A model's description in the forms of other programs: open_lm's JSON and the config.json of Hugging Face's transformers.
/// A form is a template: the description with every field that the form cannot express put to what it takes for granted. A model
/// has the form when it equals its template, and the fields that differ say why it has not.
namespace Hybrid

open System.Text.Json.Nodes
open Microsoft.FSharp.Reflection

/// Whose config.json of Hugging Face it is, and so how its tensors are called.
type HuggingFaceFamily =
    | Llama
    | StableLm
    | Olmo
    /// open_lm's own classes, as DCLM's releases have them; they need the open_lm package
    | OpenLm

module ModelExport =

    /// The ids that a config.json names beside the architecture.
    type Ids = { Begin: int option; End: int option; Pad: int option }

    let private node (value: 'a) : JsonNode | null = JsonValue.Create<'a> value

    // With a point or an exponent, so that other readers take it for a real number.
    let private real (value: float) : JsonNode | null =
        let text = value.ToString("R", System.Globalization.CultureInfo.InvariantCulture)

        JsonNode.Parse(
            if Seq.forall (fun c -> System.Char.IsAsciiDigit c || c = '-') text then
                text + ".0"
            else
                text
        )

    let private record (fields: (string * (JsonNode | null)) list) : JsonObject =
        let json = JsonObject()

        for name, value in fields do
            json.Add(name, value)

        json

    let private camel (name: string) = string (System.Char.ToLowerInvariant name[0]) + name.Substring 1

    let private shown (value: obj | null) =
        match value with
        | null -> "none"
        | :? float as number -> number.ToString("R", System.Globalization.CultureInfo.InvariantCulture)
        | value -> string value

    /// The fields in which a description differs from what a form can express, a sentence each.
    let private differences (config: ModelConfig) (template: ModelConfig) : string list =
        [
            for field in FSharpType.GetRecordFields typeof<ModelConfig> do
                let found, needed = field.GetValue config, field.GetValue template

                if found <> needed then
                    $"{camel field.Name} is {shown found}, not {shown needed}"
        ]

    // What open_lm's classes compute; its position encodings have one base, and its widths follow from each other.
    let private openLmTemplate (config: ModelConfig) =
        let plain = ModelConfig.openLm config.Width config.Layers config.Heads config.Rows config.Positions

        { plain with
            ExtendedAt = config.ExtendedAt
            Norm = config.Norm
            QkNorm = config.QkNorm
            PostEmbedNorm = config.PostEmbedNorm
            Position = config.Position
            FeedForward = config.FeedForward
            FeedForwardWidth =
                (if config.FeedForward = SwiGlu then
                     ModelConfig.swiGluWidth config.Width
                 else
                     4 * config.Width)
            Tied = config.Tied
        }

    let private openLmNorm =
        function
        | LayerNorm -> "default_layer_norm"
        | GainLayerNorm -> "gain_only_layer_norm"
        | PlainLayerNorm -> "no_wb_layer_norm"
        | RmsNorm -> "rms_norm"

    let private openLmPosition =
        function
        | Rotary -> "rotary"
        | HeadRotary -> "head_rotary"
        | InterleavedRotary -> "llama_rotary"
        | NoPosition -> "none"

    let private openLmFeedForward =
        function
        | SwiGlu -> "swiglu_torch"
        | Gelu -> "gelu"

    // What only Hybrid knows of a model; other readers pass over it.
    let private own (config: ModelConfig) (vocabulary: Vocabulary) (more: (string * (JsonNode | null)) list) =
        let sizes = config.ExtendedAt |> List.map node |> List.toArray

        [
            if vocabulary.ImageCodes > 0 then
                "textRows", node vocabulary.TextRows
                "imageCodes", node vocabulary.ImageCodes
            if sizes.Length > 0 then
                "extendedAt", (JsonArray sizes :> (JsonNode | null))
            yield! more
        ]
        |> function
            | [] -> []
            | fields -> [ "hybrid", (record fields :> (JsonNode | null)) ]

    /// open_lm's model JSON, or the fields that it cannot express. Its key "hybrid" holds the layout of an extended table, which
    /// open_lm passes over.
    let openLm (config: ModelConfig) (vocabulary: Vocabulary) : Result<JsonObject, string list> =
        match differences config (openLmTemplate config) with
        | [] ->
            record (
                [
                    "hidden_dim", node config.Width
                    "n_layers", node config.Layers
                    "n_heads", node config.Heads
                    "seq_len", node config.Positions
                    "vocab_size", node config.Rows
                    "post_embed_norm", node config.PostEmbedNorm
                    "weight_tying", node config.Tied
                    "model_norm", node (openLmNorm config.Norm)
                    "qk_norm", node config.QkNorm
                    "positional_embedding_type", node (openLmPosition config.Position)
                    "ffn_type", node (openLmFeedForward config.FeedForward)
                ]
                @ own config vocabulary []
            )
            |> Ok
        | fields -> Error fields

    // A family whose heads divide the width of the residual stream among themselves.
    let private wholeHeads (config: ModelConfig) =
        { config with
            Width = config.Heads * config.HeadWidth
            QkNorm = false
            PostEmbedNorm = false
            FeedForward = SwiGlu
        }

    let private templates: (HuggingFaceFamily * string * (ModelConfig -> ModelConfig)) list =
        [
            Llama,
            "llama",
            (fun config -> { config with Norm = RmsNorm; QkNorm = false; PostEmbedNorm = false; FeedForward = SwiGlu })
            StableLm,
            "stablelm",
            (fun config -> { wholeHeads config with Norm = (if config.Norm = GainLayerNorm then GainLayerNorm else LayerNorm) })
            Olmo, "olmo", (fun config -> { wholeHeads config with Norm = PlainLayerNorm; NormEpsilon = 1e-5 })
            OpenLm, "openlm", (fun config -> { openLmTemplate config with NormEpsilon = config.NormEpsilon })
        ]

    /// The family whose code computes this model, or for each family the fields that speak against it.
    let family (config: ModelConfig) : Result<HuggingFaceFamily, string list> =
        let tried =
            templates |> List.map (fun (family, name, template) -> family, name, differences config (template config))

        match tried |> List.tryFind (fun (_, _, fields) -> fields.IsEmpty) with
        | Some(family, _, _) -> Ok family
        | None -> tried |> List.map (fun (_, name, fields) -> $"""{name}: {System.String.Join("; ", fields)}""") |> Error

    /// The family's name, as model_type has it.
    let familyName (family: HuggingFaceFamily) : string =
        templates |> List.pick (fun (f, name, _) -> if f = family then Some name else None)

    // A rotation slowed down so far that it turns nothing: cos 1 and a sine that adding does not feel.
    let private stillRotation () : JsonNode | null =
        record [ "rope_type", node "linear"; "type", node "linear"; "factor", real 1e30 ]

    let private positionless (config: ModelConfig) = config.Position = HeadRotary || config.Position = NoPosition

    /// The config.json for a family that `family` gave. `elementType` is a torch name such as bfloat16.
    let huggingFace
        (family: HuggingFaceFamily)
        (config: ModelConfig)
        (vocabulary: Vocabulary)
        (ids: Ids)
        (elementType: string)
        : JsonObject =
        let id (value: int option) =
            match value with
            | Some id -> node id
            | None -> null

        let common architecture =
            [
                "architectures", (JsonArray [| node architecture |] :> (JsonNode | null))
                "model_type", node (familyName family)
                "torch_dtype", node elementType
                "vocab_size", node config.Rows
                "tie_word_embeddings", node config.Tied
                "bos_token_id", id ids.Begin
                "eos_token_id", id ids.End
                "pad_token_id", id ids.Pad
                "use_cache", node true
            ]

        let sizes =
            [
                "hidden_size", node config.Width
                "intermediate_size", node config.FeedForwardWidth
                "num_hidden_layers", node config.Layers
                "num_attention_heads", node config.Heads
                "num_key_value_heads", node config.KeyValueHeads
                "max_position_embeddings", node config.Positions
                "hidden_act", node "silu"
                "attention_dropout", real 0.0
                "rope_theta", real config.RotaryBase
            ]

        let slowed = "rope_scaling", (if positionless config then stillRotation () else null)

        // How the model is to be read back where the family has no words for it.
        let hints =
            [
                if family <> OpenLm && positionless config then
                    "position", node (openLmPosition config.Position)
                if family = StableLm && config.Norm = GainLayerNorm then
                    "norm", node (openLmNorm config.Norm)
            ]

        match family with
        | Llama ->
            common "LlamaForCausalLM"
            @ sizes
            @ [
                "head_dim", node config.HeadWidth
                "rms_norm_eps", real config.NormEpsilon
                slowed
                "attention_bias", node false
                "mlp_bias", node false
            ]
        | StableLm ->
            common "StableLmForCausalLM"
            @ sizes
            @ [
                "layer_norm_eps", real config.NormEpsilon
                // No part of a head turns where there are no positions.
                "partial_rotary_factor", real (if positionless config then 0.0 else 1.0)
                "rope_scaling", null
                "use_qkv_bias", node false
                "qk_layernorm", node false
                "use_parallel_residual", node false
                "hidden_dropout", real 0.0
            ]
        | Olmo -> common "OlmoForCausalLM" @ sizes @ [ slowed; "attention_bias", node false; "clip_qkv", null ]
        | OpenLm ->
            common "OpenLMForCausalLM"
            @ [
                "dim", node config.Width
                "n_layers", node config.Layers
                "n_heads", node config.Heads
                "seq_len", node config.Positions
                "norm_type", node (openLmNorm config.Norm)
                "norm_eps", real config.NormEpsilon
                "apply_qk_norm", node config.QkNorm
                "post_embed_norm", node config.PostEmbedNorm
                "weight_tying", node config.Tied
                "positional_embedding_type", node (openLmPosition config.Position)
                "ffn_type", node (openLmFeedForward config.FeedForward)
                "attn_name", node "auto"
                "moe_freq", node 0
            ]
        @ own config vocabulary hints
        |> record

    /// What the key "hybrid" of a description in another form adds to what the rest says: sizes before extensions, how positions
    /// enter, the layout of an extended table, and whether the norms' biases were only put in for the form and are zero.
    let readOwn (root: JsonFields) (config: ModelConfig) : ModelConfig * Vocabulary option * bool =
        if not (root.Has "hybrid") then
            config, None, false
        else
            let json = root.Object "hybrid"

            let vocabulary =
                if json.Has "textRows" || json.Has "imageCodes" then
                    Some { TextRows = json.Int("textRows", 1, 1 <<< 28); ImageCodes = json.Int("imageCodes", 0, 1 <<< 28) }
                else
                    None

            let position = json.Choice("position", [ "head_rotary", HeadRotary; "none", NoPosition ], config.Position)

            let gainOnly = json.Choice("norm", [ "gain_only_layer_norm", true ], false)
            let sizes = if json.Has "extendedAt" then json.Ints("extendedAt", 1, 1 <<< 28) else []
            json.Finish()
            let config = { config with ExtendedAt = sizes; Position = position }

            if root.Sound && json.Sound then
                for problem in ModelConfig.problems config do
                    json.Error("extendedAt", problem)

            config, vocabulary, gainOnly
