namespace Hybrid

open TorchSharp

/// A convolution of a VQ-VAE's encoder.
type VqVaeConvolution =
    {
        /// Channels out.
        Width: int64
        /// 4 halves the picture (stride 2), 3 keeps it.
        Kernel: int64
    }

/// A residual stack: blocks of a 3×3 convolution to an inner width and a 1×1 convolution back.
type VqVaeStack =
    {
        /// How many.
        Blocks: int
        /// Channels between the two convolutions of a block.
        InnerWidth: int64
    }

/// What a convolutional VQ-VAE is (van den Oord and others 2017, in the form of DeepMind's sonnet example).
type VqVaeConfig =
    {
        /// Channels of a picture.
        Channels: int64
        /// The encoder's convolutions in order, at least one; the width of the last is that of its residual stack.
        Encoder: VqVaeConvolution list
        /// After the encoder's convolutions.
        EncoderStack: VqVaeStack
        /// K, the codebook's size.
        Codes: int64
        /// Width of a code's vector.
        CodeWidth: int64
        /// Width of the decoder's first convolution and of its residual stack.
        DecoderWidth: int64
        /// After the decoder's first convolution.
        DecoderStack: VqVaeStack
        /// Channels out of each transposed convolution, all but the last of them; each doubles the grid.
        Doublings: int64 list
    }

