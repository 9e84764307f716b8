(**
---
title: A new block in five lines
category: Composing
categoryindex: 3
index: 2
---
*)
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"
(**
# A new block in five lines

A block is a function of the hidden states. This one is the decoder's own behind a gate with a parameter for each dimension, which
starts at zero: x + g ⊙ (block x − x). At the start the model is embedding, norm and head alone (ReZero; Bachlechner et al. 2020).
*)
open Hybrid
open TorchSharp

torch.set_num_threads 1
let scope = torch.NewDisposeScope()
let vocabulary: Vocabulary = { TextRows = 100; ImageCodes = 64 }
let config = { ModelConfig.openLm 32 2 4 vocabulary.Rows 64 with FeedForwardWidth = 64 }
let rotation = Layers.rotation config torch.CPU torch.float32 0L 27L
(** The block and its parameters, in five lines: *)
let gates: ParameterSpec list =
    [ for layer in 0 .. config.Layers - 1 -> { Name = $"layers.{layer}.gate"; Shape = [ 32L ]; Init = Zeros } ]
let gated (weights: Weights) (layer: int) (x_BTD: torch.Tensor) : torch.Tensor =
    let change = (Decoder.block config weights rotation layer x_BTD).sub x_BTD
    x_BTD.plus (change.mul (weights $"layers.{layer}.gate"))
(** The model with this block in every layer, and a store that has the gates as well: *)
let model (weights: Weights) : torch.Tensor -> torch.Tensor =
    Decoder.embed config weights
    >> ([ 0 .. config.Layers - 1 ] |> List.map (gated weights) |> List.reduce (>>))
    >> Decoder.finalNorm config weights
    >> Decoder.head config weights vocabulary.Rows

let store =
    Decoder.parameters config @ gates
    |> Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves)

Parameters.initialise (Random.ofSeed 1L) store
(** Some steps on four pictures open the gates. Each step has a scope of its own, so that nothing of it stays. *)
let batch =
    [| for i in 0..3 -> Sequence.compose vocabulary Captioned 28 [| i; 8; 9 |] [| for k in 0..15 -> (4 * k + i) % 64 |] |]
    |> Sequence.batch vocabulary torch.CPU

let adamW: OptimizerConfig =
    { Betas = 0.9, 0.95; Epsilon = 1e-8; WeightDecay = 0.1; Decay = Parameters.Matrices; ClipNorm = Some 1.0 }

let state = new OptimizerState(store)

let step () : float32 =
    use _ = torch.NewDisposeScope()
    Step.zero store state
    let loss weights = model weights batch.Inputs |> Loss.score vocabulary batch |> Loss.evaluate Loss.total
    let parts = Step.accumulate store state batch.Count loss
    Step.update adamW 1e-2 store state |> ignore
    parts.sum().item<float32>() / float32 batch.Count

let losses = [ for _ in 1..30 -> step () ]
let widest = [ for gate in gates -> (store.Weights gate.Name).abs().max().item<float32>() ] |> List.max
printfn $"loss {losses.Head:F2} at the start, {List.last losses:F2} after {losses.Length} steps; the widest gate {widest:F2}"
(*** include-output ***)
scope.Dispose()
state.Dispose()
store.Dispose()
