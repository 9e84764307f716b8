module Hybrid.Tests.ImageTrainConfigTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate

let private generated (seed: int64) : ImageTrainConfig =
    let chooser = Chooser seed
    let photo = chooser.Bool()
    let multipliers = [ for _ in 0 .. chooser.Int(0, 3) -> chooser.Int(1, 4) ]
    let pictures = chooser.Int(1, 500)
    let imageSize = 64 * chooser.Int(1, 8)

    {
        Kind = (if photo then PhotoKind else MoVqKind)
        ImageSize = imageSize
        Inputs = [ for i in 1 .. chooser.Int(0, 3) -> $"ü/{i}.tar" ]
        HeldOutShare = chooser.Float(0.0, 0.9)
        HeldOutMost = chooser.Int(1, 1000)
        Crop = chooser.Of [ CentreCrop; RandomCrop ]
        ShortSide = imageSize + chooser.Int(0, 100)
        Flip = chooser.Bool()
        Width = 32 * chooser.Int(1, 4)
        Multipliers = multipliers
        Blocks = chooser.Int(1, 4)
        InnerWidth = (if photo then chooser.Int(1, 64) else 0)
        Attention = (if photo || chooser.Bool() then [] else [ multipliers.Length - 1 ])
        Codes = chooser.Int(2, 20000)
        CodeWidth = chooser.Int(1, 64)
        Mover = chooser.Of [ MovingAverages; Gradients ]
        Codebook =
            {
                Decay = chooser.Float(0.0, 0.99)
                Revival = chooser.Float(0.0, 1.0)
                Smoothing = chooser.Float(0.0, 1.0)
            }
        Commitment = chooser.Float(0.0, 2.0)
        CodebookWeight = chooser.Float(0.0, 2.0)
        InitialPictures = chooser.Int(1, 500)
        L1 = chooser.Float(0.1, 2.0)
        L2 = chooser.Float(0.0, 2.0)
        Adversarial =
            {
                Weight = chooser.Float(0.0, 1.0)
                StartStep = chooser.Int(0, 1000)
                Adaptive = chooser.Bool()
                Width = chooser.Int(1, 128)
                Layers = chooser.Int(1, 4)
                LearningRate = chooser.Of [ None; Some(chooser.Float(0.0, 1.0)) ]
            }
        Betas = chooser.Float(0.0, 0.99), chooser.Float(0.0, 0.99)
        Epsilon = chooser.Float(1e-12, 1e-4)
        WeightDecay = chooser.Float(0.0, 1.0)
        ClipNorm = chooser.Of [ None; Some(chooser.Float(0.1, 10.0)) ]
        Schedule =
            {
                Kind = chooser.Of [ Cosine; Constant ]
                Peak = chooser.Float(0.0, 1.0)
                Minimum = chooser.Float(0.0, 1e-3)
                WarmupSteps = chooser.Int(0, 100)
                Steps = chooser.Int(1, 100000)
            }
        Pictures = pictures
        MicroBatch = chooser.Int(1, pictures)
        AverageDecay = chooser.Float(0.0, 0.999)
        Precision = chooser.Of [ Fp32; Bf16 ]
        CheckpointEvery = chooser.Int(1, 100000)
        Seed = int64 (chooser.Int(-1000, 1000)) * 4_000_000_000_000_000L
    }

let private parsed (text: string) = ImageTrainConfig.parse text |> accepted "the configuration"

