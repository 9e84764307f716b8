(**
---
title: Differentiating a composed function
category: Composing
categoryindex: 3
index: 8
---
*)
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"
(**
# Differentiating a composed function

`Differentiate` has DiffSharp's functions over torch's autograd. They take functions of tensors, and those may be made of derivatives.
*)
open Hybrid
open Hybrid.Differentiate
open TorchSharp

torch.set_num_threads 1
let scope = torch.NewDisposeScope()
let say (name: string) (x: torch.Tensor) = printfn "%s = %s" name (x.npstr "0.000")
(** The logarithm of a sum of exponentials, whose gradient is the softmax p and whose hessian is diag p − p pᵀ: *)
let x = torch.tensor [| 0.5; -1.0; 2.0 |]
let v = torch.tensor [| 1.0; 0.0; -1.0 |]
let f = torch.exp >> torch.sum >> torch.log
let p = x.softmax 0L
say "∇f" (grad f x)
say "p" p
say "∇²f" (hessian f x)
say "p, p pᵀ" ((p.diag ()).sub (p.outer p))
say "∇²f v" (hvp f x v)
(*** include-output ***)
(** A function of many values has a jacobian; `jvp` and `vjp` are products with it that never make it. *)
let g (x: torch.Tensor) = x.exp().cumsum 0L
say "J" (jacobian g x)
say "J v" (jvp g x v)
(*** include-output ***)
(** Derivatives of derivatives: the gradient of the gradient's squared norm is 2 ∇²f ∇f. *)
let steepness (x: torch.Tensor) = (grad f x).square().sum ()
say "∇‖∇f‖²" (grad steepness x)
say "2 ∇²f ∇f" ((hvp f x (grad f x)).mul (Scalars.Of 2.0))
(*** include-output ***)
(**
A model is a function of its weights. How a tiny decoder's loss bends along its own gradient g says how long a step along g may be:
gᵀHg / gᵀg, without the hessian.
*)
let config = { ModelConfig.openLm 32 2 4 100 64 with FeedForwardWidth = 64 }
let store = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config)
Parameters.initialise (Random.ofSeed 1L) store
let tokens = Host.int64s [ 2L; 16L ] [| for i in 0L .. 31L -> 37L * i % 100L |]

let loss (weights: Weights) : torch.Tensor =
    let logits = Decoder.logits config config.Rows weights tokens
    torch.nn.functional.cross_entropy (logits.reshape (-1L, 100L), tokens.reshape -1L)

let names = [ for slot in store.Slots -> slot.Spec.Name ]
let value, slope = valueAndGradOf names loss store.Weights
let bend = hvpOf names loss store.Weights (fun name -> slope[name])
let inner (a: Map<string, torch.Tensor>) (b: Map<string, torch.Tensor>) =
    names |> List.sumBy (fun name -> (a[name].mul b[name]).sum().item<float32> ())

let curvature = inner slope bend / inner slope slope
printfn $"loss {value.item<float32> ():F3}; ‖g‖ {sqrt (inner slope slope):F3}; curvature along g {curvature:F1}, so steps up to about {2.0f / curvature:F3}"
(*** include-output ***)
scope.Dispose()
store.Dispose()
