module Hybrid.Tests.StepTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

let private optimizer: OptimizerConfig =
    {
        Betas = (0.9, 0.95)
        Epsilon = 1e-8
        WeightDecay = 0.1
        Decay = Parameters.Matrices
        ClipNorm = Some 1.0
    }

/// Specs of a few small parameters, one of them alone on one axis.
let private specs (chooser: Chooser) : ParameterSpec list =
    [
        { Name = "gain"; Shape = [ int64 (chooser.Int(1, 5)) ]; Init = TruncatedNormal 1.0 }
        {
            Name = "matrix"
            Shape = [ int64 (chooser.Int(2, 4)); int64 (chooser.Int(1, 4)) ]
            Init = TruncatedNormal 1.0
        }
        { Name = "still"; Shape = [ 3L; 2L ]; Init = TruncatedNormal 1.0 }
        { Name = "other"; Shape = [ 2L; 2L ]; Init = TruncatedNormal 1.0 }
    ]

let private movement (spec: ParameterSpec) : Movement =
    match spec.Name with
    | "still" -> Stays
    | "matrix" -> MovesFromRow 1L
    | _ -> Moves

/// A loss whose gradient is `gradients` of each parameter: Σ g · w.
let private linear (store: ParameterStore) (gradients: Map<string, torch.Tensor>) (weights: Weights) : LossValue =
    let terms =
        [
            for slot in store.Slots do
                if slot.Movement <> Stays then
                    (weights slot.Spec.Name).mul(gradients[slot.Spec.Name].``to`` (weights slot.Spec.Name).dtype).sum()
        ]

    { Objective = terms |> List.reduce (fun a b -> a.plus b); Parts = torch.zeros [| 3L |] }

let private drawGradients (chooser: Chooser) (store: ParameterStore) =
    Map.ofList [ for slot in store.Slots -> slot.Spec.Name, normals chooser 1.0 (List.map int slot.Spec.Shape) ]

/// Everything that an update may change, to the last bit.
let private everything (store: ParameterStore) (state: OptimizerState) =
    [ store.Master; store.Compute; state.First; state.Second; state.Steps ] |> List.map bits

/// Logits of a batch, scored and summed.
let private loss (config: ModelConfig) (v: Vocabulary) (batch: Batch) (weights: Weights) : LossValue =
    Decoder.logits config v.Rows weights batch.Inputs |> Loss.score v batch |> Loss.evaluate Loss.total

