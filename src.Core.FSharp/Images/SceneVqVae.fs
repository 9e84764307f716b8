namespace Hybrid

open TorchSharp

/// A small VQ-VAE for pictures of flat shapes: one code per patch, every convolution on the grid of codes, so that it trains
/// in a minute on two cores. Patches are unfolded into channels and folded back; neighbours meet in the 3×3 convolutions.
type SceneVqVaeConfig =
    {
        /// Channels of a picture.
        Channels: int64
        /// Pixels of a patch along each axis: the stride.
        Patch: int64
        /// Channels of the maps on the grid.
        Width: int64
        /// Channels between the two convolutions of a residual block.
        InnerWidth: int64
        /// Residual blocks of the encoder
        EncoderBlocks: int
        /// Kernel of the first convolution of an encoder block: 3 lets a code depend on neighbouring patches, 1 makes it a
        /// function of its own patch alone.
        EncoderKernel: int64
        /// Residual blocks of the decoder
        DecoderBlocks: int
        /// K, the codebook's size
        Codes: int64
        /// Width of a code's vector.
        CodeWidth: int64
    }

/// What a batch says of a tokenizer in training. The tensors belong to the scope that was open around the call.
[<NoEquality; NoComparison>]
type SceneTraining =
    {
        /// Reconstruction + commitment, with its graph: what is to be differentiated.
        Loss: torch.Tensor
        /// Mean squared error of the reconstruction, without graph: PSNR = −10 log10 of it.
        Reconstruction: torch.Tensor
        /// Mean squared distance of the vectors to their codes, before its weight, without graph.
        Commitment: torch.Tensor
        /// int64 [B, h, w].
        Codes: torch.Tensor
        /// The encoder's vectors, float32 [B·h·w, width of a code], without graph: what the codebook learns from.
        Vectors: torch.Tensor
    }

/// How the scene tokenizer is trained: AdamW without decay, a linear warm-up and a cosine to a fiftieth of the rate.
type SceneRecipe =
    {
        /// Pictures of a step
        Batch: int
        /// Updates of the weights
        Steps: int
        /// The peak
        LearningRate: float
        /// Steps over which the rate rises to its peak
        WarmupSteps: int
        /// AdamW's two
        Betas: float * float
        /// Weight of the commitment term.
        Commitment: float
        /// How moving averages move the codes
        Codebook: Codebook.Learning
    }

