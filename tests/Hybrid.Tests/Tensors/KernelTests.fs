module Hybrid.Tests.KernelTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

// The passes work in bf16 with fp32 arithmetic: they are held against torch's operators over the same bf16 numbers in fp64.

/// Numbers of bf16.
let private drawn (seed: int) (deviation: float) (shape: int64 list) : torch.Tensor =
    let stream = Random.ofSeed (int64 seed) |> Random.named "kernels"

    let values =
        Array.init (int (List.fold (*) 1L shape)) (fun i -> float32 (deviation * (2.0 * Random.uniform stream (int64 i) - 1.0)))

    (Host.floats shape values).``to`` torch.bfloat16

let private wide (x: torch.Tensor) = x.``to`` torch.float64

/// That a result is what was expected, up to one rounding to bf16 and what sums leave.
let private close (name: string) (expected: torch.Tensor) (actual: torch.Tensor) =
    Expect.equal (List.ofArray actual.shape) (List.ofArray expected.shape) $"shape of {name}"
    let allowed = expected.abs().mul(Scalars.Of 0.0041).plus_ 2e-5
    let excess = ((wide actual).sub expected).abs().sub(allowed).max().``to``(torch.float64).data<float>().[0L]
    Expect.isLessThan excess 0.0 name

/// Runs a property in a scope of its own, without autograd.
let private alone (name: string) (check: int -> int -> int -> unit) =
    property2 name (1, 9) (1, 70) (fun seed a b ->
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        check (int (abs seed % 1_000_000L)) a b)

let private gates =
    alone "the gate and its gradient are those of silu(g) · u" (fun seed rows width ->
        let n, f = int64 rows, int64 width
        let hidden, outer = drawn seed 8.0 [ n; 2L * f ], drawn (seed + 1) 2.0 [ n; f ]
        let result, gradient = torch.empty_like outer, torch.empty_like hidden
        Expect.isTrue (Kernels.takes hidden) "taken"
        Kernels.gate hidden result
        Kernels.gateGradient hidden outer gradient
        use _ = torch.enable_grad ()
        let x = (wide hidden).detach()
        x.requires_grad <- true
        let y = torch.nn.functional.silu(x.narrow (1, 0L, f)).mul(x.narrow (1, f, f))
        close "gate" (y.detach ()) result
        y.backward (List.toArray [ wide outer ])
        close "gradient" (nonNull x.grad) gradient)

let private softmaxes =
    alone "attention's softmax sees what the mask lets it, and so does its gradient" (fun seed groups keys ->
        let g, s = int64 groups, int64 keys
        let first = int64 (abs (seed % keys))
        let queries = s - first
        let window = if seed % 3 = 0 then int64 (1 + abs seed % keys) else 0L
        let scores = drawn seed 6.0 [ 2L; g * queries; s ]
        let outer = drawn (seed + 1) 2.0 [ 2L; g * queries; s ]
        let mask = (wide (FusedAttention.mask first queries s window (torch.zeros (1L)))).repeat(g, 1L)
        use _ = torch.enable_grad ()
        let x = (wide scores).detach()
        x.requires_grad <- true
        let y = x.mul(Scalars.Of 0.3).plus(mask).softmax(-1L)
        let p = scores.clone ()
        AttentionKernels.softmax first queries window 0.3 p
        close "softmax" (y.detach ()) p
        // The gradient of the numbers that were rounded to bf16.
        let rounded = wide p
        let expected = rounded.mul((wide outer).sub((rounded.mul (wide outer)).sum(-1L, true))).mul(Scalars.Of 0.3)
        AttentionKernels.softmaxGradient first queries window 0.3 p outer
        close "gradient" expected outer)

