module Hybrid.Tests.ImageTokenizerTests

open System
open System.Collections.Generic
open Expecto
open FsCheck
open Hybrid
open TorchSharp

let private property name test = testPropertyWithConfig { FsCheckConfig.defaultConfig with maxTest = 20 } name test

/// A length in [low, high] made of any generated number.
let private within low high (generated: int) = low + abs (generated % (high - low + 1))

/// Numbers uniform in [low, high) of a stream, as float32 of a shape.
let private uniform (stream: Random.Stream) (low: float) (high: float) (shape: int64 list) =
    let count = shape |> List.fold (*) 1L |> int

    let values = Array.init count (fun i -> float32 (low + (high - low) * Random.uniform stream (int64 i)))

    torch.tensor(values).view(Array.ofList shape)

/// The weights of a list of parameters, started as they ask.
let private start (seed: int) (parameters: ParameterSpec list) : Weights =
    let table = Dictionary<string, torch.Tensor>()

    for parameter in parameters do
        let stream = Random.ofSeed (int64 seed) |> Random.named parameter.Name
        let shape = Array.ofList parameter.Shape

        table[parameter.Name] <-
            match parameter.Init with
            | TruncatedNormal deviation ->
                let values = Array.zeroCreate<float32>(int (List.fold (*) 1L parameter.Shape))
                Random.fillTruncatedNormal deviation stream (values.AsSpan())
                torch.tensor(values).view shape
            | Uniform bound -> uniform stream -bound bound parameter.Shape
            | Zeros -> torch.zeros shape
            | Ones -> torch.ones shape

    fun name -> table[name]

let private smallScenes (blocks: int) (codes: int64) : SceneVqVaeConfig =
    {
        Channels = 3L
        Patch = 4L
        Width = 16L
        InnerWidth = 8L
        EncoderBlocks = blocks
        EncoderKernel = (if blocks = 2 then 3L else 1L)
        DecoderBlocks = 1
        Codes = codes
        CodeWidth = 6L
    }

let private smallPhotos (halvings: int) (blocks: int) : VqVaeConfig =
    {
        Channels = 3L
        Encoder = [ for _ in 1..halvings -> { Width = 8L; Kernel = 4L } ] @ [ { Width = 12L; Kernel = 3L } ]
        EncoderStack = { Blocks = blocks; InnerWidth = if blocks = 0 then 0L else 5L }
        Codes = 19L
        CodeWidth = 7L
        DecoderWidth = 10L
        DecoderStack = { Blocks = 1; InnerWidth = 4L }
        Doublings = [ for _ in 2..halvings -> 6L ]
    }

let private smallVqGan (levels: int) (blocks: int) (quantiser: VqGanQuantiser) : VqGanConfig =
    { VqGan.moVq67M with
        Base = 32L
        Levels = [ for level in 1..levels -> 32L * int64 ((level + 1) / 2) ]
        Blocks = blocks
        EncoderAttention = [ levels - 1 ]
        DecoderAttention = (if quantiser = NearestCode then [ levels - 1 ] else [])
        MiddleAttention = (blocks = 1)
        Codes = 21L
        CodeWidth = 3L
        DecoderNorm = (if quantiser = NearestCode then SpatialNorm else PlainNorm)
        Quantiser = quantiser
    }

/// A tokenizer of any kind with weights that use several codes.
let private tokenizer (seed: int) : TokenizerConfig * Weights =
    let config =
        match seed % 3 with
        | 0 -> SceneTokenizer(smallScenes (within 0 2 (seed / 3)) 23L)
        | 1 -> PhotoTokenizer(smallPhotos (within 1 3 (seed / 3)) (within 0 2 (seed / 9)))
        | _ ->
            let quantiser = if seed / 18 % 2 = 0 then NearestCode else GreatestLogit
            VqGanTokenizer(smallVqGan (within 1 3 (seed / 3)) (within 1 2 (seed / 9)) quantiser)

    let weights = start seed (ImageTokenizer.parameters config)
    let stream = Random.ofSeed (int64 seed) |> Random.named "codebook"

    let codebook =
        match config with
        | SceneTokenizer scenes -> uniform stream -1.0 1.0 [ scenes.Codes; scenes.CodeWidth ]
        | PhotoTokenizer photos -> uniform stream -0.2 0.2 [ photos.Codes; photos.CodeWidth ]
        | VqGanTokenizer gan -> uniform stream -1.0 1.0 [ gan.Codes; gan.CodeWidth ]

    config, (fun name -> if name = ImageTokenizer.codebook config then codebook else weights name)

