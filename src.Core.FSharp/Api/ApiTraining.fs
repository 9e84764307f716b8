/// The C# door's second half: what the host reads of a training configuration and of a model's description.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// A parameter's name and shape.
[<Sealed>]
type ParameterShape internal (name: string, shape: int64[]) =
    /// As open_lm names it, `layers.0.attention.in_proj.weight` say.
    member _.Name = name
    /// Lengths of its axes, rows first.
    member _.Shape = shape

/// What follows from a model's description.
[<AbstractClass; Sealed>]
type Architecture private () =

    /// Every parameter of a model.
    static member Parameters(config: ModelConfig) : IReadOnlyList<ParameterShape> =
        Decoder.parameters config
        |> List.map (fun spec -> ParameterShape(spec.Name, List.toArray spec.Shape))
        |> List.toArray
        :> IReadOnlyList<ParameterShape>

    /// The description with a table of `rows` rows.
    static member WithRows(config: ModelConfig, rows: int) : ModelConfig = { config with Rows = rows }

    /// The description with norms that have weights but no biases.
    static member WithoutNormBiases(config: ModelConfig) : ModelConfig = { config with Norm = GainLayerNorm }

    /// Floating-point operations per token of a forward and backward pass over sequences of `positions` positions.
    static member FlopsPerToken(config: ModelConfig, positions: int) : float = ModelConfig.flopsPerToken config positions

    /// Words for the kinds of norm, positions and feed-forward layer of a model.
    static member Describe(config: ModelConfig) : string =
        let groups =
            if config.KeyValueHeads = config.Heads then
                ""
            else
                $" ({config.KeyValueHeads} for keys and values)"

        let tied = if config.Tied then "tied" else "separate"

        $"width {config.Width}, {config.Layers} layers, {config.Heads} heads{groups} of width {config.HeadWidth}, feed-forward {config.FeedForward} of width {config.FeedForwardWidth}, {config.Norm}, {config.Position}, {tied} head, table of {config.Rows} rows, {config.Positions} positions"

/// What a model is in the form of another program. Null where it has no such form, and then the reasons.
[<Sealed>]
type ExportedDescription internal (json: string | null, family: string, reasons: string list) =
    /// The text of its JSON, or null
    member _.Json = json
    /// The family's name, such as llama; empty for open_lm
    member _.Family = family
    /// Why it has no such form, a sentence part each
    member _.Reasons: IReadOnlyList<string> = List.toArray reasons :> IReadOnlyList<string>

/// Describing a model to other programs.
[<AbstractClass; Sealed>]
type Exports private () =

    static let text (json: System.Text.Json.Nodes.JsonObject) =
        json.ToJsonString(System.Text.Json.JsonSerializerOptions(WriteIndented = true)) + "\n"

    static let some (id: Nullable<int>) = if id.HasValue then Some id.Value else None

    /// open_lm's model JSON.
    static member OpenLm(config: ModelConfig, vocabulary: Vocabulary) : ExportedDescription =
        match ModelExport.openLm config vocabulary with
        | Ok json -> ExportedDescription(text json, "", [])
        | Error reasons -> ExportedDescription(null, "", reasons)

    /// The config.json of the Hugging Face family whose code computes the model; `elementType` is a torch name such as bfloat16.
    static member HuggingFace
        (config: ModelConfig, vocabulary: Vocabulary, beginId: Nullable<int>, endId: Nullable<int>, elementType: string)
        : ExportedDescription =
        match ModelForms.family config with
        | Ok family ->
            let ids: ModelExport.Ids =
                {
                    Begin = some beginId
                    End = some endId
                    Pad = if vocabulary.ImageCodes > 0 then Some vocabulary.Pad else None
                }

            let json = ModelExport.huggingFace family config vocabulary ids elementType
            ExportedDescription(text json, ModelForms.familyName family, [])
        | Error reasons -> ExportedDescription(null, "", reasons)

