namespace Hybrid

open TorchSharp

/// What a MoVQGAN is (Zheng and others 2022, in the form of ai-forever/MoVQGAN).
type MoVqConfig =
    {
        /// Channels of a picture.
        Channels: int64
        /// Channels after the encoder's first convolution.
        Base: int64
        /// Channels of each level, from the picture down to the grid; every level but the last halves the picture.
        Levels: int64 list
        /// Residual blocks of a level in the encoder; the decoder has one more.
        Blocks: int
        /// Levels whose blocks are each followed by attention.
        Attention: int list
        /// Channels between the network and the quantiser.
        Latent: int64
        Codes: int64
        /// Width of a code's vector.
        CodeWidth: int64
    }

/// MoVQGAN: a convolutional VQ-GAN whose decoder norms are modulated by the quantised map.
/// Axes: B pictures · C channels · H, W pixels · h, w grid · N positions.
module MoVq =

    /// Groups of every group norm, and its epsilon.
    let private groups = 32L
    let private epsilon = 1e-6

    /// Pixels that a code stands for along each axis.
    let stride (config: MoVqConfig) : int64 = pown 2L (config.Levels.Length - 1)

    /// The blocks of the encoder in their order: level, index, channels in, channels out.
    let private encoderBlocks (config: MoVqConfig) =
        let inputs = config.Base :: config.Levels

        [
            for level, (input, output) in Seq.indexed (Seq.zip inputs config.Levels) do
                for index in 0 .. config.Blocks - 1 do
                    level, index, (if index = 0 then input else output), output
        ]

    /// The blocks of the decoder in their order, from the grid up to the picture.
    let private decoderBlocks (config: MoVqConfig) =
        let descending = List.rev (List.indexed config.Levels)
        let inputs = List.last config.Levels :: List.map snd descending

        [
            for input, (level, output) in Seq.zip inputs descending do
                for index in 0 .. config.Blocks do
                    level, index, (if index = 0 then input else output), output
        ]

    /// The parameters, by the names of the published checkpoints. Convolutions start as torch's do, norms as the identity.
    let parameters (config: MoVqConfig) : ParameterSpec list =
        let conv name kernel input output =
            let bound = Uniform(1.0 / sqrt (float (input * kernel * kernel)))

            [
                { Name = name + ".weight"; Shape = [ output; input; kernel; kernel ]; Init = bound }
                { Name = name + ".bias"; Shape = [ output ]; Init = bound }
            ]

        let plainNorm name width =
            [
                { Name = name + ".weight"; Shape = [ width ]; Init = Ones }
                { Name = name + ".bias"; Shape = [ width ]; Init = Zeros }
            ]

        let spatialNorm name width =
            plainNorm (name + ".norm_layer") width
            @ conv (name + ".conv_y") 1L config.CodeWidth width
            @ conv (name + ".conv_b") 1L config.CodeWidth width

        let block norm name input output =
            [
                yield! norm (name + ".norm1") input
                yield! conv (name + ".conv1") 3L input output
                yield! norm (name + ".norm2") output
                yield! conv (name + ".conv2") 3L output output
                if input <> output then
                    yield! conv (name + ".nin_shortcut") 1L input output
            ]

        let attention norm name width =
            [
                yield! norm (name + ".norm") width
                for part in [ "q"; "k"; "v"; "proj_out" ] do
                    yield! conv $"{name}.{part}" 1L width width
            ]

        let middle norm side width =
            block norm $"{side}.mid.block_1" width width
            @ attention norm $"{side}.mid.attn_1" width
            @ block norm $"{side}.mid.block_2" width width

        let deepest = List.last config.Levels

        [
            yield! conv "encoder.conv_in" 3L config.Channels config.Base
            for level, index, input, output in encoderBlocks config do
                yield! block plainNorm $"encoder.down.{level}.block.{index}" input output

                if List.contains level config.Attention then
                    yield! attention plainNorm $"encoder.down.{level}.attn.{index}" output
            for level, width in List.indexed config.Levels do
                if level < config.Levels.Length - 1 then
                    yield! conv $"encoder.down.{level}.downsample.conv" 3L width width
            yield! middle plainNorm "encoder" deepest
            yield! plainNorm "encoder.norm_out" deepest
            yield! conv "encoder.conv_out" 3L deepest config.Latent
            yield! conv "quant_conv" 1L config.Latent config.CodeWidth
            {
                Name = "quantize.embedding.weight"
                Shape = [ config.Codes; config.CodeWidth ]
                Init = Uniform(1.0 / float config.Codes)
            }
            yield! conv "post_quant_conv" 1L config.CodeWidth config.Latent
            yield! conv "decoder.conv_in" 3L config.Latent deepest
            yield! middle spatialNorm "decoder" deepest
            for level, index, input, output in decoderBlocks config do
                yield! block spatialNorm $"decoder.up.{level}.block.{index}" input output

                if List.contains level config.Attention then
                    yield! attention spatialNorm $"decoder.up.{level}.attn.{index}" output
            for level, width in List.indexed config.Levels do
                if level > 0 then
                    yield! conv $"decoder.up.{level}.upsample.conv" 3L width width
            yield! spatialNorm "decoder.norm_out" config.Levels.Head
            yield! conv "decoder.conv_out" 3L config.Levels.Head config.Channels
        ]

    /// The configuration that named shapes tell of. Errors: every entry that is missing or does not fit, in one text.
    let infer (entries: (string * int64[]) seq) : Result<MoVqConfig, string> =
        let reader = Entries.Reader entries
        let first = reader.Shape("encoder.conv_in.weight", 4)
        let blockName level index = $"encoder.down.{level}.block.{index}.conv1.weight"
        let levels = max 1 (reader.Count(0, (fun level -> $"encoder.down.{level}.")))
        let embedding = reader.Shape("quantize.embedding.weight", 2)

        let config =
            {
                Channels = first[1]
                Base = first[0]
                Levels = [ for level in 0 .. levels - 1 -> reader.Shape(blockName level 0, 4)[0] ]
                Blocks = max 1 (reader.Count(0, (fun index -> $"encoder.down.0.block.{index}.")))
                Attention =
                    [ 0 .. levels - 1 ]
                    |> List.filter (fun l -> reader.Any $"encoder.down.{l}.attn." || reader.Any $"decoder.up.{l}.attn.")
                Latent = reader.Shape("encoder.conv_out.weight", 4)[0]
                Codes = embedding[0]
                CodeWidth = embedding[1]
            }

        for width in config.Base :: config.Levels do
            if width % groups <> 0L then
                reader.Fault $"a level has {width} channels; its norms need a multiple of {groups}"

        reader.Conclude(config, parameters)

    /// f x, freeing x and what f makes on the way: the maps of a large picture do not pile up.
    let private next (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let y = scope.MoveToOuter(f x)
        x.Dispose()
        y

    let private strided (stride: int64) (padding: int64) (weights: Weights) (name: string) (x: torch.Tensor) =
        torch.nn.functional.conv2d (
            x,
            weights (name + ".weight"),
            weights (name + ".bias"),
            [| stride; stride |],
            [| padding; padding |]
        )

    let private conv1 weights name x = strided 1L 0L weights name x
    let private conv3 weights name x = strided 1L 1L weights name x

    let private nearest (height: int64) (width: int64) (x: torch.Tensor) =
        torch.nn.functional.interpolate (x, size = [| height; width |], mode = torch.InterpolationMode.Nearest)

    let private groupNorm (weights: Weights) (name: string) (x: torch.Tensor) =
        torch.nn.functional.group_norm (x, groups, weights (name + ".weight"), weights (name + ".bias"), epsilon)

    /// A group norm scaled and shifted, position by position, by the quantised map (stretched to the map's size; a 1×1
    /// convolution of the small map is the same as one of the stretched map).
    let private spatialNorm (quantised_BChw: torch.Tensor) (weights: Weights) (name: string) (x: torch.Tensor) =
        let height, width = x.shape[2], x.shape[3]
        let modulation part = conv1 weights $"{name}.{part}" quantised_BChw |> nearest height width
        (groupNorm weights (name + ".norm_layer") x * modulation "conv_y").plus(modulation "conv_b")

    let private block norm (weights: Weights) (shortcut: bool) (name: string) (x: torch.Tensor) =
        let h =
            (norm weights (name + ".norm1") x: torch.Tensor).silu()
            |> conv3 weights (name + ".conv1")
            |> norm weights (name + ".norm2")
            |> _.silu()
            |> conv3 weights (name + ".conv2")

        (if shortcut then conv1 weights (name + ".nin_shortcut") x else x).plus h

    /// One head over all positions.
    let private attention norm (weights: Weights) (name: string) (x: torch.Tensor) =
        let shape = x.shape
        let h: torch.Tensor = norm weights (name + ".norm") x

        let part (part: string) = (conv1 weights $"{name}.{part}" h).flatten(2L).transpose(1L, 2L).unsqueeze 1L

        let mixed_B1NC = torch.nn.functional.scaled_dot_product_attention (part "q", part "k", part "v")

        x.plus (mixed_B1NC.squeeze(1L).transpose(1L, 2L).reshape shape |> conv1 weights (name + ".proj_out"))

    let private middle norm (weights: Weights) (side: string) (x: torch.Tensor) =
        x
        |> next (block norm weights false $"{side}.mid.block_1")
        |> next (attention norm weights $"{side}.mid.attn_1")
        |> next (block norm weights false $"{side}.mid.block_2")

    /// A block of a level and, where the level has it, its attention.
    let private stage
        norm
        (config: MoVqConfig)
        (weights: Weights)
        (name: string)
        (x: torch.Tensor)
        (level, index, input, output)
        =
        let x = x |> next (block norm weights (input <> output) $"{name}.{level}.block.{index}")

        if List.contains level config.Attention then
            x |> next (attention norm weights $"{name}.{level}.attn.{index}")
        else
            x

    /// Pictures -> vectors before quantisation, with their graph, in the type of the weights. images_BCHW: [B, C, H, W] in [0, 1].
    /// Returns float32 [B, width of a code, h, w].
    let vectors (config: MoVqConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        // A row and a column of zeros behind the map, none before it.
        let halve level (x: torch.Tensor) =
            torch.nn.functional.pad (x, [| 0L; 1L; 0L; 1L |])
            |> strided 2L 0L weights $"encoder.down.{level}.downsample.conv"

        let stage (x: torch.Tensor) (level, index, input, output) =
            let x = stage groupNorm config weights "encoder.down" x (level, index, input, output)

            if index = config.Blocks - 1 && level < config.Levels.Length - 1 then
                x |> next (halve level)
            else
                x

        let x =
            images_BCHW.mul(Scalars.Of(2.0)).sub(Scalars.Of(1.0)).``to``((weights "encoder.conv_in.weight").dtype)
            |> next (conv3 weights "encoder.conv_in")

        List.fold stage x (encoderBlocks config)
        |> middle groupNorm weights "encoder"
        |> next (fun x -> (groupNorm weights "encoder.norm_out" x).silu() |> conv3 weights "encoder.conv_out")
        |> conv1 weights "quant_conv"
        |> _.``to``(torch.float32)

    /// Quantised vectors -> pictures, with their graph, in the type of the weights. vectors: [B, width of a code, h, w].
    /// Returns float32 [B, C, H, W], not yet cut to [0, 1].
    let pictures (config: MoVqConfig) (weights: Weights) (vectors_BChw: torch.Tensor) : torch.Tensor =
        let quantised_BChw = vectors_BChw.``to`` ((weights "post_quant_conv.weight").dtype)
        let norm weights name x = spatialNorm quantised_BChw weights name x

        let double level (x: torch.Tensor) =
            x |> nearest (2L * x.shape[2]) (2L * x.shape[3]) |> conv3 weights $"decoder.up.{level}.upsample.conv"

        let stage (x: torch.Tensor) (level, index, input, output) =
            let x = stage norm config weights "decoder.up" x (level, index, input, output)
            if index = config.Blocks && level > 0 then x |> next (double level) else x

        let x =
            conv1 weights "post_quant_conv" quantised_BChw
            |> next (conv3 weights "decoder.conv_in")
            |> middle norm weights "decoder"

        let y =
            List.fold stage x (decoderBlocks config)
            |> next (fun x -> (norm weights "decoder.norm_out" x).silu() |> conv3 weights "decoder.conv_out")

        y.``to``(torch.float32).plus(1.0).mul(Scalars.Of(0.5))

    /// Pictures -> codes. images_BCHW: float32 [B, C, H, W] in [0, 1], H and W multiples of `stride`.
    /// Returns int64 [B, h, w]. Errors: ShapeException.
    let encode (config: MoVqConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        use _ = torch.no_grad ()

        vectors config weights images_BCHW
        |> Codebook.assign (weights "quantize.embedding.weight")
        |> scope.MoveToOuter

    /// Codes -> pictures. codes_Bhw: int64 [B, h, w]. Returns float32 [B, C, H, W] in [0, 1]. Errors: ShapeException.
    let decode (config: MoVqConfig) (weights: Weights) (codes_Bhw: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        use _ = torch.no_grad ()

        Codebook.lookup (weights "quantize.embedding.weight") codes_Bhw
        |> pictures config weights
        |> _.clamp(Scalars.Of(0.0), Scalars.Of(1.0))
        |> scope.MoveToOuter
