/// Drawing tokens from logits in host memory, row by row: the same rules as `Sampler.restrict` and `Sampler.draw` have in torch's
/// operators, without sorting. What separates the tokens that stay from the others is found by counting, or summing, what lies above a
/// value, and halving the range of values.
module internal Hybrid.HostDraw

// Memory is read and written by address.
#nowarn "9"

open System
open System.Runtime.Intrinsics
open Microsoft.FSharp.NativeInterop
open Hybrid.Vectors
open Hybrid.HostLanes

/// What a distribution is made of.
type Rule =
    {
        /// 0 takes the most likely
        Temperature: float
        /// 0: all
        TopK: int
        /// 1: all
        TopP: float
    }

// Entries that are summed together when the place of a draw is looked for. A multiple of the numbers in a vector.
[<Literal>]
let private block = 64

/// Entries of a buffer for rows of this many logits.
let room (columns: int) : int = (columns + block - 1) / block * block

// Numbers in the order of their values: an integer that grows with the number.
let private order (x: float32) =
    let bits = BitConverter.SingleToInt32Bits x
    bits ^^^ ((bits >>> 31) &&& 0x7FFFFFFF)

let private number (order: int) = BitConverter.Int32BitsToSingle(order ^^^ ((order >>> 31) &&& 0x7FFFFFFF))

let private top (x: nativeptr<float32>) (length: int) =
    let mutable best = Vector512.Create Single.NegativeInfinity

    for i in 0 .. length / count () - 1 do
        best <- Vector512.Max(best, Vector512.Load(NativePtr.add x (i * count ())))

    largest best

let private least (x: nativeptr<float32>) (length: int) =
    let mutable best = Vector512.Create Single.PositiveInfinity

    for i in 0 .. length / count () - 1 do
        best <- Vector512.Min(best, Vector512.Load(NativePtr.add x (i * count ())))

    let mutable best = -(largest (Vector512.Negate best))

    for i in length / count () * count () .. length - 1 do
        best <- min best (NativePtr.get x i)

    best

/// The first place of a value.
let private place (x: nativeptr<float32>) (length: int) (value: float32) =
    let mutable i = 0

    while i < length - 1 && NativePtr.get x i <> value do
        i <- i + 1

    i

let private atLeast (x: nativeptr<float32>) (length: int) (value: float32) =
    let border = Vector512.Create value
    let mutable a, b = Vector512<int>.Zero, Vector512<int>.Zero
    let mutable i = 0

    while i < length do
        a <- Vector512.Subtract(a, Vector512.AsInt32(Vector512.GreaterThanOrEqual(Vector512.Load(NativePtr.add x i), border)))

        b <-
            Vector512.Subtract(
                b,
                Vector512.AsInt32(Vector512.GreaterThanOrEqual(Vector512.Load(NativePtr.add x (i + count ())), border))
            )

        i <- i + 2 * count ()

    Vector512.Sum(Vector512.Add(a, b))

let inline private doubles (x: Lanes) = Vector512.Add(Vector512.WidenLower x, Vector512.WidenUpper x)

let private sumOf (x: nativeptr<float32>) (length: int) =
    let mutable sum = Vector512<float>.Zero
    let mutable i = 0

    while i < length do
        sum <- Vector512.Add(sum, doubles (Vector512.Load(NativePtr.add x i)))
        i <- i + count ()

    Vector512.Sum sum

/// Σ of the weights whose logit is above a value.
let private above (x: nativeptr<float32>) (weights: nativeptr<float32>) (length: int) (value: float32) =
    let border = Vector512.Create value
    let mutable sum = Vector512<float>.Zero
    let mutable i = 0

    while i < length do
        let over = Vector512.GreaterThan(Vector512.Load(NativePtr.add x i), border)
        let kept = Vector512.ConditionalSelect(over, Vector512.Load(NativePtr.add weights i), Lanes.Zero)
        sum <- Vector512.Add(sum, doubles kept)
        i <- i + count ()

    Vector512.Sum sum

