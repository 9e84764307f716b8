/// A model's description in the forms of other programs: open_lm's JSON and the config.json of Hugging Face's transformers.
/// Which forms a model has, ModelForms says.
namespace Hybrid

open System.Text.Json.Nodes
open Hybrid.JsonForm

/// Writing a description in open_lm's and in Hugging Face's form.
module ModelExport =

    /// The ids that a config.json names beside the architecture.
    type Ids =
        {
            /// Of the token that begins a text
            Begin: int option
            /// Of the token that ends one
            End: int option
            /// Of the token that fills up
            Pad: int option
        }

    // With a point or an exponent, so that other readers take it for a real number.
    let private real (value: float) : JsonNode | null =
        let text = value.ToString("R", System.Globalization.CultureInfo.InvariantCulture)

        JsonNode.Parse(
            if Seq.forall (fun c -> System.Char.IsAsciiDigit c || c = '-') text then
                text + ".0"
            else
                text
        )

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
        | NoPosition
        // Not open_lm's; its template has none of them.
        | LearnedPosition -> "none"

    let private openLmFeedForward =
        function
        | GeGlu -> "gemma_geglu"
        | Gelu -> "gelu"
        | _ -> "swiglu_torch"

    // What only Hybrid knows of a model; other readers pass over it.
    let private own (config: ModelConfig) (vocabulary: Vocabulary) (more: (string * (JsonNode | null)) list) =
        [
            if vocabulary.ImageCodes > 0 then
                "textRows", value vocabulary.TextRows
                "imageCodes", value vocabulary.ImageCodes
            if not config.ExtendedAt.IsEmpty then
                "extendedAt", list config.ExtendedAt
            yield! more
        ]
        |> function
            | [] -> []
            | fields -> [ "hybrid", (object fields :> (JsonNode | null)) ]

    /// open_lm's model JSON, or the fields that it cannot express. Its key "hybrid" holds the layout of an extended table, which
    /// open_lm passes over.
    let openLm (config: ModelConfig) (vocabulary: Vocabulary) : Result<JsonObject, string list> =
        match ModelForms.againstOpenLm config with
        | [] ->
            object (
                [
                    "hidden_dim", value config.Width
                    "n_layers", value config.Layers
                    "n_heads", value config.Heads
                    "seq_len", value config.Positions
                    "vocab_size", value config.Rows
                    "post_embed_norm", value config.PostEmbedNorm
                    "weight_tying", value config.Tied
                    "model_norm", value (openLmNorm config.Norm)
                    "qk_norm", value config.QkNorm
                    "positional_embedding_type", value (openLmPosition config.Position)
                    "ffn_type", value (openLmFeedForward config.FeedForward)
                ]
                @ own config vocabulary []
            )
            |> Ok
        | fields -> Error fields

    // A rotation slowed down so far that it turns nothing: cos 1 and a sine that adding does not feel.
    let private stillRotation = LinearScaling 1e30

    let private scaling (config: ModelConfig) : JsonNode | null =
        let rope (kind: string) (fields: (string * (JsonNode | null)) list) : JsonNode | null =
            object ([ "rope_type", value kind; "type", value kind ] @ fields)

        match (if ModelForms.positionless config then stillRotation else config.RotaryScaling) with
        | NoScaling -> null
        | LinearScaling factor -> rope "linear" [ "factor", real factor ]
        | DynamicScaling factor -> rope "dynamic" [ "factor", real factor ]
        | Llama3Scaling s ->
            rope
                "llama3"
                [
                    "factor", real s.Factor
                    "low_freq_factor", real s.LowFrequencyFactor
                    "high_freq_factor", real s.HighFrequencyFactor
                    "original_max_position_embeddings", value s.OriginalPositions
                ]
        | YarnScaling s ->
            rope
                "yarn"
                [
                    "factor", real s.Factor
                    "original_max_position_embeddings", value s.OriginalPositions
                    "beta_fast", real s.BetaFast
                    "beta_slow", real s.BetaSlow
                    "attention_factor", real s.AttentionFactor
                    "truncate", value s.Truncate
                ]

    let private activationName =
        function
        | GeluTanh -> "gelu_new"
        | Relu -> "relu"
        | _ -> "gelu"

    /// The config.json for a family that `ModelForms.family` gave. `elementType` is a torch name such as bfloat16.
    let huggingFace
        (family: HuggingFaceFamily)
        (config: ModelConfig)
        (vocabulary: Vocabulary)
        (ids: Ids)
        (elementType: string)
        : JsonObject =
        let common (architecture: string) =
            [
                "architectures", list [ architecture ]
                "model_type", value (ModelForms.familyName family)
                "torch_dtype", value elementType
                "vocab_size", value config.Rows
                "tie_word_embeddings", value config.Tied
                "bos_token_id", orNull ids.Begin
                "eos_token_id", orNull ids.End
                "pad_token_id", orNull ids.Pad
                "use_cache", value true
            ]

        let sizes =
            [
                "hidden_size", value config.Width
                "intermediate_size", value config.FeedForwardWidth
                "num_hidden_layers", value config.Layers
                "num_attention_heads", value config.Heads
                "num_key_value_heads", value config.KeyValueHeads
                "max_position_embeddings", value config.Positions
                "hidden_act", value "silu"
                "attention_dropout", real 0.0
                "rope_theta", real config.RotaryBase
            ]

        let slowed = "rope_scaling", scaling config

        // The share of a head that rotates: the reader multiplies and cuts off.
        let rotating =
            let share = float config.RotaryWidth / float config.HeadWidth

            if int (share * float config.HeadWidth) = config.RotaryWidth then
                share
            else
                System.Math.BitIncrement share

        // How the model is to be read back where the family has no words for it.
        let hints =
            [
                if family <> OpenLm && ModelForms.positionless config then
                    "position", value (openLmPosition config.Position)
                if family = StableLm && config.Norm = GainLayerNorm then
                    "norm", value (openLmNorm config.Norm)
            ]

        match family with
        | Llama ->
            common "LlamaForCausalLM"
            @ sizes
            @ [
                "head_dim", value config.HeadWidth
                "rms_norm_eps", real config.NormEpsilon
                slowed
                "attention_bias", value config.QkvBias
                "mlp_bias", value config.FeedForwardBias
            ]
        | Mistral ->
            common "MistralForCausalLM"
            @ sizes
            @ [
                "head_dim", value config.HeadWidth
                "rms_norm_eps", real config.NormEpsilon
                slowed
                "sliding_window", (if config.Window = 0 then null else value config.Window)
            ]
        | Qwen2 ->
            common "Qwen2ForCausalLM"
            @ sizes
            @ [
                "head_dim", value config.HeadWidth
                "rms_norm_eps", real config.NormEpsilon
                slowed
                "use_sliding_window", value false
                "sliding_window", null
            ]
        | GptNeoX ->
            common "GPTNeoXForCausalLM"
            @ [
                "hidden_size", value config.Width
                "intermediate_size", value config.FeedForwardWidth
                "num_hidden_layers", value config.Layers
                "num_attention_heads", value config.Heads
                "max_position_embeddings", value config.Positions
                "hidden_act", value (activationName config.FeedForward)
                "layer_norm_eps", real config.NormEpsilon
                "rotary_pct", real (if ModelForms.positionless config then 1.0 else rotating)
                "rotary_emb_base", real config.RotaryBase
                "rope_theta", real config.RotaryBase
                "partial_rotary_factor", real (if ModelForms.positionless config then 1.0 else rotating)
                slowed
                "use_parallel_residual", value config.ParallelResidual
                "attention_bias", value config.QkvBias
                "attention_dropout", real 0.0
                "hidden_dropout", real 0.0
            ]
        | Gpt2 ->
            common "GPT2LMHeadModel"
            @ [
                "n_embd", value config.Width
                "n_layer", value config.Layers
                "n_head", value config.Heads
                "n_positions", value config.Positions
                "n_ctx", value config.Positions
                "n_inner", value config.FeedForwardWidth
                "activation_function", value (activationName config.FeedForward)
                "layer_norm_epsilon", real config.NormEpsilon
                "scale_attn_weights", value true
                "scale_attn_by_inverse_layer_idx", value false
                "attn_pdrop", real 0.0
                "embd_pdrop", real 0.0
                "resid_pdrop", real 0.0
            ]
        | StableLm ->
            common "StableLmForCausalLM"
            @ sizes
            @ [
                "layer_norm_eps", real config.NormEpsilon
                // No part of a head turns where there are no positions.
                "partial_rotary_factor", real (if ModelForms.positionless config then 0.0 else rotating)
                "rope_scaling", (if ModelForms.positionless config then null else scaling config)
                "use_qkv_bias", value config.QkvBias
                "qk_layernorm", value false
                "use_parallel_residual", value false
                "hidden_dropout", real 0.0
            ]
        | Olmo -> common "OlmoForCausalLM" @ sizes @ [ slowed; "attention_bias", value false; "clip_qkv", null ]
        | OpenLm ->
            common "OpenLMForCausalLM"
            @ [
                "dim", value config.Width
                "n_layers", value config.Layers
                "n_heads", value config.Heads
                "seq_len", value config.Positions
                "norm_type", value (openLmNorm config.Norm)
                "norm_eps", real config.NormEpsilon
                "apply_qk_norm", value config.QkNorm
                "post_embed_norm", value config.PostEmbedNorm
                "weight_tying", value config.Tied
                "positional_embedding_type", value (openLmPosition config.Position)
                "ffn_type", value (openLmFeedForward config.FeedForward)
                "attn_name", value "auto"
                "moe_freq", value 0
            ]
        @ own config vocabulary hints
        |> object

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
            // A rotation that was slowed down until it turns nothing is no scaling.
            let scaling = if json.Has "position" then NoScaling else config.RotaryScaling

            let config = { config with ExtendedAt = sizes; Position = position; RotaryScaling = scaling }

            if root.Sound && json.Sound then
                for problem in ModelConfig.problems config do
                    json.Error("extendedAt", problem)

            config, vocabulary, gainOnly
