/// The layers of a decoder as functions of their weights. Axes: see the legend in Shape.fs.
namespace Hybrid

open TorchSharp

/// Keys and values of the positions seen so far, in preallocated memory [B, H_kv, T_max, C].
[<NoEquality; NoComparison>]
type Cache =
    {
        Keys: torch.Tensor
        Values: torch.Tensor
        /// Positions that are filled
        Length: int64
    }

module Layers =

    /// y = x Wᵀ.
    let linear (weight: torch.Tensor) (x: torch.Tensor) : torch.Tensor = torch.nn.functional.linear (x, weight)

    /// A norm over the last axis; `weight` and `bias` are looked up under `prefix`. Statistics are fp32 in every precision.
    let norm (kind: Norm) (epsilon: float) (weights: Weights) (prefix: string) (x: torch.Tensor) : torch.Tensor =
        let width = x.shape[x.shape.Length - 1]

        match kind with
        | LayerNorm ->
            torch.nn.functional.layer_norm (x, [| width |], weights (prefix + ".weight"), weights (prefix + ".bias"), epsilon)
        | GainLayerNorm -> torch.nn.functional.layer_norm (x, [| width |], weights (prefix + ".weight"), eps = epsilon)
        | PlainLayerNorm -> torch.nn.functional.layer_norm (x, [| width |], eps = epsilon)
        | RmsNorm -> Dispatcher.rmsNorm (weights (prefix + ".weight")) epsilon x

    /// The parameters of a norm of this width.
    let normParameters (kind: Norm) (prefix: string) (width: int) : ParameterSpec list =
        [
            if kind <> PlainLayerNorm then
                { Name = prefix + ".weight"; Shape = [ int64 width ]; Init = Ones }
            if kind = LayerNorm then
                { Name = prefix + ".bias"; Shape = [ int64 width ]; Init = Zeros }
        ]

    /// Angles position · θ^(−2i/C) for positions [start, start + length), computed in double precision.
    /// HeadRotary turns q and k of a head by one angle, which cancels in q·k: it needs no tables, like NoPosition.
    let rotation
        (config: ModelConfig)
        (device: torch.Device)
        (elementType: torch.ScalarType)
        (start: int64)
        (length: int64)
        : Rotation option =
        let half = config.HeadWidth / 2

        let table (f: float -> float) =
            use scope = torch.NewDisposeScope()

            let values =
                Array.init (int length * config.HeadWidth) (fun k ->
                    let position, c = k / config.HeadWidth, k % config.HeadWidth
                    let i = if config.Position = Rotary then c % half else c / 2
                    let frequency = config.RotaryBase ** (-2.0 * float i / float config.HeadWidth)
                    float32 (f (float (start + int64 position) * frequency)))

            let table = Host.floats [ length; 1L; int64 config.HeadWidth ] values
            table.``to``(elementType, device).MoveToOuterDisposeScope()

        match config.Position with
        | HeadRotary
        | NoPosition -> None
        | Rotary
        | InterleavedRotary -> Some { Cosine = table cos; Sine = table sin }

    /// Rotates x_BTHC: x · cos + partner(x) · sin, where the partner of (x₁, x₂) is (−x₂, x₁) over halves or adjacent pairs.
    let rotate (config: ModelConfig) (rotation: Rotation) (x_BTHC: torch.Tensor) : torch.Tensor =
        let half = int64 (config.HeadWidth / 2)

        let partner =
            if config.Position = Rotary then
                torch.cat ([| x_BTHC.narrow(-1, half, half).neg(); x_BTHC.narrow (-1, 0L, half) |], -1L)
            else
                let pairs = x_BTHC.unflatten (x_BTHC.dim () - 1L, half, 2L)
                torch.stack([| pairs.select(-1, 1L).neg(); pairs.select (-1, 0L) |], -1L).flatten(-2L)

        x_BTHC.mul(rotation.Cosine).plus(partner.mul rotation.Sine)

    // Scores above this count are left to the fused kernel, which never holds them; below, plain matrix products are faster.
    let private explicitScores = 1L <<< 26

    /// softmax(q kᵀ / √C + causal mask) v over [B, H, T, C]. Queries are the last positions of the keys.
    let attend (q_BHTC: torch.Tensor) (k_BHSC: torch.Tensor) (v_BHSC: torch.Tensor) : torch.Tensor =
        let b, h, t, c = q_BHTC.shape[0], q_BHTC.shape[1], q_BHTC.shape[2], q_BHTC.shape[3]
        let s = k_BHSC.shape[2]

        if t = s && (q_BHTC.device_type <> DeviceType.CPU || b * h * t * s > explicitScores) then
            torch.nn.functional.scaled_dot_product_attention (q_BHTC, k_BHSC, v_BHSC, is_casual = true)
        else
            // Position i of the queries is position s − t + i of the keys and sees those up to itself.
            let mask =
                torch.full([| t; s |], Scalars.Of(-infinity), dtype = q_BHTC.dtype, device = q_BHTC.device).triu_(s - t + 1L)

            // mask + q kᵀ / √C. TorchSharp 0.107 hands the arguments on as (batch1, batch2, input).
            let scores =
                torch.baddbmm (
                    q_BHTC.reshape (b * h, t, c),
                    k_BHSC.reshape(b * h, s, c).transpose(1, 2),
                    mask.unsqueeze(0).expand(b * h, t, s),
                    1.0f,
                    1.0f / sqrt (float32 c)
                )

            torch.bmm(scores.softmax -1L, v_BHSC.reshape (b * h, s, c)).view(b, h, t, c)

    // Query heads share key-value heads in groups: head h reads key-value head h / (H / H_kv).
    let private spread (heads: int64) (x_BHTC: torch.Tensor) =
        let kv = x_BHTC.shape[1]

        if kv = heads then
            x_BHTC
        else
            let b, t, c = x_BHTC.shape[0], x_BHTC.shape[2], x_BHTC.shape[3]
            x_BHTC.unsqueeze(2).expand(b, kv, heads / kv, t, c).reshape(b, heads, t, c)

    /// Self-attention under `prefix`, with an optional cache of earlier positions; returns the cache grown by T.
    let attention
        (config: ModelConfig)
        (weights: Weights)
        (prefix: string)
        (rotation: Rotation option)
        (cache: Cache option)
        (x_BTD: torch.Tensor)
        : torch.Tensor * Cache option =
        let b, t = x_BTD.shape[0], x_BTD.shape[1]
        let heads, kv, c = int64 config.Heads, int64 config.KeyValueHeads, int64 config.HeadWidth
        let qkv = linear (weights (prefix + ".in_proj.weight")) x_BTD

        if cache.IsNone && not config.QkNorm && qkv.device_type = DeviceType.CPU then
            let plan: Fused.AttentionPlan =
                {
                    Heads = heads
                    KeyValueHeads = kv
                    HeadWidth = c
                    Turn = rotate config
                    Rotation = rotation
                    ScoresAtOnce = 1L <<< 23
                    ScoresKept = 1L <<< 24
                }

            linear (weights (prefix + ".out_proj.weight")) (Fused.causalAttention plan qkv), None
        else

            let qk_BTHC =
                if config.QkNorm then
                    let q = qkv.narrow (-1, 0L, heads * c)
                    let k = qkv.narrow (-1, heads * c, kv * c)
                    let norm name = norm config.Norm config.NormEpsilon weights $"{prefix}.{name}"
                    torch.cat([| norm "q_norm" q; norm "k_norm" k |], -1L).view(b, t, heads + kv, c)
                else
                    qkv.view(b, t, heads + 2L * kv, c).narrow(2, 0L, heads + kv)

            let turned =
                match rotation with
                | Some rotation -> rotate config rotation qk_BTHC
                | None -> qk_BTHC

            let q = turned.narrow(2, 0L, heads).transpose(1, 2)
            let k = turned.narrow(2, heads, kv).transpose(1, 2)
            let v = qkv.narrow(-1, (heads + kv) * c, kv * c).view(b, t, kv, c).transpose(1, 2)

            let keys, values, cache =
                match cache with
                | None -> k, v, None
                | Some cache ->
                    cache.Keys.narrow(2, cache.Length, t).copy_ k |> ignore
                    cache.Values.narrow(2, cache.Length, t).copy_ v |> ignore
                    let length = cache.Length + t
                    cache.Keys.narrow (2, 0L, length), cache.Values.narrow (2, 0L, length), Some { cache with Length = length }

            let mixed = attend q (spread heads keys) (spread heads values)
            linear (weights (prefix + ".out_proj.weight")) (mixed.transpose(1, 2).reshape(b, t, heads * c)), cache

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
            if config.QkNorm then
                yield! normParameters config.Norm (prefix + ".q_norm") q
                yield! normParameters config.Norm (prefix + ".k_norm") k
        ]

    /// The names of the two feed-forward matrices of a layer, as open_lm has them.
    let private feedForwardNames (config: ModelConfig) (prefix: string) =
        match config.FeedForward with
        | SwiGlu -> prefix + ".feed_forward.w12.weight", prefix + ".feed_forward.w3.weight"
        | Gelu -> prefix + "._ff_w1.weight", prefix + "._ff_w2.weight"

    /// The feed-forward layer of the block under `prefix`.
    let feedForward (config: ModelConfig) (weights: Weights) (prefix: string) (x_BTD: torch.Tensor) : torch.Tensor =
        let first, second = feedForwardNames config prefix
        let hidden = linear (weights first) x_BTD

        match config.FeedForward with
        | Gelu -> linear (weights second) (torch.nn.functional.gelu hidden)
        | SwiGlu -> linear (weights second) (Fused.swiGluGate hidden)

    /// The parameters of the feed-forward layer of a block.
    let feedForwardParameters (config: ModelConfig) (layer: int) (prefix: string) : ParameterSpec list =
        let width, hidden = int64 config.Width, int64 config.FeedForwardWidth
        let first, second = feedForwardNames config prefix

        [
            {
                Name = first
                Shape = [ (if config.FeedForward = SwiGlu then 2L * hidden else hidden); width ]
                Init = TruncatedNormal(1.0 / sqrt (float width))
            }
            {
                Name = second
                Shape = [ width; hidden ]
                Init = TruncatedNormal(1.0 / sqrt (float hidden) / sqrt (2.0 * float (layer + 1)))
            }
        ]
