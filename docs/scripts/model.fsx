(**
---
title: A model in ten lines
category: Composing
categoryindex: 3
index: 1
---
*)
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"
(**
# A model in ten lines

A decoder is a function made of functions: `embed >> blocks >> norm >> head`. Its weights are named tensors in one flat store.
Build the libraries first, with `dotnet build src.Runner.CSharp -c Release`; then `dotnet fsi docs/scripts/model.fsx` runs this page.
*)
open Hybrid
open TorchSharp

torch.set_num_threads 1
let scope = torch.NewDisposeScope()
(** The ten lines: *)
let vocabulary: Vocabulary = { TextRows = 100; ImageCodes = 64 }
let config = { ModelConfig.openLm 32 2 4 vocabulary.Rows 64 with FeedForwardWidth = 64 }
let store = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config)
Parameters.initialise (Random.ofSeed 1L) store
let rotation = Decoder.rotation config store.Weights 0L 31L
let model: torch.Tensor -> torch.Tensor =
    Decoder.embed config store.Weights
    >> ([ 0 .. config.Layers - 1 ] |> List.map (Decoder.block config store.Weights rotation) |> List.reduce (>>))
    >> Decoder.finalNorm config store.Weights
    >> Decoder.head config store.Weights vocabulary.Rows
(**
Two captioned pictures of 16 codes in 32 positions, of which the last is a target only. What the model says of them is what
`Decoder.logits` says, to the bit.
*)
let batch =
    [|
        for i in 0..1 -> Sequence.compose vocabulary Captioned 32 [| 7 + i; 8; 9 |] [| for k in 0..15 -> 4 * k + i |]
    |]
    |> Sequence.batch vocabulary torch.CPU

let logits = model batch.Inputs
let loss = Loss.score vocabulary batch logits |> Loss.evaluate Loss.total
let same = logits.eq(Decoder.logits config vocabulary.Rows store.Weights batch.Inputs).all().item<bool> ()
printfn $"{Parameters.count store:N0} parameters; logits {Shape.show logits.shape}; the same as Decoder.logits: {same}"
printfn $"loss {loss.Objective.item<float32>() / float32 batch.Count:F4} nats a target"
(*** include-output ***)
(** Whoever opens a scope or makes a store releases it: [composing](../composing.md#lifetimes) has the rules. *)
scope.Dispose()
store.Dispose()
