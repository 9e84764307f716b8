namespace Hybrid

open System
open TorchSharp

/// How the norms of a VQ-GAN's decoder get their scale and shift.
type VqGanNorm =
    /// One pair for each channel (VQ-GAN).
    | PlainNorm
    /// A pair for each channel and position, made of the quantised map (MoVQ).
    | SpatialNorm

/// How a VQ-GAN finds the code of a vector.
type VqGanQuantiser =
    /// The code at the smallest Euclidean distance.
    | NearestCode
    /// The same among directions: vectors and codes are scaled to length 1, and so are the codes when they are decoded.
    | NearestDirection
    /// The code with the greatest logit, a 1×1 convolution of the vector.
    | GreatestLogit

/// What a convolutional VQ-GAN is (Esser and others 2021), MoVQGAN (Zheng and others 2022) among them.
type VqGanConfig =
    {
        /// Channels of a picture.
        Channels: int64
        /// Channels after the encoder's first convolution.
        Base: int64
        /// Channels of each level, from the picture down to the grid; every level but the last halves the picture.
        Levels: int64 list
        /// Residual blocks of a level in the encoder; the decoder has one more.
        Blocks: int
        /// Levels whose blocks are each followed by attention, in the encoder.
        EncoderAttention: int list
        /// The same in the decoder.
        DecoderAttention: int list
        /// Whether attention stands between the two blocks in the middle.
        MiddleAttention: bool
        /// Whether halving and doubling have a convolution.
        Resampling: bool
        /// Channels between the network and the quantiser.
        Latent: int64
        /// K, the codebook's size.
        Codes: int64
        /// Width of a code's vector.
        CodeWidth: int64
        /// Groups of the group norms; those of a decoder with spatial norms have always 32.
        Groups: int64
        /// What the decoder's norms are.
        DecoderNorm: VqGanNorm
        /// How vectors become codes.
        Quantiser: VqGanQuantiser
    }

