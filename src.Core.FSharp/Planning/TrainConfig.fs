/// The configuration of a training run: strict JSON, all errors at once, every value in the resolved file.
namespace Hybrid

open System.Collections.Generic
open System.Text.Json
open System.Text.Json.Nodes
open Hybrid.JsonForm

/// Where the weights start.
type Initialisation =
    /// From the checkpoint
    | Pretrained
    /// As open_lm starts a model, with the run's seed
    | RandomWeights

/// In which order sequences come.
type DataOrder =
    /// A seeded permutation of each epoch
    | Shuffled
    /// As they stand, wrapping at the end
    | Sequential

/// A value that the configuration gives, or leaves to the machine that the run is on.
type Setting<'value> =
    /// The machine decides
    | Auto
    /// The configuration does
    | Given of 'value

/// A training run.
type TrainConfig =
    {
        /// A model to start from; absent for a random start from `ModelConfigFile`
        Checkpoint: string option
        /// The model's description, needed where the checkpoint has none
        ModelConfigFile: string option
        /// Where the weights start
        Initialisation: Initialisation
        /// How the model's table is laid out
        Vocabulary: Vocabulary
        /// Paths of shards or ready sequences
        Train: string list
        /// Held-out data for a loss by kind at every checkpoint and at the end
        HeldOut: string list
        /// In which sequences come
        Order: DataOrder
        /// How pairs become sequences; data that are sequences already are taken as they are
        Form: Form
        /// Positions of a composed sequence
        Length: int
        /// Share of captioned sequences that lose their caption (for guidance)
        CaptionDrop: float
        /// Which parameters move
        Trainable: Trainable.Preset
        /// How new rows start: a name of `TrainConfig.newRows`, or the path of a table for the image rows
        NewRows: string
        /// Weights of text, image, structure and z-loss in the objective
        LossWeights: float * float * float * float
        /// AdamW and clipping
        Optimizer: OptimizerConfig
        /// Learning rate by step
        Schedule: Schedule
        /// Sequences of a step, over all processes
        Sequences: int
        /// Sequences that are in memory together
        MicroBatch: int
        /// What becomes of the padding of sequences
        Padding: PaddingRule
        /// Of the forward and backward pass
        Precision: Setting<Precision>
        /// In which micro-batches add up; fp32 in a run in fp32
        Gradients: Precision
        /// What is kept for the backward pass
        Checkpointing: Setting<Checkpointing>
        /// GiB that a step may take, for a choice that is left to the machine; absent: what is free
        MemoryBudget: float option
        /// Steps between checkpoints
        CheckpointEvery: int
        /// When else it saves, and what it keeps
        Saving: Saving
        /// Decay of the moving average of the weights; none is kept when absent
        AverageDecay: float option
        /// What a spike of the loss is, and what is done about it
        Spikes: SpikeRule
        /// How the processes of the run share it
        Distribution: Distribution
        /// The exit code of a run that is interrupted
        InterruptedExit: int
        /// Of new weights, order and dropped captions
        Seed: int64
    }

