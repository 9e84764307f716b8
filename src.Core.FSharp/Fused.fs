/// Parts of a decoder whose gradients are written by hand. Autograd would take a narrow, a transpose or a product apart into passes
/// over memory that these leave out; the results are the same up to rounding. Axes: see the legend in Shape.fs.
module Hybrid.Fused

open System
open System.Collections.Generic
open TorchSharp

type private Context = torch.autograd.AutogradContext

// Backward functions hand tensors to native code, which copies the handle after they return; the tensors themselves are released
// one call later. Native calls of one thread follow each other, so the list is per thread.
[<AbstractClass; Sealed>]
type internal Returned private () =
    [<ThreadStatic; DefaultValue>]
    static val mutable private last: torch.Tensor list | null

    static member Keep(gradients: torch.Tensor list, others: int) : List<torch.Tensor> =
        match Returned.last with
        | null -> ()
        | earlier ->
            for tensor in earlier do
                tensor.Dispose()

        Returned.last <- gradients
        List<torch.Tensor>(gradients @ List.replicate others Unchecked.defaultof<_>)

/// Tensors are saved when `forward` has returned: they must outlive its own scope.
let internal save (ctx: Context) (tensors: torch.Tensor list) : unit =
    ctx.save_for_backward (List [ for tensor in tensors -> tensor.alias().MoveToOuterDisposeScope() ])

let private into (operator: string) (overload: string) (arguments: Dispatcher.Argument list) (out: torch.Tensor) : unit =
    for result in Dispatcher.call operator overload (arguments @ [ Dispatcher.Tensor out ]) 1 do
        result.Dispose()

let private half (index: int64) (x: torch.Tensor) =
    let width = x.shape[x.shape.Length - 1] / 2L
    x.narrow (-1, index * width, width)