/// A training configuration as the host reads it.
[<Sealed>]
type TrainPlan
    /// The configuration as the core has it.
    (config: TrainConfig) =
    let text, image, structure, z = config.LossWeights
    let precision = if config.Precision = Given Bf16 then Bf16 else Fp32

    let sharing (processes: int) : Slicing = { Zero = config.Distribution.Zero; World = processes }

    let memory (model: ModelConfig) precision checkpointing threads positions device processes =
        let movement = Trainable.movement model config.Vocabulary.TextRows config.Trainable
        let checkpoints = config.CheckpointEvery < config.Schedule.Steps || config.Saving.EveryMinutes.IsSome

        StepMemories.Of(
            model,
            movement,
            precision,
            config.Gradients,
            checkpointing,
            config.MicroBatch,
            threads,
            positions,
            device,
            sharing processes,
            config.AverageDecay.IsSome,
            checkpoints
        )

    let list (values: string list) = List.toArray values :> IReadOnlyList<string>

    /// The configuration as the core has it.
    member _.Config = config

    /// The path of the model to start from, or null.
    member _.Checkpoint: string | null = Option.toObj config.Checkpoint

    /// The path of the model's description, or null.
    member _.Description: string | null = Option.toObj config.ModelConfigFile

    /// Whether the weights of the checkpoint are the start; otherwise the start is random.
    member _.Pretrained = (config.Initialisation = Pretrained)

    /// Paths of the training data.
    member _.Train = list config.Train
    /// Paths of the held-out data; empty where there are none.
    member _.HeldOut = list config.HeldOut

    /// The path of the table that image rows start from, or null.
    member _.ImageRows: string | null = TrainConfig.newRowsPath config.NewRows |> Option.toObj
    /// Whether sequences come in a seeded order; else as they stand.
    member _.Shuffled = (config.Order = Shuffled)
    /// AdamW's settings.
    member _.Optimizer = config.Optimizer
    /// The weighted parts of the loss and z-loss.
    member _.Objective: Objective = Trainer.Objective(text, image, structure, z)

    /// How the model of this run is laid out in memory: its pre-trained rows are the vocabulary's text rows.
    member _.Layout(device: torch.Device) : Layout =
        Layout(
            HalfPrecision = (precision = Bf16),
            Trainable = Trainable.name config.Trainable,
            DecayAll = (config.Optimizer.Decay = Parameters.All),
            OldRows = config.Vocabulary.TextRows,
            Device = device
        )

    /// How a step of this run uses memory.
    member _.Training: Training =
        let checkpointing =
            match config.Checkpointing with
            | Given choice -> choice
            | Auto -> Checkpointing.None

        Training(
            Checkpointing = Checkpointing.name checkpointing,
            HalfGradients = (config.Gradients = Bf16),
            AverageDecay = Option.defaultValue 0.0 config.AverageDecay
        )

    /// Whether the precision is left to the machine.
    member _.PrecisionIsOpen = (config.Precision = Auto)

    /// Whether bf16 can gain on a model, where the machine is faster in it.
    member _.HalfMayGain(model: ModelConfig) : bool = model.Width >= TrainConfig.leastHalfWidth

    /// This configuration with a precision, where it left that open.
    member _.WithPrecision(half: bool) : TrainPlan = TrainPlan(TrainConfig.withPrecision (if half then Bf16 else Fp32) config)

    /// Whether what is kept for the backward pass is left to the machine.
    member _.CheckpointingIsOpen = (config.Checkpointing = Auto)

    /// The bytes that a step may take, where the configuration says so.
    member _.Budget: Nullable<int64> =
        match config.MemoryBudget with
        | Some budget -> Nullable(int64 (budget * 1073741824.0))
        | None -> Nullable()

    /// What a step of this run takes by its present settings, in one of so many processes.
    member plan.Memory(model: ModelConfig, threads: int, positions: int, device: torch.Device, processes: int) : StepMemory =
        memory model precision plan.Training.Pass.Checkpointing threads positions device processes

    /// What a step of this run takes on a CPU in a precision and by a way of checkpointing.
    member _.Memory(model: ModelConfig, half: bool, checkpointing: string, threads: int, positions: int) : StepMemory =
        let pass = Training(Checkpointing = checkpointing).Pass
        memory model (if half then Bf16 else Fp32) pass.Checkpointing threads positions torch.CPU 1

    /// This configuration with the fastest way of checkpointing that fits into each of so many processes, where it left that open.
    /// Errors: InputException where none does.
    member plan.WithFastest
        (model: ModelConfig, threads: int, positions: int, device: torch.Device, processes: int, budget: int64)
        : TrainPlan =
        let estimate checkpointing = memory model precision checkpointing threads positions device processes

        match config.Checkpointing, Memory.fastest (Memory.ways (sharing processes)) budget estimate with
        | Given _, _ -> plan
        | Auto, Ok choice -> TrainPlan(TrainConfig.withCheckpointing choice config)
        | Auto, Error least ->
            let gib (bytes: int64) = (float bytes / 1073741824.0).ToString("0.0", Globalization.CultureInfo.InvariantCulture)

            raise (
                InputException
                    $"a step takes about {gib least} GiB at least, but {gib budget} GiB may be taken; make batch.microBatch ({config.MicroBatch}) or data.length smaller, take a smaller model, or raise memory.budgetGiB."
            )

    /// This configuration with what a run has settled on, where this one leaves it open.
    member plan.Following(run: TrainPlan) : TrainPlan =
        let follow setting apply config =
            match setting with
            | Given value -> apply value config
            | Auto -> config

        config
        |> follow run.Config.Precision TrainConfig.withPrecision
        |> follow run.Config.Checkpointing TrainConfig.withCheckpointing
        |> TrainPlan

    /// What moves, for a person.
    member _.Movement(model: ModelConfig) : string = Trainable.describe model config.Vocabulary.TextRows config.Trainable

    /// The configuration with every path put through a function.
    member _.WithPaths(path: Func<string, string>) : TrainPlan =
        TrainPlan
            { config with
                Checkpoint = Option.map path.Invoke config.Checkpoint
                ModelConfigFile = Option.map path.Invoke config.ModelConfigFile
                Train = List.map path.Invoke config.Train
                HeldOut = List.map path.Invoke config.HeldOut
                NewRows = TrainConfig.newRowsPath config.NewRows |> Option.map path.Invoke |> Option.defaultValue config.NewRows
            }

    /// The configuration for measuring: captions are not dropped.
    member _.WithoutDrops = TrainPlan { config with CaptionDrop = 0.0 }

    /// The longest caption that fits beside `codes` codes; captions do not bound the other forms.
    member _.CaptionLimit(codes: int) : int =
        match config.Form with
        | Captioned -> max 0 (Sequence.captionLimit config.Length codes)
        | TextOnly -> max 0 (config.Length - Sequence.marks TextOnly)
        | ImageOnly
        | CaptionDropped -> Int32.MaxValue

    /// Whether a run goes back when its loss spikes.
    member _.Rewinds = (config.Spikes.Deviations.IsSome && config.Spikes.Action = SpikeAction.Rewind)

    /// How many deviations a loss is above those before it, where that is a spike; else NaN.
    member _.Spike(before: float[], loss: float) : float =
        let height = Spikes.height config.Spikes before loss
        if Spikes.isSpike config.Spikes height then height.Value else nan

    /// The losses that the next step is held against, from those of the step before and its own.
    member _.After(before: float[], loss: float) : float[] = Spikes.after config.Spikes before loss

    /// Time between checkpoints, beside steps; null for none.
    member _.SavingInterval: Nullable<TimeSpan> =
        match config.Saving.EveryMinutes with
        | Some minutes -> Nullable(TimeSpan.FromMinutes minutes)
        | None -> Nullable()

    /// How long a run goes on without being able to save.
    member _.SavingDeadline = TimeSpan.FromMinutes config.Saving.DeadlineMinutes

    /// Whether removed checkpoints are to be looked for at all.
    member _.Removes = config.Saving.KeepLast.IsSome

    /// Which checkpoints may go, of those after these numbers of steps, where some are spared.
    member _.Removable(spared: IEnumerable<int>, steps: IEnumerable<int>) : IReadOnlyList<int> =
        Saving.removable config.Saving (List.ofSeq spared) (Seq.sort steps |> List.ofSeq) |> List.toArray :> IReadOnlyList<int>

    /// The resolved configuration, every key written out.
    member _.Json = TrainConfig.toJson config

/// Intervals over independent units.
[<AbstractClass; Sealed>]
type Intervals private () =

    /// Σ numerators ÷ Σ denominators with its 95 % percentile interval over resampled units.
    static member Ratio(seed: int64, resamples: int, numerators: float[], denominators: float[]) : Statistics.Interval =
        Statistics.bootstrapRatio (Random.ofSeed seed) resamples numerators denominators

    /// The two-sided p-value of McNemar's exact test: of `b + c` discordant pairs, `b` on one side.
    static member McNemar(b: int, c: int) : float =
        // P(X ≤ min) of a Binomial(b + c, ½), by the ratio of successive terms, in logarithms.
        let n, low = b + c, min b c
        let mutable term, sum = -(float n) * Math.Log 2.0, 0.0

        for k = 0 to low do
            sum <- sum + Math.Exp term
            term <- term + Math.Log(float (n - k) / float (k + 1))

        Math.Min(1.0, 2.0 * sum)
