/// The decoder in double precision, written with loops over arrays from the formulas alone: what the tensor code is held against.
/// It shares nothing with the core but the configuration's fields.
module Hybrid.Tests.Reference

open System
open Hybrid

/// A matrix of a flat, row-major array.
let matrix (columns: int) (flat: float[]) : float[][] = Array.chunkBySize columns flat

let dot (a: float[]) (b: float[]) : float =
    let mutable sum = 0.0

    for i in 0 .. a.Length - 1 do
        sum <- sum + a[i] * b[i]

    sum

/// y = W x.
let apply (w: float[][]) (x: float[]) : float[] = w |> Array.map (fun row -> dot row x)

let softmax (x: float[]) : float[] =
    let top = Array.max x
    let e = x |> Array.map (fun v -> Math.Exp(v - top))
    let sum = Array.sum e
    e |> Array.map (fun v -> v / sum)

let logSumExp (x: float[]) : float =
    let top = Array.max x
    top + Math.Log(x |> Array.sumBy (fun v -> Math.Exp(v - top)))

/// erf by the series 2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n + 1)), whose terms all have one sign.
let erf (x: float) : float =
    if abs x > 6.0 then
        float (sign x)
    else
        let mutable term, sum = x, x

        for n in 1..200 do
            term <- term * 2.0 * x * x / float (2 * n + 1)
            sum <- sum + term

        2.0 / sqrt Math.PI * Math.Exp(-x * x) * sum

let gelu (x: float) : float = 0.5 * x * (1.0 + erf (x / sqrt 2.0))

let geluTanh (x: float) : float = 0.5 * x * (1.0 + Math.Tanh(sqrt (2.0 / Math.PI) * (x + 0.044715 * x * x * x)))

let silu (x: float) : float = x / (1.0 + Math.Exp -x)

/// A norm; `get` gives a parameter's values by name.
let norm (kind: Norm) (epsilon: float) (get: string -> float[]) (prefix: string) (x: float[]) : float[] =
    let n = float x.Length

    match kind with
    | RmsNorm ->
        let scale = sqrt (Array.sumBy (fun v -> v * v) x / n + epsilon)
        Array.map2 (fun v w -> v / scale * w) x (get (prefix + ".weight"))
    | _ ->
        let mean = Array.sum x / n
        let variance = Array.sumBy (fun v -> (v - mean) ** 2.0) x / n
        let plain = x |> Array.map (fun v -> (v - mean) / sqrt (variance + epsilon))

        match kind with
        | LayerNorm -> Array.map3 (fun v w b -> v * w + b) plain (get (prefix + ".weight")) (get (prefix + ".bias"))
        | GainLayerNorm -> Array.map2 (*) plain (get (prefix + ".weight"))
        | _ -> plain

/// One head's vector turned to a position: pair i by the angle position · θ^(−2i/C).
let turn (interleaved: bool) (theta: float) (position: float) (x: float[]) : float[] =
    let half = x.Length / 2
    let result = Array.copy x

    for i in 0 .. half - 1 do
        let angle = position * theta ** (-2.0 * float i / float x.Length)
        let a, b = if interleaved then 2 * i, 2 * i + 1 else i, i + half
        result[a] <- x[a] * cos angle - x[b] * sin angle
        result[b] <- x[b] * cos angle + x[a] * sin angle

    result

/// W x, + b where there is one.
let project (bias: bool) (get: string -> float[]) (prefix: string) (inputs: int) (x: float[]) : float[] =
    let y = apply (matrix inputs (get (prefix + ".weight"))) x
    if bias then Array.map2 (+) y (get (prefix + ".bias")) else y

