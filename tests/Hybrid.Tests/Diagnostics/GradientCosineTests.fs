module Hybrid.Tests.GradientCosineTests

open System
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Tests.Generate
open TorchSharp

let private sequences (chooser: Chooser) (v: Vocabulary) (count: int) =
    [|
        for _ in 1..count ->
            Sequence.compose
                v
                Captioned
                16
                (chooser.Ints(chooser.Int(1, 4), v.TextRows))
                (chooser.Ints(chooser.Int(1, 4), v.ImageCodes))
    |]

/// The gradient of the mean loss of one kind by plain autograd through the whole head, by name.
let private plain (config: ModelConfig) (v: Vocabulary) (store: ParameterStore) (kind: Kind) (rows: Batch) =
    let leaves =
        dict
            [
                for slot in store.Slots ->
                    let leaf = (store.Weights slot.Spec.Name).detach().clone()
                    leaf.requires_grad <- true
                    slot.Spec.Name, leaf
            ]

    let scored =
        Decoder.hiddenOf config (lookup leaves) rows
        |> Decoder.head config (lookup leaves) v.Rows
        |> Loss.score v rows

    let value = (Loss.evaluate (Loss.ofKind kind) scored).Objective
    value.div(Scalars.Of(float rows.Counts[int kind])).backward()

    dict
        [
            for pair in leaves ->
                pair.Key,
                match pair.Value.grad with
                | null -> Array.zeroCreate (int (pair.Value.numel ()))
                | gradient -> values gradient
        ]

let private drawn (seed: int64) =
    let chooser = Chooser seed
    let v = vocabulary chooser
    // Padding rows of the table too.
    let config = config chooser (v.Rows + chooser.Int(0, 3))
    chooser, v, config

let private dot (a: float[]) (b: float[]) = Array.fold2 (fun sum x y -> sum + x * y) 0.0 a b

let private cosine a b = dot a b / sqrt (dot a a * dot b b)