/// The photograph VQ-VAE: `encoder._blocks`, `pre_vq_conv`, `vq_vae.codebook`, `decoder._blocks`.
/// Axes: B pictures · C channels · H, W pixels · h, w grid.
module VqVae =

    let private blockName (side: string) (index: int) = $"{side}._blocks.residual.residual_blocks.residual_{index}._block"

    let private conv (stride: int64) (padding: int64) (weights: Weights) (name: string) (x: torch.Tensor) =
        torch.nn.functional.conv2d (
            x,
            weights (name + ".weight"),
            weights (name + ".bias"),
            [| stride; stride |],
            [| padding; padding |]
        )

    let private plain (padding: int64) (weight: torch.Tensor) (x: torch.Tensor) =
        torch.nn.functional.conv2d (x, weight, null, [| 1L; 1L |], [| padding; padding |])

    /// The residual stack. The ReLU that opens a block works in place, so the skip carries the rectified map:
    /// x = relu x; x = x + conv1x1 (relu (conv3x3 x)). A last ReLU ends the stack.
    let private residual (weights: Weights) (side: string) (stack: VqVaeStack) (x: torch.Tensor) =
        let block (x: torch.Tensor) (index: int) =
            let name = blockName side index
            let x = x.relu ()

            x.plus (x |> plain 1L (weights $"{name}.conv_1.weight") |> _.relu() |> plain 0L (weights $"{name}.conv_2.weight"))

        Seq.fold block x (seq { 0 .. stack.Blocks - 1 }) |> _.relu()

    /// Pixels that a code stands for along each axis.
    let stride (config: VqVaeConfig) : int64 =
        config.Encoder |> List.fold (fun size layer -> if layer.Kernel = 4L then size * 2L else size) 1L

    /// The parameters, in the file's order. They start as torch's convolutions do: uniform within 1/√fan-in.
    let parameters (config: VqVaeConfig) : ParameterSpec list =
        let filter name fanIn shape = { Name = name; Shape = shape; Init = Uniform(1.0 / sqrt (float fanIn)) }

        let conv = Convolutions.parameters

        let stack side width (stack: VqVaeStack) =
            [
                for index in 0 .. stack.Blocks - 1 do
                    let name = blockName side index
                    filter $"{name}.conv_1.weight" (width * 9L) [ stack.InnerWidth; width; 3L; 3L ]
                    filter $"{name}.conv_2.weight" stack.InnerWidth [ width; stack.InnerWidth; 1L; 1L ]
            ]

        let chain first widths = List.pairwise (first :: widths)
        let encoderWidth = (List.last config.Encoder).Width

        [
            for index, ((input, output), layer) in
                Seq.indexed (Seq.zip (chain config.Channels (config.Encoder |> List.map _.Width)) config.Encoder) do
                yield! conv $"encoder._blocks.conv_{index + 1}" layer.Kernel input output
            yield! stack "encoder" encoderWidth config.EncoderStack
            yield! conv "pre_vq_conv" 1L encoderWidth config.CodeWidth
            {
                Name = "vq_vae.codebook.weight"
                Shape = [ config.Codes; config.CodeWidth ]
                Init = Uniform(1.0 / float config.Codes)
            }
            yield! conv "decoder._blocks.conv_1" 3L config.CodeWidth config.DecoderWidth
            yield! stack "decoder" config.DecoderWidth config.DecoderStack
            for index, (input, output) in Seq.indexed (chain config.DecoderWidth (config.Doublings @ [ config.Channels ])) do
                let name = $"decoder._blocks.conv_t_{index + 1}"
                // A transposed convolution keeps its channels in the other order: in, out.
                filter $"{name}.weight" (output * 16L) [ input; output; 4L; 4L ]
                filter $"{name}.bias" (output * 16L) [ output ]
        ]

    /// The configuration that named shapes tell of. Errors: every entry that is missing or does not fit, in one text.
    let infer (entries: (string * int64[]) seq) : Result<VqVaeConfig, string> =
        let reader = Entries.Reader entries

        let stack side =
            let blocks = reader.Count(0, fun index -> blockName side index + ".")

            {
                Blocks = blocks
                InnerWidth = if blocks = 0 then 0L else reader.Shape($"{blockName side 0}.conv_1.weight", 4)[0]
            }

        let encoderName index = $"encoder._blocks.conv_{index}.weight"
        let layers = max 1 (reader.Count(1, (fun index -> $"encoder._blocks.conv_{index}.")))
        let shapes = [ for index in 1..layers -> reader.Shape(encoderName index, 4) ]

        for index, shape in Seq.indexed shapes do
            if shape[2] <> 3L && shape[2] <> 4L && shape[2] <> 0L then
                reader.Fault
                    $"entry '{encoderName (index + 1)}' has shape {Shape.show shape}; a convolution of this encoder has a 4×4 or a 3×3 kernel"

        let doublingName index = $"decoder._blocks.conv_t_{index}.weight"
        let doublings = max 1 (reader.Count(1, (fun index -> $"decoder._blocks.conv_t_{index}.")))
        let codebook = reader.Shape("vq_vae.codebook.weight", 2)

        let config =
            {
                Channels = shapes.Head[1]
                Encoder = shapes |> List.map (fun shape -> { Width = shape[0]; Kernel = shape[2] })
                EncoderStack = stack "encoder"
                Codes = codebook[0]
                CodeWidth = codebook[1]
                DecoderWidth = reader.Shape("decoder._blocks.conv_1.weight", 4)[0]
                DecoderStack = stack "decoder"
                Doublings = [ for index in 1..doublings -> reader.Shape(doublingName index, 4)[1] ] |> List.take (doublings - 1)
            }

        let halvings = config.Encoder |> List.filter (fun layer -> layer.Kernel = 4L) |> List.length

        if halvings <> doublings then
            reader.Fault $"the encoder halves the picture {halvings} times and the decoder doubles it {doublings} times"

        reader.Conclude(config, parameters)

    /// Numbers that the maps of one picture hold at the most while it is encoded or decoded: all of one side, each layer's before and
    /// after its ReLU and once more as convolutions lay them out.
    let workingNumbers (config: VqVaeConfig) (height: int64) (width: int64) : int64 =
        let grid = height * width / (stride config * stride config)

        let encoder =
            config.Encoder
            |> List.mapFold
                (fun pixels layer ->
                    let pixels = if layer.Kernel = 4L then pixels / 4L else pixels
                    layer.Width * pixels, pixels)
                (height * width)
            |> fst
            |> List.sum

        let decoder =
            (config.Doublings @ [ config.Channels ])
            |> List.mapFold (fun pixels width -> width * pixels * 4L, pixels * 4L) grid
            |> fst
            |> List.sum

        let stack (width: int64) (stack: VqVaeStack) = int64 (stack.Blocks + 1) * (width + stack.InnerWidth) * grid
        let encoderWidth = (List.last config.Encoder).Width

        3L
        * max (encoder + stack encoderWidth config.EncoderStack) (decoder + stack config.DecoderWidth config.DecoderStack)

    /// Pictures -> vectors before quantisation, with their graph, in the type of the weights. images: [B, C, H, W] in [0, 1].
    /// Returns float32 [B, width of a code, h, w].
    let vectors (config: VqVaeConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        let last = config.Encoder.Length - 1
        let precision = (weights "pre_vq_conv.weight").dtype

        let step (x: torch.Tensor) (index: int, layer: VqVaeConvolution) =
            let y = conv (if layer.Kernel = 4L then 2L else 1L) 1L weights $"encoder._blocks.conv_{index + 1}" x
            if index = last then y else y.relu ()

        Seq.fold step (images_BCHW.sub(Scalars.Of(0.5)).``to`` precision) (Seq.indexed config.Encoder)
        |> residual weights "encoder" config.EncoderStack
        |> conv 1L 0L weights "pre_vq_conv"
        |> _.``to``(torch.float32)

    /// Quantised vectors -> pictures, with their graph, in the type of the weights. vectors: [B, width of a code, h, w].
    /// Returns float32 [B, C, H, W], not yet cut to [0, 1].
    let pictures (config: VqVaeConfig) (weights: Weights) (vectors_BChw: torch.Tensor) : torch.Tensor =
        let doublings = config.Doublings.Length + 1

        let double (x: torch.Tensor) (index: int) =
            let name = $"decoder._blocks.conv_t_{index}"

            let y =
                torch.nn.functional.conv_transpose2d (
                    x,
                    weights (name + ".weight"),
                    weights (name + ".bias"),
                    [| 2L; 2L |],
                    [| 1L; 1L |]
                )

            if index = doublings then y else y.relu ()

        let x =
            vectors_BChw.``to`` ((weights "decoder._blocks.conv_1.weight").dtype)
            |> conv 1L 1L weights "decoder._blocks.conv_1"
            |> residual weights "decoder" config.DecoderStack

        (Seq.fold double x (seq { 1..doublings })).``to``(torch.float32).plus(0.5)
