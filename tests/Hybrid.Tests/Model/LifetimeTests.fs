/// What a function gives is all that it leaves: no temporary stays, whether a scope is open or none is.
module Hybrid.Tests.LifetimeTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

/// Calls that give tensors, by name, from an argument that is there already.
let private calls () : (string * (unit -> torch.Tensor list)) list =
    let chooser = Chooser 3L
    let vocabulary: Vocabulary = { TextRows = 12; ImageCodes = 8 }

    let config =
        { ModelConfig.openLm 12 2 2 vocabulary.Rows 32 with
            FeedForwardWidth = 16
            KeyValueHeads = 1
            QkNorm = true
            PostEmbedNorm = true
        }

    let kept (tensor: torch.Tensor) = tensor.DetachFromDisposeScope()
    let own (config: ModelConfig) = (store Fp32 config 1L).Weights
    let layout = store Fp32 config 1L
    let weights = layout.Weights
    let sequences = [| for i in 0..2 -> Sequence.compose vocabulary Captioned 24 [| i; 3 |] [| 1; 2; i |] |]
    let batch = Sequence.batch vocabulary torch.CPU sequences
    let packed = Sequence.batchOf Dropped vocabulary torch.CPU sequences
    let one (tensor: torch.Tensor) = [ tensor ]
    let two (a: torch.Tensor, b: torch.Tensor) = [ a; b ]
    let length = batch.Inputs.shape[1]
    let rotation = Decoder.rotation config weights 0L length
    let x = normals chooser 1.0 [ 3; int length; 12 ] |> kept
    let heads = normals chooser 1.0 [ 3; 2; 5; 6 ] |> kept
    let turning = normals chooser 1.0 [ 3; int length; 2; 6 ] |> kept
    let logits = Decoder.logits config vocabulary.Rows weights batch.Inputs
    let scored = Loss.score vocabulary batch logits

    let rotations (rotation: Rotation option) =
        [
            for r in Option.toList rotation do
                yield! [ r.Cosine; r.Sine ]
        ]

    let lossValue (value: LossValue) = [ value.Objective; value.Parts ]
    let learned = { config with Position = LearnedPosition; Tied = true }
    let learnedWeights = own learned
    let grown = Extension.grow (vocabulary.Rows + 5) config
    let grownWeights = own grown
    let table = normals chooser 1.0 [ 8; 4 ] |> kept
    let other = normals chooser 1.0 [ 6; 4 ] |> kept

    let scoredTensors (scored: Scored) = [ scored.Logits; scored.Targets; scored.Kinds; scored.CrossEntropy ]

    let batchTensors (batch: Batch) =
        [
            yield! [ batch.Inputs; batch.Targets; batch.Kinds ]
            for rows in Option.toList batch.Rows do
                yield! [ rows.Places; rows.Sources ]
        ]

    [
        "Host.int64s", (fun () -> one (Host.int64s [ 2L; 2L ] [| 1L; 2L; 3L; 4L |]))
        "Host.floats", (fun () -> one (Host.floats [ 2L; 2L ] [| 1.0f; 2.0f; 3.0f; 4.0f |]))
        "Sequence.batch", (fun () -> batchTensors (Sequence.batch vocabulary torch.CPU sequences))
        "Sequence.batchOf", (fun () -> batchTensors (Sequence.batchOf Dropped vocabulary torch.CPU sequences))
        "Sequence.byRow", (fun () -> one (Sequence.byRow batch scored.CrossEntropy))
        "Vocabulary.kinds", (fun () -> one (Vocabulary.kinds vocabulary batch.Targets))
        "Decoder.embed", (fun () -> one (Decoder.embed config weights batch.Inputs))
        "Decoder.embed, learned", (fun () -> one (Decoder.embed learned learnedWeights batch.Inputs))
        "Decoder.rotation", (fun () -> rotations (Decoder.rotation config weights 0L 9L))
        "Decoder.block", (fun () -> one (Decoder.block config weights rotation 0 x))
        "Decoder.finalNorm", (fun () -> one (Decoder.finalNorm config weights x))
        "Decoder.head", (fun () -> one (Decoder.head config weights vocabulary.Rows x))
        "Decoder.head, extended", (fun () -> one (Decoder.head grown grownWeights (vocabulary.Rows + 5) x))
        "Decoder.hidden", (fun () -> one (Decoder.hidden config weights batch.Inputs))
        "Decoder.hiddenOf", (fun () -> one (Decoder.hiddenOf config weights batch))
        "Decoder.hiddenOf, packed", (fun () -> one (Decoder.hiddenOf config weights packed))
        "Decoder.logits", (fun () -> one (Decoder.logits config vocabulary.Rows weights batch.Inputs))
        "Layers.norm", (fun () -> one (Layers.norm LayerNorm 1e-5 weights "layers.0.attention_norm" x))
        "Layers.linear", (fun () -> one (Layers.linear (weights "layers.0.attention.in_proj.weight") x))
        "Layers.attention", (fun () -> one (Layers.attention config weights "layers.0.attention" rotation x))
        "Layers.feedForward", (fun () -> one (Layers.feedForward config weights "layers.0" x))
        "Layers.attend", (fun () -> one (Layers.attend heads heads heads))
        "Layers.attendWithin", (fun () -> one (Layers.attendWithin 2L heads heads heads))
        "Layers.queriesKeysValues",
        (fun () ->
            let q, k, v = Layers.queriesKeysValues config weights "layers.0.attention" rotation x
            [ q; k; v ])
        "Layers.rotate", (fun () -> one (Layers.rotate config (Option.get rotation) turning))
        "Loss.score", (fun () -> scoredTensors (Loss.score vocabulary batch logits))
        "Loss.evaluate", (fun () -> lossValue (Loss.evaluate (Loss.total + Loss.zLoss) scored))
        "Loss.sumsByKind", (fun () -> one (Loss.sumsByKind scored scored.CrossEntropy))
        "Loss.withinModality", (fun () -> one (Loss.withinModality scored))
        "Loss.bySequence", (fun () -> one (Loss.bySequence batch scored))
        "HeadLoss.evaluate", (fun () -> lossValue (HeadLoss.evaluate Loss.total config vocabulary weights batch x))
        "Alignment.bagOfWords", (fun () -> one (Alignment.bagOfWords table [| [| 0; 1; 1 |]; [| 2 |] |]))
        "Alignment.nearest", (fun () -> two (Alignment.nearest 2 table other))
        "Alignment.randomTexts", (fun () -> one (Alignment.randomTexts (Random.ofSeed 1L) 0.1 4 3))
        "ParameterStore.MasterOf", (fun () -> one (layout.MasterOf "norm.weight"))
        "Dispatcher.embedding", (fun () -> one (Dispatcher.embedding (weights "tok_embeddings.weight") batch.Inputs))
        "Dispatcher.rmsNorm", (fun () -> one (Dispatcher.rmsNorm (weights "norm.weight") 1e-5 x))
    ]

