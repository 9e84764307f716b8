/// The configuration of an image tokenizer's training: strict JSON, all errors at once, every value in the resolved file.
namespace Hybrid

open System.Collections.Generic
open Hybrid.JsonForm

/// Reading, checking and writing the configuration of an image tokenizer's training.
[<CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module ImageTrainConfig =

    let private kinds = [ "vqvae", PhotoKind; "movq", MoVqKind ]
    let private movers = [ "ema", MovingAverages; "gradient", Gradients ]
    let private crops = [ "centre", CentreCrop; "random", RandomCrop ]
    let private schedules = [ "cosine", Cosine; "constant", Constant ]
    let private precisions = [ "fp32", Fp32; "bf16", Bf16 ]
    let private million = 1_000_000_000
    let private widest = 1 <<< 16

    /// The names of the kinds, as `kind` and `--kind` take them.
    let kindNames: string list = List.map fst kinds

    let private levels (config: ImageTrainConfig) =
        config.Multipliers |> List.map (fun multiplier -> int64 multiplier * int64 config.Width)

    /// The tokenizer that a configuration asks for.
    let tokenizer (config: ImageTrainConfig) : TokenizerConfig =
        let levels = levels config

        match config.Kind with
        | PhotoKind ->
            let stack: VqVaeStack =
                { Blocks = config.Blocks; InnerWidth = if config.Blocks = 0 then 0L else int64 config.InnerWidth }

            let deepest = List.last levels

            PhotoTokenizer
                {
                    Channels = 3L
                    Encoder = [ for width in levels -> { Width = width; Kernel = 4L } ] @ [ { Width = deepest; Kernel = 3L } ]
                    EncoderStack = stack
                    Codes = int64 config.Codes
                    CodeWidth = int64 config.CodeWidth
                    DecoderWidth = deepest
                    DecoderStack = stack
                    Doublings = levels |> List.rev |> List.tail
                }
        | MoVqKind ->
            VqGanTokenizer
                { VqGan.moVq67M with
                    Base = int64 config.Width
                    Levels = levels
                    Blocks = config.Blocks
                    EncoderAttention = config.Attention
                    DecoderAttention = config.Attention
                    Latent = int64 config.CodeWidth
                    Codes = int64 config.Codes
                    CodeWidth = int64 config.CodeWidth
                }

    /// The discriminator of a configuration, if it has one.
    let discriminator (config: ImageTrainConfig) : DiscriminatorConfig option =
        if config.Adversarial.Weight > 0.0 then
            Some { Channels = 3L; Width = int64 config.Adversarial.Width; Layers = config.Adversarial.Layers }
        else
            None

    /// Where random squares are cut, an eighth of the side is left to choose from.
    let private shortSideOf (crop: PictureCrop) (imageSize: int) =
        if crop = RandomCrop then imageSize + (imageSize + 7) / 8 else imageSize

    let private readAdversarial (json: JsonFields) : AdversarialConfig =
        let weight = json.Float("weight", 0.0, 1e6, 0.0)
        let rate = json.OptionalFloat("learningRate", 0.0, 1e6)

        let adversarial =
            {
                Weight = weight
                StartStep = json.Int("startStep", 0, million, 0)
                Adaptive = json.Bool("adaptive", true)
                Width = json.Int("width", 1, widest, 64)
                Layers = json.Int("layers", 1, 8, 3)
                LearningRate = rate
            }

        json.Finish()
        adversarial

    /// What no key can say alone.
    let private check (json: JsonFields) (config: ImageTrainConfig) =
        if config.Multipliers.IsEmpty then
            json.Error("model.multipliers", "must hold at least one number.")
        else
            let stride = ImageTokenizer.stride (tokenizer config)

            if int64 config.ImageSize % stride <> 0L then
                json.Error(
                    "imageSize",
                    $"is {config.ImageSize}; a code of this tokenizer stands for {stride} × {stride} pixels, so it must be a multiple of {stride}."
                )

        if config.Kind = MoVqKind then
            match int64 config.Width :: levels config |> List.tryFind (fun width -> width % 32L <> 0L) with
            | Some width ->
                json.Error(
                    "model.width",
                    $"gives a level {width} channels; the norms of a movq have 32 groups, so it must be a multiple of 32."
                )
            | None -> ()

        match config.Attention |> List.tryFind (fun level -> level >= max 1 config.Multipliers.Length) with
        | Some level ->
            json.Error("model.attention", $"names the level {level}; the levels are 0 to {config.Multipliers.Length - 1}.")
        | None -> ()

        if config.ShortSide < config.ImageSize then
            json.Error("data.shortSide", $"is {config.ShortSide}; it cannot be less than imageSize, {config.ImageSize}.")

        let smallest = Discriminator.smallestSide config.Adversarial.Layers

        if config.Adversarial.Weight > 0.0 && config.ImageSize < smallest then
            json.Error(
                "adversarial.layers",
                $"is {config.Adversarial.Layers}, which needs pictures of at least {smallest} pixels; imageSize is {config.ImageSize}."
            )

        if config.L1 = 0.0 && config.L2 = 0.0 then
            json.Error("loss", "weighs neither the absolute nor the squared error: l1 or l2 must be above 0.")

    let private read (json: JsonFields) : ImageTrainConfig =
        let kind = json.Choice("kind", kinds, PhotoKind)
        let photo = (kind = PhotoKind)
        let imageSize = json.Int("imageSize", 1, 1 <<< 14)
        let data = json.Object("data", true)
        let inputs = data.OptionalTexts "inputs"
        let heldOutShare = data.Float("heldOutShare", 0.0, 0.9, 0.05)
        let heldOutMost = data.Int("heldOutMost", 1, million, 512)
        let crop = data.Choice("crop", crops, CentreCrop)
        let shortSide = data.Int("shortSide", 1, 1 <<< 14, shortSideOf crop imageSize)
        let flip = data.Bool("flip", false)
        data.Finish()
        let model = json.Object("model", true)
        let width = model.Int("width", 1, widest, 64)
        let multipliers = model.Ints("multipliers", 1, 1024, (if photo then [ 1; 2 ] else [ 1; 2; 2; 4 ]))
        let blocks = model.Int("blocks", (if photo then 0 else 1), 64, (if photo then 2 else 1))
        let inner = if photo then model.Int("innerWidth", 1, widest, 32) else 0
        let attention = if photo then [] else model.Ints("attention", 0, 64, [ max 0 (multipliers.Length - 1) ])
        let codes = model.Int("codes", 2, 1 <<< 20, 512)
        let codeWidth = model.Int("codeWidth", 1, widest, (if photo then 16 else 8))
        model.Finish()
        let book = json.Object("codebook", true)
        let mover = book.Choice("mover", movers, MovingAverages)

        let learning: Codebook.Learning =
            {
                Decay = book.Float("decay", 0.0, 0.999999999, 0.95)
                Revival = book.Float("revival", 0.0, 1.0, 0.1)
                Smoothing = book.Float("smoothing", 0.0, 1e3, 1e-5)
            }

        let commitment = book.Float("commitment", 0.0, 1e6, 0.25)
        let codebookWeight = book.Float("weight", 0.0, 1e6, 1.0)
        let initialPictures = book.Int("initialPictures", 1, 1 <<< 20, 128)
        book.Finish()
        let loss = json.Object("loss", true)
        let l1, l2 = loss.Float("l1", 0.0, 1e6, 0.0), loss.Float("l2", 0.0, 1e6, 1.0)
        loss.Finish()
        let adversarialKeys = json.Object("adversarial", true)
        let adversarial = readAdversarial adversarialKeys
        let optimizer = json.Object("optimizer", true)
        let peak = optimizer.Float("learningRate", 0.0, 1e6, (if photo then 2e-3 else 1e-3))
        let betas = optimizer.Pair("betas", 0.0, 0.999999999, (0.9, 0.99))
        let epsilon = optimizer.Float("epsilon", 0.0, 1.0, 1e-8)
        let weightDecay = optimizer.Float("weightDecay", 0.0, 1e3, 0.0)
        optimizer.Finish()
        let schedule = json.Object("schedule", true)
        let steps = schedule.Int("steps", 1, million, 2000)

        let plan =
            {
                Kind = schedule.Choice("kind", schedules, Cosine)
                Peak = peak
                Minimum = schedule.Float("minimumLearningRate", 0.0, 1e6, 0.0)
                WarmupSteps = schedule.Int("warmupSteps", 0, million, 50)
                Steps = steps
            }

        schedule.Finish()
        let batch = json.Object("batch", true)
        let pictures = batch.Int("pictures", 1, 1 <<< 20, 16)
        let microBatch = batch.Int("microBatch", 1, 1 <<< 20, pictures)
        batch.Finish()

        let clip = TrainConfig.clipNorm json
        let saving = json.Object("checkpoint", true)
        let every = saving.Int("everySteps", 1, million, 500)
        saving.Finish()

        let config =
            {
                Kind = kind
                ImageSize = imageSize
                Inputs = inputs
                HeldOutShare = heldOutShare
                HeldOutMost = heldOutMost
                Crop = crop
                ShortSide = shortSide
                Flip = flip
                Width = width
                Multipliers = multipliers
                Blocks = blocks
                InnerWidth = inner
                Attention = attention
                Codes = codes
                CodeWidth = codeWidth
                Mover = mover
                Codebook = learning
                Commitment = commitment
                CodebookWeight = codebookWeight
                InitialPictures = initialPictures
                L1 = l1
                L2 = l2
                Adversarial = adversarial
                Betas = betas
                Epsilon = epsilon
                WeightDecay = weightDecay
                ClipNorm = clip
                Schedule = plan
                Pictures = pictures
                MicroBatch = min microBatch pictures
                AverageDecay = json.Float("averageDecay", 0.0, 0.999999999, 0.999)
                Precision = json.Choice("precision", precisions, Fp32)
                CheckpointEvery = every
                Seed = json.Int64("seed", 0L)
            }

        json.Finish()

        if [ json; data; model; book; loss; adversarialKeys; optimizer; schedule; batch; saving ] |> List.forall _.Sound then
            check json config

        config

    /// Reads a configuration. Errors: every one of them, each naming its key.
    let parse (text: string) : Result<ImageTrainConfig, string list> = Json.parse text read

    /// The same with values put at dotted names first, as `--set a.b.c value` does. Errors: as `TrainConfig.parseWith`.
    let parseWith (values: KeyValuePair<string, string> seq) (text: string) : Result<ImageTrainConfig, string list> =
        Settings.read values text read

    /// The keys of a configuration, as far as `--set` reaches them; some belong to one kind only.
    let keys: Lazy<JsonKey list> =
        lazy
            (kindNames
             |> List.collect (fun kind -> (snd (Json.read $"{{ \"kind\": \"{kind}\" }}" read)).Keys)
             |> List.distinctBy _.Name)

    /// The resolved configuration, every key written out; `parse` reads it back to the same value.
    let toJson (config: ImageTrainConfig) : string =
        let beta1, beta2 = config.Betas
        let photo = (config.Kind = PhotoKind)

        object
            [
                "kind", value (nameIn kinds config.Kind)
                "imageSize", value config.ImageSize
                "data",
                object
                    [
                        if not config.Inputs.IsEmpty then
                            "inputs", list config.Inputs
                        "heldOutShare", value config.HeldOutShare
                        "heldOutMost", value config.HeldOutMost
                        "crop", value (nameIn crops config.Crop)
                        "shortSide", value config.ShortSide
                        "flip", value config.Flip
                    ]
                "model",
                object
                    [
                        "width", value config.Width
                        "multipliers", list config.Multipliers
                        "blocks", value config.Blocks
                        if photo then
                            "innerWidth", value config.InnerWidth
                        else
                            "attention", list config.Attention
                        "codes", value config.Codes
                        "codeWidth", value config.CodeWidth
                    ]
                "codebook",
                object
                    [
                        "mover", value (nameIn movers config.Mover)
                        "decay", value config.Codebook.Decay
                        "revival", value config.Codebook.Revival
                        "smoothing", value config.Codebook.Smoothing
                        "commitment", value config.Commitment
                        "weight", value config.CodebookWeight
                        "initialPictures", value config.InitialPictures
                    ]
                "loss", object [ "l1", value config.L1; "l2", value config.L2 ]
                "adversarial",
                object
                    [
                        "weight", value config.Adversarial.Weight
                        "startStep", value config.Adversarial.StartStep
                        "adaptive", value config.Adversarial.Adaptive
                        "width", value config.Adversarial.Width
                        "layers", value config.Adversarial.Layers
                        "learningRate", orNull config.Adversarial.LearningRate
                    ]
                "optimizer",
                object
                    [
                        "learningRate", value config.Schedule.Peak
                        "betas", list [ beta1; beta2 ]
                        "epsilon", value config.Epsilon
                        "weightDecay", value config.WeightDecay
                    ]
                "schedule",
                object
                    [
                        "kind", value (nameIn schedules config.Schedule.Kind)
                        "warmupSteps", value config.Schedule.WarmupSteps
                        "steps", value config.Schedule.Steps
                        "minimumLearningRate", value config.Schedule.Minimum
                    ]
                "batch", object [ "pictures", value config.Pictures; "microBatch", value config.MicroBatch ]
                "clipNorm", orNull config.ClipNorm
                "averageDecay", value config.AverageDecay
                "precision", value (nameIn precisions config.Precision)
                "checkpoint", object [ "everySteps", value config.CheckpointEvery ]
                "seed", value config.Seed
            ]
        |> indented
