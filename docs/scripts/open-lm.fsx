(**
---
title: Weights of open_lm
category: Composing
categoryindex: 3
index: 6
---
*)
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/hybrid.dll"
(**
# Weights of open_lm

`ModelFiles.Open` takes what `hybrid --model` takes: a run or checkpoint, a Hugging Face directory, or a file of weights with its
description. `dotnet fsi docs/scripts/open-lm.fsx epoch_1.pt model.json` asks a model of yours; without a path, a tiny one is written first.
*)
open System.IO
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open TorchSharp

let scope = torch.NewDisposeScope()
(** A model with random weights, as open_lm saves one: *)
let write (folder: string) : string * string =
    let config = ModelConfig.openLm 32 2 4 128 64
    use store = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Stays) (Decoder.parameters config)
    Parameters.initialise (Random.ofSeed 1L) store
    let weights, description = Path.Combine(folder, "epoch_1.pt"), Path.Combine(folder, "model.json")

    let tensors =
        [| for slot in store.Slots ->
            let spec = slot.Spec
            TensorSource(spec.Name, torch.float32, List.toArray spec.Shape, fun () -> store.MasterOf spec.Name) |]

    TorchWriter.Write(weights, 1L, "tiny", tensors, [||])
    File.WriteAllText(description, Exports.OpenLm(config, { TextRows = config.Rows; ImageCodes = 0 }).Json)
    weights, description
(** The model that is asked, and the likeliest tokens after five: *)
let weights, description =
    match fsi.CommandLineArgs with
    | [| _; weights; description |] -> weights, description
    | _ -> write (Directory.CreateTempSubdirectory("open_lm").FullName)

let file = ModelFiles.Open(weights, description)
let model = file.Open(Layout(Frozen = true))
let tokens = Host.int64s [ 1L; 5L ] [| 1L; 2L; 3L; 4L; 5L |]
let logits = model.Logits tokens
let struct (logP, ids) = logits.select(1, -1L).log_softmax(-1L).topk 5
printfn $"{file.Kind}: {Architecture.Describe model.Config}"
printfn $"logits {Shape.show logits.shape}"

for id, logP in Array.zip (ids.data<int64>().ToArray()) (logP.data<float32>().ToArray()) do
    printfn $"token {id}: {exp logP:P2}"
(*** include-output ***)
scope.Dispose()
model.Dispose()
file.Dispose()
