(**
---
title: Extending a vocabulary
category: Composing
categoryindex: 3
index: 4
---
*)
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"
(**
# Extending a vocabulary

A text model's table grows by the marks and the image codes. What the model said before, it says after, bit for bit.
*)
open System
open Hybrid
open TorchSharp

torch.set_num_threads 1
let scope = torch.NewDisposeScope()
(** A text model of 100 rows, which stands for a pre-trained one: *)
let vocabulary: Vocabulary = { TextRows = 100; ImageCodes = 64 }
let textModel = { ModelConfig.openLm 32 2 4 vocabulary.TextRows 64 with FeedForwardWidth = 64 }
let old = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Stays) (Decoder.parameters textModel)
Parameters.initialise (Random.ofSeed 1L) old
let tokens = Host.int64s [ 2L; 16L ] [| for i in 0L .. 31L -> 37L * i % 100L |]
let before = Decoder.logits textModel vocabulary.TextRows old.Weights tokens
(** The grown model, of which only the new rows move in training: *)
let grown = Extension.grow vocabulary.Rows textModel

let store =
    Decoder.parameters grown
    |> Parameters.allocate Fp32 torch.CPU Parameters.Matrices (Trainable.movement grown vocabulary.TextRows Trainable.NewRowsOnly)

Extension.fill (Random.ofSeed 2L) Extension.MeanOfOld vocabulary.TextRows old.MasterOf store
(** How many of the old logits have the same bits? *)
let bits (logits: torch.Tensor) = logits.contiguous().data<float32>().ToArray() |> Array.map BitConverter.SingleToInt32Bits

let compare (moment: string) =
    use _ = torch.NewDisposeScope()
    let after = Decoder.logits grown vocabulary.Rows store.Weights tokens
    let kept = after.narrow (-1, 0L, vocabulary.TextRows)
    let equal = Array.map2 (=) (bits before) (bits kept) |> Array.filter id |> Array.length
    printfn $"{moment}: {equal:N0} of {before.numel ():N0} old logits have the same bits"

printfn $"{textModel.Rows} rows grow to {grown.Rows}, extended at {grown.ExtendedAt}"
printfn $"{Trainable.describe grown vocabulary.TextRows Trainable.NewRowsOnly}"
compare "extended"
(*** include-output ***)
(** Steps on pictures without captions move the new rows only: *)
let adamW: OptimizerConfig =
    { Betas = 0.9, 0.95; Epsilon = 1e-8; WeightDecay = 0.1; Decay = Parameters.Matrices; ClipNorm = Some 1.0 }

let batch =
    [| for i in 0..3 -> Sequence.compose vocabulary ImageOnly 20 [||] [| for k in 0..15 -> (4 * k + i) % 64 |] |]
    |> Sequence.batch vocabulary torch.CPU

let state = new OptimizerState(store)

let loss (weights: Weights) : LossValue =
    Decoder.logits grown vocabulary.Rows weights batch.Inputs
    |> Loss.score vocabulary batch
    |> Loss.evaluate Loss.total

for _ in 1..20 do
    use _ = torch.NewDisposeScope()
    Step.zero store state
    Step.accumulate store state batch.Count loss |> ignore
    Step.update adamW 1e-2 store state |> ignore

compare "trained"
(*** include-output ***)
scope.Dispose()
state.Dispose()
store.Dispose()
old.Dispose()
