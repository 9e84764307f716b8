/// Reading the config.json of the families that ModelExport writes.
namespace Hybrid

open System.Text.Json
open System.Text.Json.Nodes

module ModelImport =

    let private maximum = 1 <<< 20

    let private sizes (json: JsonFields) : ModelConfig =
        let width = json.Int("hidden_size", 1, maximum)
        let heads = json.Int("num_attention_heads", 1, 1024)

        if json.Text("hidden_act", "silu") <> "silu" then
            json.Error("hidden_act", "only silu is supported.")

        { ModelConfig.openLm
              width
              (json.Int("num_hidden_layers", 1, 1024))
              heads
              (json.Int("vocab_size", 1, 1 <<< 28))
              (json.Int("max_position_embeddings", 1, 1 <<< 28)) with
            KeyValueHeads = json.Int("num_key_value_heads", 1, 1024, heads)
            FeedForwardWidth = json.Int("intermediate_size", 1, maximum)
            RotaryBase = json.Float("rope_theta", 1.0, 1e12, 10000.0)
            Tied = json.Bool("tie_word_embeddings", false)
        }

    let private mustBe (json: JsonFields) (keys: string list) =
        for key in keys do
            if json.Bool(key, false) then
                json.Error(key, "must be false; the other form is not supported.")

    let private stableLm (json: JsonFields) =
        mustBe json [ "use_qkv_bias"; "qk_layernorm"; "use_parallel_residual" ]

        if json.Has "rope_scaling" then
            json.Error("rope_scaling", "is not supported; it must be null.")

        let turning = json.Float("partial_rotary_factor", 0.0, 1.0, 0.25)

        if turning <> 0.0 && turning <> 1.0 then
            json.Error("partial_rotary_factor", "only heads that turn as a whole (1) or not at all (0) are supported.")

        { sizes json with
            NormEpsilon = json.Float("layer_norm_eps", 0.0, 1.0, 1e-5)
            Position = if turning = 0.0 then NoPosition else Rotary
        }

    let private olmo (json: JsonFields) =
        mustBe json [ "attention_bias" ]

        for key in [ "clip_qkv"; "rope_scaling" ] do
            if json.Has key then
                json.Error(key, "is not supported; it must be null.")

        { sizes json with Norm = PlainLayerNorm }

    // The names of open_lm's own JSON for the keys of its config.json.
    let private openLm (root: JsonObject) =
        let json = JsonObject()

        for theirs, ours in
            [
                "dim", "hidden_dim"
                "n_layers", "n_layers"
                "n_heads", "n_heads"
                "seq_len", "seq_len"
                "vocab_size", "vocab_size"
                "post_embed_norm", "post_embed_norm"
                "weight_tying", "weight_tying"
                "norm_type", "model_norm"
                "apply_qk_norm", "qk_norm"
                "positional_embedding_type", "positional_embedding_type"
                "ffn_type", "ffn_type"
                "moe_freq", "moe_freq"
            ] do
            match root[theirs] with
            | null -> ()
            | value -> json[ours] <- value.DeepClone()

        let epsilon =
            match root["norm_eps"] with
            | null -> 1e-5
            | value when value.GetValueKind() = JsonValueKind.Number -> value.GetValue<float>()
            | _ -> 1e-5

        ModelConfig.ofOpenLm (json.ToJsonString()) |> Result.map (fun config -> { config with NormEpsilon = epsilon })

    /// Reads the config.json of a Hugging Face directory: StableLM, OLMo, open_lm's own form, or the Llama-like families of
    /// `ModelConfig.ofLlama`.
    let ofHuggingFace (text: string) : Result<ModelConfig, string list> =
        let root =
            try
                match JsonNode.Parse text with
                | :? JsonObject as root -> root
                | _ -> JsonObject()
            with _ ->
                JsonObject()

        // A rotation that ModelExport slowed down until it turns nothing is no scaling.
        match root["hybrid"] with
        | :? JsonObject as own when own.ContainsKey "position" -> root["rope_scaling"] <- null
        | _ -> ()

        let text = if root.Count = 0 then text else root.ToJsonString()

        match root["model_type"] with
        | null -> ModelConfig.ofLlama text
        | kind ->
            match kind.ToString() with
            | "stablelm" -> Json.parse text stableLm
            | "olmo" -> Json.parse text olmo
            | "openlm" -> openLm root
            | _ -> ModelConfig.ofLlama text