let private pictures (seed: int) (config: TokenizerConfig) (batch: int) (height: int) (width: int) =
    let stride = ImageTokenizer.stride config

    uniform
        (Random.ofSeed (int64 seed) |> Random.named "pictures")
        0.0
        1.0
        [ int64 batch; 3L; int64 height * stride; int64 width * stride ]

let private same (a: torch.Tensor) (b: torch.Tensor) = a.shape = b.shape && a.equal(b).all().item<bool>()

let private codebookTests =
    testList
        "codebook"
        [
            property "the nearest code is a plain loop's, the first of equals" (fun (seed: int) (n: int) (k: int) (c: int) ->
                use _ = torch.NewDisposeScope()
                let n, k, c = within 1 40 n, within 1 30 k, within 1 5 c
                let stream = Random.ofSeed (int64 seed)
                // Small whole numbers: distances are exact, and ties are common.
                let draw name count = Array.init count (fun i -> Random.below 5 (Random.named name stream) (int64 i) - 2)

                let codebook, vectors = draw "codebook" (k * c), draw "vectors" (n * c)

                let expected =
                    [|
                        for row in 0 .. n - 1 ->
                            seq { 0 .. k - 1 }
                            |> Seq.minBy (fun code ->
                                Seq.sum (
                                    seq {
                                        for axis in 0 .. c - 1 -> pown (codebook[code * c + axis] - vectors[row * c + axis]) 2
                                    }
                                ))
                            |> int64
                    |]

                let tensor (values: int[]) rows = torch.tensor(Array.map float32 values).view(int64 rows, int64 c)

                let codes = Codebook.nearest (tensor codebook k) (tensor vectors n)
                codes.data<int64>().ToArray() = expected)

            testCase "chunks of the distance matrix join to the whole" (fun () ->
                use _ = torch.NewDisposeScope()
                let stream = Random.ofSeed 4L
                let codebook = uniform (Random.named "codebook" stream) -1.0 1.0 [ 4096L; 3L ]
                let vectors = uniform (Random.named "vectors" stream) -1.0 1.0 [ 2500L; 3L ]
                let whole = Codebook.nearest codebook vectors

                let halves =
                    torch.cat (
                        [|
                            Codebook.nearest codebook (vectors.narrow (0L, 0L, 900L))
                            Codebook.nearest codebook (vectors.narrow (0L, 900L, 1600L))
                        |],
                        0L
                    )

                let chosen = codebook.index_select (0L, whole)
                let distance (rows: torch.Tensor) = (rows - vectors).pow(Scalars.Of(2.0)).sum 1L
                let other = distance (codebook.index_select (0L, halves))
                Expect.equal (whole.shape: int64[]) [| 2500L |] "one code a vector"
                Expect.isTrue ((distance chosen - other).abs().max().item<float32>() < 1e-5f) "the same distances")

            property "vectors of codes are found again" (fun (seed: int) (b: int) (h: int) (w: int) ->
                use _ = torch.NewDisposeScope()
                let b, h, w = within 1 3 b, within 1 5 h, within 1 5 w
                let stream = Random.ofSeed (int64 seed)
                let codebook = uniform stream -1.0 1.0 [ 17L; 6L ]

                let codes =
                    torch
                        .tensor(Array.init (b * h * w) (fun i -> int64 (Random.below 17 stream (int64 i))))
                        .view(int64 b, int64 h, int64 w)

                let map = Codebook.lookup codebook codes
                map.shape = [| int64 b; 6L; int64 h; int64 w |] && same codes (Codebook.assign codebook map))

            property
                "an update keeps shapes, stays finite, and fills a codebook of zeros from the batch"
                (fun (seed: int) (n: int) (k: int) ->
                    use _ = torch.NewDisposeScope()
                    let n, k = within 1 60 n, within 1 40 k
                    let stream = Random.ofSeed (int64 seed)
                    let weights = start seed (Codebook.parameters "codebook" (int64 k) 4L)
                    let state = Codebook.state "codebook" weights
                    let learning: Codebook.Learning = { Decay = 0.9; Revival = 0.05; Smoothing = 0.0 }

                    let step number =
                        let vectors = uniform (Random.numbered number stream) -3.0 3.0 [ int64 n; 4L ]
                        let codes = Codebook.nearest state.Vectors vectors
                        Codebook.update learning stream number state vectors codes
                        vectors

                    let first = step 0L
                    let distances = (state.Vectors.unsqueeze 1L - first).abs().amax([| 2L |]).amin [| 1L |]
                    // Every code but the first, which took the whole batch, stands on a vector of the batch.
                    let onBatch = k = 1 || distances.narrow(0L, 1L, int64 k - 1L).max().item<float32>() < 1e-3f

                    for number in 1L .. 20L do
                        step number |> ignore

                    onBatch
                    && state.Vectors.shape = [| int64 k; 4L |]
                    && torch.isfinite(state.Vectors).all().item<bool>()
                    && torch.isfinite(state.Sums).all().item<bool>()
                    && state.Counts.gt(Scalars.Of(0.0)).all().item<bool>()
                    && state.Vectors.abs().max().item<float32>() < 3.1f)

            testCase "an update moves used codes by the averages and draws the same for the same step" (fun () ->
                use _ = torch.NewDisposeScope()

                let fresh () : Codebook.State =
                    {
                        Vectors = torch.tensor([| 1f; 0f; 0f; 1f |]).view(2L, 2L)
                        Counts = torch.tensor [| 2f; 0f |]
                        Sums = torch.tensor([| 2f; 0f; 0f; 0f |]).view(2L, 2L)
                    }

                let vectors = torch.tensor([| 2f; 0f; 4f; 2f |]).view(2L, 2L)
                let codes = torch.tensor [| 0L; 0L |]
                let learning: Codebook.Learning = { Decay = 0.5; Revival = 0.1; Smoothing = 0.0 }
                let state, again = fresh (), fresh ()
                Codebook.update learning (Random.ofSeed 1L) 3L state vectors codes
                Codebook.update learning (Random.ofSeed 1L) 3L again vectors codes
                // counts 0.5·2 + 0.5·2 = 2; sums 0.5·(2, 0) + 0.5·(6, 2) = (4, 1)
                Expect.equal (state.Vectors[0L].data<float32>().ToArray()) [| 2f; 0.5f |] "the mean of the averages"
                let revived = state.Vectors[1L].data<float32>().ToArray()
                Expect.contains [ [| 2f; 0f |]; [| 4f; 2f |] ] revived "the unused code stands on a vector of the batch"
                Expect.isTrue (same state.Vectors again.Vectors) "the same draw")

            testCase "use and entropy" (fun () ->
                use _ = torch.NewDisposeScope()
                let histogram = Codebook.histogram 8 (torch.tensor([| 0L; 1L; 2L; 3L; 0L; 1L; 2L; 3L |]).view(2L, 4L))
                Expect.equal histogram [| 2L; 2L; 2L; 2L; 0L; 0L; 0L; 0L |] "occurrences"
                Expect.equal (CodeUse.ofCounts histogram).Share 0.5 "half of the codes occur"
                Expect.floatClose Accuracy.high (CodeUse.ofCounts histogram).Entropy 2.0 "four equal codes are two bits"
                Expect.equal (CodeUse.ofCounts [| 5L; 0L |]).Entropy 0.0 "one code is no information")
        ]

