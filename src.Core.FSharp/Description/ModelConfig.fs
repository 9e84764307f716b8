/// What a decoder is: one description for every family that Hybrid reads.
namespace Hybrid

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
    /// A table of `Positions` rows that is added to the embeddings
    | LearnedPosition

/// Llama 3's way of slowing rotation down (Llama 3.1's rope_type "llama3").
type Llama3Scaling =
    {
        /// By which slow pairs are slowed down
        Factor: float
        /// Wavelengths above OriginalPositions ÷ this are slowed down in full
        LowFrequencyFactor: float
        /// Wavelengths below OriginalPositions ÷ this are left alone
        HighFrequencyFactor: float
        /// Positions that the model was trained on first
        OriginalPositions: int
    }

/// YaRN (Peng et al. 2023).
type YarnScaling =
    {
        /// By which slow pairs are slowed down
        Factor: float
        /// Positions that the model was trained on first
        OriginalPositions: int
        /// Turns over the original positions above which a pair is left alone
        BetaFast: float
        /// Turns below which a pair is slowed down in full
        BetaSlow: float
        /// Factor of cosine and sine
        AttentionFactor: float
        /// Whether the ramp begins and ends at whole pairs
        Truncate: bool
    }

/// How rotation is slowed down to reach further positions than a model was trained on.
type RotaryScaling =
    /// As the model was trained
    | NoScaling
    /// Positions divided by a factor
    | LinearScaling of factor: float
    /// The base grows with the length of the sequence beyond the model's positions (NTK-aware)
    | DynamicScaling of factor: float
    /// Low frequencies are slowed down, high ones are not
    | Llama3Scaling of Llama3Scaling
    /// Low frequencies are slowed down, and attention is sharpened
    | YarnScaling of YarnScaling

/// The feed-forward layer of a block.
type FeedForward =
    /// W3 (silu(g) · u), [g | u] = W12 x
    | SwiGlu
    /// W3 (gelu(g) · u), [g | u] = W12 x, exact GELU
    | GeGlu
    /// W2 gelu(W1 x), exact GELU
    | Gelu
    /// W2 gelu(W1 x), GELU by its tanh approximation
    | GeluTanh
    /// W2 relu(W1 x)
    | Relu