/// The largest value that at least k logits reach, or one between it and the next smaller; and how many equal ones stay.
let private kth (x: nativeptr<float32>) (columns: int) (length: int) (best: float32) (k: int) : struct (float32 * int) =
    // At least k reach `low`, fewer reach `high`. The first halvings are of the values, which near ties take too long for; then of
    // their order, which ends at neighbours.
    let mutable low, high = order (least x columns), order best + 1
    let mutable exact, round = false, 0

    while not exact && int64 high - int64 low > 1L do
        let halfway = int ((int64 low + int64 high) >>> 1)

        let middle =
            if round < 20 then
                let value = order (0.5f * (number low + number (high - 1)))
                if value > low && value < high then value else halfway
            else
                halfway

        let reached = atLeast x length (number middle)

        if reached >= k then low <- middle else high <- middle

        exact <- (reached = k)
        round <- round + 1

    let border = number low

    if exact then
        struct (border, Int32.MaxValue)
    else
        struct (border, k - atLeast x length (number high))

/// Draws a token of `columns` logits. The buffers hold `room columns` entries each; `x` holds the logits, and what is behind them is
/// overwritten. A uniform value in [0, 1) decides.
let token (rule: Rule) (uniform: float) (columns: int) (x: nativeptr<float32>) (weights: nativeptr<float32>) : int =
    let length = room columns

    for i in columns .. length - 1 do
        NativePtr.set x i Single.NegativeInfinity

    let best = top x length

    if rule.Temperature <= 0.0 || not (Single.IsFinite best) then
        place x columns best
    else
        let struct (border, equals) =
            if rule.TopK > 0 && rule.TopK < columns then
                kth x columns length best rule.TopK
            else
                struct (Single.NegativeInfinity, Int32.MaxValue)

        let low, shift, scale =
            Vector512.Create border, Vector512.Create best, Vector512.Create(float32 (min 1e30 (1.0 / rule.Temperature)))

        for i in 0 .. length / count () - 1 do
            let logits = Vector512.Load(NativePtr.add x (i * count ()))
            let stays = Vector512.GreaterThanOrEqual(logits, low)

            let e =
                if Vector512.EqualsAll(Vector512.AsInt32 stays, Vector512<int>.Zero) then
                    Lanes.Zero
                else
                    let e = exp (Vector512.Multiply(Vector512.Subtract(logits, shift), scale))

                    let stays =
                        Vector512.BitwiseAnd(stays, Vector512.GreaterThan(logits, Vector512.Create Single.NegativeInfinity))

                    Vector512.ConditionalSelect(stays, e, Lanes.Zero)

            Vector512.Store(e, NativePtr.add weights (i * count ()))

        // Of equal logits at the border the first stay.
        let thin (border: float32) (stay: int -> bool) =
            let mutable seen = 0

            for i in 0 .. columns - 1 do
                if NativePtr.get x i = border && NativePtr.get weights i > 0.0f then
                    if not (stay seen) then
                        NativePtr.set weights i 0.0f

                    seen <- seen + 1

        if equals < Int32.MaxValue then
            thin border (fun seen -> seen < equals)

        if rule.TopP < 1.0 then
            let share = rule.TopP * sumOf weights length
            // A token stays when the tokens before it hold less than p; the first stays even where p is 0.
            let stays held = held = 0.0 || held < share
            let mutable low, high = order (least x columns) - 1, order best

            while int64 high - int64 low > 1L do
                let middle = int ((int64 low + int64 high) >>> 1)
                if stays (above x weights length (number middle)) then high <- middle else low <- middle

            let border = number high
            let before = above x weights length border
            let each = float (NativePtr.get weights (place x columns border))

            for i in 0 .. columns - 1 do
                if NativePtr.get x i < border then
                    NativePtr.set weights i 0.0f

            thin border (fun seen -> stays (before + float seen * each))

        // The inverse of the cumulative distribution in the order of ids.
        let threshold = uniform * sumOf weights length
        let mutable passed, i = 0.0, 0
        let mutable next = sumOf weights block

        while i + block < length && passed + next <= threshold do
            passed <- passed + next
            i <- i + block
            next <- sumOf (NativePtr.add weights i) block

        let mutable last, found = -1, false

        while not found && i < columns do
            let weight = float (NativePtr.get weights i)

            if weight > 0.0 then
                passed <- passed + weight
                last <- i

            if passed > threshold && weight > 0.0 then found <- true else i <- i + 1

        if found then
            i
        else
            // Rounding left the threshold at the very end: the last token that stays.
            let mutable i = if last >= 0 then last else columns - 1

            while i > 0 && NativePtr.get weights i = 0.0f do
                i <- i - 1

            i
