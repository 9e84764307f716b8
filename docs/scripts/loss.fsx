(**
---
title: A new loss part in five lines
category: Composing
categoryindex: 3
index: 3
---
*)
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"
(**
# A new loss part in five lines

An objective is a sum of weighted terms, and a term is a value for each target. Here one is put together from parts, gets a term of its
own, and is minimised for a few steps.
*)
open Hybrid
open TorchSharp

torch.set_num_threads 1
let scope = torch.NewDisposeScope()
(** Hard targets count more: (1 − p)² · −log p (Lin et al. 2017). It is 0 where a target is ignored, as a term must be. *)
let focal: Objective =
    Loss.perTarget "focal" (fun scored ->
        let p = scored.CrossEntropy.neg().exp ()
        p.neg().plus(1.0).square().mul scored.CrossEntropy)
(** Terms add, and weights multiply: *)
let objective =
    Loss.text + Loss.image + Loss.structure + (focal |> Loss.weighted 0.5) + (Loss.zLoss |> Loss.weighted 1e-4)
(** A model, and eight sequences of random captions and codes that are the same in each step: they can only be learned by heart. *)
let vocabulary: Vocabulary = { TextRows = 100; ImageCodes = 64 }
let config = { ModelConfig.openLm 32 2 4 vocabulary.Rows 64 with FeedForwardWidth = 64 }
let store = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config)
Parameters.initialise (Random.ofSeed 1L) store

let batch =
    [|
        for i in 0L .. 7L do
            let stream = Random.ofSeed 2L |> Random.numbered i
            let caption = Array.init 4 (fun k -> Random.below vocabulary.TextRows stream (int64 k))
            let codes = Array.init 16 (fun k -> Random.below vocabulary.ImageCodes stream (int64 (100 + k)))
            Sequence.compose vocabulary Captioned 28 caption codes
    |]
    |> Sequence.batch vocabulary torch.CPU
(** A step adds up gradients of sums, divides once by the number of targets, clips and updates. *)
let adamW: OptimizerConfig =
    { Betas = 0.9, 0.95; Epsilon = 1e-8; WeightDecay = 0.1; Decay = Parameters.Matrices; ClipNorm = Some 1.0 }

let schedule = { Kind = Cosine; Peak = 1e-2; Minimum = 1e-3; WarmupSteps = 5; Steps = 60 }
let state = new OptimizerState(store)

let loss (weights: Weights) : LossValue =
    Decoder.logits config vocabulary.Rows weights batch.Inputs
    |> Loss.score vocabulary batch
    |> Loss.evaluate objective

for step in 0 .. schedule.Steps - 1 do
    use _ = torch.NewDisposeScope()
    Step.zero store state
    let parts = Step.accumulate store state batch.Count loss
    let norm = Step.update adamW (Schedule.rate schedule step) store state

    if step % 10 = 0 || step = schedule.Steps - 1 then
        let sums = parts.data<float32>().ToArray()
        let means = [ for kind in 0..2 -> sums[kind] / float32 batch.Counts[kind] ]
        let total = Array.sum sums / float32 batch.Count
        printfn $"step {step, 2}: total {total:F3} = text {means[0]:F3}, image {means[1]:F3}, structure {means[2]:F3} nats; gradient {norm.item<float32>():F2}"
(*** include-output ***)
scope.Dispose()
state.Dispose()
store.Dispose()