/// Reading, checking, changing and writing the configuration of a run.
module TrainConfig =

    let private forms =
        [ "captioned", Captioned; "image-only", ImageOnly; "text-only", TextOnly; "caption-dropped", CaptionDropped ]

    let private initialisations = [ "pretrained", Pretrained; "random", RandomWeights ]
    let private orders = [ "shuffled", Shuffled; "sequential", Sequential ]
    let private kinds = [ "cosine", Cosine; "constant", Constant ]
    let private decays = [ "matrices", Parameters.Matrices; "all", Parameters.All ]
    let private paddings = [ "dropped", Dropped; "kept", Kept ]
    let private gradients = [ "fp32", Fp32; "bf16", Bf16 ]
    let private precisions = [ "auto", Auto; "fp32", Given Fp32; "bf16", Given Bf16 ]

    let private checkpointings = ("auto", Auto) :: [ for name, choice in Checkpointing.names -> name, Given choice ]

    /// The narrowest model that bf16 is worth its rounding for: below, products are too small to gain from it.
    let leastHalfWidth: int = 128

    /// Names of the initialisations of new rows.
    let newRows: string list = [ "normal"; "mean"; "mean-covariance" ]

    /// The path of a table that image rows start from, where `newRows` is one and not a name: a path has a separator or a dot.
    let newRowsPath (value: string) : string option =
        if not (List.contains value newRows) && value.IndexOfAny [| '/'; '\\'; '.' |] >= 0 then
            Some value
        else
            None

    let private million = 1_000_000_000

    /// The largest gradient norm: 1 where the key is absent, none where it is null.
    let internal clipNorm (json: JsonFields) : float option =
        match json.OptionalFloat("clipNorm", 1e-12, 1e12) with
        | None when not (Seq.contains "clipNorm" json.Names) -> Some 1.0
        | limit -> limit

    let private newRowsOf (json: JsonFields) : string =
        match json.OptionalText "newRows" with
        | None -> "normal"
        | Some value when List.contains value newRows || (newRowsPath value).IsSome -> value
        | Some value ->
            let names = System.String.Join(", ", newRows)
            let meant = Suggest.nearest newRows value |> Option.map (fun name -> $" Did you mean {name}?")

            json.Error(
                "newRows",
                $"must be one of {names}, or the path of a table such as \"./aligned\" or \"rows.npy\", but is \"{value}\"."
                + Option.defaultValue "" meant
            )

            "normal"

    let private read (json: JsonFields) : TrainConfig =
        let model = json.Object "model"
        let checkpoint, modelFile = model.OptionalText "checkpoint", model.OptionalText "config"
        model.Finish()

        let initialisation =
            json.Choice("initialisation", initialisations, (if checkpoint.IsSome then Pretrained else RandomWeights))

        if model.Sound && checkpoint.IsNone && modelFile.IsNone then
            json.Error("model", "needs a checkpoint or a config.")

        if model.Sound && json.Sound && checkpoint.IsNone && initialisation = Pretrained then
            json.Error("initialisation", "is pretrained, but model.checkpoint names no model.")

        let vocabulary = json.Object "vocabulary"

        let layout =
            {
                TextRows = vocabulary.Int("textRows", 1, 1 <<< 28)
                ImageCodes = vocabulary.Int("imageCodes", 0, 1 <<< 28)
            }

        vocabulary.Finish()
        let data = json.Object "data"
        let train = data.Texts "train"
        let heldOut = data.OptionalTexts "heldOut"
        let order = data.Choice("order", orders, Shuffled)
        let form = data.Choice("form", forms, Captioned)
        let length = data.Int("length", 2, 1 <<< 24, 1152)
        let drop = data.Float("captionDrop", 0.0, 1.0, 0.0)
        data.Finish()
        let optimizer = json.Object "optimizer"
        let peak = optimizer.Float("learningRate", 0.0, 1e6)
        let betas = optimizer.Pair("betas", 0.0, 0.999999999, (0.9, 0.95))
        let epsilon = optimizer.Float("epsilon", 0.0, 1.0, 1e-8)
        let weightDecay = optimizer.Float("weightDecay", 0.0, 1e3, 0.1)
        let decay = optimizer.Choice("decay", decays, Parameters.Matrices)
        optimizer.Finish()
        let schedule = json.Object "schedule"
        let steps = schedule.Int("steps", 1, million)

        let plan =
            {
                Kind = schedule.Choice("kind", kinds, Cosine)
                Peak = peak
                Minimum = schedule.Float("minimumLearningRate", 0.0, 1e6, 0.0)
                WarmupSteps = schedule.Int("warmupSteps", 0, million, 0)
                Steps = steps
            }

        schedule.Finish()
        let batch = json.Object "batch"
        let sequences = batch.Int("sequences", 1, 1 <<< 24)
        let microBatch = batch.Int("microBatch", 1, 1 <<< 24, sequences)
        let padding = batch.Choice("padding", paddings, Dropped)
        batch.Finish()
        let loss = json.Object("loss", true)

        let weights =
            loss.Float("text", 0.0, 1e6, 1.0),
            loss.Float("image", 0.0, 1e6, 1.0),
            loss.Float("structure", 0.0, 1e6, 1.0),
            loss.Float("z", 0.0, 1e6, 0.0)

        loss.Finish()

        let clip = clipNorm json
        let saving = json.Object("checkpoint", true)
        let every = saving.Int("everySteps", 1, million, 1000)
        let keeping = Saving.read (not heldOut.IsEmpty) saving
        saving.Finish()
        let average = json.Object("ema", true)
        let averageDecay = average.OptionalFloat("decay", 0.0, 0.9999999)
        average.Finish()
        let spikes = json.Object("spikes", true)
        let spikeRule = Saving.readSpikes spikes
        spikes.Finish()
        let interruption = json.Object("interruption", true)
        let interruptedExit = interruption.Int("exitCode", 1, 255, 130)
        interruption.Finish()

        let distribution = DistributionConfig.read json
        let trainable = json.Choice("trainable", Trainable.presets, Trainable.All)

        if json.Sound && distribution.Zero = 3 && trainable <> Trainable.All then
            json.Error(
                "distribution",
                "zero is 3, which needs everything to move (trainable: \"all\"); with less that moves, 2 keeps little more."
            )

        let precision = json.Choice("precision", precisions, Auto)
        let gradients = json.Choice("gradients", gradients, Fp32)

        if json.Sound && precision = Given Fp32 && gradients = Bf16 then
            json.Error("gradients", "is bf16, but the run's precision is fp32; make that bf16, or leave this out.")

        let memory = json.Object("memory", true)
        let checkpointing = memory.Choice("checkpointing", checkpointings, Given Checkpointing.None)
        let budget = memory.OptionalFloat("budgetGiB", 0.001, 1e6)
        memory.Finish()

        let config =
            {
                Checkpoint = checkpoint
                ModelConfigFile = modelFile
                Initialisation = initialisation
                Vocabulary = layout
                Train = train
                HeldOut = heldOut
                Order = order
                Form = form
                Length = length
                CaptionDrop = drop
                Trainable = trainable
                NewRows = newRowsOf json
                LossWeights = weights
                Optimizer = { Betas = betas; Epsilon = epsilon; WeightDecay = weightDecay; Decay = decay; ClipNorm = clip }
                Schedule = plan
                Sequences = sequences
                MicroBatch = min microBatch sequences
                Padding = padding
                Precision = precision
                Gradients = gradients
                Checkpointing = checkpointing
                MemoryBudget = budget
                CheckpointEvery = every
                Saving = keeping
                AverageDecay = averageDecay
                Spikes = spikeRule
                Distribution = distribution
                InterruptedExit = interruptedExit
                Seed = json.Int64("seed", 0L)
            }

        json.Finish()
        config

    /// Reads a configuration. Errors: every one of them, each naming its key.
    let parse (text: string) : Result<TrainConfig, string list> = Json.parse text read

    /// The configuration with a precision in the place of one that it leaves open. In fp32, gradients add up in fp32.
    let withPrecision (precision: Precision) (config: TrainConfig) : TrainConfig =
        match config.Precision with
        | Given _ -> config
        | Auto ->
            { config with
                Precision = Given precision
                Gradients = if precision = Fp32 then Fp32 else config.Gradients
            }

    /// The configuration with a choice of what is kept in the place of one that it leaves open.
    let withCheckpointing (checkpointing: Checkpointing) (config: TrainConfig) : TrainConfig =
        match config.Checkpointing with
        | Given _ -> config
        | Auto -> { config with Checkpointing = Given checkpointing }

    /// The keys of a configuration, as far as `--set` reaches them.
    let keys: Lazy<JsonKey list> = lazy (snd (Json.read "{}" read)).Keys

    /// The same with values put at dotted names first, as `--set a.b.c value` does. Errors: as `parse`, and a sentence for each name
    /// that is no key, with those that may have been meant.
    let parseWith (values: KeyValuePair<string, string> seq) (text: string) : Result<TrainConfig, string list> =
        Settings.read values text read

    /// The resolved configuration, every key written out; `parse` reads it back to the same value.
    let toJson (config: TrainConfig) : string =
        let text, image, structure, z = config.LossWeights
        let beta1, beta2 = config.Optimizer.Betas

        object
            [
                "model", object [ "checkpoint", orNull config.Checkpoint; "config", orNull config.ModelConfigFile ]
                "initialisation", value (nameIn initialisations config.Initialisation)
                "vocabulary",
                object [ "textRows", value config.Vocabulary.TextRows; "imageCodes", value config.Vocabulary.ImageCodes ]
                "data",
                object
                    [
                        "train", list config.Train
                        if not config.HeldOut.IsEmpty then
                            "heldOut", list config.HeldOut
                        "order", value (nameIn orders config.Order)
                        "form", value (nameIn forms config.Form)
                        "length", value config.Length
                        "captionDrop", value config.CaptionDrop
                    ]
                "trainable", value (Trainable.name config.Trainable)
                "newRows", value config.NewRows
                "loss", object [ "text", value text; "image", value image; "structure", value structure; "z", value z ]
                "optimizer",
                object
                    [
                        "learningRate", value config.Schedule.Peak
                        "betas", list [ beta1; beta2 ]
                        "epsilon", value config.Optimizer.Epsilon
                        "weightDecay", value config.Optimizer.WeightDecay
                        "decay", value (nameIn decays config.Optimizer.Decay)
                    ]
                "schedule",
                object
                    [
                        "kind", value (nameIn kinds config.Schedule.Kind)
                        "warmupSteps", value config.Schedule.WarmupSteps
                        "steps", value config.Schedule.Steps
                        "minimumLearningRate", value config.Schedule.Minimum
                    ]
                "batch",
                object
                    [
                        "sequences", value config.Sequences
                        "microBatch", value config.MicroBatch
                        "padding", value (nameIn paddings config.Padding)
                    ]
                "clipNorm", orNull config.Optimizer.ClipNorm
                "precision", value (nameIn precisions config.Precision)
                "gradients", value (nameIn gradients config.Gradients)
                "memory",
                object
                    [
                        "checkpointing", value (nameIn checkpointings config.Checkpointing)
                        "budgetGiB", orNull config.MemoryBudget
                    ]
                "checkpoint", object (("everySteps", value config.CheckpointEvery) :: Saving.fields config.Saving)
                "ema", object [ "decay", orNull config.AverageDecay ]
                "spikes", object (Saving.spikeFields config.Spikes)
                "distribution", DistributionConfig.write config.Distribution
                "interruption", object [ "exitCode", value config.InterruptedExit ]
                "seed", value config.Seed
            ]
        |> indented
