/// What a decoder is: one description for every family that Hybrid reads.
namespace Hybrid

open System.Text.Json.Nodes

/// Normalisation of a vector of width D, in fp32.
type Norm =
    /// (x − mean) / √(var + ε) · weight + bias
    | LayerNorm
    /// LayerNorm without bias
    | GainLayerNorm
    /// LayerNorm without weight and bias
    | PlainLayerNorm
    /// x / √(mean x² + ε) · weight
    | RmsNorm

/// How positions enter attention.
type Position =
    /// Rotation of each head's halves (GPT-NeoX layout) by position · θ^(−2i/C)
    | Rotary
    /// The same rotation of adjacent pairs (the original Llama layout)
    | InterleavedRotary
    /// open_lm's released models: the angle is the head's index, which cancels in q·k, so positions do not enter at all
    | HeadRotary
    /// None
    | NoPosition

/// The feed-forward layer of a block.
type FeedForward =
    /// W3 (silu(g) · u), [g | u] = W12 x
    | SwiGlu
    /// W2 gelu(W1 x), exact GELU
    | Gelu

/// A pre-norm decoder without biases in its projections: x + attention(norm x), then + feedForward(norm x).
type ModelConfig =
    {
        /// D, width of the residual stream
        Width: int
        Layers: int
        /// H, query heads
        Heads: int
        /// Key and value heads; query heads share them in groups
        KeyValueHeads: int
        /// C, width of a head
        HeadWidth: int
        /// F, width of the feed-forward layer
        FeedForwardWidth: int
        /// Rows of the embedding table, and of the head
        Rows: int
        /// Where the table was extended: its sizes before each extension, growing. The head multiplies these parts one by one, so
        /// that the logits of the rows before an extension keep their bits
        ExtendedAt: int list
        /// Positions the model was made for
        Positions: int
        Norm: Norm
        NormEpsilon: float
        /// Norms on the whole of q and of k before they are split into heads
        QkNorm: bool
        /// A norm on the embeddings
        PostEmbedNorm: bool
        Position: Position
        RotaryBase: float
        FeedForward: FeedForward
        /// The head is the embedding table
        Tied: bool
    }

