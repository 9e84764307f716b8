module Hybrid.Tests.ImageTrainingTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

let private uniform (stream: Random.Stream) (low: float) (high: float) (shape: int64 list) =
    let count = shape |> List.fold (*) 1L |> int
    Host.floats shape (Array.init count (fun i -> float32 (low + (high - low) * Random.uniform stream (int64 i))))

let private floats (tensor: torch.Tensor) : float[] =
    tensor.detach().``to``(torch.float32).cpu().contiguous().data<float32>().ToArray() |> Array.map float

let private rows (tensor: torch.Tensor) : float[][] = Array.chunkBySize (int tensor.shape[1]) (floats tensor)

let private near (tolerance: float) (what: string) (expected: float[]) (found: float[]) =
    Expect.equal found.Length expected.Length what

    for e, f in Seq.zip expected found do
        Expect.isLessThan (abs (e - f)) tolerance what

let private freshState (stream: Random.Stream) (codes: int64) (width: int64) : Codebook.State =
    let vectors = uniform (Random.named "codes" stream) -1.0 1.0 [ codes; width ]

    { Vectors = vectors; Counts = torch.ones [| codes |]; Sums = vectors.clone () }

let private codebook =
    testList
        "codebook"
        [
            property3 "moving averages with smoothing are a plain loop's" (1, 40) (1, 9) (1, 4) (fun seed n k c ->
                let stream = Random.ofSeed seed
                let state = freshState stream k c
                let learning: Codebook.Learning = { Decay = 0.8; Revival = 0.0; Smoothing = 0.3 }
                let counts = Array.create k 1.0
                let sums = rows state.Vectors

                for step in 0L .. 2L do
                    let vectors = uniform (Random.numbered step stream) -2.0 2.0 [ int64 n; int64 c ]
                    let codes = Codebook.nearest state.Vectors vectors
                    Codebook.update learning stream step state vectors codes
                    let assigned = codes.data<int64>().ToArray()
                    let points = rows vectors

                    for code in 0 .. k - 1 do
                        let mine =
                            [
                                for i in 0 .. n - 1 do
                                    if assigned[i] = int64 code then
                                        points[i]
                            ]

                        counts[code] <- 0.8 * counts[code] + 0.2 * float mine.Length

                        for axis in 0 .. c - 1 do
                            sums[code][axis] <- 0.8 * sums[code][axis] + 0.2 * List.sumBy (fun (p: float[]) -> p[axis]) mine

                    let total = Array.sum counts

                    for code in 0 .. k - 1 do
                        let smoothed = (counts[code] + 0.3) / (total + 0.3 * float k) * total
                        let expected = sums[code] |> Array.map (fun sum -> sum / smoothed)
                        near 1e-4 $"code {code} after step {step}" expected ((rows state.Vectors).[code])

                near 1e-4 "counts" counts (floats state.Counts))

            testCase "a code that is hardly used is put on a vector of the batch, the others stay where they are" (fun () ->
                use _ = torch.NewDisposeScope()
                let stream = Random.ofSeed 5L
                let learning: Codebook.Learning = { Decay = 0.5; Revival = 0.2; Smoothing = 1e-5 }

                // Two codes among the vectors, two far from all of them.
                let start () = Host.floats [ 4L; 2L ] [| 0f; 0f; 1f; 1f; 90f; 90f; -90f; 90f |]
                let vectors = uniform (Random.named "vectors" stream) -0.2 1.2 [ 40L; 2L ]
                let codes = Codebook.nearest (start ()) vectors

                let state: Codebook.State = { Vectors = start (); Counts = torch.tensor [| 10f; 10f; 2f; 2f |]; Sums = start () }

                let moved, counts = start (), torch.tensor [| 10f; 10f; 2f; 2f |]

                for step in 0L .. 1L do
                    Codebook.update learning stream step state vectors codes
                    Codebook.revive learning stream step moved counts vectors codes

                let points = rows vectors

                for name, book, counts in [ "averages", state.Vectors, state.Counts; "gradients", moved, counts ] do
                    let book, counts = rows book, floats counts

                    for code in 2..3 do
                        Expect.contains points book[code] $"{name}: code {code} stands on a vector"
                        // A quarter of an even share of 10, of which one more step kept half.
                        Expect.isLessThanOrEqual counts[code] 2.5 $"{name}: its count starts anew"
                        Expect.isGreaterThan counts[code] 0.0 $"{name}: and is not nothing"

                Expect.equal
                    (Array.truncate 2 (rows moved))
                    [| [| 0.0; 0.0 |]; [| 1.0; 1.0 |] |]
                    "used codes that gradients move are let alone")

            property1 "centres are the means of their vectors, and more rounds are not worse" (1, 4) (fun seed codes ->
                let stream = Random.ofSeed seed
                let vectors = uniform stream -1.0 1.0 [ 24L; 3L ]
                let points = rows vectors

                let measured rounds =
                    let centres = Codebook.kMeans stream rounds (int64 codes) vectors
                    let assigned = (Codebook.nearest centres vectors).data<int64>().ToArray()
                    let centres = rows centres
                    let distance (a: float[]) (b: float[]) = Array.fold2 (fun sum x y -> sum + (x - y) ** 2.0) 0.0 a b
                    let spread = Seq.sum (seq { for i in 0..23 -> distance points[i] centres[int assigned[i]] })
                    centres, assigned, spread

                let _, _, first = measured 1
                let centres, assigned, last = measured 30
                Expect.isLessThanOrEqual last (first + 1e-5) "the spread"

                for code in 0 .. codes - 1 do
                    let mine =
                        [|
                            for i in 0..23 do
                                if assigned[i] = int64 code then
                                    points[i]
                        |]

                    Expect.isNonEmpty mine $"centre {code} has vectors"

                    for axis in 0..2 do
                        Expect.isLessThan
                            (abs (centres[code][axis] - Array.averageBy (fun (p: float[]) -> p[axis]) mine))
                            1e-5
                            "a mean")

            testCase "more centres than vectors are finite" (fun () ->
                use _ = torch.NewDisposeScope()
                let centres = Codebook.kMeans (Random.ofSeed 1L) 3 10L (uniform (Random.ofSeed 2L) 0.0 1.0 [ 4L; 2L ])
                Expect.equal centres.shape [| 10L; 2L |] "ten"
                Expect.all (floats centres) Double.IsFinite "finite")

            property1
                "the gradient goes straight through to the vectors, and from the codes' vectors to the codebook"
                (1, 6)
                (fun seed side ->
                    let stream = Random.ofSeed seed
                    let book = (uniform (Random.named "book" stream) -1.0 1.0 [ 7L; 3L ]).requires_grad_()
                    let z = (uniform (Random.named "z" stream) -1.0 1.0 [ 2L; 3L; int64 side; 2L ]).requires_grad_()
                    let gradient = uniform (Random.named "g" stream) -1.0 1.0 (List.ofArray z.shape)
                    let quantised, straight, codes = Codebook.quantise book z
                    near 1e-6 "the values are the codes'" (floats quantised) (floats straight)
                    Expect.equal codes.shape [| 2L; int64 side; 2L |] "codes"
                    (straight * gradient).sum().backward()
                    near 0.0000001 "the gradient of the vectors" (floats gradient) (floats (nonNull z.grad))
                    Expect.isTrue (isNull book.grad) "none for the codebook"
                    (quantised.sum ()).backward()
                    let counts = Codebook.histogram 7 codes

                    near
                        1e-6
                        "each code gets what its places get"
                        [|
                            for count in counts do
                                for _ in 1..3 -> float count
                        |]
                        (floats (nonNull book.grad)))
        ]

