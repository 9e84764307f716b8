/// The C# door to pictures: image tokenizers, and training World's own.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// Pictures as bytes and as tensors.
module internal Pixels =

    /// [B, 3, H, W] in [0, 1] of pictures of one size, each H · W · 3 bytes, row by row.
    let toTensor (height: int) (width: int) (pictures: IReadOnlyList<byte[]>) : torch.Tensor =
        use scope = torch.NewDisposeScope()

        if pictures.Count = 0 then
            raise (ShapeException "a batch of pictures needs at least one.")

        for picture in pictures do
            if picture.Length <> height * width * 3 then
                raise (ShapeException $"a picture of {width} × {height} has {height * width * 3} bytes, not {picture.Length}.")

        let bytes = torch.tensor (Array.concat pictures, dtype = torch.uint8)

        bytes
            .reshape(int64 pictures.Count, int64 height, int64 width, 3L)
            .permute(0L, 3L, 1L, 2L)
            .``to``(torch.float32)
            .div(Scalars.Of(255.0))
            .MoveToOuterDisposeScope()

    /// The pictures of a tensor [B, 3, H, W] in [0, 1], rounded to bytes.
    let ofTensor (images_BCHW: torch.Tensor) : byte[][] =
        use _ = torch.NewDisposeScope()
        let count = int images_BCHW.shape[0]

        let bytes =
            images_BCHW
                .mul(Scalars.Of(255.0))
                .round()
                .clamp(Scalars.Of(0.0), Scalars.Of(255.0))
                .permute(0L, 2L, 3L, 1L)
                .``to``(torch.uint8)
                .contiguous()
                .cpu()
                .data<byte>()
                .ToArray()

        if count = 0 then [||] else Array.chunkBySize (bytes.Length / count) bytes

/// How an image tokenizer is opened and how it computes.
type TokenizerOptions =
    {
        /// The tokenizer's own configuration, JSON; null where its tensors say all.
        Description: string | null
        /// Takes the moving averages that the trainer kept.
        Averages: bool
        /// Computes in bf16. What stands next to the quantiser stays in fp32.
        HalfPrecision: bool
        /// Bytes for the maps of pictures; larger pictures go through in tiles.
        MemoryBudget: int64
    }

    /// The same with moving averages or without, in bf16 or in fp32.
    member o.With(averages: bool, halfPrecision: bool) : TokenizerOptions =
        { o with Averages = averages; HalfPrecision = halfPrecision }

    /// The parameters as they are, in fp32. 4 GB, a figure that does not depend on the machine, since tiles change results a little.
    static member val Default = { Description = null; Averages = false; HalfPrecision = false; MemoryBudget = 4_000_000_000L }

