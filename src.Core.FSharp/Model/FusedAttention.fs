/// Causal attention with its gradient written by hand: rows of queries are worked on a bounded number of scores at a time. Axes: see
/// the legend in Shape.fs.
module Hybrid.FusedAttention

open System
open System.Collections.Generic
open TorchSharp
open Hybrid.Fused

type private Context = torch.autograd.AutogradContext

/// What attention is told beside its input.
[<NoEquality; NoComparison>]
type AttentionPlan =
    {
        /// H, query heads
        Heads: int64
        /// H_kv, which divides H
        KeyValueHeads: int64
        /// C
        HeadWidth: int64
        /// Rotates the queries' and keys' heads [B, T, H + H_kv, C] by cosine and sine tables
        Turn: Rotation -> torch.Tensor -> torch.Tensor
        /// Tables for all positions; none where nothing rotates
        Rotation: Rotation option
        /// `Turn` turns adjacent pairs, not halves
        Interleaved: bool
        /// Positions that a query sees, its own included; 0: all before it
        Window: int64
        /// Rows of queries are worked on together up to this many scores
        ScoresAtOnce: int64
        /// Up to this many scores are kept for the backward pass; more are computed again
        ScoresKept: int64
        /// Where the positions of packed rows stand
        Rows: PackedRows option
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
    let k = k_NSC.narrow(1, 0L, keys).transpose(1, 2)

    if Kernels.takes q then
        let scores = torch.bmm (q, k)
        AttentionKernels.softmax rows.First rows.Count window (1.0 / sqrt (float c)) scores
        scores.MoveToOuterDisposeScope()
    else
        let mask = (mask rows.First rows.Count keys window q).repeat(g, 1L).unsqueeze(0).expand(n, g * rows.Count, keys)

        // mask + q kᵀ / √C. TorchSharp 0.107 hands the arguments on as (batch1, batch2, input).
        torch.baddbmm(q, k, mask, 1.0f, 1.0f / sqrt (float32 c)).softmax(-1L).MoveToOuterDisposeScope()

/// The gradient of the scores q kᵀ from that of their softmax; may take the memory of `outer`.
let private scoresGradient (window: int64) (c: int64) (rows: QueryRows) (p: torch.Tensor) (outer: torch.Tensor) : torch.Tensor =
    if Kernels.takes p && Kernels.takes outer then
        AttentionKernels.softmaxGradient rows.First rows.Count window (1.0 / sqrt (float c)) p outer
        outer
    else
        let gradient =
            Dispatcher.call
                "aten::_softmax_backward_data"
                ""
                [
                    Dispatcher.Tensor outer
                    Dispatcher.Tensor p
                    Dispatcher.Integer -1L
                    Dispatcher.Integer(int64 (int p.dtype))
                ]
                1
            |> List.head

        gradient.mul_ (Scalars.Of(1.0 / sqrt (float c)))

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

/// Cosine and sine as the passes over heads take them, fp32 [T, R]; none for a rotation that they do not know.
let private tables (plan: AttentionPlan) (rotation: Rotation option) : (torch.Tensor * torch.Tensor) option =
    let flat (x: torch.Tensor) = x.``to``(torch.float32).flatten(1L).contiguous()

    match rotation with
    | None -> Some(torch.zeros (0L, 0L), torch.zeros (0L, 0L))
    | Some _ when plan.Interleaved -> None
    | Some rotation -> Some(flat rotation.Cosine, flat rotation.Sine)

let private headsOf (plan: AttentionPlan) (b: int64) (t: int64) : AttentionKernels.Heads =
    {
        Batch = int b
        Length = int t
        KeyValueHeads = int plan.KeyValueHeads
        Groups = int (plan.Heads / plan.KeyValueHeads)
        Width = int plan.HeadWidth
    }

/// Rotated queries [B H_kv, G, T, C], rotated keys and values [B H_kv, T, C] of joined ones [B, T, (H + 2 H_kv) C].
let private takeApart (plan: AttentionPlan) (joined: torch.Tensor) : torch.Tensor * torch.Tensor * torch.Tensor =
    let b, t = joined.shape[0], joined.shape[1]
    let heads, kv, c = plan.Heads, plan.KeyValueHeads, plan.HeadWidth

    match (if Kernels.takes joined then tables plan plan.Rotation else None) with
    | Some tables ->
        let memory (shape: int64[]) = torch.empty (shape, dtype = joined.dtype)
        let q, k, v = memory [| b * kv; heads / kv; t; c |], memory [| b * kv; t; c |], memory [| b * kv; t; c |]
        AttentionKernels.takeApart (headsOf plan b t) tables joined q k v
        q, k, v
    | None ->
        let x = joined.view (b, t, heads + 2L * kv, c)
        let both = x.narrow (2, 0L, heads + kv)

        let turned =
            match plan.Rotation with
            | Some rotation -> plan.Turn rotation both
            | None -> both

        // Contiguous: a view, which this is of one sequence, would keep the queries and keys of before their rotation as well.
        let flat (x: torch.Tensor) = x.transpose(1, 2).reshape(b * kv, t, c).contiguous()
        grouped kv (turned.narrow (2, 0L, heads)), flat (turned.narrow (2, heads, kv)), flat (x.narrow (2, heads + kv, kv))

/// The gradient of `takeApart`: [B, T, (H + 2 H_kv) C].
let private putTogether
    (plan: AttentionPlan)
    (rotation: Rotation option)
    (dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor)
    : torch.Tensor =
    let kv, c = plan.KeyValueHeads, plan.HeadWidth
    let heads, t = plan.Heads, dq.shape[2]
    let b = dq.shape[0] / kv
    let result = torch.empty ([| b; t; heads + 2L * kv; c |], dtype = dq.dtype, device = dq.device)

    match (if Kernels.takes dq then tables plan rotation else None) with
    | Some tables ->
        let like (x: torch.Tensor) = x.``to``(dq.dtype).contiguous()
        AttentionKernels.putTogether (headsOf plan b t) tables dq (like dk) (like dv) result
    | None ->
        let flat (x: torch.Tensor) = x.view(b, kv, t, c).transpose(1, 2)
        let both = result.narrow (2, 0L, heads + kv)
        both.narrow(2, 0L, heads).copy_(ungrouped kv dq) |> ignore
        both.narrow(2, heads, kv).copy_(flat dk) |> ignore
        result.narrow(2, heads + kv, kv).copy_(flat dv) |> ignore

        match rotation with
        // The transpose of a rotation is the rotation back.
        | Some rotation -> both.copy_ (plan.Turn { rotation with Sine = rotation.Sine.neg () } both) |> ignore
        | None -> ()

    result.view (b, t, -1L)

type private CausalAttention() =
    inherit torch.autograd.SingleTensorFunction<CausalAttention>()

    override _.Name = nameof CausalAttention

    override _.forward(ctx: Context, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let plan = arguments[1] :?> AttentionPlan
        let given = arguments[0] :?> torch.Tensor
        let joined = plan.Rows |> Option.fold (fun x rows -> spread rows x) given
        let b, t = joined.shape[0], joined.shape[1]
        let heads, kv, c = plan.Heads, plan.KeyValueHeads, plan.HeadWidth
        let q, k, v = takeApart plan joined
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

        let places =
            match plan.Rows with
            | Some rows -> [ rows.Places; rows.Sources ]
            | None -> []

        save ctx (q :: k :: v :: tables @ places @ (if keep then List.map fst pieces else []))
        ctx.save_data ("plan", plan)
        let mixed = (ungrouped kv mixed).reshape(b, t, heads * c)
        (plan.Rows |> Option.fold (fun x rows -> gather rows x) mixed).MoveToOuterDisposeScope()

    /// The gradient of the joined tensor; the caller has a scope.
    static member private Joined(ctx: Context, gradient: torch.Tensor) : torch.Tensor =
        let plan = ctx.get_data "plan" :?> AttentionPlan
        let saved = ctx.get_saved_variables ()
        let q, k, v = saved[0], saved[1], saved[2]
        let heads, kv, c = plan.Heads, plan.KeyValueHeads, plan.HeadWidth
        let n, g, t = q.shape[0], q.shape[1], q.shape[2]
        let b = n / kv
        let tables = if plan.Rotation.IsSome then 2 else 0

        let rows =
            plan.Rows |> Option.map (fun rows -> { rows with Places = saved[3 + tables]; Sources = saved[4 + tables] })

        let kept = List.ofSeq saved |> List.skip (3 + tables + (if rows.IsSome then 2 else 0))
        let outer = rows |> Option.fold (fun x rows -> spread rows x) gradient
        let outer = grouped kv (outer.reshape (b, t, heads, c))
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

            let ds = scoresGradient plan.Window c rows p dp

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

        let rotation = if tables > 0 then Some { Cosine = saved[3]; Sine = saved[4] } else None
        let result = putTogether plan rotation (dq, nonNull dk, nonNull dv)
        rows |> Option.fold (fun x rows -> gather rows x) result

    override _.backward(ctx: Context, gradient: torch.Tensor) : List<torch.Tensor> =
        Returned.Of(gradient, 1, 1, fun () -> [ CausalAttention.Joined(ctx, gradient) ])

/// Causal self-attention of joined queries, keys and values [B, T, (H + 2 H_kv) C], rotated as the plan says: [B, T, H C]. Of packed
/// rows [N, (H + 2 H_kv) C]: [N, H C].
let causalAttention (plan: AttentionPlan) (joined: torch.Tensor) : torch.Tensor = CausalAttention.apply (joined, plan)
