/// Attention of new positions over cached ones in host memory: rotation, the cache's growth, scores, softmax and the weighted sum in one
/// pass over each sequence and head. Torch has no operator for it, and one after the other its operators read the cache several times
/// and wait for each other. Keys stand in blocks of 32 positions, so that their products with a query need no sums across a vector.
namespace Hybrid

// Memory is read and written by address.
#nowarn "9"

open System
open System.Buffers
open System.Runtime.CompilerServices
open System.Runtime.Intrinsics
open System.Threading.Tasks
open Microsoft.FSharp.NativeInterop
open TorchSharp
open Hybrid.Vectors
open Hybrid.HostLanes

/// The loops over one head's cache: blocks of `block` keys [C, block], values [T, wide]. In bf16 the numbers of two vectors stand in
/// turns (`slot`), so that a shift and a mask take them apart.
module internal HostProducts =

    /// Keys of a block. A multiple of twice the numbers in a vector.
    [<Literal>]
    let block = 32

    // q · k of the 2 `count` keys whose first channel is at `place`.
    let inline private dotsOf (half: bool) (width: int) (q: nativeptr<float32>) (place: nativeint) (out: nativeptr<float32>) =
        let stride = nativeint (block * size half)
        let mutable place = place
        let mutable low, high, low', high' = Lanes.Zero, Lanes.Zero, Lanes.Zero, Lanes.Zero
        let mutable c = 0

        while c + 1 < width do
            let a, b = Vector512.Create(NativePtr.get q c), Vector512.Create(NativePtr.get q (c + 1))
            low <- Vector512.FusedMultiplyAdd(a, evens half place, low)
            high <- Vector512.FusedMultiplyAdd(a, odds half place, high)
            low' <- Vector512.FusedMultiplyAdd(b, evens half (place + stride), low')
            high' <- Vector512.FusedMultiplyAdd(b, odds half (place + stride), high')
            place <- place + 2n * stride
            c <- c + 2

        if c < width then
            let a = Vector512.Create(NativePtr.get q c)
            low <- Vector512.FusedMultiplyAdd(a, evens half place, low)
            high <- Vector512.FusedMultiplyAdd(a, odds half place, high)

        Vector512.Store(Vector512.Add(low, low'), out)
        Vector512.Store(Vector512.Add(high, high'), NativePtr.add out (count ()))

    // Σ p v over positions [first, last) of 2 `count` channels.
    let inline private mixOf
        (half: bool)
        (wide: int)
        (p: nativeptr<float32>)
        (values: nativeint)
        (first: int)
        (last: int)
        (out: nativeptr<float32>)
        =
        let stride = nativeint (wide * size half)
        let mutable place = values + nativeint first * stride
        let mutable low, high, low', high' = Lanes.Zero, Lanes.Zero, Lanes.Zero, Lanes.Zero
        let mutable low'', high'', low''', high''' = Lanes.Zero, Lanes.Zero, Lanes.Zero, Lanes.Zero
        let mutable s = first

        while s + 3 < last do
            let a, b = Vector512.Create(NativePtr.get p s), Vector512.Create(NativePtr.get p (s + 1))
            let c, d = Vector512.Create(NativePtr.get p (s + 2)), Vector512.Create(NativePtr.get p (s + 3))
            low <- Vector512.FusedMultiplyAdd(a, evens half place, low)
            high <- Vector512.FusedMultiplyAdd(a, odds half place, high)
            low' <- Vector512.FusedMultiplyAdd(b, evens half (place + stride), low')
            high' <- Vector512.FusedMultiplyAdd(b, odds half (place + stride), high')
            low'' <- Vector512.FusedMultiplyAdd(c, evens half (place + 2n * stride), low'')
            high'' <- Vector512.FusedMultiplyAdd(c, odds half (place + 2n * stride), high'')
            low''' <- Vector512.FusedMultiplyAdd(d, evens half (place + 3n * stride), low''')
            high''' <- Vector512.FusedMultiplyAdd(d, odds half (place + 3n * stride), high''')
            place <- place + 4n * stride
            s <- s + 4

        while s < last do
            let a = Vector512.Create(NativePtr.get p s)
            low <- Vector512.FusedMultiplyAdd(a, evens half place, low)
            high <- Vector512.FusedMultiplyAdd(a, odds half place, high)
            place <- place + stride
            s <- s + 1

        Vector512.Store(Vector512.Add(Vector512.Add(low, low'), Vector512.Add(low'', low''')), out)
        Vector512.Store(Vector512.Add(Vector512.Add(high, high'), Vector512.Add(high'', high''')), NativePtr.add out (count ()))

    [<MethodImpl(MethodImplOptions.NoInlining ||| MethodImplOptions.AggressiveOptimization)>]
    let private dotsFull width q place out = dotsOf false width q place out

    [<MethodImpl(MethodImplOptions.NoInlining ||| MethodImplOptions.AggressiveOptimization)>]
    let private dotsHalf width q place out = dotsOf true width q place out

    [<MethodImpl(MethodImplOptions.NoInlining ||| MethodImplOptions.AggressiveOptimization)>]
    let private mixFull wide p values first last out = mixOf false wide p values first last out

    [<MethodImpl(MethodImplOptions.NoInlining ||| MethodImplOptions.AggressiveOptimization)>]
    let private mixHalf wide p values first last out = mixOf true wide p values first last out

    /// q · k of 2 `count` keys whose first channel is at `place`.
    let dots (half: bool) (width: int) (q: nativeptr<float32>) (place: nativeint) (out: nativeptr<float32>) : unit =
        if half then dotsHalf width q place out else dotsFull width q place out

    /// Σ p v over positions [first, last) of 2 `count` channels.
    let mix
        (half: bool)
        (wide: int)
        (p: nativeptr<float32>)
        (values: nativeint)
        (first: int)
        (last: int)
        (out: nativeptr<float32>)
        : unit =
        if half then
            mixHalf wide p values first last out
        else
            mixFull wide p values first last out

    /// Scores of positions [first, last) become e^(score − largest); gives 1 / Σ.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let soften (scores: nativeptr<float32>) (first: int) (last: int) : float32 =
        let from, until = first / block * block, (last + block - 1) / block * block

        for s in from .. first - 1 do
            NativePtr.set scores s Single.NegativeInfinity

        for s in last .. until - 1 do
            NativePtr.set scores s Single.NegativeInfinity

        let mutable top = Vector512.Create Single.NegativeInfinity

        for i in 0 .. (until - from) / count () - 1 do
            top <- Vector512.Max(top, Vector512.Load(NativePtr.add scores (from + i * count ())))

        let shift = Vector512.Create(largest top)
        let mutable total = Lanes.Zero

        for i in 0 .. (until - from) / count () - 1 do
            let place = NativePtr.add scores (from + i * count ())
            let score = Vector512.Subtract(Vector512.Load place, shift)
            let e = Vector512.ConditionalSelect(Vector512.LessThan(score, Vector512.Create -87.0f), Lanes.Zero, exp score)
            total <- Vector512.Add(total, e)
            Vector512.Store(e, place)

        1.0f / sum total

