namespace Hybrid

open TorchSharp

/// An image tokenizer of one of the kinds that can be read.
type TokenizerConfig =
    /// A convolutional VQ-VAE for photographs.
    | PhotoTokenizer of VqVaeConfig
    /// World's own small VQ-VAE.
    | SceneTokenizer of SceneVqVaeConfig
    /// A MoVQGAN.
    | MoVqTokenizer of MoVqConfig

/// Pictures ↔ codes, whatever the kind of tokenizer. Axes: B pictures · C channels · H, W pixels · h, w grid.
module ImageTokenizer =

    /// Pixels that the convolutions see at a time; larger batches go through in chunks of pictures. A chunk's maps then
    /// take a few hundred MiB at most.
    let private pixelsAtATime (config: TokenizerConfig) =
        match config with
        | SceneTokenizer _ -> 1L <<< 20
        | PhotoTokenizer _ -> 1L <<< 18
        | MoVqTokenizer _ -> 1L <<< 16

    /// The tokenizer that named shapes tell of: the entries of a file, in any order; entries of other parts are ignored.
    /// Errors: one text that names every entry that is missing or does not fit, or that says that none is known.
    let infer (entries: (string * int64[]) seq) : Result<TokenizerConfig, string> =
        let entries = Array.ofSeq entries
        let has name = entries |> Array.exists (fun (entry, _) -> entry = name)

        if has "vq_vae.codebook.weight" || has "encoder._blocks.conv_1.weight" then
            VqVae.infer entries |> Result.map PhotoTokenizer
        elif has "quantize.embedding.weight" || has "quant_conv.weight" then
            MoVq.infer entries |> Result.map MoVqTokenizer
        elif has "encoder.patch.weight" || has "codebook.weight" then
            SceneVqVae.infer entries |> Result.map SceneTokenizer
        else
            Error
                "no entry of an image tokenizer is among them: a photograph VQ-VAE has 'vq_vae.codebook.weight' and 'encoder._blocks.conv_1.weight', a MoVQGAN has 'quantize.embedding.weight' and 'quant_conv.weight', a scene VQ-VAE has 'codebook.weight' and 'encoder.patch.weight'."

    /// Pixels that a code stands for along each axis.
    let stride (config: TokenizerConfig) : int64 =
        match config with
        | PhotoTokenizer config -> VqVae.stride config
        | SceneTokenizer config -> config.Patch
        | MoVqTokenizer config -> MoVq.stride config

    /// How many codes there are.
    let codes (config: TokenizerConfig) : int64 =
        match config with
        | PhotoTokenizer config -> config.Codes
        | SceneTokenizer config -> config.Codes
        | MoVqTokenizer config -> config.Codes

    /// Channels of a picture.
    let channels (config: TokenizerConfig) : int64 =
        match config with
        | PhotoTokenizer config -> config.Channels
        | SceneTokenizer config -> config.Channels
        | MoVqTokenizer config -> config.Channels

    /// The parameters needed to encode and decode.
    let parameters (config: TokenizerConfig) : ParameterSpec list =
        match config with
        | PhotoTokenizer config -> VqVae.parameters config
        | SceneTokenizer config -> SceneVqVae.parameters config @ [ (SceneVqVae.codebook config).Head ]
        | MoVqTokenizer config -> MoVq.parameters config

    /// The name of the entry that holds the codes' vectors, [codes, width].
    let codebook (config: TokenizerConfig) : string =
        match config with
        | PhotoTokenizer _ -> "vq_vae.codebook.weight"
        | SceneTokenizer _ -> "codebook.weight"
        | MoVqTokenizer _ -> "quantize.embedding.weight"

    /// The name of the weight of the convolution that gives the picture.
    let lastConvolution (config: TokenizerConfig) : string =
        match config with
        | PhotoTokenizer config -> $"decoder._blocks.conv_t_{config.Doublings.Length + 1}.weight"
        | SceneTokenizer _ -> "decoder.patch.weight"
        | MoVqTokenizer _ -> "decoder.conv_out.weight"

    /// Pictures -> vectors before quantisation, with their graph: what `encode` finds the nearest codes of.
    /// images_BCHW: floats in [0, 1], both sides multiples of `stride`. Returns float32 [B, width of a code, h, w].
    let vectors (config: TokenizerConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        match config with
        | PhotoTokenizer config -> VqVae.vectors config weights images_BCHW
        | SceneTokenizer config -> SceneVqVae.vectors config weights images_BCHW
        | MoVqTokenizer config -> MoVq.vectors config weights images_BCHW

    /// Quantised vectors -> pictures, with their graph: what `decode` makes of the vectors of codes.
    /// vectors_BChw: float32 [B, width of a code, h, w]. Returns float32 [B, C, H, W], not yet cut to [0, 1].
    let pictures (config: TokenizerConfig) (weights: Weights) (vectors_BChw: torch.Tensor) : torch.Tensor =
        match config with
        | PhotoTokenizer config -> VqVae.pictures config weights vectors_BChw
        | SceneTokenizer config -> SceneVqVae.pictures config weights vectors_BChw
        | MoVqTokenizer config -> MoVq.pictures config weights vectors_BChw

    /// Applies a function to chunks of a batch and joins what it gives.
    let private inChunks (pictures: int64) (f: torch.Tensor -> torch.Tensor) (batch: torch.Tensor) =
        use scope = torch.NewDisposeScope()
        let count = batch.shape[0]
        let pictures = max 1L pictures

        if count <= pictures then
            scope.MoveToOuter(f batch)
        else
            let parts =
                [| for start in 0L .. pictures .. count - 1L -> f (batch.narrow (0L, start, min pictures (count - start))) |]

            scope.MoveToOuter(torch.cat (parts, 0L))

    /// Pictures -> codes. images_BCHW: floats [B, C, H, W] in [0, 1], B > 0, H and W multiples of `stride`.
    /// Returns int64 [B, H / stride, W / stride], codes of a row left to right. No gradient passes.
    /// Errors: ShapeException.
    let encode (config: TokenizerConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        Shape.require "images" [ -1L; channels config; -1L; -1L ] images_BCHW
        let shape, stride = images_BCHW.shape, stride config

        if not (torch.is_floating_point images_BCHW) then
            raise (ShapeException $"images has element type {images_BCHW.dtype}; it must be floating, in [0, 1].")

        if Array.exists (fun length -> length = 0L) shape || shape[2] % stride <> 0L || shape[3] % stride <> 0L then
            raise (
                ShapeException
                    $"images has shape {Shape.show shape}; it must hold a picture, and height and width must be multiples of {stride}."
            )

        let one =
            match config with
            | PhotoTokenizer config -> VqVae.encode config weights
            | SceneTokenizer config -> SceneVqVae.encode config weights
            | MoVqTokenizer config -> MoVq.encode config weights

        use scope = torch.NewDisposeScope()

        images_BCHW.detach().``to``(torch.float32)
        |> inChunks (pixelsAtATime config / (shape[2] * shape[3])) one
        |> scope.MoveToOuter

    /// Codes -> pictures. codes_Bhw: int64 [B, h, w], B > 0, each in [0, codes).
    /// Returns float32 [B, C, h · stride, w · stride] in [0, 1]. No gradient passes. Errors: ShapeException.
    let decode (config: TokenizerConfig) (weights: Weights) (codes_Bhw: torch.Tensor) : torch.Tensor =
        Shape.require "codes" [ -1L; -1L; -1L ] codes_Bhw
        Shape.requireType "codes" torch.ScalarType.Int64 codes_Bhw
        let shape, stride = codes_Bhw.shape, stride config

        if Array.exists (fun length -> length = 0L) shape then
            raise (ShapeException $"codes has shape {Shape.show shape}; it must hold a code.")

        use scope = torch.NewDisposeScope()
        let lowest, highest = codes_Bhw.min().item<int64>(), codes_Bhw.max().item<int64>()

        if lowest < 0L || highest >= codes config then
            raise (ShapeException $"codes holds {lowest} to {highest}; this tokenizer has the codes 0 to {codes config - 1L}.")

        let one =
            match config with
            | PhotoTokenizer config -> VqVae.decode config weights
            | SceneTokenizer config -> SceneVqVae.decode config weights
            | MoVqTokenizer config -> MoVq.decode config weights

        codes_Bhw
        |> inChunks (pixelsAtATime config / (shape[1] * shape[2] * stride * stride)) one
        |> scope.MoveToOuter
