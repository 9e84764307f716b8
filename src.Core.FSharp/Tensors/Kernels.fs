/// Passes over host memory that torch has no single operator for, each with its gradient: the gate, norms, the head's cross-entropy. A pass
/// reads and writes its tensors once. Tensors are bf16, arithmetic is fp32. A pass runs on the thread that calls it: `takes` refuses tensors
/// where torch would share the work among several.
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

let address (tensor: torch.Tensor) : Row = NativePtr.ofNativeInt (Dispatcher.dataPointer tensor)
let singles (tensor: torch.Tensor) : nativeptr<float32> = NativePtr.ofNativeInt (Dispatcher.dataPointer tensor)
let private integers (tensor: torch.Tensor) : nativeptr<int64> = NativePtr.ofNativeInt (Dispatcher.dataPointer tensor)

let rowsOf (tensor: torch.Tensor) : int * int =
    let width = tensor.shape[tensor.shape.Length - 1]
    int (tensor.numel () / max 1L width), int width

/// Memory for one row of fp32 numbers; `release` lets go of it.
let scratchOf (width: int) : nativeptr<float32> =
    NativePtr.ofVoidPtr (NativeMemory.AlignedAlloc(unativeint (4 * (width + lanes)), 64un))

let release (scratch: nativeptr<float32>) : unit = NativeMemory.AlignedFree(NativePtr.toVoidPtr scratch)

/// The largest of a row's numbers m, and Σ e^(scale (x − m)), whose terms stand in `scratch`.
[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let exponentialsRow (row: Row) (count: int) (scale: float32) (scratch: nativeptr<float32>) : struct (float32 * float32) =
    let whole = count / lanes * lanes
    let mutable tops = all Single.NegativeInfinity
    let mutable i = 0

    while i < whole do
        tops <- Vector512.MaxNative(load row i, tops)
        i <- i + lanes

    let mutable most = top tops

    while i < count do
        most <- max most (get row i)
        i <- i + 1

    let factor, shift = all scale, all (-most * scale)
    let mutable sums = Lanes.Zero
    i <- 0

    while i < whole do
        let e = exponential (fused (load row i) factor shift)
        sums <- sums + e
        storeSingles scratch i e
        i <- i + lanes

    let mutable sum = Vector512.Sum sums

    while i < count do
        let e = MathF.Exp((get row i - most) * scale)
        sum <- sum + e
        NativePtr.set scratch i e
        i <- i + 1

    struct (most, sum)

/// share · the numbers in `scratch`, into a row.
[<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
let scaledRow (scratch: nativeptr<float32>) (share: float32) (row: Row) (count: int) : unit =
    let shares = all share
    let mutable i = 0

    while i <= count - lanes do
        store row i (loadSingles scratch i * shares)
        i <- i + lanes

    while i < count do
        set row i (NativePtr.get scratch i * share)
        i <- i + 1

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

// --- the head's cross-entropy

/// One row of logits becomes the gradient of weight · (−log p of the target) + normaliser · (log Σ exp)²; gives −log p.
let private crossEntropyRow
    (logits: Row)
    (width: int)
    (target: int)
    (weight: float32)
    (normaliser: float32)
    (scratch: nativeptr<float32>)
    : struct (float32 * float32) =
    let struct (most, sum) = exponentialsRow logits width 1.0f scratch
    let logSum = most + MathF.Log sum
    let crossEntropy = logSum - get logits target
    // d (log Σ exp)² = 2 log Σ exp · softmax.
    let share = (weight + 2.0f * normaliser * logSum) / sum
    let own = NativePtr.get scratch target * share - weight
    scaledRow scratch share logits width
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
