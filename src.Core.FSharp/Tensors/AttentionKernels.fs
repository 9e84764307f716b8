/// Passes over host memory for attention, each with its gradient, as `Kernels` has them for the rest: heads apart and together with
/// their rotation, and the softmax under the mask.
module internal Hybrid.AttentionKernels

// Rows of tensors are read and written by address.
#nowarn "9"

open System
open System.Runtime.CompilerServices
open System.Runtime.InteropServices
open System.Runtime.Intrinsics
open Microsoft.FSharp.NativeInterop
open TorchSharp
open Hybrid.Vectors
open Hybrid.Kernels

// --- attention's softmax

let inline private clear (row: Row) (first: int) (last: int) : unit =
    if last > first then
        NativeMemory.Clear(NativePtr.toVoidPtr (NativePtr.add row first), unativeint (2 * (last - first)))

/// softmax(scale · row) over [first, last) in place, 0 elsewhere.
let private softmaxRow (row: Row) (first: int) (last: int) (length: int) (scale: float32) (scratch: nativeptr<float32>) : unit =
    let seen, count = NativePtr.add row first, last - first
    let struct (_, sum) = exponentialsRow seen count scale scratch
    scaledRow scratch (1.0f / sum) seen count
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

/// Calls `work t joined apart kind` for each head at each position: kind 0 a query, 1 a key, 2 a value; offsets in numbers.
let inline private eachHead (heads: Heads) ([<InlineIfLambda>] work: int -> int -> int -> int -> unit) : unit =
    let t', kv, g, c = heads.Length, heads.KeyValueHeads, heads.Groups, heads.Width
    let joinedWidth = (kv * g + 2 * kv) * c

    for b in 0 .. heads.Batch - 1 do
        for t in 0 .. t' - 1 do
            let row = (b * t' + t) * joinedWidth

            for h in 0 .. kv * g - 1 do
                // Query head h reads key-value head h / G.
                work t (row + h * c) (((b * kv + h / g) * g + h % g) * t' * c + t * c) 0

            for h in 0 .. kv - 1 do
                let apart = (b * kv + h) * t' * c + t * c
                work t (row + (kv * g + h) * c) apart 1
                work t (row + (kv * g + kv + h) * c) apart 2

/// Between a joined tensor and its parts, turning queries and keys on the way: forth (`apart`), or back.
let private move
    (apart: bool)
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

    eachHead heads (fun t joined place kind ->
        let table = t * rotating

        let part =
            if kind = 0 then q
            elif kind = 1 then k
            else v

        let whole, part = NativePtr.add x joined, NativePtr.add part place

        turnRow
            (if apart then whole else part)
            (if apart then part else whole)
            heads.Width
            (if kind = 2 then 0 else rotating / 2)
            (NativePtr.add cosine table)
            (NativePtr.add sine table)
            (if apart then 1.0f else -1.0f))

/// Takes a joined tensor apart; queries and keys are rotated by fp32 tables [T, R] over halves, of R = 0 by nothing.
let takeApart
    (heads: Heads)
    (tables: torch.Tensor * torch.Tensor)
    (joined: torch.Tensor)
    (q: torch.Tensor)
    (k: torch.Tensor)
    (v: torch.Tensor)
    : unit =
    move true heads tables joined q k v

/// The gradient of `takeApart`: the way back.
let putTogether
    (heads: Heads)
    (tables: torch.Tensor * torch.Tensor)
    (q: torch.Tensor)
    (k: torch.Tensor)
    (v: torch.Tensor)
    (joined: torch.Tensor)
    : unit =
    move false heads tables joined q k v