let private heads =
    alone "heads come apart rotated, and the way back is the gradient" (fun seed length half ->
        let kv, groups = 1L + int64 (abs seed % 2), 1L + int64 (abs seed / 2 % 3)
        let b, t, pairs = 2L, int64 length, int64 (half % 24 + 1)
        let c = 2L * pairs + int64 (abs seed % 5)
        let rotating = if seed % 4 = 0 then 0L else 2L * pairs
        let joined = drawn seed 3.0 [ b; t; (kv * groups + 2L * kv) * c ]
        let angles = (drawn (seed + 1) 3.0 [ t; pairs ]).``to`` torch.float32
        let table (x: torch.Tensor) = if rotating = 0L then torch.zeros (t, 0L) else torch.cat([| x; x |], 1L).contiguous()
        let cosine, sine = table (angles.cos ()), table (angles.sin ())

        let shape: AttentionKernels.Heads =
            { Batch = int b; Length = int t; KeyValueHeads = int kv; Groups = int groups; Width = int c }

        let memory (shape: int64 list) = torch.zeros (List.toArray shape, dtype = torch.bfloat16)
        let q, k, v = memory [ b * kv; groups; t; c ], memory [ b * kv; t; c ], memory [ b * kv; t; c ]
        AttentionKernels.takeApart shape (cosine, sine) joined q k v
        use _ = torch.enable_grad ()
        let x = (wide joined).detach()
        x.requires_grad <- true
        let all = x.view (b, t, kv * groups + 2L * kv, c)

        let turn (h: torch.Tensor) =
            if rotating = 0L then
                h
            else
                let x1, x2 = h.narrow (-1, 0L, pairs), h.narrow (-1, pairs, pairs)
                let rest = h.narrow (-1, rotating, c - rotating)
                let cos, sin = (wide cosine).narrow(1, 0L, pairs).unsqueeze(1L), (wide sine).narrow(1, 0L, pairs).unsqueeze(1L)
                torch.cat ([| x1.mul(cos).sub(x2.mul sin); x2.mul(cos).plus(x1.mul sin); rest |], -1L)

        let apart (h: torch.Tensor) = h.transpose(1, 2).reshape(b * kv, -1L, t, c)
        let queries = apart (turn (all.narrow (2, 0L, kv * groups)))
        let keys = (apart (turn (all.narrow (2, kv * groups, kv)))).squeeze(1L)
        let values = (apart (all.narrow (2, kv * groups + kv, kv))).squeeze(1L)
        close "queries" (queries.detach ()) q
        close "keys" (keys.detach ()) k
        close "values" (values.detach ()) v
        let outer = [ for i, like in List.indexed [ q; k; v ] -> drawn (seed + 2 + i) 2.0 (List.ofArray like.shape) ]
        let result = torch.empty_like joined
        AttentionKernels.putTogether shape (cosine, sine) outer[0] outer[1] outer[2] result

        let through =
            List.map2 (fun (y: torch.Tensor) (g: torch.Tensor) -> y.mul(wide g).sum()) [ queries; keys; values ] outer

        (torch.stack (List.toArray through)).sum().backward()
        close "gradient" (nonNull x.grad) result)

let private crossEntropies =
    alone "the head's pass gives −log p, the objective and its gradient" (fun seed rows width ->
        let n, v = int64 rows, int64 width
        let logits = drawn seed 9.0 [ n; v ]
        let targets = torch.tensor ([| for i in 0 .. rows - 1 -> int64 ((abs (seed % 1000) + 7 * i) % width) |])
        let weights = (drawn (seed + 1) 1.0 [ n ]).abs().``to`` torch.float32

        let z =
            if seed % 2 = 0 then
                None
            else
                Some((drawn (seed + 2) 0.01 [ n ]).abs().``to`` torch.float32)

        use _ = torch.enable_grad ()
        let x = (wide logits).detach()
        x.requires_grad <- true
        let logSum = x.logsumexp (1L)
        let losses = logSum.sub (x.gather(1L, targets.unsqueeze 1L).squeeze 1L)

        let terms =
            [
                losses.mul(wide weights).sum()
                match z with
                | Some z -> logSum.square().mul(wide z).sum()
                | None -> ()
            ]

        let objective = torch.stack(List.toArray terms).sum()
        let found = torch.zeros ([| n |], dtype = torch.float32)
        let value = Kernels.crossEntropy logits targets weights z found
        close "−log p" (losses.detach ()) found
        // Where the model is sure, −log p is a difference of nearly equal numbers, right to the rounding of these.
        let rounding = { Accuracy.medium with absolute = 1e-5 }
        Expect.floatClose rounding value (objective.data<float>().[0L]) "objective"
        objective.backward ()
        // The target's slope is a difference of nearly equal numbers where the model is sure.
        close "gradient" (nonNull x.grad) logits)

