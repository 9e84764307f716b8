/// Passes over host memory that torch has no single operator for, each with its gradient: the gate, attention's heads and softmax, the
/// head's cross-entropy. A pass reads and writes its tensors once. Tensors are bf16, arithmetic is fp32. A pass runs on the thread
/// that calls it: `takes` refuses tensors where torch would share the work among several.
module internal Hybrid.Kernels

// Rows of tensors are read and written by address.
#nowarn "9"

open System
open System.Runtime.CompilerServices
open System.Runtime.InteropServices
open System.Runtime.Intrinsics
open Microsoft.FSharp.NativeInterop
open TorchSharp
open Hybrid.Vectors

/// Whether these passes take a tensor: bf16, on the host, without gaps, where vectors are fast and torch has one thread.
let takes (tensor: torch.Tensor) : bool =
    tensor.dtype = torch.bfloat16
    && tensor.device_type = DeviceType.CPU
    && Vector256.IsHardwareAccelerated
    && tensor.is_contiguous ()
    && torch.get_num_threads () = 1

let private address (tensor: torch.Tensor) : Row = NativePtr.ofNativeInt (Dispatcher.dataPointer tensor)
let private singles (tensor: torch.Tensor) : nativeptr<float32> = NativePtr.ofNativeInt (Dispatcher.dataPointer tensor)
let private integers (tensor: torch.Tensor) : nativeptr<int64> = NativePtr.ofNativeInt (Dispatcher.dataPointer tensor)

let private rowsOf (tensor: torch.Tensor) : int * int =
    let width = tensor.shape[tensor.shape.Length - 1]
    int (tensor.numel () / max 1L width), int width

/// Memory for one row of fp32 numbers; `release` lets go of it.
let private scratchOf (width: int) : nativeptr<float32> =
    NativePtr.ofVoidPtr (NativeMemory.AlignedAlloc(unativeint (4 * (width + lanes)), 64un))

let private release (scratch: nativeptr<float32>) : unit = NativeMemory.AlignedFree(NativePtr.toVoidPtr scratch)

// --- the gate

