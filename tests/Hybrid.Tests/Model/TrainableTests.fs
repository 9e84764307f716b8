module Hybrid.Tests.TrainableTests

open Expecto
open Hybrid
open Hybrid.Trainable
open Hybrid.Tests.Generate
open TorchSharp

let private optimizer: OptimizerConfig =
    {
        Betas = (0.9, 0.95)
        Epsilon = 1e-8
        WeightDecay = 0.1
        Decay = Parameters.All
        ClipNorm = Some 1.0
    }

/// A model of four layers, so that its halves are told apart.
let private example =
    { ModelConfig.openLm 8 4 2 20 9 with QkNorm = true; PostEmbedNorm = true; Norm = GainLayerNorm }

let private movingNames (config: ModelConfig) (preset: Preset) =
    Decoder.parameters config
    |> List.filter (fun spec -> movement config 5 preset spec <> Stays)
    |> List.map _.Name
    |> Set.ofList

/// A few steps of training; gives every parameter's master weights before and after.
let private trained (seed: int64) (preset: Preset) (precision: Precision) =
    let chooser = Chooser seed
    let v = vocabulary chooser
    let config = config chooser v.Rows
    let oldRows = v.TextRows

    use store = storeWith precision Parameters.All (movement config oldRows preset) (Decoder.parameters config) seed

    use state = new OptimizerState(store)
    let snapshot () = [ for slot in store.Slots -> (use part = store.MasterOf slot.Spec.Name in bits part) ]
    let before = snapshot ()

    for step in 0..2 do
        use scope = torch.NewDisposeScope()
        let batch = batch chooser v 2 14
        Step.zero store state

        Step.accumulate store state batch.Count (fun weights ->
            Decoder.logits config v.Rows weights batch.Inputs |> Loss.score v batch |> Loss.evaluate Loss.total)
        |> ignore

        Step.update optimizer (0.01 * float (step + 1)) store state |> ignore

    config, oldRows, store.Slots, before, snapshot (), bits store.Compute, store.Precision

let tests =
    testList
        "Trainable"
        [
            testCase "each preset moves what the paper says" (fun () ->
                let norms =
                    [
                        "post_embed_norm.weight"
                        "norm.weight"
                        for layer in 0..3 do
                            for norm in [ "attention_norm"; "ffn_norm"; "attention.q_norm"; "attention.k_norm" ] do
                                $"layers.{layer}.{norm}.weight"
                    ]

                let tables = [ "tok_embeddings.weight"; "output.weight" ]
                let attention layer = [ $"layers.{layer}.attention.in_proj.weight"; $"layers.{layer}.attention.out_proj.weight" ]
                let feedForward layer = [ $"layers.{layer}.feed_forward.w12.weight"; $"layers.{layer}.feed_forward.w3.weight" ]
                let firstHalf = [ 0; 1 ] |> List.collect (fun layer -> attention layer @ feedForward layer)
                let feedForwards = [ 2; 3 ] |> List.collect feedForward
                let everything = tables @ norms @ firstHalf @ feedForwards @ List.collect attention [ 2; 3 ]

                for preset, expected in
                    [
                        EmbeddingHead, tables
                        PlusNorms, tables @ norms
                        PlusFirstHalf, tables @ norms @ firstHalf
                        PlusFeedForward, tables @ norms @ firstHalf @ feedForwards
                        All, everything
                        NewRowsOnly, tables
                    ] do
                    Expect.equal (movingNames example preset) (Set.ofList expected) (name preset)

                for spec in Decoder.parameters example do
                    let expected = if List.contains spec.Name tables then MovesFromRow 5L else Stays
                    Expect.equal (movement example 5 NewRowsOnly spec) expected spec.Name)

            testCase "presets have the command line's names" (fun () ->
                Expect.equal
                    (presets |> List.map fst)
                    [ "all"; "embedding-head"; "+norms"; "+first-half"; "+ffn"; "new-rows" ]
                    "names"

                for text, preset in presets do
                    Expect.equal (name preset) text text)

            property "each of the paper's presets holds the one before" (fun seed ->
                let config = config (Chooser seed) 9

                for smaller, larger in
                    List.pairwise [ NewRowsOnly; EmbeddingHead; PlusNorms; PlusFirstHalf; PlusFeedForward; All ] do
                    Expect.isTrue
                        (Set.isSubset (movingNames config smaller) (movingNames config larger))
                        $"{name smaller} within {name larger}"

                let everything = Decoder.parameters config |> List.map _.Name |> Set.ofList
                Expect.equal (movingNames config All) everything "all")

            property "what is described is what the store moves" (fun seed ->
                let chooser = Chooser seed
                let config = config chooser (chooser.Int(10, 5000))
                let oldRows = chooser.Int(0, config.Rows)

                for text, preset in presets do
                    use store =
                        Parameters.allocate
                            Fp32
                            torch.CPU
                            Parameters.Matrices
                            (movement config oldRows preset)
                            (Decoder.parameters config)

                    let moving, all = Parameters.moving store, Decoder.parameterCount config
                    let described = describe config oldRows preset
                    Expect.stringStarts described $"{text}: {moving:N0} of {all:N0} parameters move" "the counts"
                    // The groups add up to what moves.
                    let listed = described[described.IndexOf "): " + 3 ..].Split(';').[0]

                    let counts =
                        listed.Split(", ")
                        |> Array.filter (fun part -> part <> "")
                        |> Array.sumBy (fun part -> int64 (part[part.LastIndexOf ' ' + 1 ..].Replace(",", "")))

                    Expect.equal counts moving described)

            testCase "presets with positional parameters say that there are none" (fun () ->
                for preset in [ PlusNorms; PlusFirstHalf; PlusFeedForward ] do
                    Expect.stringContains (describe example 5 preset) "positional parameters 0" (name preset))

            costly "what is frozen does not move by one bit; what is not moves" (fun seed ->
                for _, preset in presets do
                    for precision in [ Fp32; Bf16 ] do
                        let config, oldRows, slots, before, after, _, _ = trained seed preset precision

                        for slot, before, after in List.zip3 slots before after do
                            let what = $"{name preset} {precision}: {slot.Spec.Name}"

                            match movement config oldRows preset slot.Spec with
                            | Stays -> Expect.equal after before what
                            | MovesFromRow row ->
                                let first = int (row * (slot.Spec.Count / slot.Spec.Shape.Head))
                                Expect.equal after[.. first - 1] before[.. first - 1] $"{what}: old rows"
                                Expect.notEqual after[first..] before[first..] $"{what}: new rows"
                            | Moves -> Expect.notEqual after before what)
        ]