let private patches: DiscriminatorConfig = { Channels = 3L; Width = 4L; Layers = 2 }

let private started (seed: int64) (specs: ParameterSpec list) : Weights =
    let table =
        dict
            [
                for spec in specs -> spec.Name, Host.floats spec.Shape (Parameters.initialValues (Random.ofSeed seed) spec)
            ]

    lookup table

let private discriminator =
    testList
        "discriminator"
        [
            property2 "the hinge losses are plain means" (1, 5) (1, 5) (fun seed n m ->
                let stream = Random.ofSeed seed

                let real, fake =
                    uniform (Random.named "r" stream) -3.0 3.0 [ int64 n ],
                    uniform (Random.named "f" stream) -3.0 3.0 [ int64 m ]

                let side sign values = values |> Array.averageBy (fun v -> max 0.0 (1.0 + sign * v))
                let expected = 0.5 * side -1.0 (floats real) + 0.5 * side 1.0 (floats fake)
                near 1e-5 "hinge" [| expected |] (floats (Discriminator.hinge real fake))
                near 1e-5 "generator" [| -(Array.average (floats fake)) |] (floats (Discriminator.generator fake)))

            property1 "a picture is judged without the others of its batch" (1, 3) (fun seed layers ->
                let config = { patches with Layers = layers }
                let weights = started seed (Discriminator.parameters config)
                let side = int64 (Discriminator.smallestSide layers)
                let images = uniform (Random.ofSeed seed) 0.0 1.0 [ 3L; 3L; side; side + 4L ]
                let together = Discriminator.verdicts config weights images
                Expect.equal together.shape[0..1] [| 3L; 1L |] "one map each"
                Expect.isGreaterThan (Array.min together.shape) 0L "the smallest side has a verdict"

                for i in 0L .. 2L do
                    let alone = Discriminator.verdicts config weights (images.narrow (0L, i, 1L))
                    near 1e-5 "the same" (floats (together.narrow (0L, i, 1L))) (floats alone))

            testCase "the adaptive weight is the ratio of the gradients at the last convolution" (fun () ->
                use _ = torch.NewDisposeScope()
                let last = (Host.floats [ 2L ] [| 1f; 1f |]).requires_grad_()
                let along a b = (last * Host.floats [ 2L ] [| a; b |]).sum()
                let weight = ImageTraining.adaptiveWeight last (along 3f 4f) (along 0f 0.5f)
                near 1e-3 "5 / 0.5001" [| 5.0 / 0.5001 |] (floats weight)
                Expect.isFalse weight.requires_grad "without graph"
                near 1e-3 "at most 10,000" [| 1e4 |] (floats (ImageTraining.adaptiveWeight last (along 300f 0f) (along 0f 0f)))
                Expect.isTrue (isNull last.grad) "no gradient is left behind")
        ]