let private norms =
    alone "norms and their gradients are torch's" (fun seed rows width ->
        let n, d = int64 rows, int64 width
        let x, outer = drawn seed 3.0 [ n; d ], drawn (seed + 1) 2.0 [ n; d ]
        let weight, bias = drawn (seed + 2) 1.5 [ d ], drawn (seed + 3) 1.0 [ d ]

        for centred, biased in [ true, true; true, false; false, false ] do
            use _ = torch.enable_grad ()

            let leaf (t: torch.Tensor) (precise: bool) =
                let t = (if precise then wide t else t).detach().clone()
                t.requires_grad <- true
                t

            let run (precise: bool) (norm: torch.Tensor -> torch.Tensor -> torch.Tensor option -> torch.Tensor) =
                let x, w, b = leaf x precise, leaf weight precise, leaf bias precise
                let y = norm x w (if biased then Some b else None)
                y.backward (List.toArray [ (if precise then wide outer else outer) ])

                [
                    y.detach ()
                    nonNull x.grad
                    nonNull w.grad
                    if biased then
                        nonNull b.grad
                ]

            let expected =
                run true (fun x w b ->
                    let mean = if centred then x.mean ([| -1L |], true) else x.new_zeros [| 1L |]
                    let y = x.sub mean
                    let y = y.div (y.square().mean([| -1L |], true).plus(1e-2).sqrt())
                    let y = y.mul w
                    b |> Option.fold (fun y b -> y.plus b) y)

            let found = run false (fun x w b -> Fused.norm centred 1e-2 w b x)
            let spread = float rows

            for name, expected, found in
                List.zip3 ([ "norm"; "gradient"; "weight"; "bias" ] |> List.take expected.Length) expected found do
                // Sums over rows cancel: their rounding is that of their terms.
                let allowed = expected.abs().mul(Scalars.Of 0.0041).plus_(2e-4 * spread)
                let excess = ((wide found).sub expected).abs().sub(allowed).max().data<float>().[0L]
                Expect.isLessThan excess 0.0 $"{name}, centred {centred}, biased {biased}")

let private refusals =
    testCase "what torch would share among threads, or is no bf16 without gaps, is left to torch" (fun () ->
        use _ = torch.NewDisposeScope()
        let taken = drawn 1 1.0 [ 4L; 6L ]
        Expect.isTrue (Kernels.takes taken) "taken"
        Expect.isFalse (Kernels.takes (taken.t ())) "gaps"
        Expect.isFalse (Kernels.takes (taken.``to`` torch.float32)) "fp32")

let private notNumbers =
    testCase "NaN and infinity come through" (fun () ->
        use _ = torch.NewDisposeScope()

        for bad in [ nan; infinity ] do
            for place in [ 0L; 18L ] do
                let spoilt (shape: int64 list) =
                    let x = drawn 3 1.0 shape
                    x.view(-1L).narrow(0, place, 1L).fill_(Scalars.Of bad) |> ignore
                    x

                let scores = spoilt [ 1L; 1L; 19L ]
                AttentionKernels.softmax 18L 1L 0L 1.0 scores
                Expect.isTrue (scores.isnan().any().data<bool>().[0L]) "softmax"
                let logits = spoilt [ 1L; 19L ]
                let one = torch.ones ([| 1L |], dtype = torch.float32)
                let value = Kernels.crossEntropy logits (torch.zeros ([| 1L |], dtype = torch.int64)) one None one
                Expect.isFalse (Double.IsFinite value) "cross-entropy"
                Expect.isTrue (logits.isnan().any().data<bool>().[0L]) "its gradient")

let tests = testList "Kernels" [ gates; softmaxes; heads; crossEntropies; norms; refusals; notNumbers ]