let private graphTests =
    testList
        "graph"
        [
            property "shapes, range and repetition" (fun (seed: int) (b: int) (h: int) (w: int) ->
                use _ = torch.NewDisposeScope()
                let seed, b, h, w = abs (seed % 10000), within 1 3 b, within 1 4 h, within 1 4 w
                let config, weights = tokenizer seed
                let images = pictures seed config b h w
                let codes = ImageTokenizer.encode config weights images
                let decoded = ImageTokenizer.decode config weights codes

                codes.shape = [| int64 b; int64 h; int64 w |]
                && codes.dtype = torch.ScalarType.Int64
                && codes.min().item<int64>() >= 0L
                && codes.max().item<int64>() < ImageTokenizer.codes config
                && decoded.shape = images.shape
                && decoded.min().item<float32>() >= 0f
                && decoded.max().item<float32>() <= 1f
                && same codes (ImageTokenizer.encode config weights images)
                && same decoded (ImageTokenizer.decode config weights codes))

            property "a batch is its pictures one by one" (fun (seed: int) (b: int) ->
                use _ = torch.NewDisposeScope()
                let seed, b = abs (seed % 10000), within 2 4 b
                let config, weights = tokenizer seed
                let images = pictures seed config b 3 2
                let codes = ImageTokenizer.encode config weights images
                let decoded = ImageTokenizer.decode config weights codes
                let one i (t: torch.Tensor) = t.narrow (0L, int64 i, 1L)

                let singles = torch.cat ([| for i in 0 .. b - 1 -> ImageTokenizer.encode config weights (one i images) |], 0L)

                let pictures = torch.cat ([| for i in 0 .. b - 1 -> ImageTokenizer.decode config weights (one i codes) |], 0L)

                // Another batch size may add in another order: a code may differ on a tie, a pixel in its last bits.
                codes.eq(singles).``to``(torch.float32).mean().item<float32>() > 0.99f
                && (pictures - decoded).abs().max().item<float32>() < 1e-5f)

            testCase "large batches go through in chunks" (fun () ->
                use _ = torch.NewDisposeScope()
                let config = PhotoTokenizer { smallPhotos 1 0 with CodeWidth = 2L; Codes = 5L }
                let weights = start 3 (ImageTokenizer.parameters config)
                let images = uniform (Random.ofSeed 8L) 0.0 1.0 [ 5L; 3L; 512L; 512L ]
                let codes = ImageTokenizer.encode config weights images
                let last = ImageTokenizer.encode config weights (images.narrow (0L, 4L, 1L))
                Expect.equal codes.shape [| 5L; 256L; 256L |] "all pictures are there"

                let agree = codes.narrow(0L, 4L, 1L).eq(last).``to``(torch.float32).mean().item<float32>()

                Expect.isGreaterThan agree 0.999f "the picture of the second chunk has its own codes"
                Expect.equal (ImageTokenizer.decode config weights codes).shape images.shape "and comes back whole")

            testCase "a residual block carries the rectified map" (fun () ->
                use _ = torch.NewDisposeScope()
                // On a black picture the first channel is -13.5 and the second 13.5 (27 taps of -0.5). The block adds half of
                // the second to the first: 6.75 on a rectified skip, but relu (-13.5 + 6.75) = 0 on a plain one.
                let config =
                    { smallPhotos 1 1 with
                        Encoder = [ { Width = 2L; Kernel = 4L } ]
                        EncoderStack = { Blocks = 1; InnerWidth = 1L }
                        CodeWidth = 1L
                        Codes = 2L
                    }

                let filter (shape: int64 list) (taps: (int64 list * float) list) =
                    let weight = torch.zeros (Array.ofList shape)

                    for index, value in taps do
                        weight.index_put_ (Scalars.Of(value), [| for i in index -> torch.TensorIndex.Single i |]) |> ignore

                    weight

                let block = "encoder._blocks.residual.residual_blocks.residual_0._block"

                let weights name =
                    match name with
                    | "encoder._blocks.conv_1.weight" ->
                        torch.cat ([| torch.ones [| 1L; 3L; 4L; 4L |]; -(torch.ones [| 1L; 3L; 4L; 4L |]) |], 0L)
                    | "pre_vq_conv.weight" -> filter [ 1L; 2L; 1L; 1L ] [ [ 0L; 0L; 0L; 0L ], 1.0 ]
                    | "vq_vae.codebook.weight" -> torch.tensor([| 0f; 6.75f |]).view(2L, 1L)
                    | name when name = block + ".conv_1.weight" -> filter [ 1L; 2L; 3L; 3L ] [ [ 0L; 1L; 1L; 1L ], 1.0 ]
                    | name when name = block + ".conv_2.weight" -> filter [ 2L; 1L; 1L; 1L ] [ [ 0L; 0L; 0L; 0L ], 0.5 ]
                    | name ->
                        let parameter = VqVae.parameters config |> List.find (fun p -> p.Name = name)
                        torch.zeros (Array.ofList parameter.Shape)

                let codes = ImageTokenizer.encode (PhotoTokenizer config) weights (torch.zeros [| 1L; 3L; 4L; 4L |])
                Expect.equal (codes.data<int64>().ToArray()) [| 1L; 1L; 1L; 1L |] "the skip is rectified")

            testCase "wrong input is refused with its shape" (fun () ->
                use _ = torch.NewDisposeScope()
                let config, weights = tokenizer 6

                let refused part (f: unit -> torch.Tensor) =
                    let error = Expect.throwsC (fun () -> f () |> ignore) id
                    Expect.isTrue (error :? ShapeException) $"a ShapeException, not {error.GetType().Name}"
                    Expect.stringContains error.Message part "the message says what"

                let zeros (shape: int64 list) = torch.zeros (Array.ofList shape)
                refused "[1, 3, 6, 8]" (fun () -> ImageTokenizer.encode config weights (zeros [ 1L; 3L; 6L; 8L ]))
                refused "[1, 1, 8, 8]" (fun () -> ImageTokenizer.encode config weights (zeros [ 1L; 1L; 8L; 8L ]))
                refused "[0, 3, 8, 8]" (fun () -> ImageTokenizer.encode config weights (zeros [ 0L; 3L; 8L; 8L ]))

                refused "Byte" (fun () ->
                    ImageTokenizer.encode config weights (torch.zeros ([| 1L; 3L; 8L; 8L |], dtype = torch.uint8)))

                refused "Float32" (fun () -> ImageTokenizer.decode config weights (zeros [ 1L; 2L; 2L ]))

                refused "0 to 22" (fun () ->
                    ImageTokenizer.decode config weights (torch.full ([| 1L; 2L; 2L |], Scalars.Of(23L), dtype = torch.int64))))

            property "calls leave no tensor behind but their result" (fun (seed: int) ->
                let seed = abs (seed % 10000)
                use _ = torch.NewDisposeScope()
                let config, weights = tokenizer seed
                let images = pictures seed config 2 2 2
                let live () = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount
                let before = live ()
                let codes = ImageTokenizer.encode config weights images
                let afterEncode = live ()
                let decoded = ImageTokenizer.decode config weights codes
                let afterDecode = live ()
                ImageQuality.psnr images decoded |> ignore
                Codebook.histogram 23 codes |> ignore
                (before + 1L, before + 2L, before + 2L) = (afterEncode, afterDecode, live ()))

            testCase "PSNR" (fun () ->
                use _ = torch.NewDisposeScope()
                let zero = torch.zeros [| 2L; 3L; 4L; 4L |]
                let other = zero.clone ()
                other.narrow(0L, 1L, 1L).fill_(Scalars.Of(0.1)) |> ignore
                let values = ImageQuality.psnr zero other
                Expect.equal values[0] Double.PositiveInfinity "equal pictures"
                Expect.floatClose Accuracy.medium values[1] 20.0 "an error of a tenth is 20 dB")
        ]