/// A pre-norm decoder: x + attention(norm x), then + feedForward(norm x); or both at once.
type ModelConfig =
    {
        /// D, width of the residual stream
        Width: int
        /// L, blocks
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
        /// Of blocks and before the head
        Norm: Norm
        /// ε within the root of every norm
        NormEpsilon: float
        /// Norms on the whole of q and of k before they are split into heads
        QkNorm: bool
        /// A norm on the embeddings
        PostEmbedNorm: bool
        /// How positions enter attention
        Position: Position
        /// θ, from which the pairs' frequencies follow
        RotaryBase: float
        /// R, the first dimensions of each head that rotate
        RotaryWidth: int
        /// How rotation is slowed down
        RotaryScaling: RotaryScaling
        /// Positions that a query sees, its own included; 0: all before it
        Window: int
        /// What stands in a block beside attention
        FeedForward: FeedForward
        /// Attention and feed-forward layer read the same residual stream: x + attention(norm x) + feedForward(norm' x)
        ParallelResidual: bool
        /// Biases of the projections to q, k and v
        QkvBias: bool
        /// Bias of attention's output projection
        OutBias: bool
        /// Biases of the feed-forward layer
        FeedForwardBias: bool
        /// The head is the embedding table
        Tied: bool
    }

    /// Whether the feed-forward layer has a gate: its first matrix then has 2F rows.
    member c.Gated = (c.FeedForward = SwiGlu || c.FeedForward = GeGlu)

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

    let private feedForwards = [ "swiglu", SwiGlu; "swiglu_torch", SwiGlu; "gelu", Gelu; "gemma_geglu", GeGlu ]

    /// open_lm's width of the SwiGLU layer: 8D/3 rounded down, then up to a multiple of 256.
    let swiGluWidth (width: int) : int = 256 * ((8 * width / 3 + 255) / 256)

    let internal maximum = 1 <<< 20

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
            RotaryWidth = width / max 1 heads
            RotaryScaling = NoScaling
            Window = 0
            FeedForward = SwiGlu
            ParallelResidual = false
            QkvBias = false
            OutBias = false
            FeedForwardBias = false
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
            if config.Position = Rotary || config.Position = InterleavedRotary then
                if config.RotaryWidth % 2 <> 0 then
                    $"rotary positions need an even width, not {config.RotaryWidth} of each head's {config.HeadWidth}."

                if config.RotaryWidth < 2 || config.RotaryWidth > config.HeadWidth then
                    $"{config.RotaryWidth} dimensions of a head of {config.HeadWidth} cannot rotate."

                match config.RotaryScaling with
                | DynamicScaling _ when config.RotaryWidth <= 2 ->
                    "dynamic scaling needs more than two rotating dimensions in a head."
                | YarnScaling _ when config.RotaryBase <= 1.0 -> "YaRN needs a rotary base above 1."
                | _ -> ()
            if
                int64 config.Rows * int64 config.Width > (1L <<< 40)
                || int64 config.Layers * int64 config.Width * int64 (config.Width + config.FeedForwardWidth) > (1L <<< 44)
            then
                "the model would have more than 10^13 parameters."
        ]

    let internal checkedAt (object: JsonFields) (name: string) (config: ModelConfig) =
        if object.Sound then
            for problem in problems config do
                object.Error(name, problem)

        config

    /// A model as open_lm's code makes it, with its names of norms, positions and feed-forward layers.
    let internal openLmVariant
        (json: JsonFields)
        (norm: string)
        (qkNorm: string)
        (width: int)
        (layers: int)
        (heads: int)
        (rows: int)
        (positionCount: int)
        : ModelConfig =
        if json.Int("moe_freq", 0, maximum, 0) > 0 then
            json.Error("moe_freq", "mixture-of-experts layers are not supported; only dense models are.")

        if json.Has "ffn_type" && json.Text("ffn_type", "") = "moe" then
            json.Error("ffn_type", "mixture-of-experts layers are not supported; only dense models are.")

        let feedForward = json.Choice("ffn_type", ("moe", SwiGlu) :: feedForwards, SwiGlu)

        { openLm width layers heads rows positionCount with
            Norm = json.Choice(norm, norms, LayerNorm)
            QkNorm = json.Bool(qkNorm, false)
            PostEmbedNorm = json.Bool("post_embed_norm", false)
            Position = json.Choice("positional_embedding_type", positions, Rotary)
            FeedForward = feedForward
            FeedForwardWidth = (if feedForward = Gelu then 4 * width else swiGluWidth width)
            FeedForwardBias = (feedForward = GeGlu)
            Tied = json.Bool("weight_tying", false)
        }

    /// Reads open_lm's model JSON (`hidden_dim`, `n_layers`, …). Unknown keys are errors.
    let ofOpenLm (text: string) : Result<ModelConfig, string list> =
        Json.parse text (fun json ->
            let width = json.Int("hidden_dim", 1, maximum)

            json.Ignore
                [ "moe_num_experts"; "moe_top_k"; "moe_capacity_factor"; "moe_loss_weight"; "moe_expert_model_parallelism" ]

            // The layout of an extended table, which ModelExport reads.
            json.Ignore [ "moe_weight_parallelism"; "hybrid" ]

            let layers = json.Int("n_layers", 1, 1024)
            let heads = json.Int("n_heads", 1, 1024)
            let rows = json.Int("vocab_size", 1, 1 <<< 28)
            let length = json.Int("seq_len", 1, 1 <<< 28)
            let config = openLmVariant json "model_norm" "qk_norm" width layers heads rows length
            json.Finish()
            checkedAt json "hidden_dim" config)

    /// Width of all query heads together, H · C.
    let queryWidth (config: ModelConfig) : int = config.Heads * config.HeadWidth

    /// Width of all key (or value) heads together.
    let keyWidth (config: ModelConfig) : int = config.KeyValueHeads * config.HeadWidth

    /// Parameters in matrix multiplications: attention and feed-forward projections of all layers, and the head.
    let matrixParameters (config: ModelConfig) : int64 =
        let d, q, k = int64 config.Width, int64 (queryWidth config), int64 (keyWidth config)
        let feedForwardMatrices = if config.Gated then 3L else 2L

        int64 config.Layers * (d * (q + 2L * k) + q * d + feedForwardMatrices * d * int64 config.FeedForwardWidth)
        + int64 config.Rows * d

    /// Floating-point operations per token of a forward and backward pass over sequences of T positions:
    /// 6 · matrix parameters + 12 · layers · width · T, attention counted in full.
    let flopsPerToken (config: ModelConfig) (positions: int) : float =
        6.0 * float (matrixParameters config)
        + 12.0 * float config.Layers * float (queryWidth config) * float positions

    /// Of these, the operations of the blocks' forward pass, which full checkpointing makes twice.
    let blockFlopsPerToken (config: ModelConfig) (positions: int) : float =
        flopsPerToken config positions / 3.0 - 2.0 * float config.Rows * float config.Width
