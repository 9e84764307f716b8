namespace Hybrid

open System
open TorchSharp

/// An image tokenizer of one of the kinds that can be read.
type TokenizerConfig =
    /// A convolutional VQ-VAE for photographs.
    | PhotoTokenizer of VqVaeConfig
    /// World's own small VQ-VAE.
    | SceneTokenizer of SceneVqVaeConfig
    /// A VQ-GAN: MoVQGAN, taming-transformers', diffusers' VQModel, LlamaGen's.
    | VqGanTokenizer of VqGanConfig

/// What a file's entries are.
type RecognisedTokenizer =
    {
        /// Which tokenizer it is
        Config: TokenizerConfig
        /// For each parameter, the entry of the file that holds its elements, in their order; the shapes may differ by axes of length 1.
        Sources: Map<string, string>
        /// What names and shapes do not tell, as JSON for `recognise`, where the parameters are kept under the library's names.
        Remainder: string option
    }

/// How pictures of a size go through within some memory.
type TokenizerPlan =
    {
        /// Whole pictures that go through at a time, at least one.
        Together: int64
        /// Where not even one picture fits: the side of its tiles, in codes.
        Tile: int64 option
    }

/// Pictures ↔ codes, whatever the kind of tokenizer. Axes: B pictures · C channels · H, W pixels · h, w grid.
module ImageTokenizer =

    /// Pixels that the convolutions see at a time; larger batches go through in chunks of pictures. More would not be faster.
    let private pixelsAtATime (config: TokenizerConfig) =
        match config with
        | SceneTokenizer _ -> 1L <<< 20
        | PhotoTokenizer _ -> 1L <<< 18
        | VqGanTokenizer _ -> 1L <<< 16

    let private recogniseVqGan (description: string option) (ema: bool) entries (kind: VqGanNames) named =
        let read =
            match description with
            | Some text -> VqGanDescription.parse text |> Result.mapError (fun faults -> "its configuration: " + faults)
            | None -> Ok VqGanDescription.none

        let averaged = if ema then TokenizerNames.averages entries named else Ok named

        match read, averaged with
        | Error fault, _
        | _, Error fault -> Error fault
        | Ok said, Ok named ->
            let inferred =
                named
                |> List.map (fun entry -> entry.Name, entry.Shape)
                |> VqGan.infer (defaultArg said.Groups VqGan.usualGroups) (defaultArg said.Directions (kind = LlamaGenNames))

            match inferred with
            | Error fault when kind <> TamingNames -> Error(fault + " (Names as taming-transformers has them.)")
            | Error fault -> Error fault
            | Ok config ->
                match said.Disagreements config with
                | [] ->
                    Ok
                        {
                            Config = VqGanTokenizer config
                            Sources = named |> List.map (fun entry -> entry.Name, entry.Source) |> Map.ofList
                            Remainder = VqGanDescription.ofConfig false config
                        }
                | faults -> Error("its configuration does not fit its tensors: " + String.Join("; ", faults) + ".")

    /// The tokenizer that named shapes tell of: the entries of a file, in any order and under any of the names that are known; entries of
    /// other parts are ignored. `description`: a VQ-GAN's own configuration, which is checked and adds what shapes do not tell.
    /// `ema`: the moving averages that its trainer kept are wanted.
    /// Errors: one text that names every entry that is missing or does not fit, or that says that none is known.
    let recognise
        (description: string option)
        (ema: bool)
        (entries: (string * int64[]) seq)
        : Result<RecognisedTokenizer, string> =
        let entries = Array.ofSeq entries

        let plain infer wrap =
            if ema then
                Error "a tokenizer of this kind keeps no moving averages of its parameters; leave --ema out."
            elif description.IsSome then
                Error "a tokenizer of this kind has no configuration: its tensors say what it is; leave --tokenizer-config out."
            else
                infer entries
                |> Result.map (fun config ->
                    {
                        Config = wrap config
                        Sources = entries |> Seq.map (fun (name, _) -> name, name) |> Map.ofSeq
                        Remainder = None
                    })

        let has name = entries |> Array.exists (fun (entry, _) -> entry = name)

        if has "vq_vae.codebook.weight" || has "encoder._blocks.conv_1.weight" then
            plain VqVae.infer PhotoTokenizer
        elif has "encoder.patch.weight" || has "codebook.weight" then
            plain SceneVqVae.infer SceneTokenizer
        else
            match TokenizerNames.canonical entries with
            | Error fault -> Error fault
            | Ok(kind, named) ->
                let isVqGan =
                    named
                    |> List.exists (fun entry ->
                        entry.Name = "quantize.embedding.weight"
                        || entry.Name = "quantize.embed.weight"
                        || entry.Name = "quant_conv.weight")

                if isVqGan then
                    recogniseVqGan description ema entries kind named
                else
                    Error
                        "no entry of an image tokenizer is among them: a photograph VQ-VAE has 'vq_vae.codebook.weight' and 'encoder._blocks.conv_1.weight', a VQ-GAN or MoVQGAN has 'quantize.embedding.weight' and 'quant_conv.weight', a scene VQ-VAE has 'codebook.weight' and 'encoder.patch.weight'."

    /// The same of names and shapes alone. Errors: as above.
    let infer (entries: (string * int64[]) seq) : Result<TokenizerConfig, string> =
        recognise None false entries |> Result.map _.Config

    /// Pixels that a code stands for along each axis.
    let stride (config: TokenizerConfig) : int64 =
        match config with
        | PhotoTokenizer config -> VqVae.stride config
        | SceneTokenizer config -> config.Patch
        | VqGanTokenizer config -> VqGan.stride config

    /// How many codes there are.
    let codes (config: TokenizerConfig) : int64 =
        match config with
        | PhotoTokenizer config -> config.Codes
        | SceneTokenizer config -> config.Codes
        | VqGanTokenizer config -> config.Codes

    /// Channels of a picture.
    let channels (config: TokenizerConfig) : int64 =
        match config with
        | PhotoTokenizer config -> config.Channels
        | SceneTokenizer config -> config.Channels
        | VqGanTokenizer config -> config.Channels

    /// The parameters needed to encode and decode.
    let parameters (config: TokenizerConfig) : ParameterSpec list =
        match config with
        | PhotoTokenizer config -> VqVae.parameters config
        | SceneTokenizer config -> SceneVqVae.parameters config @ [ (SceneVqVae.codebook config).Head ]
        | VqGanTokenizer config -> VqGan.parameters config

    /// The name of the entry that holds the codes' vectors, [codes, width].
    let codebook (config: TokenizerConfig) : string =
        match config with
        | PhotoTokenizer _ -> "vq_vae.codebook.weight"
        | SceneTokenizer _ -> "codebook.weight"
        | VqGanTokenizer config -> VqGan.codebook config

    /// Whether a parameter stays in fp32 where the network computes in bf16: the codebook and what stands next to it.
    let staysFp32 (config: TokenizerConfig) (name: string) : bool =
        match config with
        | VqGanTokenizer _ -> VqGan.besideQuantiser name
        | PhotoTokenizer _
        | SceneTokenizer _ -> name = codebook config

    /// Pictures -> vectors before quantisation, with their graph: what `encode` finds the nearest codes of.
    /// images_BCHW: floats in [0, 1], both sides multiples of `stride`. Returns float32 [B, width of a code, h, w].
    let vectors (config: TokenizerConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        match config with
        | PhotoTokenizer config -> VqVae.vectors config weights images_BCHW
        | SceneTokenizer config -> SceneVqVae.vectors config weights images_BCHW
        | VqGanTokenizer config -> VqGan.vectors config weights images_BCHW

    /// Quantised vectors -> pictures, with their graph: what `decode` makes of the vectors of codes.
    /// vectors_BChw: float32 [B, width of a code, h, w]. Returns float32 [B, C, H, W], not yet cut to [0, 1].
    let pictures (config: TokenizerConfig) (weights: Weights) (vectors_BChw: torch.Tensor) : torch.Tensor =
        match config with
        | PhotoTokenizer config -> VqVae.pictures config weights vectors_BChw
        | SceneTokenizer config -> SceneVqVae.pictures config weights vectors_BChw
        | VqGanTokenizer config -> VqGan.pictures config weights vectors_BChw

    /// Bytes that the maps of one picture take at the most while it is encoded or decoded, the weights not counted.
    /// `numberBytes`: 4 in fp32, 2 in bf16. An estimate from above: a MoVQGAN with 32 channels took two thirds of it at 1024 × 1024.
    let workingBytes (config: TokenizerConfig) (numberBytes: int64) (height: int64) (width: int64) : int64 =
        let numbers =
            match config with
            | PhotoTokenizer config -> VqVae.workingNumbers config height width
            | SceneTokenizer config -> SceneVqVae.workingNumbers config height width
            | VqGanTokenizer config -> VqGan.workingNumbers config height width

        // The picture as it comes and as it goes, and rows of distances to the codes, are fp32 in either precision.
        numberBytes * numbers + 4L * 4L * channels config * height * width + Codebook.workingBytes

    /// Sides of the smallest tiles, in codes: below this little of a tile is out of the reach of its ends.
    let private smallestTile = 8L

    /// How pictures of h × w codes go through in about `budget` bytes. Errors: InputException where not even the smallest tile fits.
    let plan (budget: int64) (config: TokenizerConfig) (numberBytes: int64) (rows: int64) (columns: int64) : TokenizerPlan =
        let stride = stride config
        let bytes rows columns = workingBytes config numberBytes (rows * stride) (columns * stride)
        let whole = bytes rows columns

        if whole <= budget then
            let usual = pixelsAtATime config / (rows * columns * stride * stride)
            // What one picture takes beyond its own share is counted once too often, on the safe side.
            { Together = max 1L (min usual (budget / whole)); Tile = None }
        else
            let fits tile = bytes (min tile rows) (min tile columns) <= budget

            if not (fits smallestTile) then
                let needed = bytes (min smallestTile rows) (min smallestTile columns) / 1_000_000L + 1L

                raise (
                    InputException
                        $"a memory budget of {budget / 1_000_000L} MB is too small for this image tokenizer: its smallest tiles take {needed} MB."
                )

            let tile = Seq.initInfinite (fun i -> smallestTile + int64 i) |> Seq.takeWhile fits |> Seq.last
            { Together = 1L; Tile = Some tile }

    /// Bytes of a number of the network.
    let numberBytes (config: TokenizerConfig) (weights: Weights) : int64 = (weights (parameters config).Head.Name).ElementSize

    /// The name of the weight of the convolution that gives the picture.
    let lastConvolution (config: TokenizerConfig) : string =
        match config with
        | PhotoTokenizer config -> $"decoder._blocks.conv_t_{config.Doublings.Length + 1}.weight"
        | SceneTokenizer _ -> "decoder.patch.weight"
        | VqGanTokenizer _ -> "decoder.conv_out.weight"

    /// Applies a function to chunks of a batch and joins what it gives.
    let private inChunks (pictures: int64) (f: torch.Tensor -> torch.Tensor) (batch: torch.Tensor) =
        use scope = torch.NewDisposeScope()
        let count = batch.shape[0]

        if count <= pictures then
            scope.MoveToOuter(f batch)
        else
            let parts =
                [| for start in 0L .. pictures .. count - 1L -> batch.narrow (0L, start, min pictures (count - start)) |> f |]

            scope.MoveToOuter(torch.cat (parts, 0L))

    /// Pictures -> codes, in about `budget` bytes beside the weights. images_BCHW: floats [B, C, H, W] in [0, 1], B > 0, H and W multiples
    /// of `stride`. A picture that does not fit goes through in overlapping tiles; codes near their ends may then differ.
    /// Returns int64 [B, H / stride, W / stride], codes of a row left to right. No gradient passes.
    /// Errors: ShapeException; InputException where the budget is too small.
    let encodeWithin (budget: int64) (config: TokenizerConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        Shape.require "images" [ -1L; channels config; -1L; -1L ] images_BCHW
        let shape, stride = images_BCHW.shape, stride config

        if not (torch.is_floating_point images_BCHW) then
            raise (ShapeException $"images has element type {images_BCHW.dtype}; it must be floating, in [0, 1].")

        if Array.exists (fun length -> length = 0L) shape || shape[2] % stride <> 0L || shape[3] % stride <> 0L then
            raise (
                ShapeException
                    $"images has shape {Shape.show shape}; it must hold a picture, and height and width must be multiples of {stride}."
            )

        let one (images_BCHW: torch.Tensor) =
            use scope = torch.NewDisposeScope()
            use _ = torch.no_grad ()
            let vectors_BChw = vectors config weights images_BCHW

            match config with
            | VqGanTokenizer config -> VqGan.quantise config weights vectors_BChw
            | _ -> Codebook.assign (weights (codebook config)) vectors_BChw
            |> scope.MoveToOuter

        let plan = plan budget config (numberBytes config weights) (shape[2] / stride) (shape[3] / stride)

        let one =
            match plan.Tile with
            | Some tile -> ImageTiles.encode stride tile one
            | None -> one

        use scope = torch.NewDisposeScope()

        images_BCHW.detach().``to``(torch.float32) |> inChunks plan.Together one |> scope.MoveToOuter

    /// The same, each picture as a whole whatever memory that takes. Errors: ShapeException.
    let encode (config: TokenizerConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        encodeWithin Int64.MaxValue config weights images_BCHW

    /// Codes -> pictures, in about `budget` bytes beside the weights and the pictures. codes_Bhw: int64 [B, h, w], B > 0, each in
    /// [0, codes). A picture that does not fit is made of overlapping tiles that are blended.
    /// Returns float32 [B, C, h · stride, w · stride] in [0, 1]. No gradient passes.
    /// Errors: ShapeException; InputException where the budget is too small.
    let decodeWithin (budget: int64) (config: TokenizerConfig) (weights: Weights) (codes_Bhw: torch.Tensor) : torch.Tensor =
        Shape.require "codes" [ -1L; -1L; -1L ] codes_Bhw
        Shape.requireType "codes" torch.ScalarType.Int64 codes_Bhw
        let shape, stride = codes_Bhw.shape, stride config

        if Array.exists (fun length -> length = 0L) shape then
            raise (ShapeException $"codes has shape {Shape.show shape}; it must hold a code.")

        use scope = torch.NewDisposeScope()
        let lowest, highest = codes_Bhw.min().item<int64>(), codes_Bhw.max().item<int64>()

        if lowest < 0L || highest >= codes config then
            raise (ShapeException $"codes holds {lowest} to {highest}; this tokenizer has the codes 0 to {codes config - 1L}.")

        let one (codes_Bhw: torch.Tensor) =
            use scope = torch.NewDisposeScope()
            use _ = torch.no_grad ()

            match config with
            | VqGanTokenizer config -> VqGan.lookup config weights codes_Bhw
            | _ -> Codebook.lookup (weights (codebook config)) codes_Bhw
            |> pictures config weights
            |> _.clamp(Scalars.Of(0.0), Scalars.Of(1.0))
            |> scope.MoveToOuter

        let plan = plan budget config (numberBytes config weights) shape[1] shape[2]

        let one =
            match plan.Tile with
            | Some tile -> ImageTiles.decode stride tile (channels config) one
            | None -> one

        codes_Bhw |> inChunks plan.Together one |> scope.MoveToOuter

    /// The same, each picture as a whole whatever memory that takes. Errors: ShapeException.
    let decode (config: TokenizerConfig) (weights: Weights) (codes_Bhw: torch.Tensor) : torch.Tensor =
        decodeWithin Int64.MaxValue config weights codes_Bhw