let private inferTests =
    let entries config = ImageTokenizer.parameters config |> List.map (fun p -> p.Name, Array.ofList p.Shape)

    testList
        "infer"
        [
            testCase "the published MoVQGANs have their numbers of entries and parameters" (fun () ->
                for width, blocks, entries, total in
                    [ 128L, 2, 431, 67_832_495L; 128L, 4, 671, 101_614_255L; 256L, 2, 431, 270_669_103L ] do
                    let config =
                        { VqGan.moVq67M with
                            Base = width
                            Levels = [ width; 2L * width; 2L * width; 4L * width ]
                            Blocks = blocks
                        }

                    let parameters = VqGan.parameters config
                    Expect.equal parameters.Length entries "entries"
                    Expect.equal (parameters |> List.sumBy (fun p -> List.fold (*) 1L p.Shape)) total "parameters")

            property "a configuration is read back from its parameters, in any order" (fun (seed: int) ->
                let config, _ = tokenizer (abs (seed % 10000))
                let stream = Random.ofSeed (int64 seed)

                let shuffled =
                    entries config |> List.indexed |> List.sortBy (fun (i, _) -> Random.bits stream (int64 i)) |> List.map snd

                ImageTokenizer.infer (shuffled @ [ "discriminator.weight", [| 3L |] ]) = Ok config)

            property "an entry that is missing or of another shape is named" (fun (seed: int) (index: int) ->
                let config, _ = tokenizer (abs (seed % 10000))
                let entries = entries config
                let name, shape = entries[within 0 (entries.Length - 1) index]

                let without = ImageTokenizer.infer (entries |> List.filter (fun (other, _) -> other <> name))

                let misshaped =
                    entries
                    |> List.map (fun (other, s) -> if other = name then other, Array.append shape [| 1L |] else other, s)
                    |> ImageTokenizer.infer

                match without, misshaped with
                | Error missing, Error wrong -> missing.Contains $"'{name}'" && wrong.Contains $"'{name}'"
                | _ -> false)

            testCase "several faults are named at once, and a foreign file is said to be one" (fun () ->
                let config = PhotoTokenizer(smallPhotos 2 1)

                let broken =
                    entries config
                    |> List.filter (fun (name, _) -> name <> "pre_vq_conv.bias")
                    |> List.map (fun (name, shape) ->
                        if name = "decoder._blocks.conv_1.bias" then name, [| 99L |] else name, shape)

                match ImageTokenizer.infer broken, ImageTokenizer.infer [ "layers.0.weight", [| 3L; 3L |] ] with
                | Error text, Error foreign ->
                    Expect.stringContains text "'pre_vq_conv.bias', of shape [7], is missing" "the missing one"
                    Expect.stringContains text "'decoder._blocks.conv_1.bias' has shape [99]" "the misshaped one"
                    Expect.stringContains foreign "no entry of an image tokenizer" "nothing is known"
                | other -> failtest $"both must be refused: {other}")
        ]