let private small: ImageTrainConfig =
    let text =
        """{"imageSize": 16, "model": {"width": 8, "blocks": 1, "innerWidth": 4, "codes": 12, "codeWidth": 4},
            "batch": {"pictures": 4}, "optimizer": {"learningRate": 1e-2}, "schedule": {"warmupSteps": 0, "kind": "constant", "steps": 50}, "data": {"inputs": ["a"]}}"""

    ImageTrainConfig.parse text |> accepted "the small configuration"

/// Pictures of two flat halves, so that there is something to learn.
let private batch (seed: int64) (count: int) =
    let colours = uniform (Random.ofSeed seed |> Random.named "halves") 0.0 1.0 [ int64 count; 3L; 2L; 1L ]
    colours.repeat_interleave(8L, 2L).expand(int64 count, 3L, 16L, 16L).contiguous()

let private variants: (string * ImageTrainConfig) list =
    let adversarial = { small.Adversarial with Weight = 0.1; Width = 4; Layers = 2; StartStep = 2 }

    [
        "moving averages", small
        "gradients", { small with Mover = Gradients }
        "adversarial", { small with Adversarial = adversarial }
        "bf16", { small with Precision = Bf16; Adversarial = adversarial; Mover = Gradients }
        "movq",
        { small with
            Kind = MoVqKind
            Width = 32
            Multipliers = [ 1; 1 ]
            Attention = [ 1 ]
            MicroBatch = 3
        }
    ]

let private parts (config: ImageTrainConfig) (images: torch.Tensor) =
    [
        for start in 0 .. config.MicroBatch .. int images.shape[0] - 1 ->
            images.narrow (0L, int64 start, min (int64 config.MicroBatch) (images.shape[0] - int64 start))
    ]

let private begun (config: ImageTrainConfig) =
    let state = new ImageTrainingState(config, torch.CPU)
    ImageTraining.initialiseCodebook state [ batch 0L 8 ]
    state