/// Reading model descriptions and what follows from them.
module ModelConfig =

    let private norms =
        [
            "default_layer_norm", LayerNorm
            "lp_layer_norm", LayerNorm
            "gain_only_layer_norm", GainLayerNorm
            "gain_only_lp_layer_norm", GainLayerNorm
            "no_wb_layer_norm", PlainLayerNorm
            "rms_norm", RmsNorm
        ]

    let private positions =
        [ "rotary", Rotary; "head_rotary", HeadRotary; "llama_rotary", InterleavedRotary; "none", NoPosition ]

    let private feedForwards = [ "swiglu", SwiGlu; "swiglu_torch", SwiGlu; "gelu", Gelu ]

    /// open_lm's width of the SwiGLU layer: 8D/3 rounded down, then up to a multiple of 256.
    let swiGluWidth (width: int) : int = 256 * ((8 * width / 3 + 255) / 256)

    let private maximum = 1 <<< 20

    /// A decoder as open_lm builds it: separate heads without groups, its feed-forward width, ε = 1e-5, rotary base 10,000.
    let openLm (width: int) (layers: int) (heads: int) (rows: int) (positions: int) : ModelConfig =
        {
            Width = width
            Layers = layers
            Heads = heads
            KeyValueHeads = heads
            HeadWidth = width / max 1 heads
            FeedForwardWidth = swiGluWidth width
            Rows = rows
            ExtendedAt = []
            Positions = positions
            Norm = LayerNorm
            NormEpsilon = 1e-5
            QkNorm = false
            PostEmbedNorm = false
            Position = Rotary
            RotaryBase = 10000.0
            FeedForward = SwiGlu
            Tied = false
        }

    /// What is wrong with a description, a sentence each; empty when nothing is.
    let problems (config: ModelConfig) : string list =
        [
            if config.Heads > config.Width then
                $"{config.Heads} heads do not fit in width {config.Width}."
            if
                config.ExtendedAt
                |> List.append [ 0 ]
                |> List.pairwise
                |> List.exists (fun (a, b) -> a >= b || b >= config.Rows)
            then
                let sizes = System.String.Join(", ", config.ExtendedAt)
                $"the table of {config.Rows} rows cannot have been extended at {sizes}: the sizes must grow and stay below it."
            if config.KeyValueHeads < 1 || config.Heads % config.KeyValueHeads <> 0 then
                $"{config.Heads} heads cannot share {config.KeyValueHeads} key-value heads evenly."
            if config.HeadWidth % 2 <> 0 && (config.Position = Rotary || config.Position = InterleavedRotary) then
                $"rotary positions need an even head width, not {config.HeadWidth}."
            if
                int64 config.Rows * int64 config.Width > (1L <<< 40)
                || int64 config.Layers * int64 config.Width * int64 (config.Width + config.FeedForwardWidth) > (1L <<< 44)
            then
                "the model would have more than 10^13 parameters."
        ]

    let private checkedAt (object: JsonFields) (name: string) (config: ModelConfig) =
        if object.Sound then
            for problem in problems config do
                object.Error(name, problem)

        config

    /// Reads open_lm's model JSON (`hidden_dim`, `n_layers`, …). Unknown keys are errors.
    let ofOpenLm (text: string) : Result<ModelConfig, string list> =
        Json.parse text (fun json ->
            let width = json.Int("hidden_dim", 1, maximum)

            let moe = json.Int("moe_freq", 0, maximum, 0)

            if moe > 0 then
                json.Error("moe_freq", "mixture-of-experts layers are not supported; only dense models are.")

            json.Ignore
                [ "moe_num_experts"; "moe_top_k"; "moe_capacity_factor"; "moe_loss_weight"; "moe_expert_model_parallelism" ]

            // The layout of an extended table, which ModelExport reads.
            json.Ignore [ "moe_weight_parallelism"; "hybrid" ]

            let layers = json.Int("n_layers", 1, 1024)
            let heads = json.Int("n_heads", 1, 1024)
            let rows = json.Int("vocab_size", 1, 1 <<< 28)
            let length = json.Int("seq_len", 1, 1 <<< 28)
            let feedForward = json.Choice("ffn_type", feedForwards, SwiGlu)

            let config =
                { openLm width layers heads rows length with
                    Norm = json.Choice("model_norm", norms, LayerNorm)
                    QkNorm = json.Bool("qk_norm", false)
                    PostEmbedNorm = json.Bool("post_embed_norm", false)
                    Position = json.Choice("positional_embedding_type", positions, Rotary)
                    FeedForward = feedForward
                    FeedForwardWidth = (if feedForward = SwiGlu then swiGluWidth width else 4 * width)
                    Tied = json.Bool("weight_tying", false)
                }

            json.Finish()
            checkedAt json "hidden_dim" config)

    /// Reads the `config.json` of a Hugging Face Llama-like model. Keys that do not bear on the computation are left alone;
    /// features that are not supported are errors.
    let ofLlama (text: string) : Result<ModelConfig, string list> =
        Json.parse text (fun json ->
            let family = json.Text "model_type"

            if family <> "llama" && family <> "mistral" then
                json.Error("model_type", $"{family} is not a supported family; llama and mistral are.")

            let width = json.Int("hidden_size", 1, maximum)
            let heads = json.Int("num_attention_heads", 1, 1024)

            if json.Text("hidden_act", "silu") <> "silu" then
                json.Error("hidden_act", "only silu is supported.")

            for key in [ "attention_bias"; "mlp_bias" ] do
                if json.Bool(key, false) then
                    json.Error(key, "biases in the projections are not supported.")

            for key in [ "rope_scaling"; "sliding_window" ] do
                if json.Has key then
                    json.Error(key, "is not supported; it must be null.")

            { openLm
                  width
                  (json.Int("num_hidden_layers", 1, 1024))
                  heads
                  (json.Int("vocab_size", 1, 1 <<< 28))
                  (json.Int("max_position_embeddings", 1, 1 <<< 28)) with
                KeyValueHeads = json.Int("num_key_value_heads", 1, 1024, heads)
                HeadWidth = json.Int("head_dim", 1, maximum, width / max 1 heads)
                FeedForwardWidth = json.Int("intermediate_size", 1, maximum)
                Norm = RmsNorm
                NormEpsilon = json.Float("rms_norm_eps", 0.0, 1.0, 1e-6)
                RotaryBase = json.Float("rope_theta", 1.0, 1e12, 10000.0)
                Tied = json.Bool("tie_word_embeddings", false)
            }
            |> checkedAt json "hidden_size")

    let private normName =
        function
        | LayerNorm -> "layer_norm"
        | GainLayerNorm -> "gain_only_layer_norm"
        | PlainLayerNorm -> "plain_layer_norm"
        | RmsNorm -> "rms_norm"

    let private positionName =
        function
        | Rotary -> "rotary"
        | InterleavedRotary -> "interleaved_rotary"
        | HeadRotary -> "head_rotary"
        | NoPosition -> "none"

    let private named (name: 'a -> string) (cases: 'a list) = cases |> List.map (fun case -> name case, case)

    /// Hybrid's own form: every field by its own name. `ofHybrid` reads it back.
    let toHybrid (config: ModelConfig) : JsonObject =
        let json = JsonObject()
        let add (name: string) (value: 'a) = json.Add(name, JsonValue.Create<'a> value)
        add "width" config.Width
        add "layers" config.Layers
        add "heads" config.Heads
        add "keyValueHeads" config.KeyValueHeads
        add "headWidth" config.HeadWidth
        add "feedForwardWidth" config.FeedForwardWidth
        add "rows" config.Rows
        let sizes = config.ExtendedAt |> List.map (fun size -> JsonValue.Create size :> (JsonNode | null))
        json.Add("extendedAt", JsonArray(List.toArray sizes))
        add "positions" config.Positions
        add "norm" (normName config.Norm)
        add "normEpsilon" config.NormEpsilon
        add "qkNorm" config.QkNorm
        add "postEmbedNorm" config.PostEmbedNorm
        add "position" (positionName config.Position)
        add "rotaryBase" config.RotaryBase
        add "feedForward" (if config.FeedForward = SwiGlu then "swiglu" else "gelu")
        add "tied" config.Tied
        json

    /// Reads the object that `toHybrid` writes.
    let ofHybrid (json: JsonFields) : ModelConfig =
        let width = json.Int("width", 1, maximum)

        let config =
            {
                Width = width
                Layers = json.Int("layers", 1, 1024)
                Heads = json.Int("heads", 1, 1024)
                KeyValueHeads = json.Int("keyValueHeads", 1, 1024)
                HeadWidth = json.Int("headWidth", 1, maximum)
                FeedForwardWidth = json.Int("feedForwardWidth", 1, maximum)
                Rows = json.Int("rows", 1, 1 <<< 28)
                ExtendedAt = json.Ints("extendedAt", 1, 1 <<< 28)
                Positions = json.Int("positions", 1, 1 <<< 28)
                Norm = json.Choice("norm", named normName [ LayerNorm; GainLayerNorm; PlainLayerNorm; RmsNorm ])
                NormEpsilon = json.Float("normEpsilon", 0.0, 1.0)
                QkNorm = json.Bool "qkNorm"
                PostEmbedNorm = json.Bool "postEmbedNorm"
                Position = json.Choice("position", named positionName [ Rotary; InterleavedRotary; HeadRotary; NoPosition ])
                RotaryBase = json.Float("rotaryBase", 1.0, 1e12)
                FeedForward = json.Choice("feedForward", [ "swiglu", SwiGlu; "gelu", Gelu ])
                Tied = json.Bool "tied"
            }

        json.Finish()
        checkedAt json "width" config

    /// Width of all query heads together, H · C.
    let queryWidth (config: ModelConfig) : int = config.Heads * config.HeadWidth

    /// Width of all key (or value) heads together.
    let keyWidth (config: ModelConfig) : int = config.KeyValueHeads * config.HeadWidth

    /// Parameters in matrix multiplications: attention and feed-forward projections of all layers, and the head.
    let matrixParameters (config: ModelConfig) : int64 =
        let d, q, k = int64 config.Width, int64 (queryWidth config), int64 (keyWidth config)
        let feedForwardMatrices = if config.FeedForward = SwiGlu then 3L else 2L

        int64 config.Layers * (d * (q + 2L * k) + q * d + feedForwardMatrices * d * int64 config.FeedForwardWidth)
        + int64 config.Rows * d

    /// Floating-point operations per token of a forward and backward pass over sequences of T positions:
    /// 6 · matrix parameters + 12 · layers · width · T, attention counted in full.
    let flopsPerToken (config: ModelConfig) (positions: int) : float =
        6.0 * float (matrixParameters config)
        + 12.0 * float config.Layers * float (queryWidth config) * float positions