let private trainingTests =
    let scene = smallScenes 1 16L

    /// Pictures of two flat halves, so that there is something to learn.
    let batch (seed: int) =
        let colours = uniform (Random.ofSeed (int64 seed) |> Random.named "halves") 0.0 1.0 [ 8L; 3L; 2L; 1L ]
        colours.repeat_interleave(8L, 2L).expand(8L, 3L, 16L, 16L).contiguous()

    let learning: Codebook.Learning = { Decay = 0.9; Revival = 0.05; Smoothing = 0.0 }

    testList
        "training"
        [
            testCase "the learning rate warms up and ends at a fiftieth" (fun () ->
                let recipe = SceneVqVae.quickRecipe
                let rate step = SceneVqVae.learningRate recipe step
                let last = int64 recipe.Steps
                Expect.floatClose Accuracy.high (rate 0L) (recipe.LearningRate / float recipe.WarmupSteps) "the first step"
                Expect.floatClose Accuracy.high (rate last) (recipe.LearningRate / 50.0) "the end"

                let falling =
                    Seq.pairwise (seq { int64 recipe.WarmupSteps .. last }) |> Seq.forall (fun (a, b) -> rate b < rate a)

                Expect.isTrue falling "it falls after the warm-up")

            testCase "steps on a batch lower its loss" (fun () ->
                use _ = torch.NewDisposeScope()
                let gradients = SceneVqVae.parameters scene
                let weights = start 5 (gradients @ SceneVqVae.codebook scene)

                let moved = dict [ for p in gradients -> p.Name, new Modules.Parameter((weights p.Name).clone()) ]

                let weights name =
                    match moved.TryGetValue name with
                    | true, parameter -> parameter :> torch.Tensor
                    | _ -> weights name

                use optimizer = torch.optim.Adam(moved.Values, 3e-3)
                let images = batch 1

                let losses =
                    [
                        for number in 0L .. 59L do
                            use _ = torch.NewDisposeScope()
                            let training = SceneVqVae.trainingLoss 0.25 scene weights images
                            optimizer.zero_grad ()
                            training.Loss.backward ()
                            optimizer.step () |> ignore
                            SceneVqVae.updateCodebook learning (Random.ofSeed 2L) number weights training
                            training.Reconstruction.item<float32>()
                    ]

                Expect.isLessThan (List.last losses) (0.3f * losses[1]) "the reconstruction is three times better"
                Expect.isTrue (losses |> List.forall Single.IsFinite) "every loss is finite")

            property "shapes, parts and gradients of the training loss" (fun (seed: int) ->
                use _ = torch.NewDisposeScope()
                let gradients = SceneVqVae.parameters scene
                let weights = start seed (gradients @ SceneVqVae.codebook scene)

                for parameter in gradients do
                    (weights parameter.Name).requires_grad_() |> ignore

                let live () = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount
                let images = batch seed
                let before = live ()
                let training = SceneVqVae.trainingLoss 0.25 scene weights images
                let after = live ()
                SceneVqVae.updateCodebook learning (Random.ofSeed 2L) 0L weights training
                let afterUpdate = live ()
                training.Loss.backward ()
                let sum = training.Reconstruction.item<float32>() + 0.25f * training.Commitment.item<float32>()

                after = before + 5L
                && afterUpdate = after
                && training.Codes.shape = [| 8L; 4L; 4L |]
                && training.Vectors.shape = [| 128L; 6L |]
                && not training.Vectors.requires_grad
                && abs (training.Loss.item<float32>() - sum) < 1e-5f
                && gradients |> List.forall (fun p -> not (isNull (weights p.Name).grad))
                && isNull (weights "codebook.weight").grad)

            testCase "bfloat16 weights give nearly the same loss" (fun () ->
                use _ = torch.NewDisposeScope()
                let weights = start 5 (SceneVqVae.parameters scene @ SceneVqVae.codebook scene)
                let images = batch 1

                SceneVqVae.trainingLoss 0.25 scene weights images
                |> SceneVqVae.updateCodebook learning (Random.ofSeed 2L) 0L weights

                let half name =
                    if (name: string).StartsWith "codebook" then
                        weights name
                    else
                        (weights name).``to`` torch.bfloat16

                let full = SceneVqVae.trainingLoss 0.25 scene weights images
                let rounded = SceneVqVae.trainingLoss 0.25 scene half images
                Expect.equal rounded.Loss.dtype torch.ScalarType.Float32 "the loss is float32"
                let a, b = full.Reconstruction.item<float32>(), rounded.Reconstruction.item<float32>()
                Expect.isLessThan (abs (a - b) / a) 0.02f "within two per cent")
        ]

let tests = testList "ImageTokenizer" [ codebookTests; graphTests; inferTests; trainingTests ]
