/// Continuing sequences of different lengths together. A decoder is prepared once: parameters are looked up, products packed, so that
/// a step is a short row of operators. Position p of a row stands at place p of its cache, whatever the lengths of the others.
namespace Hybrid

open System
open System.Collections.Generic
open TorchSharp

/// Queries, keys and values of new positions as one product gives them, and queries and keys after a norm where the model has one.
[<Struct; NoEquality; NoComparison>]
type internal Joined = { All: torch.Tensor; Normed: struct (torch.Tensor * torch.Tensor) voption }

/// Sequences with their keys and values: takes the queries, keys and values of T new positions a row and gives what attention mixes.
[<AbstractClass>]
type internal Attending(rows: int) =
    /// Positions that each row holds
    member val Lengths: int[] = Array.zeroCreate rows
    member _.Rows = rows

    /// Prepares for T new positions a row, of which each row needs some (from the first on); other rows' results are of no account.
    abstract Begin: together: int * needed: int[] -> unit

    /// Of [N T, (H + 2 H_kv) C], unrotated: [N T, H C]. The result is not the caller's, and may be written over by the next call.
    abstract Attend: layer: int * joined: Joined -> torch.Tensor

    abstract Release: unit -> unit

    /// Counts new positions of each row in.
    member attending.Grow(counts: int[]) : unit =
        for row in 0 .. rows - 1 do
            attending.Lengths[row] <- attending.Lengths[row] + counts[row]

    interface IDisposable with
        member attending.Dispose() = attending.Release()

/// In host memory.
[<Sealed>]
type internal HostAttending(config: ModelConfig, half: bool, rows: int, capacity: int, rotation: Rotation option) =
    inherit Attending(rows)
    let cache = new HostCache(config, half, rows, capacity, rotation)
    let mutable together = 0
    let mutable needed: int[] = [||]
    let query, key = ModelConfig.queryWidth config, ModelConfig.keyWidth config
    let element, elementType = if half then 2n, torch.bfloat16 else 4n, torch.float32
    let threads = torch.get_num_threads ()
    // Where attention writes: the same memory in every layer and step.
    let mutable mixed = torch.empty([| int64 rows; int64 query |], dtype = elementType).DetachFromDisposeScope()
    let mutable lines = rows

    override _.Begin(count, counts) =
        together <- count
        needed <- counts

        if rows * count <> lines then
            mixed.Dispose()
            lines <- rows * count
            mixed <- torch.empty([| int64 lines; int64 query |], dtype = elementType).DetachFromDisposeScope()

    override attending.Attend(layer, joined) =
        let all = Dispatcher.dataPointer joined.All
        let stride = query + 2 * key

        let q, queryStride, k, keyStride =
            match joined.Normed with
            | ValueSome(struct (q, k)) -> Dispatcher.dataPointer q, query, Dispatcher.dataPointer k, key
            | ValueNone -> all, stride, all + nativeint query * element, stride

        cache.Attend(
            layer,
            {
                Query = q
                QueryStride = queryStride
                Key = k
                KeyStride = keyStride
                Value = all + nativeint (query + key) * element
                ValueStride = stride
                Out = Dispatcher.dataPointer mixed
                Together = together
                Lengths = attending.Lengths
                Needed = needed
            },
            threads
        )

        mixed

    override _.Release() =
        mixed.Dispose()
        (cache :> IDisposable).Dispose()