/// An image tokenizer: pictures to codes and back. Dispose it to release the weights.
[<Sealed>]
type PictureTokenizer internal (config: TokenizerConfig, stores: ParameterStore list, budget: int64, remainder: string option) =
    let weights: Weights =
        let owners =
            dict
                [
                    for store in stores do
                        for slot in store.Slots do
                            slot.Spec.Name, store
                ]

        fun name ->
            match owners.TryGetValue name with
            | true, store -> store.Weights name
            | _ -> raise (KeyNotFoundException $"the image tokenizer has no entry {name}.")

    /// A tokenizer whose entries say all, with the usual memory budget.
    internal new(config: TokenizerConfig, stores: ParameterStore list) =
        new PictureTokenizer(config, stores, TokenizerOptions.Default.MemoryBudget, None)

    /// How many codes there are.
    member _.Codes = int (ImageTokenizer.codes config)

    /// Pixels a code stands for along each axis.
    member _.Stride = int (ImageTokenizer.stride config)

    /// The names of the entries needed to encode and decode.
    member _.Names: IReadOnlyList<string> =
        ImageTokenizer.parameters config |> List.map _.Name |> List.toArray :> IReadOnlyList<string>

    /// What a copy must keep beside its entries, for `TokenizerOptions.Description`; null where the entries say all.
    member _.Description: string | null = Option.toObj remainder

    /// An entry's values in fp32, however the tokenizer computes; the caller owns the tensor.
    member _.Values(name: string) : torch.Tensor =
        let store = stores |> List.find (fun store -> store.Slots |> List.exists (fun slot -> slot.Spec.Name = name))
        use values = store.MasterOf name
        values.clone ()

    /// The tokenizer that a file's entries hold. Errors: InputException naming every entry that is missing or does not fit, or what
    /// the options ask for that is not there.
    static member Load
        (
            source: string,
            entries: IEnumerable<KeyValuePair<string, int64[]>>,
            load: Func<string, torch.Tensor>,
            options: TokenizerOptions
        ) : PictureTokenizer =
        let entries = entries |> Seq.map (fun entry -> entry.Key, entry.Value)

        match ImageTokenizer.recognise (Option.ofObj options.Description) options.Averages entries with
        | Error problem -> raise (InputException $"{source} is not an image tokenizer that Hybrid can use so: {problem}")
        | Ok found ->
            let config = found.Config

            let exact, rest =
                ImageTokenizer.parameters config |> List.partition (fun spec -> ImageTokenizer.staysFp32 config spec.Name)

            let allocate precision specs = Parameters.allocate precision torch.CPU Parameters.Matrices (fun _ -> Stays) specs

            let stores =
                if options.HalfPrecision then
                    [ allocate Fp32 exact; allocate Bf16 rest ]
                else
                    [ allocate Fp32 (exact @ rest) ]

            try
                for store in stores do
                    for slot in store.Slots do
                        use _ = torch.NewDisposeScope()
                        let values = load.Invoke found.Sources[slot.Spec.Name]
                        Parameters.set store slot.Spec.Name (values.reshape (List.toArray slot.Spec.Shape))

                    store.Refresh()

                new PictureTokenizer(config, stores, options.MemoryBudget, found.Remainder)
            with _ ->
                for store in stores do
                    (store :> IDisposable).Dispose()

                reraise ()

    /// The side in pixels of the tiles in which pictures of a size go through; 0 where they go through whole.
    /// Errors: InputException where the memory budget is too small for any tile.
    member tokenizer.TileSide(height: int, width: int) : int =
        let stride = tokenizer.Stride
        let bytes = ImageTokenizer.numberBytes config weights
        let plan = ImageTokenizer.plan budget config bytes (int64 (height / stride)) (int64 (width / stride))
        plan.Tile |> Option.map (fun tile -> int tile * stride) |> Option.defaultValue 0

    /// Codes of pictures of one size, row by row of the grid. Errors: ShapeException unless both sides are multiples of the stride.
    member _.Encode(pictures: IReadOnlyList<byte[]>, height: int, width: int) : int[][] =
        use _ = torch.inference_mode ()
        use _ = torch.NewDisposeScope()
        let codes = ImageTokenizer.encodeWithin budget config weights (Pixels.toTensor height width pictures)
        let flat = codes.cpu().contiguous().data<int64>().ToArray() |> Array.map int
        Array.chunkBySize (flat.Length / pictures.Count) flat

    /// Pictures of codes on a grid. Errors: ShapeException for a code outside the codebook or a wrong count.
    member _.Decode(codes: IReadOnlyList<int[]>, gridHeight: int, gridWidth: int) : byte[][] =
        use _ = torch.inference_mode ()
        use _ = torch.NewDisposeScope()

        let flat = codes |> Seq.collect (Seq.map int64) |> Array.ofSeq
        let shape = [ int64 codes.Count; int64 gridHeight; int64 gridWidth ]

        if int64 flat.Length <> List.fold (*) 1L shape then
            raise (ShapeException $"{codes.Count} pictures of {gridHeight} × {gridWidth} codes do not have {flat.Length} codes.")

        ImageTokenizer.decodeWithin budget config weights (Host.int64s shape flat) |> Pixels.ofTensor

    /// PSNR of each pair of pictures in decibels.
    static member Psnr(originals: IReadOnlyList<byte[]>, others: IReadOnlyList<byte[]>, height: int, width: int) : float[] =
        use _ = torch.NewDisposeScope()
        ImageQuality.psnr (Pixels.toTensor height width originals) (Pixels.toTensor height width others)

    interface IDisposable with
        member _.Dispose() =
            for store in stores do
                (store :> IDisposable).Dispose()