let tests =
    testList
        "ImageTrainConfig"
        [
            property "toJson and parse are inverse" (fun seed ->
                let config = generated seed
                // Two halvings at least divide 64; more multipliers do too, up to four.
                Expect.equal (ImageTrainConfig.toJson config |> parsed) config "the configuration read back")

            property "the tokenizer of a configuration is what a reader finds in its entries" (fun seed ->
                let tokenizer = ImageTrainConfig.tokenizer (generated seed)
                let entries = [ for spec in ImageTokenizer.parameters tokenizer -> spec.Name, List.toArray spec.Shape ]
                Expect.equal (ImageTokenizer.infer entries) (Ok tokenizer) "the same tokenizer")

            testCase "what may be left out has its default, of its kind" (fun () ->
                let photo, movq = parsed """{"imageSize": 128}""", parsed """{"imageSize": 128, "kind": "movq"}"""

                Expect.equal
                    (photo.Kind, photo.Multipliers, photo.InnerWidth, photo.CodeWidth)
                    (PhotoKind, [ 1; 2 ], 32, 16)
                    "vqvae"

                Expect.equal
                    (movq.Kind, movq.Multipliers, movq.Attention, movq.CodeWidth)
                    (MoVqKind, [ 1; 2; 2; 4 ], [ 3 ], 8)
                    "movq"

                Expect.equal (ImageTokenizer.stride (ImageTrainConfig.tokenizer photo)) 4L "two halvings"
                Expect.equal (ImageTokenizer.stride (ImageTrainConfig.tokenizer movq)) 8L "three halvings"
                Expect.equal photo.ClipNorm (Some 1.0) "clipNorm"
                Expect.isNone (ImageTrainConfig.discriminator photo) "no discriminator"

                Expect.equal
                    (parsed """{"imageSize": 128, "data": {"crop": "random"}}""").ShortSide
                    144
                    "an eighth to choose from")

            testCase "the published MoVQGAN is a configuration" (fun () ->
                let text =
                    """{"kind": "movq", "imageSize": 256, "model": {"width": 128, "multipliers": [1, 2, 2, 4], "blocks": 2,
                        "codes": 16384, "codeWidth": 4}}"""

                let count = ImageTokenizer.parameters (ImageTrainConfig.tokenizer (parsed text)) |> List.sumBy _.Count
                Expect.equal count 67_832_495L "parameters of the 67M")

            testCase "everything that is mistyped or unknown is named at once" (fun () ->
                """{"kind": "gan", "imageSize": "big", "data": {"inputs": [], "heldOutShare": 1, "heldOutMost": 0, "crop": 1,
                    "shortSide": 0, "flip": 1, "shape": 1}, "model": {"width": 0, "multipliers": "1", "blocks": -1, "innerWidth": 0,
                    "codes": 1, "codeWidth": 0, "attention": [1]},
                    "codebook": {"mover": "x", "decay": 1, "revival": 2, "smoothing": -1, "commitment": -1, "weight": -1, "initialPictures": 0},
                    "loss": {"l1": -1, "l2": "0", "lpips": 1},
                    "adversarial": {"weight": -1, "startStep": -1, "adaptive": 0, "width": 0, "layers": 0, "learningRate": -1},
                    "optimizer": {"learningRate": -1, "betas": 1, "epsilon": -1, "weightDecay": -1},
                    "schedule": {"kind": "x", "warmupSteps": -1, "steps": 0, "minimumLearningRate": -1},
                    "batch": {"pictures": 0, "microBatch": 0}, "clipNorm": 0, "averageDecay": 1, "precision": "fp16",
                    "checkpoint": {"everySteps": 0}, "seed": 0.5, "sede": 1}"""
                |> ImageTrainConfig.parse
                |> errorsAt
                    "a configuration full of errors"
                    [
                        "kind"
                        "imageSize"
                        "data.inputs"
                        "data.heldOutShare"
                        "data.heldOutMost"
                        "data.crop"
                        "data.shortSide"
                        "data.flip"
                        "data.shape"
                        "model.width"
                        "model.multipliers"
                        "model.blocks"
                        "model.innerWidth"
                        "model.codes"
                        "model.codeWidth"
                        // A vqvae has no attention.
                        "model.attention"
                        "codebook.mover"
                        "codebook.decay"
                        "codebook.revival"
                        "codebook.smoothing"
                        "codebook.commitment"
                        "codebook.weight"
                        "codebook.initialPictures"
                        "loss.l1"
                        "loss.l2"
                        "loss.lpips"
                        "adversarial.weight"
                        "adversarial.startStep"
                        "adversarial.adaptive"
                        "adversarial.width"
                        "adversarial.layers"
                        "adversarial.learningRate"
                        "optimizer.learningRate"
                        "optimizer.betas"
                        "optimizer.epsilon"
                        "optimizer.weightDecay"
                        "schedule.kind"
                        "schedule.warmupSteps"
                        "schedule.steps"
                        "schedule.minimumLearningRate"
                        "batch.pictures"
                        "batch.microBatch"
                        "clipNorm"
                        "averageDecay"
                        "precision"
                        "checkpoint.everySteps"
                        "seed"
                        "sede"
                    ])

            testCase "values that do not go together are named" (fun () ->
                for text, keys in
                    [
                        "{}", [ "imageSize" ]
                        """{"imageSize": 30}""", [ "imageSize" ]
                        """{"imageSize": 32, "model": {"multipliers": []}}""", [ "model.multipliers" ]
                        """{"imageSize": 32, "kind": "movq", "model": {"width": 24}}""", [ "model.width" ]
                        """{"imageSize": 32, "kind": "movq", "model": {"attention": [4]}}""", [ "model.attention" ]
                        """{"imageSize": 32, "data": {"shortSide": 31}}""", [ "data.shortSide" ]
                        """{"imageSize": 16, "adversarial": {"weight": 0.5}}""", [ "adversarial.layers" ]
                        """{"imageSize": 32, "loss": {"l1": 0, "l2": 0}}""", [ "loss" ]
                    ] do
                    ImageTrainConfig.parse text |> errorsAt text keys)
        ]