let private steps =
    testList
        "steps"
        [
            for name, config in variants do
                testCase $"{name}: the reconstruction gets better and no tensor is left behind" (fun () ->
                    use _ = torch.NewDisposeScope()
                    use state = begun config
                    let images = parts config (batch 1L 4)
                    let live () = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount
                    let mutable counts = []

                    let results =
                        [
                            for step in 0..39 do
                                ImageTraining.step state step images
                                counts <- live () :: counts
                        ]

                    Expect.hasLength (List.distinct counts) 1 "live tensors after each step"
                    let first, last = results[0], List.last results
                    Expect.isLessThan last.L2 (0.5 * first.L2) $"half of the squared error {first.L2}"
                    Expect.all results (fun step -> not step.Skipped) "every step counts"

                    if config.Adversarial.Weight > 0.0 then
                        Expect.isTrue (Double.IsNaN results[1].Discriminator) "no discriminator before its start"

                        Expect.isTrue
                            (Double.IsFinite last.Discriminator && Double.IsFinite last.GeneratorWeight)
                            "and then there is one"
                    else
                        Expect.isTrue (Double.IsNaN last.Discriminator && Double.IsNaN last.Generator) "no discriminator")

            testCase "micro-batches change rounding only" (fun () ->
                use _ = torch.NewDisposeScope()

                let config =
                    { small with
                        Adversarial = { small.Adversarial with Weight = 0.1; Width = 4; Layers = 2; Adaptive = false }
                    }

                let run micro =
                    let config = { config with MicroBatch = micro }
                    use state = begun config
                    ImageTraining.step state 0 (parts config (batch 1L 4))

                let whole, pieces = run 4, run 1
                let close what (a: float) (b: float) = Expect.isLessThan (abs (a - b)) (1e-4 * abs a + 1e-7) what
                close "L1" whole.L1 pieces.L1
                close "L2" whole.L2 pieces.L2
                close "commitment" whole.Commitment pieces.Commitment
                close "verdict" whole.Generator pieces.Generator
                close "hinge" whole.Discriminator pieces.Discriminator
                close "gradient" whole.GradientNorm pieces.GradientNorm
                Expect.equal whole.Codes pieces.Codes "codes")

            for name, config in List.take 3 variants do
                testCase $"{name}: a gradient that is not finite changes nothing" (fun () ->
                    use _ = torch.NewDisposeScope()
                    use state = begun { config with Adversarial = { config.Adversarial with StartStep = 0 } }
                    ImageTraining.step state 0 [ batch 1L 4 ] |> ignore
                    let content () = [ for name, tensor in state.Tensors -> name, floats tensor ]
                    let before = content ()
                    let images = batch 2L 4
                    images.narrow(0L, 1L, 1L).fill_(Scalars.Of nan) |> ignore
                    let result = ImageTraining.step state 1 [ images ]
                    Expect.isTrue result.Skipped "it is said"

                    for (name, old), (_, now) in List.zip before (content ()) do
                        if name.EndsWith ".skipped" then
                            let wanted = if name.StartsWith "codebook" then 0.0 else 1.0
                            Expect.equal now [| wanted |] $"{name} counts it"
                        else
                            Expect.equal now old name

                    Expect.isFalse (ImageTraining.step state 2 [ batch 2L 4 ]).Skipped "the next one goes on")

            testCase "what is kept are the averaged weights, which the reader understands" (fun () ->
                use _ = torch.NewDisposeScope()
                let config = { small with AverageDecay = 0.9 }
                use state = begun config
                let master () = floats state.Store.Master
                let start = master ()
                ImageTraining.step state 0 [ batch 1L 4 ] |> ignore
                let decay = ImageTraining.averageDecay config 0L
                Expect.floatClose Accuracy.high decay 0.1 "the decay of the first step"
                let expected = Array.map2 (fun old now -> decay * old + (1.0 - decay) * now) start (master ())
                let average = state.Averages |> List.head |> snd
                near 1e-6 "the average" expected (floats average)
                Expect.floatClose Accuracy.high (ImageTraining.averageDecay config 1000L) 0.9 "the decay later"
                use kept = state.Snapshot()
                let slot = state.Store.Slots |> List.find (fun slot -> slot.Spec.Name = "pre_vq_conv.weight")
                let values = floats (kept.Weights "pre_vq_conv.weight")
                let own = (floats average).[int slot.Offset .. int (slot.Offset + slot.Spec.Count) - 1]
                Expect.equal values own "of a parameter"
                let entries = [ for slot in kept.Slots -> slot.Spec.Name, List.toArray slot.Spec.Shape ]
                Expect.equal (ImageTokenizer.infer entries) (Ok state.Tokenizer) "the tokenizer"
                // Without averaging the weights themselves are kept.
                use bare = begun { config with AverageDecay = 0.0 }
                ImageTraining.step bare 0 [ batch 1L 4 ] |> ignore
                use kept = bare.Snapshot()

                Expect.equal
                    (floats (kept.Weights "pre_vq_conv.weight"))
                    (floats (bare.Store.Weights "pre_vq_conv.weight"))
                    "as they are")

            property2
                "squares lie inside their picture and are the same for the same position"
                (16, 40)
                (16, 40)
                (fun seed width height ->
                    let config = { small with Crop = RandomCrop; Flip = true; Seed = seed }

                    for position in 0L .. 20L do
                        let view = ImageTraining.view config position width height
                        Expect.equal view (ImageTraining.view config position width height) "a function"

                        Expect.isTrue
                            (view.Left >= 0 && view.Left + 16 <= width && view.Top >= 0 && view.Top + 16 <= height)
                            "inside"

                    let centre = ImageTraining.view { config with Crop = CentreCrop; Flip = false } 3L width height
                    Expect.equal centre { Left = (width - 16) / 2; Top = (height - 16) / 2; Mirrored = false } "the centre")

            testCase "half of the pictures are mirrored, and every place is taken" (fun () ->
                let config = { small with Crop = RandomCrop; Flip = true }
                let views = [ for position in 0L .. 999L -> ImageTraining.view config position 20 18 ]
                let mirrored = views |> List.filter _.Mirrored |> List.length
                Expect.isTrue (mirrored > 430 && mirrored < 570) $"mirrored {mirrored} of 1000"

                Expect.equal
                    (views |> List.map (fun view -> view.Left, view.Top) |> List.distinct |> List.length)
                    15
                    "5 by 3 places")
        ]

let tests = testList "ImageTraining" [ codebook; discriminator; steps ]
