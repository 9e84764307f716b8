(**
---
title: World's twins
category: Composing
categoryindex: 3
index: 7
---
*)
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/ScottPlot.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/SkiaSharp.dll"
(**
# World's twins

The paper's experiment, small enough for a minute: a language model learns World's text, its table is extended, and it learns
captioned scenes beside a twin that starts from random weights. `dotnet fsi docs/scripts/twins.fsx twins.png` says where the plot goes.
*)
open System.IO
open Hybrid
open TorchSharp

torch.set_num_threads 1
(** World's text as one stream of words, cut into rows; and its scenes, with the 64 codes of a picture that stand for words. *)
let words: Vocabulary = { TextRows = WorldVocabulary.words.Length; ImageCodes = 0 }
let vocabulary = { words with ImageCodes = WorldWords.words.Length }

let texts =
    Seq.initInfinite (fun i -> World.document 1L Split.Train (int64 i))
    |> Seq.collect (fun text -> Array.append (WorldVocabulary.encode text) [| WorldVocabulary.endId |])
    |> Seq.map int64
    |> Seq.chunkBySize 64

let scenes =
    Seq.initInfinite (fun i -> World.scene 1L Split.Train (int64 i))
    |> Seq.map (fun struct (caption, scene) ->
        Sequence.compose vocabulary Captioned 96 (WorldVocabulary.encode caption) (WorldWords.encode scene))
(** Each step sees eight new sequences, so its loss is one on what the model has not seen. *)
let adamW: OptimizerConfig =
    { Betas = 0.9, 0.95; Epsilon = 1e-8; WeightDecay = 0.1; Decay = Parameters.Matrices; ClipNorm = Some 1.0 }

let train (vocabulary: Vocabulary) (config: ModelConfig) (store: ParameterStore) (steps: int) (sequences: int64[] seq) =
    use state = new OptimizerState(store)
    let schedule = { Kind = Cosine; Peak = 1e-2; Minimum = 1e-3; WarmupSteps = 5; Steps = steps }

    [|
        for step, rows in sequences |> Seq.chunkBySize 8 |> Seq.take steps |> Seq.indexed do
            use _ = torch.NewDisposeScope()
            let batch = Sequence.batch vocabulary torch.CPU rows
            let loss weights =
                Decoder.hiddenOf config weights batch |> HeadLoss.evaluate Loss.total config vocabulary weights batch

            Step.zero store state
            let parts = Step.accumulate store state batch.Count loss
            Step.update adamW (Schedule.rate schedule step) store state |> ignore
            Array.map2 (fun sum count -> float sum / float (max 1L count)) (parts.data<float32>().ToArray()) batch.Counts
    |]
(** Pre-training, and the twins: the same architecture, data and new rows; one has the language model's weights. *)
let textModel = { ModelConfig.openLm 48 2 4 words.Rows 96 with FeedForwardWidth = 96 }
let grown = Extension.grow vocabulary.Rows textModel
let allocate config =
    Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config)

let pretrained, twin, random = allocate textModel, allocate grown, allocate grown
Parameters.initialise (Random.ofSeed 1L) pretrained
let reading = train words textModel pretrained 120 texts
Extension.fill (Random.ofSeed 2L) Extension.OpenLmNormal words.Rows pretrained.MasterOf twin
Parameters.initialise (Random.ofSeed 2L) random
let runs = [ "pre-trained", train vocabulary grown twin 60 scenes; "random", train vocabulary grown random 60 scenes ]

printfn $"text: {reading[0][0]:F2} nats a word at the start, {(Array.last reading)[0]:F2} after {reading.Length} steps"

for name, losses in runs do
    let mean kind (part: float[][]) = part |> Array.averageBy (Array.item kind)
    printfn $"{name,-12} captions {mean 0 losses[..9]:F2} nats in the first ten steps, {mean 0 losses[50..]:F2} in the last; codes {mean 1 losses[..9]:F2} and {mean 1 losses[50..]:F2}"
(*** include-output ***)
(** The curves, smoothed as the report smooths its own: *)
let plot = new ScottPlot.Plot()

for name, losses in runs do
    for kind, part in [ 0, "captions"; 1, "codes" ] do
        let smooth = losses |> Array.map (Array.item kind) |> Statistics.ema 0.8
        let line = plot.Add.ScatterLine(Array.init smooth.Length float, smooth)
        line.LegendText <- $"{name}, {part}"

plot.XLabel "step"
plot.YLabel "nats a token"
plot.ShowLegend ScottPlot.Alignment.UpperRight |> ignore

let file =
    match fsi.CommandLineArgs with
    | [| _; path |] -> path
    | _ -> Path.Combine(Path.GetTempPath(), "twins.png")

plot.SavePng(file, 720, 440) |> ignore
printfn $"the curves are in {file}"
plot.Dispose()
pretrained.Dispose()
twin.Dispose()
random.Dispose()