type private SwiGluGate() =
    inherit torch.autograd.SingleTensorFunction<SwiGluGate>()

    override _.Name = nameof SwiGluGate

    override _.forward(ctx: Context, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let hidden = arguments[0] :?> torch.Tensor
        save ctx [ hidden ]
        torch.nn.functional.silu(half 0L hidden).mul_(half 1L hidden).MoveToOuterDisposeScope()

    override _.backward(ctx: Context, gradient: torch.Tensor) : List<torch.Tensor> =
        use scope = torch.NewDisposeScope()
        // Nothing else lets go of it before the whole backward pass is over.
        use _ = gradient
        let hidden = ctx.get_saved_variables()[0]
        let gate, up = half 0L hidden, half 1L hidden
        let result = torch.empty_like hidden
        let silu = torch.nn.functional.silu gate
        into "aten::mul" "out" [ Dispatcher.Tensor gradient; Dispatcher.Tensor silu ] (half 1L result)
        into "aten::mul" "out" [ Dispatcher.Tensor gradient; Dispatcher.Tensor up ] silu
        into "aten::silu_backward" "grad_input" [ Dispatcher.Tensor silu; Dispatcher.Tensor gate ] (half 0L result)
        Returned.Keep([ result.DetachFromDisposeScope() ], 0)

/// silu(g) · u of [.., g | u]: [.., 2F] to [.., F].
let swiGluGate (hidden: torch.Tensor) : torch.Tensor = SwiGluGate.apply hidden

/// What attention is told beside its input.
[<NoEquality; NoComparison>]
type AttentionPlan =
    {
        Heads: int64
        KeyValueHeads: int64
        HeadWidth: int64
        /// Rotates the queries' and keys' heads [B, T, H + H_kv, C] by cosine and sine tables
        Turn: Rotation -> torch.Tensor -> torch.Tensor
        Rotation: Rotation option
        /// Positions that a query sees, its own included; 0: all before it
        Window: int64
        /// Rows of queries are worked on together up to this many scores
        ScoresAtOnce: int64
        /// Up to this many scores are kept for the backward pass; more are computed again
        ScoresKept: int64
    }

/// One piece of work: query rows [First, First + Count), which see the keys before `First + Count`.
[<Struct>]
type private QueryRows = { First: int64; Count: int64 }

let private rowsOf (scoresAtOnce: int64) (heads: int64) (batch: int64) (length: int64) : QueryRows list =
    let count = max 1L (min length (scoresAtOnce / max 1L (batch * heads * length)))
    [ for first in 0L .. count .. length - 1L -> { First = first; Count = min count (length - first) } ]

/// How many scores each piece of work has when up to `scoresAtOnce` are worked on together.
let internal scores (scoresAtOnce: int64) (heads: int64) (batch: int64) (length: int64) : int64 list =
    [
        for rows in rowsOf scoresAtOnce heads batch length -> batch * heads * rows.Count * (rows.First + rows.Count)
    ]

/// What is added to the scores [rows, keys] of queries at positions `first` and on, of keys at positions 0 and on: 0 where a query sees
/// a key, −∞ elsewhere. A query sees itself and what is before it, the last `window` of them where it is not 0.
let mask (first: int64) (rows: int64) (keys: int64) (window: int64) (like: torch.Tensor) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let hidden () = torch.full ([| rows; keys |], Scalars.Of(-infinity), dtype = like.dtype, device = like.device)
    let mask = hidden().triu_(first + 1L)

    if window > 0L && first + rows > window then
        mask.plus_ (hidden().tril_(first - window)) |> ignore

    mask.MoveToOuterDisposeScope()

/// softmax(q kᵀ / √C + mask) of some rows: [B H_kv, G rows, keys].
let private probabilities (window: int64) (q_NGTC: torch.Tensor) (k_NSC: torch.Tensor) (rows: QueryRows) : torch.Tensor =
    let n, g, c = q_NGTC.shape[0], q_NGTC.shape[1], q_NGTC.shape[3]
    let keys = rows.First + rows.Count
    use scope = torch.NewDisposeScope()
    let q = q_NGTC.narrow(2, rows.First, rows.Count).reshape(n, g * rows.Count, c)
    let mask = (mask rows.First rows.Count keys window q).repeat(g, 1L).unsqueeze(0).expand(n, g * rows.Count, keys)

    // mask + q kᵀ / √C. TorchSharp 0.107 hands the arguments on as (batch1, batch2, input).
    torch
        .baddbmm(q, k_NSC.narrow(1, 0L, keys).transpose(1, 2), mask, 1.0f, 1.0f / sqrt (float32 c))
        .softmax(-1L)
        .MoveToOuterDisposeScope()

/// Heads [B, T, n, C] of queries as [B H_kv, G, T, C], G the queries that share a key.
let private grouped (keyValueHeads: int64) (x_BTHC: torch.Tensor) : torch.Tensor =
    let b, t, h, c = x_BTHC.shape[0], x_BTHC.shape[1], x_BTHC.shape[2], x_BTHC.shape[3]
    let groups = h / keyValueHeads
    x_BTHC.reshape(b, t, keyValueHeads, groups, c).permute(0, 2, 3, 1, 4).reshape(b * keyValueHeads, groups, t, c)

/// The way back: [B, T, n, C].
let private ungrouped (keyValueHeads: int64) (x_NGTC: torch.Tensor) : torch.Tensor =
    let n, g, t, c = x_NGTC.shape[0], x_NGTC.shape[1], x_NGTC.shape[2], x_NGTC.shape[3]
    let b = n / keyValueHeads
    x_NGTC.view(b, keyValueHeads, g, t, c).permute(0, 3, 1, 2, 4).reshape(b, t, keyValueHeads * g, c)

type private CausalAttention() =
    inherit torch.autograd.SingleTensorFunction<CausalAttention>()

    override _.Name = nameof CausalAttention

    override _.forward(ctx: Context, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let joined, plan = arguments[0] :?> torch.Tensor, arguments[1] :?> AttentionPlan
        let b, t = joined.shape[0], joined.shape[1]
        let heads, kv, c = plan.Heads, plan.KeyValueHeads, plan.HeadWidth
        let x = joined.view (b, t, heads + 2L * kv, c)
        let both = x.narrow (2, 0L, heads + kv)

        let turned =
            match plan.Rotation with
            | Some rotation -> plan.Turn rotation both
            | None -> both

        let q = grouped kv (turned.narrow (2, 0L, heads))
        let k = turned.narrow(2, heads, kv).transpose(1, 2).reshape(b * kv, t, c)
        // A view, which this is of one sequence, would keep the queries and keys of before their rotation as well.
        let v = x.narrow(2, heads + kv, kv).transpose(1, 2).reshape(b * kv, t, c).contiguous()
        let keep = b * heads * t * t <= plan.ScoresKept

        let pieces =
            [
                for rows in rowsOf plan.ScoresAtOnce heads b t do
                    let p = probabilities plan.Window q k rows
                    let keys = rows.First + rows.Count
                    let mixed = torch.bmm(p, v.narrow (1, 0L, keys)).view(b * kv, heads / kv, rows.Count, c)

                    if not keep then
                        p.Dispose()

                    p, mixed
            ]

        let mixed =
            match pieces with
            | [ _, whole ] -> whole
            | _ -> torch.cat ([| for _, piece in pieces -> piece |], 2L)

        let tables =
            match plan.Rotation with
            | Some rotation -> [ rotation.Cosine; rotation.Sine ]
            | None -> []

        save ctx (q :: k :: v :: tables @ (if keep then List.map fst pieces else []))
        ctx.save_data ("plan", plan)
        (ungrouped kv mixed).reshape(b, t, heads * c).MoveToOuterDisposeScope()

    override _.backward(ctx: Context, gradient: torch.Tensor) : List<torch.Tensor> =
        use scope = torch.NewDisposeScope()
        // Nothing else lets go of it before the whole backward pass is over.
        use _ = gradient
        let plan = ctx.get_data "plan" :?> AttentionPlan
        let saved = ctx.get_saved_variables ()
        let q, k, v = saved[0], saved[1], saved[2]
        let heads, kv, c = plan.Heads, plan.KeyValueHeads, plan.HeadWidth
        let n, g, t = q.shape[0], q.shape[1], q.shape[2]
        let b = n / kv
        let tables = if plan.Rotation.IsSome then 2 else 0
        let kept = List.ofSeq saved |> List.skip (3 + tables)
        let outer = grouped kv (gradient.reshape (b, t, heads, c))
        let scale = Scalars.Of(1.0 / sqrt (float c))
        let pieces = rowsOf plan.ScoresAtOnce heads b t
        let dq = torch.empty_like q
        // Over several pieces sums are kept in fp32.
        let sums () =
            if pieces.Length = 1 then
                null
            else
                torch.zeros (k.shape, dtype = torch.float32, device = k.device)

        let mutable dk, dv = sums (), sums ()

        for i, rows in List.indexed pieces do
            use scope = torch.NewDisposeScope()
            let keys = rows.First + rows.Count
            let p = if kept.IsEmpty then probabilities plan.Window q k rows else kept[i]
            let some (x: torch.Tensor) = x.narrow(2, rows.First, rows.Count).reshape(n, g * rows.Count, c)
            let rowsOuter = some outer
            let dp = torch.bmm (rowsOuter, v.narrow(1, 0L, keys).transpose(1, 2))

            let ds =
                Dispatcher.call
                    "aten::_softmax_backward_data"
                    ""
                    [ Dispatcher.Tensor dp; Dispatcher.Tensor p; Dispatcher.Integer -1L; Dispatcher.Integer(int64 (int p.dtype)) ]
                    1
                |> List.head

            dq.narrow(2, rows.First, rows.Count).copy_(torch.bmm(ds, k.narrow (1, 0L, keys)).view(n, g, rows.Count, c))
            |> ignore

            let keyPart = torch.bmm (ds.transpose (1, 2), some q)
            let valuePart = torch.bmm (p.transpose (1, 2), rowsOuter)

            match dk, dv with
            | null, _
            | _, null ->
                dk <- scope.MoveToOuter keyPart
                dv <- scope.MoveToOuter valuePart
            | dk, dv ->
                dk.narrow(1, 0L, keys).plus_ keyPart |> ignore
                dv.narrow(1, 0L, keys).plus_ valuePart |> ignore

        let flat (x: torch.Tensor | null) = (nonNull x).view(b, kv, t, c).transpose(1, 2)
        let result = torch.empty ([| b; t; heads + 2L * kv; c |], dtype = gradient.dtype, device = gradient.device)
        let both = result.narrow (2, 0L, heads + kv)
        both.narrow(2, 0L, heads).copy_(ungrouped kv (dq.mul_ scale)) |> ignore
        both.narrow(2, heads, kv).copy_(flat ((nonNull dk).mul_ scale)) |> ignore
        result.narrow(2, heads + kv, kv).copy_(flat dv) |> ignore

        if tables > 0 then
            // The transpose of a rotation is the rotation back.
            both.copy_ (plan.Turn { Cosine = saved[3]; Sine = saved[4].neg() } both) |> ignore

        Returned.Keep([ (result.view (b, t, -1L)).DetachFromDisposeScope() ], 1)

/// Causal self-attention of joined queries, keys and values [B, T, (H + 2 H_kv) C], rotated as the plan says: [B, T, H C].
let causalAttention (plan: AttentionPlan) (joined: torch.Tensor) : torch.Tensor = CausalAttention.apply (joined, plan)
