/// The config.json of Hugging Face's transformers: the families that a ModelConfig describes, with the defaults that each family's
/// own configuration class has for keys that are absent.
namespace Hybrid

open System

/// Reading the config.json of each family, with the defaults of its own configuration class.
module HuggingFaceConfig =

    let private maximum = ModelConfig.maximum

    // A key that is null reads as an absent one.
    let private int (json: JsonFields) (name: string) (low: int) (high: int) (fallback: int) : int =
        json.Ignore [ name ]
        if json.Has name then json.Int(name, low, high) else fallback

    let private float (json: JsonFields) (name: string) (low: float) (high: float) (fallback: float) : float =
        json.Ignore [ name ]
        if json.Has name then json.Float(name, low, high) else fallback

    let private flag (json: JsonFields) (name: string) (fallback: bool) : bool =
        json.Ignore [ name ]
        if json.Has name then json.Bool name else fallback

    let private text (json: JsonFields) (name: string) (fallback: string) : string =
        json.Ignore [ name ]
        if json.Has name then json.Text name else fallback

    let private refuse (json: JsonFields) (name: string) (because: string) : unit =
        if flag json name false then
            json.Error(name, because)

    let private activations =
        [
            "gelu", Gelu
            "gelu_python", Gelu
            "gelu_new", GeluTanh
            "gelu_fast", GeluTanh
            "gelu_pytorch_tanh", GeluTanh
            "gelu_accurate", GeluTanh
            "relu", Relu
        ]

    let private activation (json: JsonFields) (name: string) (fallback: FeedForward) : FeedForward =
        json.Ignore [ name ]
        if json.Has name then json.Choice(name, activations) else fallback

    let private needSilu (json: JsonFields) : unit =
        match text json "hidden_act" "silu" with
        | "silu"
        | "swish" -> ()
        | other -> json.Error("hidden_act", $"{other} is not supported; only silu is.")

    /// Rotation's base, the share of each head that rotates, and the scaling: in keys of their own, or together in rope_parameters
    /// as newer versions of transformers write them.
    let private rotation (json: JsonFields) (baseName: string) (shareName: string) (share: float) (positions: int) =
        json.Ignore [ "rope_parameters"; "rope_scaling" ]

        let rope =
            [ "rope_parameters"; "rope_scaling" ]
            |> List.tryFind json.Has
            |> Option.map (fun name -> name, json.Object name)

        let either (name: string) (read: JsonFields -> float) (fallback: float) =
            match rope with
            | Some(_, rope) when rope.Has name -> read rope
            | _ -> fallback

        let theta =
            float json baseName 1.0 1e15 10000.0 |> either "rope_theta" (fun rope -> rope.Float("rope_theta", 1.0, 1e15))

        let share =
            float json shareName 0.0 1.0 share
            |> either "partial_rotary_factor" (fun rope -> rope.Float("partial_rotary_factor", 0.0, 1.0))

        let scaling =
            match rope with
            | None -> NoScaling
            | Some(name, rope) ->
                let kind = text rope "rope_type" (text rope "type" "default")
                let factor () = rope.Float("factor", 1e-30, 1e31)
                let original () = int rope "original_max_position_embeddings" 1 (1 <<< 28) positions

                match kind with
                | "default" -> NoScaling
                | "linear" -> LinearScaling(factor ())
                | "dynamic" -> DynamicScaling(factor ())
                | "llama3" ->
                    Llama3Scaling
                        {
                            Factor = factor ()
                            LowFrequencyFactor = rope.Float("low_freq_factor", 1e-30, 1e30)
                            HighFrequencyFactor = rope.Float("high_freq_factor", 1e-30, 1e30)
                            OriginalPositions = rope.Int("original_max_position_embeddings", 1, 1 <<< 28)
                        }
                | "yarn" ->
                    let original = original ()
                    let factor = float rope "factor" 1e-30 1e30 (Operators.float positions / Operators.float original)
                    let magnitude scale = if factor <= 1.0 then 1.0 else 0.1 * scale * Math.Log factor + 1.0

                    let attention =
                        if rope.Has "attention_factor" then
                            rope.Float("attention_factor", 0.0, 1e30)
                        elif
                            rope.Has "mscale" && rope.Has "mscale_all_dim" && rope.Float("mscale_all_dim", -1e30, 1e30) <> 0.0
                        then
                            magnitude (rope.Float("mscale", -1e30, 1e30)) / magnitude (rope.Float("mscale_all_dim", -1e30, 1e30))
                        else
                            magnitude 1.0

                    YarnScaling
                        {
                            Factor = factor
                            OriginalPositions = original
                            BetaFast = float rope "beta_fast" 1e-30 1e30 32.0
                            BetaSlow = float rope "beta_slow" 1e-30 1e30 1.0
                            AttentionFactor = attention
                            Truncate = flag rope "truncate" true
                        }
                | other ->
                    json.Error(name, $"the type {other} is not supported; default, linear, dynamic, yarn and llama3 are.")
                    NoScaling

        theta, share, scaling

    let private window (json: JsonFields) (fallback: int) : int =
        json.Ignore [ "sliding_window" ]
        // Written out as null, it is switched off; absent, the class's own default holds.
        if json.Has "sliding_window" then json.Int("sliding_window", 1, 1 <<< 28)
        elif Seq.contains "sliding_window" json.Names then 0
        else fallback

    let private sizes (json: JsonFields) =
        let width = json.Int("hidden_size", 1, maximum)
        let heads = json.Int("num_attention_heads", 1, 1024)

        { ModelConfig.openLm
              width
              (json.Int("num_hidden_layers", 1, 1024))
              heads
              (json.Int("vocab_size", 1, 1 <<< 28))
              (json.Int("max_position_embeddings", 1, 1 <<< 28)) with
            FeedForwardWidth = json.Int("intermediate_size", 1, maximum)
        }

    let private rotated (json: JsonFields) (baseName: string) (shareName: string) (share: float) (config: ModelConfig) =
        let theta, share, scaling = rotation json baseName shareName share config.Positions
        let rotating = Operators.int (Operators.float config.HeadWidth * share)

        { config with
            RotaryBase = theta
            RotaryWidth = (if rotating = 0 then config.HeadWidth else rotating)
            RotaryScaling = scaling
            Position = (if rotating = 0 then NoPosition else Rotary)
        }

    // Llama and what is built like it.
    let private llamaLike (keyValueHeads: int option) (json: JsonFields) : ModelConfig =
        needSilu json
        let plain = sizes json
        let fallback = defaultArg keyValueHeads plain.Heads

        { plain with
            KeyValueHeads = int json "num_key_value_heads" 1 1024 fallback
            HeadWidth = int json "head_dim" 1 maximum plain.HeadWidth
            Norm = RmsNorm
            NormEpsilon = float json "rms_norm_eps" 0.0 1.0 1e-6
            Tied = flag json "tie_word_embeddings" false
        }
        |> rotated json "rope_theta" "partial_rotary_factor" 1.0

    let private llama (json: JsonFields) : ModelConfig =
        let config = llamaLike None json
        let attention = flag json "attention_bias" false

        { config with
            QkvBias = attention
            OutBias = attention
            FeedForwardBias = flag json "mlp_bias" false
        }

    let private mistral (json: JsonFields) : ModelConfig = { llamaLike (Some 8) json with Window = window json 4096 }

    let private qwen2 (json: JsonFields) : ModelConfig =
        let config = llamaLike (Some 32) json

        if flag json "use_sliding_window" false then
            json.Error("use_sliding_window", "sliding windows in some of the layers are not supported.")

        { config with QkvBias = true }

    let private stableLm (json: JsonFields) : ModelConfig =
        needSilu json
        refuse json "qk_layernorm" "norms of each head are not supported."
        refuse json "use_parallel_residual" "a block whose two halves share one norm is not supported."
        let plain = sizes json

        { plain with
            KeyValueHeads = int json "num_key_value_heads" 1 1024 32
            Norm = LayerNorm
            NormEpsilon = float json "layer_norm_eps" 0.0 1.0 1e-5
            QkvBias = flag json "use_qkv_bias" false
            Tied = flag json "tie_word_embeddings" false
        }
        |> rotated json "rope_theta" "partial_rotary_factor" 0.25

    let private olmo (json: JsonFields) : ModelConfig =
        needSilu json

        if json.Has "clip_qkv" then
            json.Error("clip_qkv", "clipped queries, keys and values are not supported; it must be null.")

        refuse json "attention_bias" "biases are not supported in this family."
        let plain = sizes json

        { plain with
            KeyValueHeads = int json "num_key_value_heads" 1 1024 plain.Heads
            Norm = PlainLayerNorm
            NormEpsilon = 1e-5
            Tied = flag json "tie_word_embeddings" false
        }
        |> rotated json "rope_theta" "partial_rotary_factor" 1.0

    let private gptNeoX (json: JsonFields) : ModelConfig =
        let bias = flag json "attention_bias" true

        { sizes json with
            Norm = LayerNorm
            NormEpsilon = float json "layer_norm_eps" 0.0 1.0 1e-5
            FeedForward = activation json "hidden_act" Gelu
            ParallelResidual = flag json "use_parallel_residual" true
            QkvBias = bias
            OutBias = bias
            FeedForwardBias = true
            Tied = flag json "tie_word_embeddings" false
        }
        |> rotated json "rotary_emb_base" "rotary_pct" 0.25

    let private gpt2 (json: JsonFields) : ModelConfig =
        if not (flag json "scale_attn_weights" true) then
            json.Error("scale_attn_weights", "attention without its scale is not supported; it must be true.")

        refuse json "scale_attn_by_inverse_layer_idx" "a scale by layer is not supported."
        refuse json "add_cross_attention" "attention to an encoder is not supported."
        let width = json.Int("n_embd", 1, maximum)

        { ModelConfig.openLm
              width
              (json.Int("n_layer", 1, 1024))
              (json.Int("n_head", 1, 1024))
              (json.Int("vocab_size", 1, 1 <<< 28))
              (json.Int("n_positions", 1, 1 <<< 28)) with
            FeedForwardWidth = int json "n_inner" 1 maximum (4 * width)
            Norm = LayerNorm
            NormEpsilon = float json "layer_norm_epsilon" 0.0 1.0 1e-5
            Position = LearnedPosition
            FeedForward = activation json "activation_function" GeluTanh
            QkvBias = true
            OutBias = true
            FeedForwardBias = true
            Tied = flag json "tie_word_embeddings" true
        }

    // The sizes that open_lm knows by name: width, layers, heads.
    let private openLmSizes =
        [
            "open_lm_11m", (96, 12, 12)
            "open_lm_25m", (192, 12, 12)
            "open_lm_41m", (288, 12, 12)
            "open_lm_87m", (488, 12, 12)
            "open_lm_160m", (768, 12, 12)
            "open_lm_410m", (1024, 24, 16)
            "open_lm_830m", (1536, 24, 16)
            "open_lm_1b", (2048, 24, 16)
            "open_lm_3b", (2560, 32, 32)
            "open_lm_7b", (4096, 32, 32)
            "open_lm_11m_v2", (96, 8, 4)
            "open_lm_79m_v2", (512, 8, 4)
            "open_lm_154m_v2", (576, 24, 8)
            "open_lm_411m_v2", (1024, 24, 8)
        ]

    // open_lm's classes for transformers: its parameters at the top, or in params_args_dict, with one of two names for some.
    let private openLm (root: JsonFields) : ModelConfig =
        let json = if root.Has "params_args_dict" then root.Object "params_args_dict" else root
        let one (names: string list) = names |> List.tryFind json.Has |> Option.defaultValue names.Head

        let named =
            openLmSizes
            |> List.tryFind (fun (name, _) -> json.Has "model" && name = text json "model" "")
            |> Option.map snd

        let size (names: string list) (known: (int * int * int) -> int) (high: int) =
            match named with
            | Some sizes when not (List.exists json.Has names) -> known sizes
            | _ -> json.Int(one names, 1, high)

        let width = size [ "dim"; "hidden_dim" ] (fun (width, _, _) -> width) maximum
        let layers = size [ "n_layers" ] (fun (_, layers, _) -> layers) 1024
        let heads = size [ "n_heads" ] (fun (_, _, heads) -> heads) 1024

        let rows =
            if named.IsSome then
                int json "vocab_size" 1 (1 <<< 28) 50432
            else
                json.Int("vocab_size", 1, 1 <<< 28)

        let positions = int json "seq_len" 1 (1 <<< 28) 2048

        { ModelConfig.openLmVariant
              json
              (one [ "model_norm"; "norm_type" ])
              (one [ "qk_norm"; "apply_qk_norm" ])
              width
              layers
              heads
              rows
              positions with
            NormEpsilon = float json "norm_eps" 0.0 1.0 1e-5
        }

    let private families: (string * (JsonFields -> ModelConfig)) list =
        [
            "llama", llama
            "mistral", mistral
            "qwen2", qwen2
            "stablelm", stableLm
            "olmo", olmo
            "gpt_neox", gptNeoX
            "gpt2", gpt2
            "openlm", openLm
        ]

    /// Reads a config.json. Keys that do not bear on the computation are left alone; what is not supported is an error.
    let read (content: string) : Result<ModelConfig, string list> =
        Json.parse content (fun json ->
            let family = json.Text "model_type"

            match families |> List.tryFind (fun (name, _) -> name = family) with
            | Some(_, read) ->
                if json.Has "quantization_config" then
                    json.Error(
                        "quantization_config",
                        "quantised weights are not supported; take the model in fp32, fp16 or bf16."
                    )

                read json |> ModelConfig.checkedAt json "model_type"
            | None ->
                let known = families |> List.map fst |> String.concat ", "
                json.Error("model_type", $"{family} is not a supported family; {known} are.")
                ModelConfig.openLm 64 1 1 64 64)
