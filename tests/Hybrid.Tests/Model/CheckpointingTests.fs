module Hybrid.Tests.CheckpointingTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

let private choices = Checkpointing.names |> List.map snd

let private loss
    (checkpointing: Checkpointing)
    (config: ModelConfig)
    (v: Vocabulary)
    (batch: Batch)
    (weights: Weights)
    : LossValue =
    Decoder.hiddenBy { Decoder.plainPass with Checkpointing = checkpointing } config weights batch
    |> HeadLoss.evaluate Loss.total config v weights batch

/// The parts of the loss and the gradients of what moves, where each choice starts from the same weights.
let private results (seed: int64) (precision: Precision) movement (config: ModelConfig) (v: Vocabulary) (batches: Batch list) =
    [
        for checkpointing in choices do
            use store = storeWith precision Parameters.Matrices movement (Decoder.parameters config) seed
            use state = new OptimizerState(store)
            Step.zero store state

            let parts =
                batches
                |> List.map (fun batch -> Step.accumulate store state batch.Count (loss checkpointing config v batch) |> values)
                |> List.reduce (Array.map2 (+))

            checkpointing, parts, values state.Gradient
    ]

let private same (what: string) (tolerance: float) (found: (Checkpointing * float[] * float[]) list) =
    let _, parts, gradient = found.Head
    Expect.exists parts (fun x -> x > 0.0) $"{what}: a loss"

    for checkpointing, otherParts, other in found.Tail do
        let what = $"{what}, {Checkpointing.name checkpointing}"
        closeAsVectors tolerance $"{what}: loss" parts otherParts
        closeAsVectors tolerance $"{what}: gradients" gradient other

let tests =
    testList
        "Checkpointing"
        [
            property "loss and gradients do not depend on what is kept" (fun seed ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let config = config chooser v.Rows
                let batches = [ for _ in 1 .. chooser.Int(1, 2) -> batch chooser v (chooser.Int(1, 3)) (chooser.Int(14, 20)) ]
                same $"%A{config}" 1e-5 (results seed Fp32 (fun _ -> Moves) config v batches))

            property "nor with any parts frozen" (fun seed ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let config = config chooser v.Rows
                let batches = [ batch chooser v 2 16 ]
                let oldRows = max 1 (v.Rows / 2)
                let preset = chooser.Of Trainable.presets

                same
                    $"{fst preset} of %A{config}"
                    1e-5
                    (results seed Fp32 (Trainable.movement config oldRows (snd preset)) config v batches)

                // Any set of parameters, such as the second block's alone, and no embeddings: the first block's input has no graph.
                let moving =
                    Decoder.parameters config
                    |> List.map _.Name
                    |> List.filter (fun name -> name <> "tok_embeddings.weight" && chooser.Int(0, 2) = 0)
                    |> Set.ofList

                let moving = if moving.IsEmpty then Set.singleton "layers.0.attention.in_proj.weight" else moving
                let movement (spec: ParameterSpec) = if moving.Contains spec.Name then Moves else Stays
                same $"%A{moving} of %A{config}" 1e-5 (results seed Fp32 movement config v batches))

            property "in bf16 they differ by its rounding" (fun seed ->
                let chooser = Chooser seed
                let v = vocabulary chooser

                let config =
                    { config chooser v.Rows with
                        Width = 32
                        Heads = 2
                        KeyValueHeads = 1
                        HeadWidth = 16
                        NormEpsilon = 1e-3
                    }

                same $"%A{config}" 0.03 (results seed Bf16 (fun _ -> Moves) config v [ batch chooser v 2 16 ]))

            case "without gradients nothing is kept, and the results are the same" (fun () ->
                let chooser = Chooser 5L
                let v = vocabulary chooser
                let config = config chooser v.Rows
                use store = store Fp32 config 5L
                let batch = batch chooser v 2 16
                use _ = torch.no_grad ()

                let hidden =
                    [
                        for choice in choices ->
                            Decoder.hiddenBy { Decoder.plainPass with Checkpointing = choice } config store.Weights batch
                    ]

                for other in hidden do
                    Expect.isFalse other.requires_grad "no graph"
                    close 1e-6 1e-6 "hidden states" (values hidden.Head) (values other))

            case "steps leave nothing alive" (fun () ->
                for seed in [ 1L; 2L; 3L ] do
                    let chooser = Chooser seed
                    let v = vocabulary chooser
                    let config = { config chooser v.Rows with Layers = 3 }

                    for checkpointing in choices do
                        for precision in [ Fp32; Bf16 ] do
                            use store = storeWith precision Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config) seed
                            use state = new OptimizerState(store)

                            let step () =
                                use scope = torch.NewDisposeScope()
                                let batch = batch chooser v 2 14
                                Step.zero store state
                                Step.accumulate store state batch.Count (loss checkpointing config v batch) |> ignore

                            step ()
                            let before = liveTensors ()

                            for _ in 1..4 do
                                step ()

                            Expect.equal (liveTensors ()) before $"live tensors, {Checkpointing.name checkpointing}, {precision}")
        ]