/// On any device, by torch's operators. Where all rows have one length, positions are appended without indices and single queries need no
/// mask.
[<Sealed>]
type internal TensorAttending(config: ModelConfig, like: torch.Tensor, rows: int, capacity: int, tables: Rotation option) =
    inherit Attending(rows)
    let n, kv, c = int64 rows, int64 config.KeyValueHeads, int64 config.HeadWidth
    let heads = int64 config.Heads
    let groups = heads / kv

    let memory (shape: int64 list) =
        // Zeros, not chance: what a mask hides is multiplied by 0.
        let make () = torch.zeros (List.toArray shape, dtype = like.dtype, device = like.device)
        [| for _ in 1 .. config.Layers -> make().DetachFromDisposeScope() |]

    let keys, values = memory [ n * kv; c; int64 capacity ], memory [ n * kv; int64 capacity; c ]
    let unused = torch.zeros([| 1L |], dtype = like.dtype, device = like.device).DetachFromDisposeScope()

    let rotation =
        let keep (x: torch.Tensor) = x.alias().DetachFromDisposeScope()
        tables |> Option.map (fun tables -> { Cosine = keep tables.Cosine; Sine = keep tables.Sine })

    let mutable together = 0L
    let mutable first, seen = 0L, 0L
    let mutable turning: Rotation option = None
    // Places [N, T] of the new positions where rows differ in length.
    let mutable places: torch.Tensor option = None
    // What is added to scores [N, 1, T, S].
    let mutable mask: torch.Tensor option = None
    let hidden = -infinity

    let turn (x: torch.Tensor) (count: int64) =
        match turning with
        | Some rotation -> Rotary.turn config rotation (x.view (n, together, count, c))
        | None -> x.view (n, together, count, c)

    override attending.Begin(count, _) =
        let lengths = attending.Lengths
        let shortest, longest = Array.min lengths, Array.max lengths
        let window = config.Window
        together <- int64 count
        seen <- int64 (longest + count)
        first <- if window > 0 then int64 (max 0 (shortest + 1 - window)) else 0L
        let device = like.device

        let positions =
            if shortest = longest then
                None
            else
                let table =
                    [|
                        for length in lengths do
                            for t in 0 .. count - 1 -> int64 (length + t)
                    |]

                Some((Host.int64s [ n; int64 count ] table).``to`` device)

        places <- positions

        turning <-
            rotation
            |> Option.map (fun rotation ->
                let pick (table: torch.Tensor) =
                    match positions with
                    | None -> table.narrow (0, int64 shortest, int64 count)
                    | Some positions -> table.index_select(0L, positions.flatten ()).view(n, int64 count, 1L, -1L)

                { Cosine = pick rotation.Cosine; Sine = pick rotation.Sine })

        mask <-
            if positions.IsNone && count = 1 then
                None
            else
                let keys = torch.arange (first, seen, device = device)

                let own =
                    match positions with
                    | None -> torch.arange(int64 shortest, seen, device = device).view(1L, 1L, int64 count, 1L)
                    | Some positions -> positions.view (n, 1L, int64 count, 1L)

                let beyond = keys.gt own

                let beyond = if window > 0 then beyond.logical_or_ (keys.plus(int64 window).le own) else beyond

                let zeros = torch.zeros (beyond.shape, dtype = like.dtype, device = device)
                Some(zeros.masked_fill_ (beyond, Scalars.Of hidden))

    override attending.Attend(layer, joined) =
        let t = together
        let part (from: int64) (count: int64) = joined.All.narrow (1, from * c, count * c)

        let struct (q, k) =
            match joined.Normed with
            | ValueSome normed -> normed
            | ValueNone -> struct (part 0L heads, part heads kv)

        let q, k, v = turn q heads, turn k kv, part (heads + kv) kv
        let k = k.permute(0, 2, 3, 1).reshape(n * kv, c, t)
        let v = v.view(n, t, kv, c).transpose(1, 2).reshape(n * kv, t, c)

        match places with
        | None ->
            let at = int64 attending.Lengths[0]
            keys[layer].narrow(2, at, t).copy_ k |> ignore
            values[layer].narrow(1, at, t).copy_ v |> ignore
        | Some places ->
            let each = places.view(n, 1L, t).expand(n, kv, t).reshape(n * kv, t)
            keys[layer].scatter_(2L, each.unsqueeze(1).expand(n * kv, c, t), k) |> ignore
            values[layer].scatter_(1L, each.unsqueeze(2).expand(n * kv, t, c), v) |> ignore

        let q = q.view(n, t, kv, groups, c).permute(0, 2, 3, 1, 4).reshape(n * kv, groups * t, c)
        let span = seen - first

        // q kᵀ / √C alone: TorchSharp 0.107 hands the arguments on as (batch1, batch2, input), and input counts 0 times.
        let scores = torch.baddbmm (q, keys[layer].narrow(2, first, span), unused, 0.0f, 1.0f / sqrt (float32 c))

        match mask with
        | Some mask -> scores.view(n, kv * groups, t, span).plus_ mask |> ignore
        | None -> ()

        torch
            .bmm(scores.softmax -1L, values[layer].narrow(1, first, span))
            .view(n, kv, groups, t, c)
            .permute(0, 3, 1, 2, 4)
            .reshape(n * t, heads * c)

    override _.Release() =
        for tensor in unused :: List.ofArray (Array.append keys values) do
            tensor.Dispose()

        match rotation with
        | Some rotation ->
            rotation.Cosine.Dispose()
            rotation.Sine.Dispose()
        | None -> ()