let tests =
    testList
        "Step"
        [
            property "AdamW is its formula, with decay by group and clipping" (fun seed ->
                let chooser = Chooser seed
                let decay = chooser.Of [ Parameters.Matrices; Parameters.All ]

                let config =
                    {
                        Betas = chooser.Float(0.5, 0.95), chooser.Float(0.8, 0.999)
                        Epsilon = chooser.Of [ 1e-8; 1e-3 ]
                        WeightDecay = chooser.Of [ 0.0; 0.3 ]
                        Decay = decay
                        ClipNorm = chooser.Of [ None; Some(chooser.Float(0.1, 3.0)); Some 1000.0 ]
                    }

                use store = storeWith Fp32 decay movement (specs chooser) seed
                use state = new OptimizerState(store)
                let slots = store.Slots |> List.filter (fun slot -> slot.Movement <> Stays)

                // Where the moving values of a parameter begin.
                let first (slot: Slot) =
                    match slot.Movement with
                    | MovesFromRow row -> int (row * (slot.Spec.Count / slot.Spec.Shape.Head))
                    | _ -> 0

                let weights = [ for slot in slots -> values (store.Weights slot.Spec.Name) ]
                let m = [ for w in weights -> Array.zeroCreate<float> w.Length ]
                let v = [ for w in weights -> Array.zeroCreate<float> w.Length ]
                let beta1, beta2 = config.Betas

                for step in 1..4 do
                    let rate = chooser.Float(1e-3, 1e-1)
                    let gradients = drawGradients chooser store
                    Step.zero store state
                    // The global count divides.
                    use _ = Step.accumulate store state 2L (linear store gradients)
                    use norm = Step.update config rate store state

                    let raw = [ for slot in slots -> values gradients[slot.Spec.Name] |> Array.map (fun g -> g / 2.0) ]

                    let expectedNorm =
                        List.zip slots raw
                        |> List.sumBy (fun (slot, g) -> g[first slot ..] |> Array.sumBy (fun x -> x * x))
                        |> sqrt

                    near 1e-5 1e-5 "norm before clipping" expectedNorm (values norm |> Array.head)

                    let scale =
                        match config.ClipNorm with
                        | Some limit -> min 1.0 (limit / (expectedNorm + 1e-6))
                        | None -> 1.0

                    for i, slot in List.indexed slots do
                        let decays = decay = Parameters.All || slot.Spec.Shape.Length >= 2
                        let w, m, v = weights[i], m[i], v[i]

                        for j in first slot .. w.Length - 1 do
                            let g = raw[i][j] * scale
                            m[j] <- beta1 * m[j] + (1.0 - beta1) * g
                            v[j] <- beta2 * v[j] + (1.0 - beta2) * g * g
                            let mHat = m[j] / (1.0 - beta1 ** float step)
                            let vHat = v[j] / (1.0 - beta2 ** float step)
                            let decayed = if decays then w[j] * (1.0 - rate * config.WeightDecay) else w[j]
                            w[j] <- decayed - rate * mHat / (sqrt vHat + config.Epsilon)

                        close
                            3e-5
                            3e-5
                            $"{slot.Spec.Name} after {step} steps, %A{config}"
                            w
                            (values (store.Weights slot.Spec.Name))

                Expect.equal (values state.Steps) [| 4.0 |] "steps"
                Expect.equal (values state.Skipped) [| 0.0 |] "skipped")

            property "a gradient that is not finite changes nothing and is counted" (fun seed ->
                let chooser = Chooser seed

                for precision in [ Fp32; Bf16 ] do
                    use store = storeWith precision Parameters.Matrices movement (specs chooser) seed
                    use state = new OptimizerState(store)

                    let step gradients =
                        Step.zero store state
                        use _ = Step.accumulate store state 1L (linear store gradients)
                        use norm = Step.update optimizer 0.1 store state
                        values norm |> Array.head

                    step (drawGradients chooser store) |> ignore
                    let before = everything store state
                    let bad = chooser.Of [ nan; infinity; -infinity ]
                    let gradients = drawGradients chooser store
                    // The last row of a parameter moves whatever its movement.
                    let place = chooser.Of [ "gain"; "matrix"; "other" ]
                    gradients[place].flatten().narrow(0, gradients[place].numel() - 1L, 1L).fill_(Scalars.Of(bad)) |> ignore
                    let norm = step gradients
                    Expect.isFalse (System.Double.IsFinite norm) "the norm tells"
                    Expect.equal (everything store state) before $"{bad} in {place}, {precision}"
                    Expect.equal (values state.Skipped) [| 1.0 |] "skipped"
                    // The next step is as if the bad one had never been.
                    step (drawGradients chooser store) |> ignore
                    Expect.equal (values state.Steps) [| 2.0 |] "steps"
                    Expect.notEqual (everything store state) before "goes on")

            property "micro-batches add up to the batch" (fun seed ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let config = config chooser v.Rows
                let count = chooser.Int(2, 6)
                let sequences = Array.init count (fun _ -> sequence chooser v 15)
                let whole = Sequence.batch v torch.CPU sequences
                let micro = chooser.Int(1, count - 1)

                let run (batches: Batch list) =
                    use store = store Fp32 config seed
                    use state = new OptimizerState(store)
                    Step.zero store state

                    let parts = [ for batch in batches -> Step.accumulate store state whole.Count (loss config v batch) ]

                    let parts = parts |> List.map values |> List.reduce (Array.map2 (+))
                    parts, values state.Gradient

                let parts, gradient = run [ whole ]
                let pieces = sequences |> Array.chunkBySize micro |> Array.map (Sequence.batch v torch.CPU) |> List.ofArray
                let partsInPieces, gradientInPieces = run pieces
                close 1e-4 1e-6 "parts" parts partsInPieces
                // A mean of means would be off by percents; fp32 alone is off by more than 1e-6 where a norm magnifies its rounding.
                closeAsVectors 2e-5 "gradient" gradient gradientInPieces)

            property "zero forgets every gradient" (fun seed ->
                let chooser = Chooser seed

                for precision in [ Fp32; Bf16 ] do
                    use store = storeWith precision Parameters.Matrices movement (specs chooser) seed
                    use state = new OptimizerState(store)
                    let gradients = drawGradients chooser store

                    let once () =
                        Step.zero store state
                        use _ = Step.accumulate store state 1L (linear store gradients)
                        values state.Gradient

                    let first = once ()
                    Expect.exists first (fun g -> g <> 0.0) "a gradient"
                    Expect.equal (once ()) first $"{precision}")

            property "bf16 follows fp32" (fun seed ->
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

                let batches = [ for _ in 1..5 -> batch chooser v 4 16 ]

                let losses precision =
                    use store = store precision config seed
                    use state = new OptimizerState(store)

                    [|
                        for batch in batches do
                            Step.zero store state
                            use parts = Step.accumulate store state batch.Count (loss config v batch)
                            Step.update optimizer 3e-3 store state |> ignore
                            Array.sum (values parts) / float batch.Count
                    |]

                close 0.06 0.03 $"%A{config}" (losses Fp32) (losses Bf16))

            property "training lowers the loss of a batch seen again and again" (fun seed ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let config = config chooser v.Rows
                let batch = batch chooser v 2 14
                use store = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config)
                Parameters.initialise (Random.ofSeed seed) store
                use state = new OptimizerState(store)

                let step () =
                    Step.zero store state
                    use parts = Step.accumulate store state batch.Count (loss config v batch)
                    Step.update optimizer 0.02 store state |> ignore
                    Array.sum (values parts) / float batch.Count

                let losses = Array.init 15 (fun _ -> step ())
                Expect.isLessThan losses[14] (0.85 * losses[0]) $"%A{losses}")

            case "a store of which nothing moves is left as it is" (fun () ->
                let chooser = Chooser 3L
                use store = storeWith Fp32 Parameters.Matrices (fun _ -> Stays) (specs chooser) 3L
                use state = new OptimizerState(store)
                let before = everything store state |> List.take 2
                use norm = Step.update optimizer 0.1 store state
                Expect.equal (values norm) [| 0.0 |] "norm"
                Expect.equal (everything store state |> List.take 2) before "weights")

            case "steps leave nothing alive" (fun () ->
                let chooser = Chooser 4L
                let v = vocabulary chooser
                let config = { config chooser v.Rows with Layers = 2; Position = Rotary; Norm = RmsNorm; QkNorm = true }

                for precision in [ Fp32; Bf16 ] do
                    use store = storeWith precision Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config) 4L
                    use state = new OptimizerState(store)

                    let step () =
                        use scope = torch.NewDisposeScope()
                        let batch = batch chooser v 2 14
                        Step.zero store state

                        for _ in 1..2 do
                            use parts = Step.accumulate store state batch.Count (loss config v batch)
                            parts.dtype |> ignore

                        use norm = Step.update optimizer 0.01 store state
                        norm.dtype |> ignore

                    step ()
                    let before = liveTensors ()

                    for _ in 1..4 do
                        step ()

                    Expect.equal (liveTensors ()) before $"live tensors, {precision}")
        ]
