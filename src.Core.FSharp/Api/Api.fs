/// The C# door: the core without curried functions, F# lists, options or unions. It comes last and adds no logic of its own.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// Reading descriptions and configurations; all errors at once.
[<AbstractClass; Sealed>]
type Descriptions private () =

    static let orThrow (source: string) (result: Result<'a, string list>) : 'a =
        match result with
        | Ok value -> value
        | Error errors ->
            let lines = String.Join("\n  ", errors)
            raise (InputException $"{source} cannot be used:\n  {lines}")

    /// open_lm's model JSON. Errors: InputException naming every key that is wrong.
    static member OpenLm(source: string, json: string) : ModelConfig = ModelConfig.ofOpenLm json |> orThrow source

    /// The config.json of a Hugging Face model. Errors: InputException.
    static member HuggingFace(source: string, json: string) : ModelConfig = HuggingFaceConfig.read json |> orThrow source

    /// What the key "hybrid" of another form's description adds to a description read from the rest: the description, the layout of
    /// an extended table or null, and whether norms have biases of zero for the form's sake only. Errors: InputException.
    static member Own(source: string, json: string, config: ModelConfig) : struct (ModelConfig * Vocabulary | null * bool) =
        Json.parse json (fun root ->
            let config, vocabulary, gainOnly = ModelExport.readOwn root config
            struct (config, Option.toObj vocabulary, gainOnly))
        |> orThrow source

    /// Hybrid's own description of a model and of its vocabulary. Errors: InputException.
    static member Hybrid(source: string, json: string) : struct (ModelConfig * Vocabulary) =
        Json.parse json (fun root ->
            let model = HybridConfig.read (root.Object "model")
            let vocabulary = root.Object "vocabulary"

            let layout =
                {
                    TextRows = vocabulary.Int("textRows", 1, 1 <<< 28)
                    ImageCodes = vocabulary.Int("imageCodes", 0, 1 <<< 28)
                }

            vocabulary.Finish()

            if layout.Rows > model.Rows then
                root.Error("vocabulary", $"has {layout.Rows} ids, but the model's table has {model.Rows} rows.")

            root.Finish()
            struct (model, layout))
        |> orThrow source

    /// The text that `Hybrid` reads back.
    static member Write(config: ModelConfig, vocabulary: Vocabulary) : string =
        let root = System.Text.Json.Nodes.JsonObject()
        root.Add("model", HybridConfig.write config)
        let layout = System.Text.Json.Nodes.JsonObject()
        layout.Add("textRows", System.Text.Json.Nodes.JsonValue.Create vocabulary.TextRows)
        layout.Add("imageCodes", System.Text.Json.Nodes.JsonValue.Create vocabulary.ImageCodes)
        root.Add("vocabulary", layout)
        root.ToJsonString(System.Text.Json.JsonSerializerOptions(WriteIndented = true))

    /// A training configuration with `--set` values put in. Errors: InputException naming every key that is wrong.
    static member Training(source: string, json: string, values: IEnumerable<KeyValuePair<string, string>>) : TrainConfig =
        TrainConfig.parseWith values json |> orThrow source

    /// What a Trainable preset moves, for a person.
    static member Movement(config: ModelConfig, oldRows: int, preset: string) : string =
        Trainable.describe config oldRows (Trainable.presets |> List.find (fun (name, _) -> name = preset) |> snd)

/// How a model is laid out in memory.
[<Sealed>]
type Layout() =
    /// Whether the model computes in bf16, from fp32 master weights.
    member val HalfPrecision = false with get, set
    /// A name of `Trainable.presets`
    member val Trainable = "all" with get, set
    /// Decay on every parameter instead of on matrices only
    member val DecayAll = false with get, set
    /// Rows of the pre-trained table, for the preset that moves only new rows; 0: what the description says
    member val OldRows = 0 with get, set
    /// Only for computing: nothing moves, and no memory is set aside for gradients
    member val Frozen = false with get, set
    /// Where the weights are.
    member val Device: torch.Device = torch.CPU with get, set

/// Losses of one sequence: sums in nats and counts of text, image and structure targets.
[<Struct>]
type SequenceLoss =
    {
        /// Σ −log p over text targets, in nats
        Text: float
        /// Σ −log p over image targets, in nats
        Image: float
        /// Σ −log p over the marks, in nats
        Structure: float
        /// Text targets
        TextCount: int64
        /// Image targets
        ImageCount: int64
        /// Marks that are targets
        StructureCount: int64
        /// Image targets scored among the image codes only
        ImageWithin: float
        /// Text targets scored among the text rows only
        TextWithin: float
    }

/// How pictures and text are drawn.
[<Sealed>]
type Drawing() =
    /// Divides the logits; 0 takes the most likely token.
    member val Temperature = 1.0 with get, set
    /// 0: no limit
    member val TopK = 0 with get, set
    /// 1: no limit
    member val TopP = 1.0 with get, set
    /// Classifier-free guidance; 1 is none
    member val Guidance = 1.0 with get, set
    /// Draws are functions of it, of the sequence's number and of the position.
    member val Seed = 0L with get, set
    /// Positions that a pass reads ahead; 1: none. It does not change what is drawn
    member val Lookahead = 1 with get, set
    /// Bytes of keys and values at a time; 0: `Sampler.usualMemory`
    member val Memory = 0L with get, set
    /// The number of the first picture among all of a set that is drawn in several calls; draws follow from it
    member val First = 0L with get, set

    member internal d.Sampling: Draw.Sampling =
        {
            Temperature = d.Temperature
            TopK = if d.TopK > 0 then Some d.TopK else None
            TopP = if d.TopP < 1.0 then Some d.TopP else None
            Guidance = d.Guidance
            Seed = d.Seed
            Lookahead = max 1 d.Lookahead
        }

/// A parameter that a block of one's own has beside the decoder's.
[<Sealed>]
type NewParameter
    /// It starts at 0, or at normal values of a deviation, cut off at three of them.
    (name: string, shape: int64[], deviation: float) =

    /// As the block asks for it.
    member _.Name: string = name

    /// Lengths of its axes, rows first.
    member _.Shape: int64[] = shape

    member internal _.Spec: ParameterSpec =
        {
            Name = name
            Shape = List.ofArray shape
            Init = if deviation = 0.0 then Zeros else TruncatedNormal deviation
        }

/// A model: its description, its vocabulary and its weights. Dispose it to release the weights.
[<Sealed>]
type Model private (description: ModelConfig, vocabulary: Vocabulary, store: ParameterStore) =
    let mutable config = description

    // Where the weights are kept elsewhere than in the store: how to compute with them.
    let mutable elsewhere: (Weights * Decoder.Pass) option = None

    static let allocateWith (added: ParameterSpec list) (layout: Layout) (oldRows: int) (config: ModelConfig) =
        let preset = Trainable.presets |> List.find (fun (name, _) -> name = layout.Trainable) |> snd

        Parameters.allocate
            (if layout.HalfPrecision then Bf16 else Fp32)
            layout.Device
            (if layout.DecayAll then Parameters.All else Parameters.Matrices)
            (if layout.Frozen then
                 (fun _ -> Stays)
             else
                 Trainable.movement config (if layout.OldRows > 0 then layout.OldRows else oldRows) preset)
            (Decoder.parameters config @ added)

    static let allocate = allocateWith []

    /// Lets losses be computed with weights that are kept elsewhere than in the store.
    member internal _.ComputeBy(weights: Weights, pass: Decoder.Pass) : unit = elsewhere <- Some(weights, pass)

    /// What decoder it is, after any extension of its tables.
    member _.Config = config
    /// How the rows of its table are laid out.
    member _.Vocabulary = vocabulary
    /// Its weights in flat memory; the model owns them.
    member _.Store = store
    /// Numbers in all parameters.
    member _.ParameterCount = Parameters.count store
    /// Numbers that an update may change.
    member _.MovingCount = Parameters.moving store

    /// Lets the description reach the positions that the model is trained on, where it named fewer. Errors: InputException where it
    /// learned its positions, and fewer.
    member _.Reach(positions: int) : unit =
        if config.Position = LearnedPosition && positions > config.Positions then
            raise (
                InputException
                    $"the model has learned {config.Positions} positions; sequences of {positions} do not fit. Shorten them (data.length), or take a model with rotary positions."
            )

        config <- { config with Positions = max config.Positions positions }

    /// The names of all parameters.
    member _.Names: IReadOnlyList<string> = store.Slots |> List.map _.Spec.Name |> List.toArray :> IReadOnlyList<string>

    /// The weights that compute, by name; the model owns them.
    member _.Weights: Func<string, torch.Tensor> = Func<_, _> store.Weights

    /// A parameter's fp32 values; the caller owns the view.
    member _.Values(name: string) : torch.Tensor = store.MasterOf name

    /// Puts a table [image codes, D] in the place of the image rows of the embedding table. Errors: ShapeException where it does not
    /// fit.
    member _.SetImageRows(rows_RD: torch.Tensor) : unit =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let table = store.MasterOf "tok_embeddings.weight"
        let target = table.narrow (0L, int64 vocabulary.FirstCode, int64 vocabulary.ImageCodes)
        Shape.require "the image rows" (List.ofArray target.shape) rows_RD
        target.copy_ rows_RD |> ignore
        store.Refresh()

    /// A model with open_lm's random initialisation.
    static member Random(config: ModelConfig, vocabulary: Vocabulary, layout: Layout, seed: int64) : Model =
        let store = allocate layout config.Rows config
        Parameters.initialise (Random.ofSeed seed) store
        new Model(config, vocabulary, store)

    /// A model with open_lm's random initialisation, and parameters beside its own for what is put together of it (`ComposedTrainer`).
    static member Random
        (config: ModelConfig, vocabulary: Vocabulary, layout: Layout, seed: int64, added: IEnumerable<NewParameter>)
        : Model =
        let store = allocateWith [ for parameter in added -> parameter.Spec ] layout config.Rows config
        Parameters.initialise (Random.ofSeed seed) store
        new Model(config, vocabulary, store)

    /// A model with the weights that `source` gives by name, as any tensors, each of which is released. Errors: ShapeException where one does not fit.
    static member Load(config: ModelConfig, vocabulary: Vocabulary, layout: Layout, source: Func<string, torch.Tensor>) : Model =
        let store = allocate layout config.Rows config

        try
            for slot in store.Slots do
                use values = source.Invoke slot.Spec.Name
                Parameters.set store slot.Spec.Name values

            store.Refresh()
            new Model(config, vocabulary, store)
        with _ ->
            (store :> IDisposable).Dispose()
            reraise ()

    /// A model whose weights `fill` writes by name into the fp32 tensors it is given, so that nothing need stand in memory twice.
    static member Filled
        (config: ModelConfig, vocabulary: Vocabulary, layout: Layout, fill: Action<string, torch.Tensor>)
        : Model =
        let store = allocate layout config.Rows config

        try
            use _ = torch.no_grad ()

            for slot in store.Slots do
                use target = store.MasterOf slot.Spec.Name
                fill.Invoke(slot.Spec.Name, target)

            store.Refresh()
            new Model(config, vocabulary, store)
        with _ ->
            (store :> IDisposable).Dispose()
            reraise ()

    /// A pre-trained model with its tables grown to a vocabulary. New rows start as `newRows` says (a name of
    /// `TrainConfig.newRows`), or as `given` for the embedding table; the seed is that of the random twin. What `source` gives by name is
    /// released.
    /// Errors: ShapeException where a weight does not fit.
    static member Extend
        (
            config: ModelConfig,
            vocabulary: Vocabulary,
            layout: Layout,
            source: Func<string, torch.Tensor>,
            newRows: string,
            given: torch.Tensor | null,
            seed: int64
        ) : Model =
        let grown = Extension.grow (max config.Rows vocabulary.Rows) config
        let store = allocate layout config.Rows grown

        let rows =
            match given, newRows with
            | null, "mean" -> Extension.MeanOfOld
            | null, "mean-covariance" -> Extension.MeanAndCovariance
            | null, _ -> Extension.OpenLmNormal
            | given, _ -> Extension.Given given

        try
            use _ = torch.NewDisposeScope()
            Extension.fill (Random.ofSeed seed) rows (int64 config.Rows) source.Invoke store
            new Model(grown, vocabulary, store)
        with _ ->
            (store :> IDisposable).Dispose()
            reraise ()

    /// A pre-trained model with its tables grown to a vocabulary, each new row of both a copy of the old row with its number in `rows`; a
    /// negative number leaves a row as the random twin has it. Errors: ShapeException where a weight does not fit.
    static member ExtendByCopies
        (config: ModelConfig, vocabulary: Vocabulary, layout: Layout, source: Func<string, torch.Tensor>, rows: int[], seed: int64) : Model =
        let grown = Extension.grow (max config.Rows vocabulary.Rows) config
        let store = allocate layout config.Rows grown

        try
            use _ = torch.NewDisposeScope()
            Extension.fill (Random.ofSeed seed) (Extension.CopiesOf rows) (int64 config.Rows) source.Invoke store
            new Model(grown, vocabulary, store)
        with _ ->
            (store :> IDisposable).Dispose()
            reraise ()

    /// Logits [B, T, V] of tokens [B, T].
    member _.Logits(tokens_BT: torch.Tensor) : torch.Tensor = Decoder.logits config vocabulary.Rows store.Weights tokens_BT

    /// `Losses`, where `visit` sees each batch: its sequences, its tensors, its scores, and −log p of each target among the ids of its
    /// own kind, [N]. They are released when it returns.
    member internal _.LossesBy
        (visit: int64[][] -> Batch -> Scored -> torch.Tensor -> unit, sequences: IReadOnlyList<int64[]>, batch: int)
        : SequenceLoss[] =
        [|
            for chunk in Seq.chunkBySize batch sequences do
                use _ = torch.inference_mode ()
                use _ = torch.NewDisposeScope()
                let rows = Sequence.batchOf Dropped vocabulary store.Device chunk

                let weights, pass = Option.defaultValue (store.Weights, Decoder.plainPass) elsewhere

                let scored =
                    Decoder.hiddenBy pass config weights rows
                    |> Decoder.head config weights vocabulary.Rows
                    |> Loss.score vocabulary rows

                let host (t: torch.Tensor) = t.cpu().to_type(torch.float64).contiguous().data<float>().ToArray()

                let sums = host (Loss.bySequence rows scored)
                let withinEach = Loss.withinModality scored
                let within = { scored with CrossEntropy = withinEach } |> Loss.bySequence rows |> host
                visit chunk rows scored withinEach

                for i in 0 .. chunk.Length - 1 do
                    let counts = Sequence.counts vocabulary chunk[i]

                    {
                        Text = sums[3 * i]
                        Image = sums[3 * i + 1]
                        Structure = sums[3 * i + 2]
                        TextCount = counts[int Kind.Text]
                        ImageCount = counts[int Kind.Image]
                        StructureCount = counts[int Kind.Structure]
                        TextWithin = within[3 * i]
                        ImageWithin = within[3 * i + 1]
                    }
        |]

    /// Losses of each sequence (of one length), in batches of `batch`.
    member model.Losses(sequences: IReadOnlyList<int64[]>, batch: int) : SequenceLoss[] =
        model.LossesBy((fun _ _ _ _ -> ()), sequences, batch)

    member private _.Means(drawing: Drawing) =
        Sampler.means config store.Weights (if drawing.Memory > 0L then drawing.Memory else Sampler.usualMemory)

    /// Checks that captions fit with `count` codes each. Errors: InputException.
    member _.RequireCaptions(captions: IReadOnlyList<int[]>, count: int) : unit =
        Sampler.requireCaptions config vocabulary count (Seq.toArray captions)

    /// Exactly `count` image codes for each caption; `report` is told how many codes were drawn so far, and what it raises ends the work.
    member model.DrawImages(captions: IReadOnlyList<int[]>, count: int, drawing: Drawing, report: Action<int64>) : Sampler.Drawn =
        Sampler.imagesFrom
            drawing.First
            (model.Means drawing)
            report.Invoke
            config
            vocabulary
            store.Weights
            drawing.Sampling
            count
            (Seq.toArray captions)

    /// Up to `count` further tokens of each prompt, until `stop` (−1: no stop); guidance steers away from what follows `unconditional`,
    /// where it is not null.
    member model.Continue
        (
            prompts: IReadOnlyList<int[]>,
            count: int,
            stop: int,
            unconditional: int[] | null,
            drawing: Drawing,
            report: Action<int64>
        ) : Sampler.Drawn =
        Sampler.continueBy
            (model.Means drawing)
            report.Invoke
            config
            vocabulary.Rows
            store.Weights
            drawing.Sampling
            count
            (if stop >= 0 then Some stop else None)
            (Option.ofObj unconditional)
            (Seq.toArray prompts)

    /// Exactly `count` image codes for each caption.
    member _.DrawImages(captions: IReadOnlyList<int[]>, count: int, drawing: Drawing) : int[][] =
        Sampler.images config vocabulary store.Weights drawing.Sampling count (Seq.toArray captions)

    /// Up to `count` further tokens, until `stop` (−1: no stop).
    member _.Complete(prompt: int[], count: int, stop: int, drawing: Drawing) : int[] =
        Sampler.complete
            config
            vocabulary.Rows
            store.Weights
            drawing.Sampling
            count
            (if stop >= 0 then Some stop else None)
            prompt

    /// Scores of continuations after their contexts, in the order given.
    member _.Score(items: IReadOnlyList<Likelihood.Item>, batch: int) : Likelihood.Score[] =
        Likelihood.score config vocabulary.Rows store.Weights batch (Seq.toArray items)

    /// Releases the weights.
    member _.Dispose() : unit = store.Dispose()

    interface IDisposable with
        member model.Dispose() = model.Dispose()
