/// The C# door to training image tokenizers.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// The configuration of an image tokenizer's training as the host reads it.
[<Sealed>]
type ImageTrainPlan
    /// The configuration as the core has it.
    (config: ImageTrainConfig) =

    /// A configuration's text with values put at dotted names first. Errors: InputException naming every key that is wrong.
    static member Parse(source: string, text: string, values: IEnumerable<KeyValuePair<string, string>>) : ImageTrainPlan =
        match ImageTrainConfig.parseWith values text with
        | Ok config -> ImageTrainPlan config
        | Error errors ->
            let lines = String.Join("\n  ", errors)
            raise (InputException $"{source} cannot be used:\n  {lines}")

    /// The configuration as the core has it.
    member _.Config = config
    /// Paths of folders, tars and tables of pictures.
    member _.Inputs: IReadOnlyList<string> = List.toArray config.Inputs

    /// The same with other inputs.
    member _.WithInputs(inputs: IEnumerable<string>) = ImageTrainPlan { config with Inputs = List.ofSeq inputs }

    /// Whether a step cuts a random square of a picture, not the one in its middle.
    member _.Random = (config.Crop = RandomCrop)
    /// Whether the network computes in bf16.
    member _.HalfPrecision = (config.Precision = Bf16)
    /// Whether a discriminator is trained beside it.
    member _.Adversarial = (ImageTrainConfig.discriminator config).IsSome

    /// Pixels that a code stands for along each axis.
    member _.Stride = int (ImageTokenizer.stride (ImageTrainConfig.tokenizer config))

    /// Parameters of the tokenizer.
    member _.Parameters: int64 = ImageTokenizer.parameters (ImageTrainConfig.tokenizer config) |> List.sumBy _.Count

    /// The learning rate of a step.
    member _.LearningRate(step: int) : float = Schedule.rate config.Schedule step

    /// The place of a picture of `count` at a position of the run: a new seeded permutation each epoch.
    member _.Place(count: int, position: int64) : int =
        let epoch, within = position / int64 count, position % int64 count

        Random.permuted (int64 count) (Random.ofSeed config.Seed |> Random.named "order" |> Random.numbered epoch) within
        |> int

    /// The square of a picture of width × height pixels that the run sees at a position.
    member _.View(position: int64, width: int, height: int) : PictureView = ImageTraining.view config position width height

    /// A number in [0, 1) that belongs to a picture's name: the pictures with the lowest are held out.
    member _.Draw(name: string) : float =
        Random.uniform (Random.ofSeed config.Seed |> Random.named "held out" |> Random.named name) 0L

    /// How many of `count` pictures are held out.
    member _.HeldOut(count: int) : int =
        if config.HeldOutShare = 0.0 then
            0
        else
            min config.HeldOutMost (max 1 (int (Math.Round(config.HeldOutShare * float count))))

    /// The resolved configuration, every key written out.
    member _.Json = ImageTrainConfig.toJson config

/// What is left of a picture.
[<Struct>]
type PictureQuality =
    {
        /// In decibels; infinite for equal pictures.
        Psnr: float
        /// NaN for a side below 11 pixels.
        Ssim: float
        /// Mean absolute difference, in [0, 1].
        L1: float
    }

/// Measures of pictures and of codes.
[<AbstractClass; Sealed>]
type PictureMeasures private () =

    /// The quality of each pair of pictures of one size.
    static member Quality
        (originals: IReadOnlyList<byte[]>, others: IReadOnlyList<byte[]>, height: int, width: int)
        : PictureQuality[] =
        Array.map2
            (fun original other ->
                use _ = torch.NewDisposeScope()
                let a, b = Pixels.toTensor height width [| original |], Pixels.toTensor height width [| other |]

                {
                    Psnr = (ImageQuality.psnr a b)[0]
                    Ssim = (ImageQuality.ssim a b)[0]
                    L1 = (ImageQuality.l1 a b)[0]
                })
            (Seq.toArray originals)
            (Seq.toArray others)

    /// The use of `count` codes over pictures.
    static member Use(count: int, codes: IEnumerable<int[]>) : CodeUse = CodeUse.counts count codes |> CodeUse.ofCounts

/// Trains an image tokenizer. Dispose it to release everything.
[<Sealed>]
type ImageTrainer
    /// A tokenizer with random weights on a device. Call `Initialise` before the first step.
    (plan: ImageTrainPlan, device: torch.Device) =
    let config = plan.Config
    let state = new ImageTrainingState(config, device)

    let tensors (pictures: IReadOnlyList<byte[]>) =
        [
            for part in Seq.chunkBySize config.MicroBatch pictures ->
                (Pixels.toTensor config.ImageSize config.ImageSize part).``to`` device
        ]

    /// Places the first codes, from the vectors of some pictures of imageSize × imageSize pixels, before the first step.
    member _.Initialise(pictures: IReadOnlyList<byte[]>) : unit =
        use _ = torch.NewDisposeScope()
        ImageTraining.initialiseCodebook state (tensors pictures)

    /// One step on a batch of pictures of imageSize × imageSize pixels.
    member _.Step(step: int, pictures: IReadOnlyList<byte[]>) : ImageStep =
        use _ = torch.NewDisposeScope()
        ImageTraining.step state step (tensors pictures)

    /// The tokenizer so far, in fp32, on its own; with averaged weights where the configuration averages them.
    member _.Finish() : PictureTokenizer = new PictureTokenizer(state.Tokenizer, [ state.Snapshot() ])

    /// Everything that a run needs to go on; the tensors belong to this object.
    member _.State: IReadOnlyList<KeyValuePair<string, torch.Tensor>> =
        [| for name, tensor in state.Tensors -> KeyValuePair(name, tensor) |]

    /// What the state is laid out for; a state of another layout does not fit.
    member _.StateLayout: string = state.Layout

    /// Puts saved tensors back. Errors: ShapeException where one does not fit.
    member _.Restore(source: Func<string, torch.Tensor>) : unit =
        use _ = torch.no_grad ()

        for name, target in state.Tensors do
            use saved = source.Invoke name
            Shape.require name (List.ofArray target.shape) saved
            target.copy_ saved |> ignore

        state.Refresh()

    interface IDisposable with
        member _.Dispose() = (state :> IDisposable).Dispose()