/// The scene VQ-VAE. It computes in the type of the weights it is given (float32, or a bfloat16 copy of them: a fifth less
/// time a step on a processor that has it, the same quality); vectors, codebook and losses are float32 in either case.
/// Axes: B pictures · C channels · H, W pixels · h, w grid · D width.
module SceneVqVae =

    /// 64×64 RGB -> 8×8 codes of 512. A code is a function of its own patch (no encoder blocks): with blocks of 3×3
    /// convolutions the pictures are no better (28.0 dB on World either way) and the codes carry 7.3 bits instead of 5.3,
    /// more for a language model to predict.
    let defaults: SceneVqVaeConfig =
        {
            Channels = 3L
            Patch = 8L
            Width = 128L
            InnerWidth = 64L
            EncoderBlocks = 0
            EncoderKernel = 1L
            DecoderBlocks = 2
            Codes = 512L
            CodeWidth = 16L
        }

    /// For `defaults`: half a minute of one core, 28.6 dB on World's held-out scenes, 98 % of the codes used (bfloat16).
    let recipe: SceneRecipe =
        {
            Batch = 16
            Steps = 3000
            LearningRate = 4e-3
            WarmupSteps = 20
            Betas = (0.9, 0.98)
            Commitment = 1.0
            Codebook = { Decay = 0.95; Revival = 0.05; Smoothing = 0.0 }
        }

    /// The smallest that still shows a scene, and its recipe: five seconds of one core, 25.5 dB.
    let quickDefaults: SceneVqVaeConfig = { defaults with DecoderBlocks = 1 }

    /// For `quickDefaults`: a sixth of the steps of `recipe`, and a codebook that forgets sooner.
    let quickRecipe: SceneRecipe =
        { recipe with Steps = 500; Codebook = { Decay = 0.9; Revival = 0.05; Smoothing = 0.0 } }

    /// The learning rate of a step in [0, steps): a linear warm-up, then a cosine to a fiftieth.
    let learningRate (recipe: SceneRecipe) (step: int64) : float =
        let warm = min 1.0 (float (step + 1L) / float (max 1 recipe.WarmupSteps))
        let wave = 0.5 * (1.0 + cos (System.Math.PI * float step / float (max 1 recipe.Steps)))
        recipe.LearningRate * warm * (0.02 + 0.98 * wave)

    let private codebookName = "codebook"
    let private encoderBlock (index: int) = $"encoder.blocks.{index}"
    let private decoderBlock (index: int) = $"decoder.blocks.{index}"

    /// The parameters that gradients move.
    let parameters (config: SceneVqVaeConfig) : ParameterSpec list =
        let conv name kernel input output gain =
            [
                {
                    Name = name + ".weight"
                    Shape = [ output; input; kernel; kernel ]
                    Init = TruncatedNormal(gain / sqrt (float (input * kernel * kernel)))
                }
                { Name = name + ".bias"; Shape = [ output ]; Init = Zeros }
            ]

        // A convolution after a ReLU keeps the variance with gain √2; the one that ends a block starts small, so that a
        // stack starts near the identity.
        let block kernel name =
            conv (name + ".conv_1") kernel config.Width config.InnerWidth (sqrt 2.0)
            @ conv (name + ".conv_2") 1L config.InnerWidth config.Width 0.5

        let patch = config.Channels * config.Patch * config.Patch

        [
            yield! conv "encoder.patch" 1L patch config.Width 1.0
            for index in 0 .. config.EncoderBlocks - 1 do
                yield! block config.EncoderKernel (encoderBlock index)
            yield! conv "encoder.out" 1L config.Width config.CodeWidth 1.0
            yield! conv "decoder.in" 3L config.CodeWidth config.Width 1.0
            for index in 0 .. config.DecoderBlocks - 1 do
                yield! block 3L (decoderBlock index)
            yield! conv "decoder.patch" 1L config.Width patch 1.0
        ]

    /// The codebook and its moving averages: no gradient moves them, `updateCodebook` does. All float32, all zero at first.
    /// To encode and decode, `codebook.weight` is enough.
    let codebook (config: SceneVqVaeConfig) : ParameterSpec list = Codebook.parameters codebookName config.Codes config.CodeWidth

    /// The configuration that named shapes tell of. Errors: every entry that is missing or does not fit, in one text.
    let infer (entries: (string * int64[]) seq) : Result<SceneVqVaeConfig, string> =
        let reader = Entries.Reader entries
        let first = reader.Shape("encoder.patch.weight", 4)
        let vectors = reader.Shape(codebookName + ".weight", 2)
        let blocks name = reader.Count(0, fun index -> name index + ".")
        let encoderBlocks, decoderBlocks = blocks encoderBlock, blocks decoderBlock

        // Without blocks there is no inner width, and the kernel says nothing: zero and one stand for that.
        let inner, kernel =
            match encoderBlocks, decoderBlocks with
            | 0, 0 -> 0L, 1L
            | 0, _ -> reader.Shape($"{decoderBlock 0}.conv_1.weight", 4)[0], 1L
            | _ ->
                let shape = reader.Shape($"{encoderBlock 0}.conv_1.weight", 4)
                shape[0], shape[2]

        if encoderBlocks > 0 && kernel <> 1L && kernel <> 3L && kernel <> 0L then
            reader.Fault $"entry '{encoderBlock 0}.conv_1.weight' has a kernel of {kernel}; it must be 1 or 3"

        let patch = int64 (round (sqrt (float first[1] / 3.0)))

        if 3L * patch * patch <> first[1] then
            reader.Fault
                $"entry 'encoder.patch.weight' has shape {Shape.show first}; its second length must be three times a square"

        let config =
            {
                Channels = 3L
                Patch = patch
                Width = first[0]
                InnerWidth = inner
                EncoderBlocks = encoderBlocks
                EncoderKernel = kernel
                DecoderBlocks = decoderBlocks
                Codes = vectors[0]
                CodeWidth = vectors[1]
            }

        reader.Conclude(config, (fun config -> (codebook config).Head :: parameters config))

    let private conv (weights: Weights) (name: string) (x: torch.Tensor) =
        let weight = weights (name + ".weight")
        let padding = weight.shape[2] / 2L
        torch.nn.functional.conv2d (x, weight, weights (name + ".bias"), [| 1L; 1L |], [| padding; padding |])

    let private stack (weights: Weights) (name: int -> string) (blocks: int) (x: torch.Tensor) =
        let block (x: torch.Tensor) (index: int) =
            x.plus (x.relu () |> conv weights (name index + ".conv_1") |> _.relu() |> conv weights (name index + ".conv_2"))

        (Seq.fold block x (seq { 0 .. blocks - 1 })).relu()

    /// Numbers that the maps of one picture hold at the most while it is encoded or decoded: all of one side, each layer's before and
    /// after its ReLU and once more as convolutions lay them out.
    let workingNumbers (config: SceneVqVaeConfig) (height: int64) (width: int64) : int64 =
        let grid = height * width / (config.Patch * config.Patch)
        let blocks = int64 (max config.EncoderBlocks config.DecoderBlocks)
        let patch = config.Channels * config.Patch * config.Patch
        3L * grid * (2L * patch + (blocks + 1L) * (config.Width + config.InnerWidth))

    /// Pictures -> vectors before quantisation, with their graph: [B, C, H, W] in [0, 1] -> float32 [B, width of a code, h, w].
    let vectors (config: SceneVqVaeConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        let precision = (weights "encoder.patch.weight").dtype

        torch.nn.functional.pixel_unshuffle ((images_BCHW.sub (Scalars.Of(0.5))).``to`` precision, config.Patch)
        |> Convolutions.channelsLast
        |> conv weights "encoder.patch"
        |> stack weights encoderBlock config.EncoderBlocks
        |> conv weights "encoder.out"
        |> _.``to``(torch.float32)

    /// Quantised vectors -> pictures, with their graph: float32 [B, width of a code, h, w] -> float32 [B, C, H, W], not yet cut to
    /// [0, 1].
    let pictures (config: SceneVqVaeConfig) (weights: Weights) (vectors_BChw: torch.Tensor) : torch.Tensor =
        let precision = (weights "decoder.in.weight").dtype

        let patches =
            Convolutions.channelsLast (vectors_BChw.``to`` precision)
            |> conv weights "decoder.in"
            |> stack weights decoderBlock config.DecoderBlocks
            |> conv weights "decoder.patch"

        torch.nn.functional.pixel_shuffle(patches, config.Patch).``to``(torch.float32).plus(0.5)

    /// The loss of a batch: mean squared error of the reconstruction + weight · mean squared distance of the vectors to
    /// their codes; the gradient of the reconstruction passes the quantiser straight through.
    /// images_BCHW: float32 [B, C, H, W] in [0, 1]. Errors: ShapeException.
    let trainingLoss
        (commitment: float)
        (config: SceneVqVaeConfig)
        (weights: Weights)
        (images_BCHW: torch.Tensor)
        : SceneTraining =
        Shape.require "images" [ -1L; config.Channels; -1L; -1L ] images_BCHW
        use scope = torch.NewDisposeScope()
        let codebook_KC = weights (codebookName + ".weight")
        let z_BChw = vectors config weights images_BCHW
        let quantised_BChw, straight_BChw, codes_Bhw = Codebook.quantise codebook_KC z_BChw
        let reconstruction = torch.nn.functional.mse_loss (pictures config weights straight_BChw, images_BCHW)
        let distance = torch.nn.functional.mse_loss (z_BChw, quantised_BChw.detach ())

        let training =
            {
                Loss = reconstruction.plus (distance.mul (Scalars.Of(commitment)))
                Reconstruction = reconstruction.detach ()
                Commitment = distance.detach ()
                Codes = codes_Bhw
                Vectors = Codebook.rows (z_BChw.detach ())
            }

        scope.MoveToOuter
            [|
                training.Loss :> System.IDisposable
                training.Reconstruction
                training.Commitment
                training.Codes
                training.Vectors
            |]

        training

    /// Moves the codebook, in place, by what a batch said of it (see `Codebook.update`). weights must hold `codebook`'s
    /// entries in float32. The draw for unused codes is a function of (stream, step).
    let updateCodebook
        (learning: Codebook.Learning)
        (stream: Random.Stream)
        (step: int64)
        (weights: Weights)
        (training: SceneTraining)
        : unit =
        use _ = torch.NewDisposeScope()
        Codebook.update learning stream step (Codebook.state codebookName weights) training.Vectors (training.Codes.reshape -1L)