/// What a step is told about a layer.
[<NoEquality; NoComparison>]
type private Layer =
    {
        AttentionNorm: torch.Tensor -> torch.Tensor
        FeedForwardNorm: torch.Tensor -> torch.Tensor
        QueryNorm: (torch.Tensor -> torch.Tensor) option
        KeyNorm: (torch.Tensor -> torch.Tensor) option
        In: Projection
        Out: Projection
        /// The gate, or the first projection where there is none
        First: Projection
        Up: Projection option
        Second: Projection
    }

/// Where the keys and values of sequences stand, and what works on them.
type Place =
    /// Host memory, by vector instructions in one pass
    | HostMemory
    /// Tensors of any device, by torch's operators
    | Tensors

/// A decoder prepared for continuing sequences of about `rows` positions at a time, with logits of some ids [First, First + Count).
/// It reads the weights it is given; what it owns beside them is released with it.
[<Sealed>]
type internal Prepared(config: ModelConfig, weights: Weights, firstId: int, ids: int, place: Place, packing: bool, rows: int) =
    let owned = List<IDisposable>()
    let table = weights "tok_embeddings.weight"

    let own (x: torch.Tensor) =
        let x = x.DetachFromDisposeScope()
        owned.Add x
        x

    let projection (weight: torch.Tensor) (bias: torch.Tensor option) =
        let projection = Projection.Make(weight, bias, packing, rows)
        owned.Add projection
        projection

    let named (bias: bool) (prefix: string) =
        projection (weights (prefix + ".weight")) (if bias then Some(weights (prefix + ".bias")) else None)

    let part (bias: bool) (prefix: string) (first: int) (count: int) =
        let narrow (x: torch.Tensor) = own (x.narrow (0, int64 first, int64 count))
        projection (narrow (weights (prefix + ".weight"))) (if bias then Some(narrow (weights (prefix + ".bias"))) else None)

    let norm (prefix: string) = Layers.norm config.Norm config.NormEpsilon weights prefix

    let layers =
        [|
            for layer in 0 .. config.Layers - 1 do
                let prefix = $"layers.{layer}"
                let first, second = Layers.feedForwardNames config prefix
                let bias, width = config.FeedForwardBias, config.FeedForwardWidth

                {
                    AttentionNorm = norm $"{prefix}.attention_norm"
                    FeedForwardNorm = norm $"{prefix}.ffn_norm"
                    QueryNorm = if config.QkNorm then Some(norm $"{prefix}.attention.q_norm") else None
                    KeyNorm = if config.QkNorm then Some(norm $"{prefix}.attention.k_norm") else None
                    In = named config.QkvBias $"{prefix}.attention.in_proj"
                    Out = named config.OutBias $"{prefix}.attention.out_proj"
                    First = if config.Gated then part bias first 0 width else named bias first
                    Up = if config.Gated then Some(part bias first width width) else None
                    Second = named bias second
                }
        |]

    let head =
        let table = Decoder.headTable config weights

        [|
            for first, last in Decoder.headParts config firstId (firstId + ids) ->
                projection (own (table.narrow (0, int64 first, int64 (last - first)))) None
        |]

    let finalNorm = norm "norm"

    let block (attending: Attending) (index: int) (x: torch.Tensor) =
        use scope = torch.NewDisposeScope()
        let layer = layers[index]
        let joined = layer.In.Apply(layer.AttentionNorm x)

        let normed =
            match layer.QueryNorm, layer.KeyNorm with
            | Some queryNorm, Some keyNorm ->
                let q, k = int64 (ModelConfig.queryWidth config), int64 (ModelConfig.keyWidth config)
                ValueSome(struct (queryNorm (joined.narrow (1, 0L, q)), keyNorm (joined.narrow (1, q, k))))
            | _ -> ValueNone

        let mixed = attending.Attend(index, { All = joined; Normed = normed })
        let after = layer.Out.Plus(x, mixed)
        let read = layer.FeedForwardNorm(if config.ParallelResidual then x else after)
        let hidden = layer.First.Activated(config.FeedForward, read)

        let hidden =
            match layer.Up with
            | Some up -> up.Times(hidden, read)
            | None -> hidden

        layer.Second.Plus(after, hidden).MoveToOuterDisposeScope()

    member _.Config = config
    member _.Device = table.device

    /// Empty sequences of up to `capacity` positions; `prompt` is the longest beginning that is read at once.
    member _.Start(rows: int, prompt: int, capacity: int) : Attending =
        use _ = torch.NewDisposeScope()

        match place with
        | HostMemory ->
            let rotation = Rotary.span config torch.CPU torch.float32 (int64 prompt) (int64 capacity)
            new HostAttending(config, (table.dtype = torch.bfloat16), rows, capacity, rotation)
        | Tensors ->
            let rotation = Rotary.span config table.device table.dtype (int64 prompt) (int64 capacity)
            new TensorAttending(config, table, rows, capacity, rotation)

    /// Reads T new tokens of each row, [N T] int64 row by row, of which each row needs some: logits [.., ids] of the chosen lines
    /// (all where none are named). Lengths do not grow; the caller counts. Run it without gradients.
    member _.Read
        (attending: Attending, tokens: torch.Tensor, together: int, needed: int[], lines: torch.Tensor option)
        : torch.Tensor =
        use scope = torch.NewDisposeScope()
        attending.Begin(together, needed)
        let x = Dispatcher.embedding table tokens

        let x =
            if config.Position <> LearnedPosition then
                x
            else
                // Positions beyond the table are never needed; they stand for ones that are guessed or fill a line up.
                let positions =
                    [|
                        for length in attending.Lengths do
                            for t in 0 .. together - 1 -> int64 (min (length + t) (config.Positions - 1))
                    |]

                let positions = (Host.int64s [ int64 positions.Length ] positions).``to`` table.device
                x.plus_ (Dispatcher.embedding (weights "pos_embeddings.weight") positions)

        let mutable x = if config.PostEmbedNorm then norm "post_embed_norm" x else x

        for index in 0 .. layers.Length - 1 do
            let next = block attending index x
            x.Dispose()
            x <- next

        let x =
            match lines with
            | Some lines -> x.index_select (0L, lines)
            | None -> x

        let x = finalNorm x

        let logits =
            match head with
            | [| whole |] -> whole.Apply x
            | parts -> torch.cat (parts |> Array.map (fun part -> part.Apply x), -1L)

        logits.MoveToOuterDisposeScope()

    interface IDisposable with
        member _.Dispose() =
            for thing in Seq.rev owned do
                thing.Dispose()