open HostProducts

/// New queries, keys and values of some rows of the batch, T of each; addresses of their first elements.
type internal NewPositions =
    {
        Query: nativeint
        QueryStride: int
        Key: nativeint
        KeyStride: int
        Value: nativeint
        ValueStride: int
        /// Where the mixed values go, [rows · T, H C]
        Out: nativeint
        /// T
        Together: int
        /// How many positions each row holds already
        Lengths: int[]
        /// How many of the T positions each row needs; the others become 0
        Needed: int[]
    }

/// Keys and values of `rows` sequences of up to `capacity` positions in host memory, for every layer.
[<Sealed>]
type internal HostCache(config: ModelConfig, half: bool, rows: int, capacity: int, rotation: Rotation option) =
    let heads, kv, width = config.Heads, config.KeyValueHeads, config.HeadWidth
    let groups = heads / kv
    let blocks = (capacity + block - 1) / block
    let wide = (width + block - 1) / block * block
    let slots = Array.init (max wide block) (fun i -> i / block * block + slot half (i % block))
    let element = nativeint (size half)

    let memory (length: int) =
        let dtype = if half then torch.bfloat16 else torch.float32

        [|
            for _ in 1 .. config.Layers ->
                torch.empty([| int64 rows * int64 kv * int64 length |], dtype = dtype).DetachFromDisposeScope()
        |]

    let keys, values = memory (blocks * width * block), memory (blocks * block * wide)
    let keyPlaces, valuePlaces = Array.map Dispatcher.dataPointer keys, Array.map Dispatcher.dataPointer values

    // Products of a query with a key's number, below which one thread is faster than several.
    let worthSharing = 4_000_000L

    // fp32 tables, cosine and sine of a position one after the other.
    let turning = config.RotaryWidth

    let tables =
        match rotation with
        | Some rotation ->
            let host (table: torch.Tensor) =
                use table = table.``to`` (torch.float32, torch.CPU)
                use table = table.contiguous ()
                table.data<float32>().ToArray()

            host rotation.Cosine, host rotation.Sine
        | None -> [||], [||]

    let rotates, halves = rotation.IsSome, (config.Position = Rotary)
    let cosine, sine = tables

    // The rotated part of a head's vector, in place.
    let turn (position: int) (x: nativeptr<float32>) =
        if rotates then
            let from, pairs = position * turning, turning / 2
            let mutable i = 0

            if halves then
                while i + count () <= pairs do
                    let a, b = Vector512.Load(NativePtr.add x i), Vector512.Load(NativePtr.add x (i + pairs))
                    let cosine, sine = Vector512.Create(cosine, from + i), Vector512.Create(sine, from + i)

                    Vector512.Store(
                        Vector512.Subtract(Vector512.Multiply(a, cosine), Vector512.Multiply(b, sine)),
                        NativePtr.add x i
                    )

                    Vector512.Store(
                        Vector512.Add(Vector512.Multiply(b, cosine), Vector512.Multiply(a, sine)),
                        NativePtr.add x (i + pairs)
                    )

                    i <- i + count ()

            while i < pairs do
                let a, b = if halves then i, i + pairs else 2 * i, 2 * i + 1
                let first, second = NativePtr.get x a, NativePtr.get x b
                NativePtr.set x a (first * cosine[from + a] - second * sine[from + a])
                NativePtr.set x b (second * cosine[from + b] + first * sine[from + b])
                i <- i + 1

    // A head's vector times a number; what fills its last vector up may be anything.
    let times (factor: float32) (x: nativeptr<float32>) =
        let factor = Vector512.Create factor
        let mutable i = 0

        while i < width do
            Vector512.Store(Vector512.Multiply(factor, Vector512.Load(NativePtr.add x i)), NativePtr.add x i)
            i <- i + count ()

    let append (news: NewPositions) (keys: nativeint) (values: nativeint) (row: int) (head: int) (x: nativeptr<float32>) =
        for t in 0 .. news.Needed[row] - 1 do
            let position, line = news.Lengths[row] + t, row * news.Together + t
            read half (news.Key + nativeint (line * news.KeyStride + head * width) * element) x width
            turn position x
            let place = keys + nativeint (position / block * width * block + slots[position % block]) * element

            if half then
                for c in 0 .. width - 1 do
                    set true place (c * block) (NativePtr.get x c)
            else
                for c in 0 .. width - 1 do
                    set false place (c * block) (NativePtr.get x c)

            let source = news.Value + nativeint (line * news.ValueStride + head * width) * element
            let target = values + nativeint (position * wide) * element

            if half then
                for c in 0 .. width - 1 do
                    NativePtr.set
                        (NativePtr.ofNativeInt<uint16> target)
                        slots[c]
                        (NativePtr.get (NativePtr.ofNativeInt<uint16> source) c)
            else
                Buffer.MemoryCopy(source.ToPointer(), target.ToPointer(), 4L * int64 width, 4L * int64 width)

    let attend
        (news: NewPositions)
        (keys: nativeint)
        (values: nativeint)
        (row: int)
        (head: int)
        (x: nativeptr<float32>)
        (scores: nativeptr<float32>)
        =
        let scale = 1.0f / sqrt (float32 width)

        for t in 0 .. news.Needed[row] - 1 do
            let position, line = news.Lengths[row] + t, row * news.Together + t
            let last = position + 1
            let first = if config.Window > 0 then max 0 (last - config.Window) else 0

            for group in 0 .. groups - 1 do
                let own = head * groups + group
                read half (news.Query + nativeint (line * news.QueryStride + own * width) * element) x width
                turn position x

                times scale x

                for b in first / block .. (last - 1) / block do
                    let mutable j = 0

                    while j < block do
                        let place = keys + nativeint (b * width * block + j) * element
                        dots half width x place (NativePtr.add scores (b * block + j))
                        j <- j + 2 * count ()

                let share = soften scores first last

                let mutable c = 0

                while c < width do
                    mix half wide scores (values + nativeint c * element) first last (NativePtr.add x c)
                    c <- c + 2 * count ()

                times share x

                write half x (news.Out + nativeint (line * heads * width + own * width) * element) width

        for t in news.Needed[row] .. news.Together - 1 do
            let line = row * news.Together + t
            let place = news.Out + nativeint (line * heads * width + head * groups * width) * element
            Span<byte>(place.ToPointer(), groups * width * int element).Clear()

    /// Bytes that a sequence takes per position.
    static member BytesPerPosition(config: ModelConfig, half: bool) : int64 =
        2L
        * int64 config.Layers
        * int64 config.KeyValueHeads
        * int64 ((config.HeadWidth + 31) / 32 * 32)
        * int64 (size half)

    /// Appends keys and values and attends, each query to the positions up to its own (the last `window` of them). The work is shared
    /// out over `threads` threads where it is worth it. Lengths do not grow; the caller counts.
    member _.Attend(layer: int, news: NewPositions, threads: int) : unit =
        let keyLength, valueLength =
            nativeint (blocks * width * block) * element, nativeint (blocks * block * wide) * element

        let unit (scratch: nativeptr<float32>) (index: int) =
            let row, head = index / kv, index % kv
            let keys = keyPlaces[layer] + nativeint index * keyLength
            let values = valuePlaces[layer] + nativeint index * valueLength
            append news keys values row head scratch
            attend news keys values row head scratch (NativePtr.add scratch wide)

        let some (first: int) (last: int) =
            let buffer = ArrayPool<float32>.Shared.Rent(wide + blocks * block)
            use pinned = fixed buffer

            for index in first .. last - 1 do
                unit pinned index

            ArrayPool<float32>.Shared.Return buffer

        let mutable pairs = 0L

        for row in 0 .. rows - 1 do
            pairs <- pairs + int64 (news.Lengths[row] + news.Needed[row]) * int64 news.Needed[row]

        if threads > 1 && pairs * int64 heads * int64 width > worthSharing then
            Parallel.For(0, rows * kv, ParallelOptions(MaxDegreeOfParallelism = threads), fun index -> some index (index + 1))
            |> ignore
        else
            some 0 (rows * kv)

    interface IDisposable with
        member _.Dispose() =
            for tensor in Array.append keys values do
                tensor.Dispose()