/// VQ-GANs, by the names of taming-transformers and MoVQGAN. Axes: B pictures · C channels · H, W pixels · h, w grid.
module VqGan =

    /// The usual number of groups of a group norm, and the only one of spatial norms.
    let usualGroups = 32L

    /// The published MoVQGAN-67M; 102M has 4 blocks, 270M twice the channels.
    let moVq67M: VqGanConfig =
        {
            Channels = 3L
            Base = 128L
            Levels = [ 128L; 256L; 256L; 512L ]
            Blocks = 2
            EncoderAttention = [ 3 ]
            DecoderAttention = [ 3 ]
            MiddleAttention = true
            Resampling = true
            Latent = 4L
            Codes = 16384L
            CodeWidth = 4L
            Groups = usualGroups
            DecoderNorm = SpatialNorm
            Quantiser = NearestCode
        }

    /// Pixels that a code stands for along each axis.
    let stride (config: VqGanConfig) : int64 = pown 2L (config.Levels.Length - 1)

    /// The entry that holds the codes' vectors.
    let codebook (config: VqGanConfig) : string =
        if config.Quantiser = GreatestLogit then
            "quantize.embed.weight"
        else
            "quantize.embedding.weight"

    /// Whether an entry stands next to the quantiser. These are small and decide the codes, so they stay in fp32.
    let besideQuantiser (name: string) : bool =
        name.StartsWith("quantize.", StringComparison.Ordinal)
        || name.StartsWith("quant_conv.", StringComparison.Ordinal)
        || name.StartsWith("post_quant_conv.", StringComparison.Ordinal)

    /// The blocks of the encoder in their order: level, index, channels in, channels out.
    let private encoderBlocks (config: VqGanConfig) =
        let inputs = config.Base :: config.Levels

        [
            for level, (input, output) in Seq.indexed (Seq.zip inputs config.Levels) do
                for index in 0 .. config.Blocks - 1 do
                    level, index, (if index = 0 then input else output), output
        ]

    /// The blocks of the decoder in their order, from the grid up to the picture.
    let private decoderBlocks (config: VqGanConfig) =
        let descending = List.rev (List.indexed config.Levels)
        let inputs = List.last config.Levels :: List.map snd descending

        [
            for input, (level, output) in Seq.zip inputs descending do
                for index in 0 .. config.Blocks do
                    level, index, (if index = 0 then input else output), output
        ]

    /// The parameters, by the names of the published checkpoints. Convolutions start as torch's do, norms as the identity.
    let parameters (config: VqGanConfig) : ParameterSpec list =
        let conv = Convolutions.parameters

        let plainNorm name width =
            [
                { Name = name + ".weight"; Shape = [ width ]; Init = Ones }
                { Name = name + ".bias"; Shape = [ width ]; Init = Zeros }
            ]

        let spatialNorm name width =
            plainNorm (name + ".norm_layer") width
            @ conv (name + ".conv_y") 1L config.CodeWidth width
            @ conv (name + ".conv_b") 1L config.CodeWidth width

        let decoderNorm =
            match config.DecoderNorm with
            | PlainNorm -> plainNorm
            | SpatialNorm -> spatialNorm

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
            [
                yield! block norm $"{side}.mid.block_1" width width
                if config.MiddleAttention then
                    yield! attention norm $"{side}.mid.attn_1" width
                yield! block norm $"{side}.mid.block_2" width width
            ]

        let deepest, levels = List.last config.Levels, List.indexed config.Levels

        [
            yield! conv "encoder.conv_in" 3L config.Channels config.Base
            for level, index, input, output in encoderBlocks config do
                yield! block plainNorm $"encoder.down.{level}.block.{index}" input output

                if List.contains level config.EncoderAttention then
                    yield! attention plainNorm $"encoder.down.{level}.attn.{index}" output
            for level, width in levels do
                if config.Resampling && level < levels.Length - 1 then
                    yield! conv $"encoder.down.{level}.downsample.conv" 3L width width
            yield! middle plainNorm "encoder" deepest
            yield! plainNorm "encoder.norm_out" deepest
            yield! conv "encoder.conv_out" 3L deepest config.Latent
            yield! conv "quant_conv" 1L config.Latent config.CodeWidth
            if config.Quantiser = GreatestLogit then
                yield! conv "quantize.proj" 1L config.CodeWidth config.Codes
            {
                Name = codebook config
                Shape = [ config.Codes; config.CodeWidth ]
                Init = Uniform(1.0 / float config.Codes)
            }
            yield! conv "post_quant_conv" 1L config.CodeWidth config.Latent
            yield! conv "decoder.conv_in" 3L config.Latent deepest
            yield! middle decoderNorm "decoder" deepest
            for level, index, input, output in decoderBlocks config do
                yield! block decoderNorm $"decoder.up.{level}.block.{index}" input output

                if List.contains level config.DecoderAttention then
                    yield! attention decoderNorm $"decoder.up.{level}.attn.{index}" output
            for level, width in levels do
                if config.Resampling && level > 0 then
                    yield! conv $"decoder.up.{level}.upsample.conv" 3L width width
            yield! decoderNorm "decoder.norm_out" config.Levels.Head
            yield! conv "decoder.conv_out" 3L config.Levels.Head config.Channels
        ]

    /// What quantisers keep beside their parameters while they are trained.
    let private spare =
        set [ "quantize.codebook_used"; "quantize.embedding.cluster_size"; "quantize.embedding.embed_avg" ]

    let private parts = [ "encoder."; "decoder."; "quantize."; "quant_conv."; "post_quant_conv." ]

    /// Whether an entry must be a parameter if it is there at all.
    let private belongs (name: string) =
        not (spare.Contains name)
        && parts |> List.exists (fun part -> name.StartsWith(part, StringComparison.Ordinal))

    /// The configuration that named shapes tell of, with what they do not tell: the groups of the norms, and whether codes are directions.
    /// Errors: every entry that is missing, does not fit or has no place, in one text.
    let infer (groups: int64) (directions: bool) (entries: (string * int64[]) seq) : Result<VqGanConfig, string> =
        let entries = Array.ofSeq entries
        let reader = Entries.Reader entries
        let first = reader.Shape("encoder.conv_in.weight", 4)
        let blockName level index = $"encoder.down.{level}.block.{index}.conv1.weight"
        let levels = max 1 (reader.Count(0, (fun level -> $"encoder.down.{level}.")))
        let having prefix = [ 0 .. levels - 1 ] |> List.filter (fun level -> reader.Any(prefix level))

        let resamplings =
            having (fun l -> $"encoder.down.{l}.downsample.") @ having (fun l -> $"decoder.up.{l}.upsample.")

        let quantiser =
            if reader.Any "quantize.proj." || reader.Any "quantize.embed." then GreatestLogit
            elif directions then NearestDirection
            else NearestCode

        let book =
            reader.Shape((if quantiser = GreatestLogit then "quantize.embed.weight" else "quantize.embedding.weight"), 2)

        let spatial =
            entries
            |> Array.exists (fun (name, _) ->
                name.StartsWith("decoder.", StringComparison.Ordinal)
                && (name.Contains ".norm_layer." || name.Contains ".conv_y." || name.Contains ".conv_b."))

        let config =
            {
                Channels = first[1]
                Base = first[0]
                Levels = [ for level in 0 .. levels - 1 -> reader.Shape(blockName level 0, 4)[0] ]
                Blocks = max 1 (reader.Count(0, (fun index -> $"encoder.down.0.block.{index}.")))
                EncoderAttention = having (fun level -> $"encoder.down.{level}.attn.")
                DecoderAttention = having (fun level -> $"decoder.up.{level}.attn.")
                MiddleAttention = reader.Any "encoder.mid.attn_1." || reader.Any "decoder.mid.attn_1."
                Resampling = levels = 1 || not resamplings.IsEmpty
                Latent = reader.Shape("encoder.conv_out.weight", 4)[0]
                Codes = book[0]
                CodeWidth = book[1]
                Groups = groups
                DecoderNorm = if spatial then SpatialNorm else PlainNorm
                Quantiser = quantiser
            }

        if reader.Any "quantize.used" then
            reader.Fault "entry 'quantize.used' renumbers the codes, which is not supported"

        let fits (groups: int64) =
            config.Base :: config.Levels |> List.filter (fun width -> width % groups <> 0L) |> List.distinct

        for width in fits groups do
            reader.Fault
                $"a level has {width} channels, which {groups} groups of its norms do not divide; where they have another number of groups, the tokenizer's own configuration says so (norm_num_groups)"

        if config.DecoderNorm = SpatialNorm && groups <> usualGroups then
            for width in fits usualGroups do
                reader.Fault $"a level has {width} channels; spatial norms need a multiple of {usualGroups}"

        reader.ConcludeWhole(config, parameters, belongs)

    /// Numbers that the maps of one picture hold at the most while it is encoded or decoded. In a block the map itself, the input and
    /// the output of a convolution, and both once more as the convolution lays them out; attention at most two more.
    let workingNumbers (config: VqGanConfig) (height: int64) (width: int64) : int64 =
        let deepest = List.last config.Levels

        let largest =
            [
                for level, _, input, output in encoderBlocks config @ decoderBlocks config do
                    let attends = List.contains level config.EncoderAttention || List.contains level config.DecoderAttention
                    let maps = if attends then 7L else 5L
                    // The first block of a level of the decoder has the width of the level before it.
                    maps * (max input output) * (height >>> level) * (width >>> level)
                7L * deepest * height * width / (stride config * stride config)
            ]
            |> List.max

        largest

    let private decoderGroups (config: VqGanConfig) = if config.DecoderNorm = SpatialNorm then usualGroups else config.Groups

    let private middle (norm: MapNorm) (config: VqGanConfig) (weights: Weights) (side: string) (x: torch.Tensor) =
        x
        |> Convolutions.next (Convolutions.block norm weights false $"{side}.mid.block_1")
        |> (if config.MiddleAttention then
                Convolutions.next (Convolutions.attention norm weights $"{side}.mid.attn_1")
            else
                id)
        |> Convolutions.next (Convolutions.block norm weights false $"{side}.mid.block_2")

    /// A block of a level and, where the level has it, its attention.
    let private stage
        (norm: MapNorm)
        (attention: int list)
        (weights: Weights)
        (name: string)
        (x: torch.Tensor)
        (level: int, index: int, input: int64, output: int64)
        =
        let x = x |> Convolutions.next (Convolutions.block norm weights (input <> output) $"{name}.{level}.block.{index}")

        if List.contains level attention then
            x |> Convolutions.next (Convolutions.attention norm weights $"{name}.{level}.attn.{index}")
        else
            x

    let private finish (norm: MapNorm) (weights: Weights) (side: string) (x: torch.Tensor) =
        norm weights (side + ".norm_out") x
        |> Convolutions.next _.silu()
        |> Convolutions.next (Convolutions.conv3 weights (side + ".conv_out"))

    /// Pictures -> vectors before quantisation, with their graph, in the type of the weights. images_BCHW: [B, C, H, W] in [0, 1].
    /// Returns float32 [B, width of a code, h, w].
    let vectors (config: VqGanConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        let norm = Convolutions.groupNorm config.Groups

        let stage (x: torch.Tensor) (level, index, input, output) =
            let x = stage norm config.EncoderAttention weights "encoder.down" x (level, index, input, output)

            if index = config.Blocks - 1 && level < config.Levels.Length - 1 then
                x |> Convolutions.next (Convolutions.halve config.Resampling weights $"encoder.down.{level}.downsample")
            else
                x

        let x =
            images_BCHW.mul(Scalars.Of(2.0)).sub(Scalars.Of(1.0))
            |> Convolutions.next Convolutions.channelsLast
            |> Convolutions.next (Convolutions.conv3 weights "encoder.conv_in")

        List.fold stage x (encoderBlocks config)
        |> middle norm config weights "encoder"
        |> Convolutions.next (finish norm weights "encoder")
        |> Convolutions.next (Convolutions.conv1 weights "quant_conv")
        |> _.``to``(torch.float32)

    /// Quantised vectors -> pictures, with their graph, in the type of the weights. vectors: [B, width of a code, h, w].
    /// Returns float32 [B, C, H, W], not yet cut to [0, 1].
    let pictures (config: VqGanConfig) (weights: Weights) (vectors_BChw: torch.Tensor) : torch.Tensor =
        let norm =
            match config.DecoderNorm with
            | PlainNorm -> Convolutions.groupNorm config.Groups
            | SpatialNorm -> Convolutions.spatialNorm (decoderGroups config) vectors_BChw

        let stage (x: torch.Tensor) (level, index, input, output) =
            let x = stage norm config.DecoderAttention weights "decoder.up" x (level, index, input, output)

            if index = config.Blocks && level > 0 then
                x |> Convolutions.next (Convolutions.double config.Resampling weights $"decoder.up.{level}.upsample")
            else
                x

        let x =
            Convolutions.channelsLast vectors_BChw
            |> Convolutions.conv1 weights "post_quant_conv"
            |> Convolutions.next (Convolutions.conv3 weights "decoder.conv_in")
            |> middle norm config weights "decoder"

        let y = List.fold stage x (decoderBlocks config) |> Convolutions.next (finish norm weights "decoder")

        y.``to``(torch.float32).plus(1.0).mul(Scalars.Of(0.5))

    /// The codes of vectors before quantisation, [B, width of a code, h, w]: int64 [B, h, w].
    let quantise (config: VqGanConfig) (weights: Weights) (vectors_BChw: torch.Tensor) : torch.Tensor =
        let book = weights (codebook config)

        match config.Quantiser with
        | NearestCode -> Codebook.assign book vectors_BChw
        | NearestDirection -> Codebook.assign (Convolutions.unit 1L book) (Convolutions.unit 1L vectors_BChw)
        | GreatestLogit -> (Convolutions.conv1 weights "quantize.proj" vectors_BChw).argmax 1L

    /// The vectors of codes, int64 [B, h, w]: [B, width of a code, h, w].
    let lookup (config: VqGanConfig) (weights: Weights) (codes_Bhw: torch.Tensor) : torch.Tensor =
        let book = weights (codebook config)
        Codebook.lookup (if config.Quantiser = NearestDirection then Convolutions.unit 1L book else book) codes_Bhw
