/// Computing in bf16 beside fp32, and adding micro-batches up in either.
module Hybrid.Tests.PrecisionTests

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

let private loss (config: ModelConfig) (v: Vocabulary) (batch: Batch) (weights: Weights) : LossValue =
    Decoder.hidden config weights batch.Inputs |> HeadLoss.evaluate Loss.total config v weights batch

/// Steps over lists of micro-batches; the mean loss of each before its update, and the weights at the end.
let private train
    (precision: Precision)
    (gradients: Precision)
    (optimizer: OptimizerConfig)
    (rate: int -> float)
    (config: ModelConfig)
    (v: Vocabulary)
    (steps: Batch list list)
    : float[] * float[] =
    use store =
        Parameters.allocate precision torch.CPU Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config)

    Parameters.initialise (Random.ofSeed 1L) store
    use state = new OptimizerState(store, gradients)

    let losses =
        [|
            for step, batches in List.indexed steps do
                let total = batches |> List.sumBy _.Count
                Step.zero store state

                let sum =
                    batches
                    |> List.sumBy (fun batch ->
                        use parts = Step.accumulate store state total (loss config v batch)
                        Array.sum (values parts))

                use norm = Step.update optimizer (rate step) store state
                Expect.isTrue (System.Double.IsFinite((values norm)[0])) "the norm is finite"
                sum / float total
        |]

    losses, values store.Master

let private curves =
    case "over 250 steps the losses in bf16 follow those in fp32" (fun () ->
        let chooser = Chooser 7L
        let v: Vocabulary = { TextRows = 24; ImageCodes = 16 }
        let config = ModelConfig.openLm 64 2 4 v.Rows 24
        let batches = [ for _ in 1..10 -> batch chooser v 6 20 ]
        let steps = [ for i in 0..249 -> [ batches[i % batches.Length] ] ]
        let rate step = Schedule.rate { Kind = Cosine; Peak = 3e-3; Minimum = 1e-4; WarmupSteps = 20; Steps = 250 } step
        let run precision gradients = train precision gradients optimizer rate config v steps |> fst
        let single = run Fp32 Fp32
        let start, finish = single[0], Array.average single[240..]
        Expect.isLessThan finish (0.4 * start) "fp32 learns"

        for gradients in [ Fp32; Bf16 ] do
            let half = run Bf16 gradients
            let apart = Array.map2 (fun (a: float) b -> abs (a - b)) single half
            Expect.isLessThan (Array.average apart) 0.02 $"mean distance of the losses, gradients in {gradients}"
            Expect.isLessThan (Array.max apart) 0.15 $"largest distance, gradients in {gradients}"
            near 0.02 0.0 $"the end, gradients in {gradients}" finish (Array.average half[240..]))

let private accumulation =
    [
        property "a gradient that adds up in bf16 is that in fp32 up to bf16's rounding" (fun seed ->
            let chooser = Chooser seed
            let v = vocabulary chooser
            let config = { config chooser v.Rows with NormEpsilon = 1e-3 }
            let batches = [ for _ in 1 .. chooser.Int(1, 4) -> batch chooser v 2 15 ]

            let gradient gradients =
                use store = store Bf16 config seed
                use state = new OptimizerState(store, gradients)
                Step.zero store state

                for batch in batches do
                    use parts = Step.accumulate store state 20L (loss config v batch)
                    parts.dtype |> ignore

                Expect.equal state.OwnGradient (gradients = Bf16) "a second buffer for fp32 only"
                Expect.equal state.Gradient.dtype (if gradients = Bf16 then torch.bfloat16 else torch.float32) "element type"
                values (Step.gradientNorm state), values state.Gradient

            let norm, whole = gradient Fp32
            let halfNorm, half = gradient Bf16
            // Each addition rounds to 8 bits.
            closeAsVectors (0.004 * float batches.Length) $"%A{config}" whole half
            close 1e-6 0.01 "norm" norm halfNorm)

        costly "an update from gradients in bf16 is AdamW with their values, in pieces or not" (fun seed ->
            let chooser = Chooser seed
            // More values than are widened at once, in one parameter and over several.
            let rows = int64 (chooser.Int(1, 3))

            let specs: ParameterSpec list =
                [
                    { Name = "long"; Shape = [ rows; 700_001L ]; Init = TruncatedNormal 1.0 }
                    { Name = "gain"; Shape = [ 5L ]; Init = Ones }
                    { Name = "matrix"; Shape = [ 3L; 4L ]; Init = TruncatedNormal 1.0 }
                ]

            let movement (spec: ParameterSpec) = if spec.Name = "long" && rows > 1L then MovesFromRow 1L else Moves
            let config = { optimizer with ClipNorm = chooser.Of [ None; Some 0.5; Some 1e6 ] }

            let run gradients =
                use store = Parameters.allocate Bf16 torch.CPU Parameters.Matrices movement specs
                Parameters.initialise (Random.ofSeed seed) store
                use state = new OptimizerState(store, gradients)

                for step in 1..2 do
                    use scope = torch.NewDisposeScope()
                    Step.zero store state
                    // The same values, all of which bf16 holds.
                    let length = state.Gradient.shape[0]
                    let values = torch.arange (length, dtype = torch.float32)
                    let values = values.mul(Scalars.Of 0.37).sin().``to``(torch.bfloat16).mul(Scalars.Of(float step))
                    state.Gradient.copy_ values |> ignore
                    Step.update config 1e-2 store state |> ignore

                bits store.Master, bits state.First, bits state.Second, values state.Steps

            let master, first, second, steps = run Fp32
            let halfMaster, halfFirst, halfSecond, halfSteps = run Bf16
            let asFloats (bits: int64[]) = bits |> Array.map (fun b -> float (System.BitConverter.Int32BitsToSingle(int b)))
            Expect.equal halfSteps steps "steps"
            // The norm that clips is a sum in another order.
            closeAsVectors 1e-5 "weights" (asFloats master) (asFloats halfMaster)
            closeAsVectors 1e-4 "first moments" (asFloats first) (asFloats halfFirst)
            closeAsVectors 1e-4 "second moments" (asFloats second) (asFloats halfSecond))

        case "a gradient in bf16 that is not finite changes nothing" (fun () ->
            let specs: ParameterSpec list = [ { Name = "matrix"; Shape = [ 3L; 4L ]; Init = TruncatedNormal 1.0 } ]
            use store = Parameters.allocate Bf16 torch.CPU Parameters.Matrices (fun _ -> Moves) specs
            Parameters.initialise (Random.ofSeed 1L) store
            use state = new OptimizerState(store, Bf16)
            let before = bits store.Master
            state.Gradient.fill_ (Scalars.Of nan) |> ignore
            use norm = Step.update optimizer 0.1 store state
            Expect.isFalse (System.Double.IsFinite((values norm)[0])) "the norm tells"
            Expect.equal (bits store.Master) before "weights"
            Expect.equal (values state.Skipped, values state.Steps) ([| 1.0 |], [| 0.0 |]) "counted")
    ]

let tests = testList "Precision" (curves :: accumulation)