let tests =
    testList
        "GradientCosine"
        [
            costly "against gradients by plain autograd, in batches or at once" (fun seed ->
                let chooser, v, config = drawn seed
                let moves = chooser.Of [ (fun _ -> Moves); (fun _ -> Stays) ]
                use store = storeWith Fp32 Parameters.Matrices moves (Decoder.parameters config) seed
                let data = sequences chooser v 5
                let rows = Sequence.batch v torch.CPU data
                let text, image = plain config v store Kind.Text rows, plain config v store Kind.Image rows
                let found = GradientCosine.between config v store (chooser.Int(1, 5)) Kind.Text Kind.Image data

                let join (by: Collections.Generic.IDictionary<string, float[]>) =
                    [|
                        for slot in store.Slots do
                            yield! by[slot.Spec.Name]
                    |]

                near 1e-5 0.0 "cosine" (cosine (join text) (join image)) found.Whole.Cosine
                near 1e-6 1e-4 "text norm" (sqrt (dot (join text) (join text))) found.Whole.FirstNorm
                near 1e-6 1e-4 "image norm" (sqrt (dot (join image) (join image))) found.Whole.SecondNorm
                Expect.equal found.Whole.Parameters (Decoder.parameterCount config) "all parameters"
                Expect.equal (found.Groups |> Array.sumBy _.Parameters) (Decoder.parameterCount config) "in groups"
                Expect.equal (found.FirstCount, found.SecondCount) (rows.Counts[0], rows.Counts[1]) "counts"

                // Groups by hand.
                let group name = found.Groups |> Array.find (fun g -> g.Group = name)

                let attention (by: Collections.Generic.IDictionary<string, float[]>) =
                    [|
                        for slot in store.Slots do
                            let name = slot.Spec.Name

                            if name.StartsWith "layers.0.attention.in_proj" || name.StartsWith "layers.0.attention.out_proj" then
                                yield! by[name]
                    |]

                let layer = group "layer 0 attention"
                near 1e-4 0.0 "attention" (cosine (attention text) (attention image)) layer.Cosine
                Expect.equal layer.Layer 0 "its layer"

                let head = if config.Tied then "tok_embeddings.weight" else "output.weight"
                let from = v.FirstCode * config.Width

                let codes (by: Collections.Generic.IDictionary<string, float[]>) =
                    by[head][from .. from + v.ImageCodes * config.Width - 1]

                let rows = group (if config.Tied then "embedding, image rows" else "head, image rows")
                near 1e-4 0.0 "image rows" (cosine (codes text) (codes image)) rows.Cosine

                // Halves: every other sequence.
                let half parity =
                    let some = data |> Array.indexed |> Array.filter (fun (i, _) -> i % 2 = parity) |> Array.map snd
                    let rows = Sequence.batch v torch.CPU some
                    join (plain config v store Kind.Text rows), join (plain config v store Kind.Image rows)

                let (textA, imageA), (textB, imageB) = half 0, half 1
                near 1e-4 0.0 "text agrees" (cosine textA textB) found.Whole.FirstAgreement
                near 1e-4 0.0 "image agrees" (cosine imageA imageB) found.Whole.SecondAgreement
                let signal = dot textA textB * dot imageA imageB

                if dot textA textB > 1e-6 && dot imageA imageB > 1e-6 then
                    near
                        1e-3
                        1e-3
                        "without noise"
                        ((dot textA imageB + dot textB imageA) / 2.0 / sqrt signal)
                        found.Whole.Corrected

                // Squares of norms add over groups.
                near 1e-9 1e-6 "norms" (found.Whole.FirstNorm ** 2.0) (found.Groups |> Array.sumBy (fun g -> g.FirstNorm ** 2.0)))

            costly "in bf16 nearly as in fp32" (fun seed ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let config = { ModelConfig.openLm 64 2 4 v.Rows 64 with FeedForwardWidth = 64 }
                use wide = store Fp32 config seed
                use half = store Bf16 config seed
                let data = sequences chooser v 6
                let found store = GradientCosine.between config v store 3 Kind.Text Kind.Image data
                let a, b = found wide, found half
                near 0.05 0.0 "cosine" a.Whole.Cosine b.Whole.Cosine
                near 0.0 0.05 "norm" a.Whole.SecondNorm b.Whole.SecondNorm)

            costly "a loss agrees with itself wherever it has a gradient" (fun seed ->
                let chooser, v, config = drawn seed
                use store = store Fp32 config seed
                let found = GradientCosine.between config v store 2 Kind.Image Kind.Image (sequences chooser v 3)
                near 1e-9 0.0 "whole" 1.0 found.Whole.Cosine

                if found.Whole.FirstAgreement > 0.0 then
                    near 1e-9 0.0 "corrected" 1.0 found.Whole.Corrected


                for group in found.Groups do
                    if group.FirstNorm > 0.0 then
                        near 1e-9 0.0 group.Group 1.0 group.Cosine
                    else
                        Expect.isNaN group.Cosine group.Group)

            case "the store's gradient and the next step stay as they are, and no tensor stays alive" (fun () ->
                let chooser, v, _ = drawn 5L
                let config = { ModelConfig.openLm 16 2 2 v.Rows 64 with FeedForwardWidth = 16 }
                let data = sequences chooser v 4

                for precision in [ Fp32; Bf16 ] do
                    use one = store precision config 7L
                    use two = store precision config 7L
                    let rows = Sequence.batch v torch.CPU data

                    let step (store: ParameterStore) (between: unit -> unit) =
                        use state = new OptimizerState(store)

                        for _ in 1..2 do
                            Step.zero store state

                            let loss weights =
                                Decoder.hiddenOf config weights rows |> HeadLoss.evaluate Loss.total config v weights rows

                            use _ = Step.accumulate store state 10L loss
                            between ()

                            use _ =
                                Step.update
                                    {
                                        Betas = (0.9, 0.95)
                                        Epsilon = 1e-8
                                        WeightDecay = 0.1
                                        Decay = Parameters.Matrices
                                        ClipNorm = Some 1.0
                                    }
                                    1e-2
                                    store
                                    state

                            ()

                    let measure () = GradientCosine.between config v one 2 Kind.Text Kind.Image data |> ignore
                    step one measure
                    step two ignore
                    Expect.equal (bits one.Master) (bits two.Master) $"{precision}: weights after two steps"
                    let before = liveTensors ()
                    measure ()
                    Expect.equal (liveTensors ()) before $"{precision}: live tensors")

            case "a kind that does not occur has no gradient" (fun () ->
                let chooser, v, config = drawn 9L
                use store = store Fp32 config 9L
                let data = [| Sequence.compose v ImageOnly 8 [||] (chooser.Ints(3, v.ImageCodes)) |]
                let found = GradientCosine.between config v store 2 Kind.Text Kind.Image data
                Expect.isNaN found.Whole.SecondAgreement "one sequence has no halves"
                Expect.equal (found.FirstCount, found.Whole.FirstNorm) (0L, 0.0) "no text"
                Expect.isNaN found.Whole.Cosine "no cosine"
                Expect.isGreaterThan found.Whole.SecondNorm 0.0 "an image gradient")

            case "by the door, of a frozen model without gradients turned on" (fun () ->
                let chooser, v, config = drawn 11L
                use model = Model.Random(config, v, Layout(Frozen = true), 3L)
                use _ = torch.no_grad ()
                let found = Diagnosis.GradientCosine(model, sequences chooser v 4)
                Expect.isGreaterThan found.Whole.FirstNorm 0.0 "a text gradient"
                Expect.isTrue (abs found.Whole.Cosine <= 1.0) "a cosine")
        ]