/// Each call's name with how many tensors it leaves too many.
let private extra (within: (unit -> torch.Tensor list) -> int64 * int) : string list =
    [
        for name, call in calls () do
            let live, results = within call

            if live <> int64 results then
                $"{name}: {live} tensors live after it gave {results}"
    ]

let private counted (call: unit -> torch.Tensor list) : int64 * int =
    let before = liveTensors ()
    let results = call ()
    let live = liveTensors () - before
    results |> List.iter (fun result -> result.Dispose())
    live, results.Length

let private none (found: string list) : unit =
    let listed = String.concat "\n" found
    Expect.isEmpty found $"calls that leave temporaries:\n{listed}"

let tests =
    testList
        "Lifetimes"
        [
            testCase "a function leaves what it gives, where no scope is open" (fun () -> none (extra counted))

            case "a function leaves what it gives to the scope that is open" (fun () -> none (extra counted))

            case "without a graph too" (fun () ->
                use _ = torch.no_grad ()
                none (extra counted))

            case "what a store and a state keep is in no scope" (fun () ->
                let specs: ParameterSpec list = [ { Name = "a"; Shape = [ 3L; 2L ]; Init = Uniform 1.0 } ]

                let store, state =
                    use _ = torch.NewDisposeScope()
                    let store = storeWith Fp32 Parameters.Matrices (fun _ -> Moves) specs 1L
                    store, new OptimizerState(store)

                Expect.equal (store.Weights "a").shape [| 3L; 2L |] "a weight"
                Expect.equal (store.Gradient.shape[0]) store.Length "the gradient"
                Expect.equal (state.First.sum().item<float32>()) 0.0f "moments"
                state.Dispose()
                store.Dispose())

            case "a store and a state are gone with their memory" (fun () ->
                let config = config (Chooser 4L) 9
                let tokens = Host.int64s [ 1L; 3L ] [| 1L; 2L; 3L |]
                let before = liveTensors ()

                for precision in [ Fp32; Bf16 ] do
                    let store = store precision config 1L
                    let state = new OptimizerState(store)

                    let loss (weights: Weights) : LossValue =
                        let sum = (Decoder.logits config config.Rows weights tokens).square().sum()
                        { Objective = sum; Parts = torch.zeros 3L }

                    (Step.accumulate store state 1L loss).Dispose()
                    state.Dispose()
                    store.Dispose()

                Expect.equal (liveTensors ()) before "tensors that live")
        ]
