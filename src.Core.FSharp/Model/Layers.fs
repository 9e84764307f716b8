/// The layers of a decoder as functions of their weights. Axes: see the legend in Shape.fs.
namespace Hybrid

open TorchSharp

module Layers =

    /// y = x Wᵀ.
    let linear (weight: torch.Tensor) (x: torch.Tensor) : torch.Tensor = torch.nn.functional.linear (x, weight)

    /// y = x Wᵀ, + b where it has a bias: the projection under `prefix`.
    let projection (bias: bool) (weights: Weights) (prefix: string) (x: torch.Tensor) : torch.Tensor =
        if bias then
            torch.nn.functional.linear (x, weights (prefix + ".weight"), weights (prefix + ".bias"))
        else
            linear (weights (prefix + ".weight")) x

    /// A norm over the last axis; `weight` and `bias` are looked up under `prefix`. Statistics are fp32 in every precision.
    let norm (kind: Norm) (epsilon: float) (weights: Weights) (prefix: string) (x: torch.Tensor) : torch.Tensor =
        let width = x.shape[x.shape.Length - 1]
        let weight () = weights (prefix + ".weight")
        let bias () = weights (prefix + ".bias")

        match kind with
        | PlainLayerNorm -> torch.nn.functional.layer_norm (x, [| width |], eps = epsilon)
        | _ when Kernels.takes x && not Derivative.Composed ->
            Fused.norm (kind <> RmsNorm) epsilon (weight ()) (if kind = LayerNorm then Some(bias ()) else None) x
        | LayerNorm -> torch.nn.functional.layer_norm (x, [| width |], weight (), bias (), epsilon)
        | GainLayerNorm -> torch.nn.functional.layer_norm (x, [| width |], weight (), eps = epsilon)
        | RmsNorm -> Dispatcher.rmsNorm (weight ()) epsilon x

    /// The parameters of a norm of this width.
    let normParameters (kind: Norm) (prefix: string) (width: int) : ParameterSpec list =
        [
            if kind <> PlainLayerNorm then
                { Name = prefix + ".weight"; Shape = [ int64 width ]; Init = Ones }
            if kind = LayerNorm then
                { Name = prefix + ".bias"; Shape = [ int64 width ]; Init = Zeros }
        ]

    /// The rotation tables for positions [start, start + length), where the model has any; see `Rotary`.
    let rotation
        (config: ModelConfig)
        (device: torch.Device)
        (elementType: torch.ScalarType)
        (start: int64)
        (length: int64)
        : Rotation option =
        Rotary.tables config device elementType start length

    /// Rotates the first R dimensions of each head of x_BTHC: x · cos + partner(x) · sin, where the partner of (x₁, x₂) is (−x₂, x₁)
    /// over halves or adjacent pairs.
    let rotate (config: ModelConfig) (rotation: Rotation) (x_BTHC: torch.Tensor) : torch.Tensor =
        Rotary.turn config rotation x_BTHC

    // Scores above this count are left to the fused kernel, which never holds them; below, plain matrix products are faster.
    let private explicitScores = 1L <<< 26

    /// softmax(q kᵀ / √C + mask) v over [B, H, T, C]. Queries are the last positions of the keys and see those up to themselves, the
    /// last `window` of them where it is not 0.
    let attendWithin (window: int64) (q_BHTC: torch.Tensor) (k_BHSC: torch.Tensor) (v_BHSC: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let b, h, t, c = q_BHTC.shape[0], q_BHTC.shape[1], q_BHTC.shape[2], q_BHTC.shape[3]
        let s = k_BHSC.shape[2]

        let narrow = window > 0L && window < s

        let fused = not Derivative.Composed && (q_BHTC.device_type <> DeviceType.CPU || b * h * t * s > explicitScores)

        if not narrow && t = s && fused then
            torch.nn.functional.scaled_dot_product_attention(q_BHTC, k_BHSC, v_BHSC, is_casual = true).MoveToOuterDisposeScope()
        else
            let mask = FusedAttention.mask (s - t) t s window q_BHTC

            // mask + q kᵀ / √C. TorchSharp 0.107 hands the arguments on as (batch1, batch2, input).
            let scores =
                torch.baddbmm (
                    q_BHTC.reshape (b * h, t, c),
                    k_BHSC.reshape(b * h, s, c).transpose(1, 2),
                    mask.unsqueeze(0).expand(b * h, t, s),
                    1.0f,
                    1.0f / sqrt (float32 c)
                )

            torch.bmm(scores.softmax -1L, v_BHSC.reshape (b * h, s, c)).view(b, h, t, c).MoveToOuterDisposeScope()

    /// `attendWithin` without a window.
    let attend (q_BHTC: torch.Tensor) (k_BHSC: torch.Tensor) (v_BHSC: torch.Tensor) : torch.Tensor =
        attendWithin 0L q_BHTC k_BHSC v_BHSC

    // Query heads share key-value heads in groups: head h reads key-value head h / (H / H_kv).
    let private repeated (heads: int64) (x_BHTC: torch.Tensor) =
        let kv = x_BHTC.shape[1]

        if kv = heads then
            x_BHTC
        else
            let b, t, c = x_BHTC.shape[0], x_BHTC.shape[2], x_BHTC.shape[3]
            x_BHTC.unsqueeze(2).expand(b, kv, heads / kv, t, c).reshape(b, heads, t, c)

    /// Rows of queries are worked on together up to this many scores.
    let internal scoresAtOnce = 1L <<< 23

    /// Up to this many scores of a layer are kept for the backward pass; more are computed again.
    let internal scoresKept = 1L <<< 24

    /// The joined queries, keys and values under `prefix` with their norms, where the model has any.
    let private normed (config: ModelConfig) (weights: Weights) (prefix: string) (joined: torch.Tensor) : torch.Tensor =
        if config.QkNorm then
            let queries, keys = int64 (ModelConfig.queryWidth config), int64 (ModelConfig.keyWidth config)
            let q, k = joined.narrow (-1, 0L, queries), joined.narrow (-1, queries, keys)
            let norm name = norm config.Norm config.NormEpsilon weights $"{prefix}.{name}"
            torch.cat ([| norm "q_norm" q; norm "k_norm" k; joined.narrow (-1, queries + keys, keys) |], -1L)
        else
            joined

    /// Queries [B, H, T, C] and keys [B, H_kv, T, C], rotated, and values [B, H_kv, T, C] of joined ones [B, T, (H + 2 H_kv) C].
    let private takeApart (config: ModelConfig) (rotation: Rotation option) (joined: torch.Tensor) =
        let heads, kv, c = int64 config.Heads, int64 config.KeyValueHeads, int64 config.HeadWidth
        let b, t = joined.shape[0], joined.shape[1]
        let qk_BTHC = joined.view(b, t, heads + 2L * kv, c).narrow(2, 0L, heads + kv)

        let turned =
            match rotation with
            | Some rotation -> rotate config rotation qk_BTHC
            | None -> qk_BTHC

        let q = turned.narrow(2, 0L, heads).transpose(1, 2)
        let k = turned.narrow(2, heads, kv).transpose(1, 2)
        let v = joined.narrow(-1, (heads + kv) * c, kv * c).view(b, t, kv, c).transpose(1, 2)
        q, k, v

    /// Queries, rotated keys and values of x_BTD under `prefix`, keys and values repeated for the queries that share them: three
    /// tensors [B, H, T, C].
    let queriesKeysValues
        (config: ModelConfig)
        (weights: Weights)
        (prefix: string)
        (rotation: Rotation option)
        (x_BTD: torch.Tensor)
        : torch.Tensor * torch.Tensor * torch.Tensor =
        use scope = torch.NewDisposeScope()

        let q, k, v =
            projection config.QkvBias weights (prefix + ".in_proj") x_BTD
            |> normed config weights prefix
            |> takeApart config rotation

        let own (x: torch.Tensor) = x.MoveToOuterDisposeScope()
        own q, own (repeated (int64 config.Heads) k), own (repeated (int64 config.Heads) v)

    /// Attention from the joined queries, keys and values [B, T, (H + 2 H_kv) C] under `prefix`, or [N, (H + 2 H_kv) C] of packed rows;
    /// up to `scoresKept` scores are kept for the backward pass.
    let private mix
        (config: ModelConfig)
        (weights: Weights)
        (prefix: string)
        (rotation: Rotation option)
        (rows: PackedRows option)
        (scoresKept: int64)
        (joined: torch.Tensor)
        : torch.Tensor =
        let heads, kv, c = int64 config.Heads, int64 config.KeyValueHeads, int64 config.HeadWidth
        let out = projection config.OutBias weights (prefix + ".out_proj")
        let qkv = normed config weights prefix joined

        if qkv.device_type = DeviceType.CPU && not Derivative.Composed then
            let plan: FusedAttention.AttentionPlan =
                {
                    Heads = heads
                    KeyValueHeads = kv
                    HeadWidth = c
                    Turn = rotate config
                    Rotation = rotation
                    Interleaved = (config.Position = InterleavedRotary)
                    Window = int64 config.Window
                    ScoresAtOnce = scoresAtOnce
                    ScoresKept = scoresKept
                    Rows = rows
                }

            out (FusedAttention.causalAttention plan qkv)
        else
            let qkv = rows |> Option.fold (fun x rows -> Fused.unpack rows x) qkv
            let b, t = qkv.shape[0], qkv.shape[1]
            let q, k, v = takeApart config rotation qkv

            let mixed = attendWithin (int64 config.Window) q (repeated heads k) (repeated heads v)
            let mixed = mixed.transpose(1, 2).reshape(b, t, heads * c)
            out (rows |> Option.fold (fun x rows -> Fused.pack rows x) mixed)

    /// Self-attention under `prefix`, of x_BTD or of packed rows [N, D].
    let packedAttention
        (config: ModelConfig)
        (weights: Weights)
        (prefix: string)
        (rotation: Rotation option)
        (rows: PackedRows option)
        (x: torch.Tensor)
        : torch.Tensor =
        use scope = torch.NewDisposeScope()

        let mixed =
            projection config.QkvBias weights (prefix + ".in_proj") x
            |> mix config weights prefix rotation rows scoresKept

        mixed.MoveToOuterDisposeScope()

    /// `packedAttention` of rows that are not packed.
    let attention
        (config: ModelConfig)
        (weights: Weights)
        (prefix: string)
        (rotation: Rotation option)
        (x_BTD: torch.Tensor)
        : torch.Tensor =
        packedAttention config weights prefix rotation None x_BTD

    let private projectionAgain (f: torch.Tensor -> torch.Tensor) parameters (bias: bool) (weights: Weights) (prefix: string) =
        Recompute.product f parameters (weights (prefix + ".weight")) (if bias then Some(weights (prefix + ".bias")) else None)

    let private normAgain (config: ModelConfig) (weights: Weights) (prefix: string) =
        let parameters: ParameterSpec list = normParameters config.Norm prefix config.Width
        norm config.Norm config.NormEpsilon weights prefix, [ for spec in parameters -> weights spec.Name ]

    /// `packedAttention` of the norm under `normPrefix` of x, where the norm and the softmax are computed again in the backward pass.
    let attentionAgain
        (config: ModelConfig)
        (weights: Weights)
        (prefix: string)
        (normPrefix: string)
        (rotation: Rotation option)
        (rows: PackedRows option)
        (x: torch.Tensor)
        : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let norm, parameters = normAgain config weights normPrefix

        let mixed =
            projectionAgain norm parameters config.QkvBias weights (prefix + ".in_proj") x
            |> mix config weights prefix rotation rows 0L

        mixed.MoveToOuterDisposeScope()

    /// The parameters of attention at a layer (counted from 0), with open_lm's initialisation: residual projections shrink by
    /// √(2(layer + 1)).
    let attentionParameters (config: ModelConfig) (layer: int) (prefix: string) : ParameterSpec list =
        let width = int64 config.Width
        let q, k = ModelConfig.queryWidth config, ModelConfig.keyWidth config
        let deviation = 1.0 / sqrt (float width)

        [
            {
                Name = prefix + ".in_proj.weight"
                Shape = [ int64 (q + 2 * k); width ]
                Init = TruncatedNormal deviation
            }
            {
                Name = prefix + ".out_proj.weight"
                Shape = [ width; int64 q ]
                Init = TruncatedNormal(deviation / sqrt (2.0 * float (layer + 1)))
            }
            if config.QkvBias then
                { Name = prefix + ".in_proj.bias"; Shape = [ int64 (q + 2 * k) ]; Init = Zeros }
            if config.OutBias then
                { Name = prefix + ".out_proj.bias"; Shape = [ width ]; Init = Zeros }
            if config.QkNorm then
                yield! normParameters config.Norm (prefix + ".q_norm") q
                yield! normParameters config.Norm (prefix + ".k_norm") k
        ]

    /// The two feed-forward projections of a layer, by open_lm's names.
    let internal feedForwardNames (config: ModelConfig) (prefix: string) =
        if config.Gated then
            prefix + ".feed_forward.w12", prefix + ".feed_forward.w3"
        else
            prefix + "._ff_w1", prefix + "._ff_w2"

    /// What stands between the two projections of the feed-forward layer.
    let private gate (config: ModelConfig) (hidden: torch.Tensor) : torch.Tensor =
        match config.FeedForward with
        | SwiGlu -> Fused.swiGluGate hidden
        | GeGlu ->
            let width = int64 config.FeedForwardWidth
            torch.nn.functional.gelu(hidden.narrow (-1, 0L, width)).mul(hidden.narrow (-1, width, width))
        | Gelu -> torch.nn.functional.gelu hidden
        | GeluTanh -> Dispatcher.geluTanh hidden
        | Relu -> torch.nn.functional.relu hidden

    /// The feed-forward layer of the block under `prefix`.
    let feedForward (config: ModelConfig) (weights: Weights) (prefix: string) (x_BTD: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let first, second = feedForwardNames config prefix
        let hidden = projection config.FeedForwardBias weights first x_BTD
        let result = gate config hidden |> projection config.FeedForwardBias weights second
        result.MoveToOuterDisposeScope()

    /// `feedForward` of the norm under `normPrefix` of x, where the norm and the gate are computed again in the backward pass.
    let feedForwardAgain
        (config: ModelConfig)
        (weights: Weights)
        (prefix: string)
        (normPrefix: string)
        (x_BTD: torch.Tensor)
        : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let first, second = feedForwardNames config prefix
        let norm, parameters = normAgain config weights normPrefix

        let result =
            projectionAgain norm parameters config.FeedForwardBias weights first x_BTD
            |> projectionAgain (gate config) [] config.FeedForwardBias weights second

        result.MoveToOuterDisposeScope()

    /// The parameters of the feed-forward layer of a block.
    let feedForwardParameters (config: ModelConfig) (layer: int) (prefix: string) : ParameterSpec list =
        let width, hidden = int64 config.Width, int64 config.FeedForwardWidth
        let first, second = feedForwardNames config prefix
        let rows = if config.Gated then 2L * hidden else hidden

        [
            {
                Name = first + ".weight"
                Shape = [ rows; width ]
                Init = TruncatedNormal(1.0 / sqrt (float width))
            }
            {
                Name = second + ".weight"
                Shape = [ width; hidden ]
                Init = TruncatedNormal(1.0 / sqrt (float hidden) / sqrt (2.0 * float (layer + 1)))
            }
            if config.FeedForwardBias then
                { Name = first + ".bias"; Shape = [ rows ]; Init = Zeros }
                { Name = second + ".bias"; Shape = [ width ]; Init = Zeros }
        ]