/// Causal self-attention of one sequence xs [T][D].
let attention (config: ModelConfig) (get: string -> float[]) (prefix: string) (xs: float[][]) : float[][] =
    let c = config.HeadWidth
    let queries, keys = config.Heads * c, config.KeyValueHeads * c

    let normed name x =
        if config.QkNorm then
            norm config.Norm config.NormEpsilon get (prefix + "." + name) x
        else
            x

    let head (x: float[]) h = x[h * c .. (h + 1) * c - 1]

    let turned position (h: int) x =
        let slowed =
            match config.RotaryScaling with
            | LinearScaling factor -> float position / factor
            | NoScaling -> float position
            | other -> invalidOp $"the reference has no {other}."

        let part interleaved =
            Array.append
                (turn interleaved config.RotaryBase slowed (Array.truncate config.RotaryWidth x))
                (Array.skip config.RotaryWidth x)

        match config.Position with
        | Rotary -> part false
        | InterleavedRotary -> part true
        // What open_lm does: the head's index stands where the position belongs. Defined without groups only.
        | HeadRotary when config.Heads = config.KeyValueHeads -> turn false config.RotaryBase (float h) x
        | HeadRotary
        | LearnedPosition
        | NoPosition -> x

    let projected = xs |> Array.map (project config.QkvBias get (prefix + ".in_proj") config.Width)
    let q = projected |> Array.map (fun p -> normed "q_norm" p[.. queries - 1])
    let k = projected |> Array.map (fun p -> normed "k_norm" p[queries .. queries + keys - 1])
    let v = projected |> Array.map (fun p -> p[queries + keys ..])

    [|
        for t in 0 .. xs.Length - 1 do
            let heads =
                [|
                    for h in 0 .. config.Heads - 1 do
                        let own = h / (config.Heads / config.KeyValueHeads)
                        let query = turned t h (head q[t] h)

                        let first = if config.Window > 0 then max 0 (t - config.Window + 1) else 0

                        let weights =
                            [| for s in first..t -> dot query (turned s own (head k[s] own)) / sqrt (float c) |] |> softmax

                        for i in 0 .. c - 1 do
                            weights |> Array.mapi (fun s w -> w * (head v[first + s] own)[i]) |> Array.sum
                |]

            project config.OutBias get (prefix + ".out_proj") queries heads
    |]

/// The feed-forward layer of one position.
let feedForward (config: ModelConfig) (get: string -> float[]) (prefix: string) (x: float[]) : float[] =
    let width = config.FeedForwardWidth
    let project = project config.FeedForwardBias get

    let plain f = project (prefix + "._ff_w1") config.Width x |> Array.map f |> project (prefix + "._ff_w2") width

    let gated f =
        let hidden = project (prefix + ".feed_forward.w12") config.Width x
        Array.init width (fun i -> f hidden[i] * hidden[width + i]) |> project (prefix + ".feed_forward.w3") width

    match config.FeedForward with
    | Gelu -> plain gelu
    | GeluTanh -> plain geluTanh
    | Relu -> plain (max 0.0)
    | SwiGlu -> gated silu
    | GeGlu -> gated gelu

/// Logits [T][V] of one sequence.
let logits (config: ModelConfig) (get: string -> float[]) (tokens: int64[]) : float[][] =
    let table = matrix config.Width (get "tok_embeddings.weight")
    let norm prefix x = norm config.Norm config.NormEpsilon get prefix x
    let add = Array.map2 (Array.map2 (+))

    let embedded =
        tokens
        |> Array.mapi (fun t id ->
            let row =
                if config.Position = LearnedPosition then
                    Array.map2 (+) table[int id] (matrix config.Width (get "pos_embeddings.weight") |> Array.item t)
                else
                    table[int id]

            if config.PostEmbedNorm then norm "post_embed_norm" row else row)

    let block xs layer =
        let prefix = $"layers.{layer}"

        let mixed =
            add xs (attention config get (prefix + ".attention") (Array.map (norm (prefix + ".attention_norm")) xs))

        let read = if config.ParallelResidual then xs else mixed
        add mixed (read |> Array.map (norm (prefix + ".ffn_norm") >> feedForward config get prefix))

    let head = if config.Tied then table else matrix config.Width (get "output.weight")

    [ 0 .. config.Layers - 1 ] |> List.fold block embedded |> Array.map (norm "norm" >> apply head)