[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let private gateRow (hidden: Row) (result: Row) (width: int) : unit =
    let up = NativePtr.add hidden width
    let mutable i = 0

    while i <= width - lanes do
        let g = load hidden i
        store result i (g * sigmoid g * load up i)
        i <- i + lanes

    while i < width do
        let g = get hidden i
        set result i (g * sigmoidOne g * get up i)
        i <- i + 1

[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let private gateGradientRow (hidden: Row) (outer: Row) (result: Row) (width: int) : unit =
    let up, resultUp = NativePtr.add hidden width, NativePtr.add result width
    let mutable i = 0

    while i <= width - lanes do
        let g, d = load hidden i, load outer i
        let s = sigmoid g
        let silu = g * s
        store resultUp i (d * silu)
        // d silu / dg = s + g s (1 − s).
        store result i (d * load up i * fused silu (Lanes.One - s) s)
        i <- i + lanes

    while i < width do
        let g, d = get hidden i, get outer i
        let s = sigmoidOne g
        set resultUp i (d * g * s)
        set result i (d * get up i * (s + g * s * (1.0f - s)))
        i <- i + 1

/// silu(g) · u of [.., g | u], into [.., F].
let gate (hidden: torch.Tensor) (result: torch.Tensor) : unit =
    let n, width = rowsOf result
    let h, r = address hidden, address result

    for row in 0 .. n - 1 do
        gateRow (NativePtr.add h (2 * row * width)) (NativePtr.add r (row * width)) width

/// The gradient of `gate` for [.., g | u], from that of its result.
let gateGradient (hidden: torch.Tensor) (outer: torch.Tensor) (result: torch.Tensor) : unit =
    let n, width = rowsOf outer
    let h, o, r = address hidden, address outer, address result

    for row in 0 .. n - 1 do
        gateGradientRow
            (NativePtr.add h (2 * row * width))
            (NativePtr.add o (row * width))
            (NativePtr.add r (2 * row * width))
            width

// --- attention's softmax

let inline private clear (row: Row) (first: int) (last: int) : unit =
    if last > first then
        NativeMemory.Clear(NativePtr.toVoidPtr (NativePtr.add row first), unativeint (2 * (last - first)))

/// softmax(scale · row) over [first, last) in place, 0 elsewhere.
[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let private softmaxRow (row: Row) (first: int) (last: int) (length: int) (scale: float32) (scratch: nativeptr<float32>) : unit =
    let seen = NativePtr.add row first
    let count = last - first
    let whole = count / lanes * lanes
    let mutable tops = all Single.NegativeInfinity
    let mutable i = 0

    while i < whole do
        tops <- Vector512.MaxNative(load seen i, tops)
        i <- i + lanes

    let mutable most = top tops

    while i < count do
        most <- max most (get seen i)
        i <- i + 1

    let factor, shift = all scale, all (-most * scale)
    let mutable sums = Lanes.Zero
    i <- 0

    while i < whole do
        let e = exponential (fused (load seen i) factor shift)
        sums <- sums + e
        storeSingles scratch i e
        i <- i + lanes

    let mutable sum = Vector512.Sum sums

    while i < count do
        let e = MathF.Exp((get seen i - most) * scale)
        sum <- sum + e
        NativePtr.set scratch i e
        i <- i + 1

    let share = 1.0f / sum
    let shares = all share
    i <- 0

    while i < whole do
        store seen i (loadSingles scratch i * shares)
        i <- i + lanes

    while i < count do
        set seen i (NativePtr.get scratch i * share)
        i <- i + 1

    clear row 0 first
    clear row last length

/// scale · p (g − Σ p g) over [first, last) in place of g, 0 elsewhere.
[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let private softmaxGradientRow (p: Row) (g: Row) (first: int) (last: int) (length: int) (scale: float32) : unit =
    let p', g' = NativePtr.add p first, NativePtr.add g first
    let count = last - first
    let whole = count / lanes * lanes
    let mutable sums = Lanes.Zero
    let mutable i = 0

    while i < whole do
        sums <- fused (load p' i) (load g' i) sums
        i <- i + lanes

    let mutable sum = Vector512.Sum sums

    while i < count do
        sum <- sum + get p' i * get g' i
        i <- i + 1

    let mean, factor = all sum, all scale
    i <- 0

    while i < whole do
        store g' i (factor * load p' i * (load g' i - mean))
        i <- i + lanes

    while i < count do
        set g' i (scale * get p' i * (get g' i - sum))
        i <- i + 1

    clear g 0 first
    clear g last length

// What row r of scores [.., G queries, keys] sees, its query being at position first + r mod queries.
let inline private seen (first: int) (queries: int) (window: int) (row: int) : struct (int * int) =
    let last = first + row % queries + 1
    struct ((if window > 0 then max 0 (last - window) else 0), last)

/// Causal softmax(scale · scores) in place: scores [N, G · queries, keys], the queries at positions `first` and on, which see the keys
/// up to their own position, the last `window` of them where it is not 0.
let softmax (first: int64) (queries: int64) (window: int64) (scale: float) (scores: torch.Tensor) : unit =
    let n, keys = rowsOf scores
    let s = address scores

    let scratch = scratchOf keys

    try
        for row in 0 .. n - 1 do
            let struct (from, upTo) = seen (int first) (int queries) (int window) row
            softmaxRow (NativePtr.add s (row * keys)) from upTo keys (float32 scale) scratch
    finally
        release scratch

/// The gradient of `softmax` with respect to its scores, in place of that of its result.
let softmaxGradient
    (first: int64)
    (queries: int64)
    (window: int64)
    (scale: float)
    (probabilities: torch.Tensor)
    (outer: torch.Tensor)
    : unit =
    let n, keys = rowsOf outer
    let p, g = address probabilities, address outer

    for row in 0 .. n - 1 do
        let struct (from, upTo) = seen (int first) (int queries) (int window) row
        softmaxGradientRow (NativePtr.add p (row * keys)) (NativePtr.add g (row * keys)) from upTo keys (float32 scale)

// --- attention's heads

/// x · cos + partner(x) · sin of one head's first 2 `pairs` numbers, the partner of (x₁, x₂) being (−x₂, x₁) over halves, or (x₂, −x₁)
/// where `way` is −1; the others as they are.
[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let private turnRow
    (source: Row)
    (target: Row)
    (width: int)
    (pairs: int)
    (cosine: nativeptr<float32>)
    (sine: nativeptr<float32>)
    (way: float32)
    : unit =
    let upper, targetUpper = NativePtr.add source pairs, NativePtr.add target pairs
    let ways = all way
    let mutable i = 0

    while i <= pairs - lanes do
        let x1, x2 = load source i, load upper i
        let s1, s2 = loadSingles sine i * ways, loadSingles sine (pairs + i) * ways
        store target i (x1 * loadSingles cosine i - x2 * s1)
        store targetUpper i (fused x2 (loadSingles cosine (pairs + i)) (x1 * s2))
        i <- i + lanes

    while i < pairs do
        let x1, x2 = get source i, get upper i
        set target i (x1 * NativePtr.get cosine i - way * x2 * NativePtr.get sine i)
        set targetUpper i (x2 * NativePtr.get cosine (pairs + i) + way * x1 * NativePtr.get sine (pairs + i))
        i <- i + 1

    i <- 2 * pairs

    while i <= width - lanes do
        Vector256.Store(Vector256.Load(NativePtr.add source i), NativePtr.add target i)
        i <- i + lanes

    while i < width do
        NativePtr.set target i (NativePtr.get source i)
        i <- i + 1

/// How heads stand in a joined tensor [B, T, (H + 2 H_kv) C] and apart: queries [B H_kv, G, T, C], keys and values [B H_kv, T, C].
[<Struct>]
type Heads = { Batch: int; Length: int; KeyValueHeads: int; Groups: int; Width: int }

/// Calls `move joined apart kind` for each head at each position: kind 0 a query, 1 a key, 2 a value; offsets in numbers.
let inline private eachHead (heads: Heads) ([<InlineIfLambda>] move: int -> int -> int -> int -> unit) : unit =
    let t', kv, g, c = heads.Length, heads.KeyValueHeads, heads.Groups, heads.Width
    let joinedWidth = (kv * g + 2 * kv) * c

    for b in 0 .. heads.Batch - 1 do
        for t in 0 .. t' - 1 do
            let row = (b * t' + t) * joinedWidth

            for h in 0 .. kv * g - 1 do
                // Query head h reads key-value head h / G.
                move t (row + h * c) (((b * kv + h / g) * g + h % g) * t' * c + t * c) 0

            for h in 0 .. kv - 1 do
                let apart = (b * kv + h) * t' * c + t * c
                move t (row + (kv * g + h) * c) apart 1
                move t (row + (kv * g + kv + h) * c) apart 2

/// Takes a joined tensor apart; queries and keys are rotated by fp32 tables [T, R] over halves, of R = 0 by nothing.
let takeApart
    (heads: Heads)
    (cosine: torch.Tensor, sine: torch.Tensor)
    (joined: torch.Tensor)
    (q: torch.Tensor)
    (k: torch.Tensor)
    (v: torch.Tensor)
    : unit =
    let rotating = int cosine.shape[1]
    let cosine, sine, x = singles cosine, singles sine, address joined
    let q, k, v = address q, address k, address v

    eachHead heads (fun t joined apart kind ->
        let table = t * rotating

        let target =
            if kind = 0 then q
            elif kind = 1 then k
            else v

        turnRow
            (NativePtr.add x joined)
            (NativePtr.add target apart)
            heads.Width
            (if kind = 2 then 0 else rotating / 2)
            (NativePtr.add cosine table)
            (NativePtr.add sine table)
            1.0f)

/// The gradient of `takeApart`: the way back.
let putTogether
    (heads: Heads)
    (cosine: torch.Tensor, sine: torch.Tensor)
    (q: torch.Tensor)
    (k: torch.Tensor)
    (v: torch.Tensor)
    (joined: torch.Tensor)
    : unit =
    let rotating = int cosine.shape[1]
    let cosine, sine, x = singles cosine, singles sine, address joined
    let q, k, v = address q, address k, address v

    eachHead heads (fun t joined apart kind ->
        let table = t * rotating

        let source =
            if kind = 0 then q
            elif kind = 1 then k
            else v

        turnRow
            (NativePtr.add source apart)
            (NativePtr.add x joined)
            heads.Width
            (if kind = 2 then 0 else rotating / 2)
            (NativePtr.add cosine table)
            (NativePtr.add sine table)
            -1.0f)

// --- the head's cross-entropy

/// One row of logits becomes the gradient of weight · (−log p of the target) + normaliser · (log Σ exp)²; gives −log p.
[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let private crossEntropyRow
    (logits: Row)
    (width: int)
    (target: int)
    (weight: float32)
    (normaliser: float32)
    (scratch: nativeptr<float32>)
    : struct (float32 * float32) =
    let whole = width / lanes * lanes
    let mutable tops = all Single.NegativeInfinity
    let mutable i = 0

    while i < whole do
        tops <- Vector512.MaxNative(load logits i, tops)
        i <- i + lanes

    let mutable most = top tops

    while i < width do
        most <- max most (get logits i)
        i <- i + 1

    let shift = all -most
    let mutable sums = Lanes.Zero
    i <- 0

    while i < whole do
        let e = exponential (load logits i + shift)
        sums <- sums + e
        storeSingles scratch i e
        i <- i + lanes

    let mutable sum = Vector512.Sum sums

    while i < width do
        let e = MathF.Exp(get logits i - most)
        sum <- sum + e
        NativePtr.set scratch i e
        i <- i + 1

    let logSum = most + MathF.Log sum
    let crossEntropy = logSum - get logits target
    // d (log Σ exp)² = 2 log Σ exp · softmax.
    let share = (weight + 2.0f * normaliser * logSum) / sum
    let shares = all share
    let own = NativePtr.get scratch target * share - weight
    i <- 0

    while i < whole do
        store logits i (loadSingles scratch i * shares)
        i <- i + lanes

    while i < width do
        set logits i (NativePtr.get scratch i * share)
        i <- i + 1

    set logits target own
    struct (crossEntropy, logSum)

/// Logits [N, V] become the gradient of Σ weights · (−log p) + normalisers · (log Σ exp)², weights [N] fp32, targets [N] int64. Writes
/// −log p into `crossEntropy` [N] fp32 and gives the sum.
let crossEntropy
    (logits: torch.Tensor)
    (targets: torch.Tensor)
    (weights: torch.Tensor)
    (normalisers: torch.Tensor option)
    (crossEntropy: torch.Tensor)
    : float =
    let n, width = rowsOf logits
    let x, ids, w, out = address logits, integers targets, singles weights, singles crossEntropy
    let z = normalisers |> Option.map singles
    let scratch = scratchOf width

    try
        let mutable sum = 0.0

        for row in 0 .. n - 1 do
            let weight = NativePtr.get w row

            let normaliser =
                match z with
                | Some z -> NativePtr.get z row
                | None -> 0.0f

            let struct (loss, logSum) =
                crossEntropyRow (NativePtr.add x (row * width)) width (int (NativePtr.get ids row)) weight normaliser scratch

            NativePtr.set out row loss
            sum <- sum + float weight * float loss + float normaliser * float logSum * float logSum

        sum
    finally
        release scratch

// --- norms

/// The mean (0 where `centred` is not set) and 1 / √(variance + ε) of a row.
[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let private momentsRow (x: Row) (width: int) (centred: bool) (epsilon: float32) : struct (float32 * float32) =
    let whole = width / lanes * lanes
    let mutable mean = 0.0f

    if centred then
        let mutable sums = Lanes.Zero
        let mutable i = 0

        while i < whole do
            sums <- sums + load x i
            i <- i + lanes

        mean <- Vector512.Sum sums

        while i < width do
            mean <- mean + get x i
            i <- i + 1

        mean <- mean / float32 width

    let means = all mean
    let mutable squares = Lanes.Zero
    let mutable i = 0

    while i < whole do
        let d = load x i - means
        squares <- fused d d squares
        i <- i + lanes

    let mutable square = Vector512.Sum squares

    while i < width do
        let d = get x i - mean
        square <- square + d * d
        i <- i + 1

    struct (mean, 1.0f / MathF.Sqrt(square / float32 width + epsilon))

[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let private normRow
    (x: Row)
    (weight: Row)
    (bias: Row)
    (biased: bool)
    (mean: float32)
    (scale: float32)
    (result: Row)
    (width: int)
    : unit =
    let means, scales = all mean, all scale
    let mutable i = 0

    while i <= width - lanes do
        let y = (load x i - means) * scales * load weight i
        store result i (if biased then y + load bias i else y)
        i <- i + lanes

    while i < width do
        let y = (get x i - mean) * scale * get weight i
        set result i (if biased then y + get bias i else y)
        i <- i + 1

/// The gradient of one row, in `result`; adds its part of those of weight and bias.
[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let private normGradientRow
    (x: Row)
    (weight: Row)
    (outer: Row)
    (centred: bool)
    (mean: float32)
    (scale: float32)
    (result: Row)
    (weightSums: nativeptr<float32>)
    (biasSums: nativeptr<float32>)
    (width: int)
    : unit =
    let whole = width / lanes * lanes
    let means, scales = all mean, all scale
    let mutable slopes, products = Lanes.Zero, Lanes.Zero
    let mutable i = 0

    while i < whole do
        let g = load outer i
        let hat = (load x i - means) * scales
        let slope = g * load weight i
        storeSingles weightSums i (fused g hat (loadSingles weightSums i))
        storeSingles biasSums i (g + loadSingles biasSums i)
        slopes <- slopes + slope
        products <- fused slope hat products
        i <- i + lanes

    let mutable slope, product = Vector512.Sum slopes, Vector512.Sum products

    while i < width do
        let g = get outer i
        let hat = (get x i - mean) * scale
        NativePtr.set weightSums i (NativePtr.get weightSums i + g * hat)
        NativePtr.set biasSums i (NativePtr.get biasSums i + g)
        slope <- slope + g * get weight i
        product <- product + g * get weight i * hat
        i <- i + 1

    // What moves the mean of the row moves nothing after it, where the mean is taken away.
    let slope = if centred then slope / float32 width else 0.0f
    let product = product / float32 width
    let slopes, products = all slope, all product
    i <- 0

    while i < whole do
        let hat = (load x i - means) * scales
        store result i (scales * (load outer i * load weight i - slopes - hat * products))
        i <- i + lanes

    while i < width do
        let hat = (get x i - mean) * scale
        set result i (scale * (get outer i * get weight i - slope - hat * product))
        i <- i + 1

/// (x − mean) / √(variance + ε) · weight + bias over the last axis, or without mean (`centred` not set) or bias. Writes mean and
/// 1 / √(variance + ε) of each row into `moments` [2, N] fp32.
let norm
    (centred: bool)
    (epsilon: float)
    (weight: torch.Tensor)
    (bias: torch.Tensor option)
    (x: torch.Tensor)
    (moments: torch.Tensor)
    (result: torch.Tensor)
    : unit =
    let n, width = rowsOf x
    let x, w, y, m = address x, address weight, address result, singles moments
    let b = bias |> Option.map address |> Option.defaultValue w

    for row in 0 .. n - 1 do
        let x = NativePtr.add x (row * width)
        let struct (mean, scale) = momentsRow x width centred (float32 epsilon)
        NativePtr.set m row mean
        NativePtr.set m (n + row) scale
        normRow x w b bias.IsSome mean scale (NativePtr.add y (row * width)) width

/// The gradient of `norm` in `result`, and those of weight and bias in `parameters` [2, D] fp32, zeros before.
let normGradient
    (centred: bool)
    (weight: torch.Tensor)
    (x: torch.Tensor)
    (moments: torch.Tensor)
    (outer: torch.Tensor)
    (parameters: torch.Tensor)
    (result: torch.Tensor)
    : unit =
    let n, width = rowsOf x

    let x, w, g, y, m, p =
        address x, address weight, address outer, address result, singles moments, singles parameters

    for row in 0 .. n - 1 do
        let at = row * width

        normGradientRow
            (NativePtr.add x at)
            w
            (NativePtr.add g at)
            centred
            (NativePtr.get m row)
            (NativePtr.get m (n + row))
            (NativePtr.add y at)
            p
            (NativePtr.add p width)
            width