/// Training World's image tokenizer: the usual one, or a smaller one that is there sooner.
[<Sealed>]
type PictureTokenizerTrainer
    /// Random weights from the seed. `small` takes the smaller tokenizer; `halfPrecision` lets the network compute in bf16.
    (budget: Budget, small: bool, halfPrecision: bool, seed: int64) =
    let config = if small then SceneVqVae.quickDefaults else SceneVqVae.defaults

    let recipe =
        { (if small then SceneVqVae.quickRecipe else SceneVqVae.recipe) with
            Steps = budget.Steps
            Batch = budget.Batch
            LearningRate = budget.LearningRate
            WarmupSteps = budget.WarmupSteps
        }

    let stream = Random.ofSeed seed |> Random.named "image tokenizer"

    let store =
        Parameters.allocate
            (if halfPrecision then Bf16 else Fp32)
            torch.CPU
            Parameters.Matrices
            (fun _ -> Moves)
            (SceneVqVae.parameters config)

    let codebook =
        Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Stays) (SceneVqVae.codebook config)

    let names = SceneVqVae.codebook config |> List.map _.Name |> Set.ofList

    let weights: Weights = fun name -> if names.Contains name then codebook.Weights name else store.Weights name

    let state = new OptimizerState(store)

    let optimizer =
        {
            Betas = recipe.Betas
            Epsilon = 1e-8
            WeightDecay = 0.0
            Decay = Parameters.Matrices
            ClipNorm = None
        }

    do Parameters.initialise stream store

    /// One step on a batch of 3 × 64 × 64 pictures; returns the mean squared error of the reconstruction, a scalar tensor that the
    /// caller owns.
    member _.Step(step: int, pictures: IReadOnlyList<byte[]>) : torch.Tensor =
        use _ = torch.NewDisposeScope()
        let images = Pixels.toTensor 64 64 pictures
        let mutable training = Unchecked.defaultof<SceneTraining>
        Step.zero store state

        let error =
            Step.accumulate store state 1L (fun _ ->
                training <- SceneVqVae.trainingLoss recipe.Commitment config weights images
                // The codebook needs these after the gradient is done.
                training.Codes.MoveToOuterDisposeScope() |> ignore
                training.Vectors.MoveToOuterDisposeScope() |> ignore

                { Objective = training.Loss; Parts = training.Reconstruction })

        Step.update optimizer (SceneVqVae.learningRate recipe (int64 step)) store state |> ignore
        SceneVqVae.updateCodebook recipe.Codebook (Random.named "codebook" stream) (int64 step) weights training
        error.MoveToOuterDisposeScope()

    /// The tokenizer with the weights so far, in fp32, on its own.
    member _.Finish() : PictureTokenizer =
        let kind = SceneTokenizer config
        let specs = ImageTokenizer.parameters kind
        let frozen = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Stays) specs

        for spec in specs do
            use values = if names.Contains spec.Name then codebook.MasterOf spec.Name else store.MasterOf spec.Name
            Parameters.set frozen spec.Name values

        new PictureTokenizer(kind, [ frozen ])

    interface IDisposable with
        member _.Dispose() =
            (state :> IDisposable).Dispose()
            (store :> IDisposable).Dispose()
            (codebook :> IDisposable).Dispose()
