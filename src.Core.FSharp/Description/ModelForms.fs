/// Which forms of other programs a model has. A form is a template: the description with every field that the form cannot express put
/// to what it takes for granted. A model has the form when it equals its template, and the fields that differ say why it has not.
namespace Hybrid

open Microsoft.FSharp.Reflection

/// Whose config.json of Hugging Face it is, and so how its tensors are called.
type HuggingFaceFamily =
    /// LlamaForCausalLM
    | Llama
    /// MistralForCausalLM, with a sliding window
    | Mistral
    /// Qwen2ForCausalLM, biases on queries, keys and values
    | Qwen2
    /// StableLmForCausalLM, rotation of a part of each head
    | StableLm
    /// OlmoForCausalLM, norms without weights
    | Olmo
    /// GPTNeoXForCausalLM, Pythia's, parallel residuals
    | GptNeoX
    /// GPT2LMHeadModel, learned positions
    | Gpt2
    /// open_lm's own classes, as DCLM's releases have them; they need the open_lm package
    | OpenLm

/// In which forms of other programs a description can be written, and what stands against it.
module ModelForms =

    let private camel (name: string) = string (System.Char.ToLowerInvariant name[0]) + name.Substring 1

    let private shown (value: obj | null) =
        match value with
        | null -> "none"
        | :? float as number -> number.ToString("R", System.Globalization.CultureInfo.InvariantCulture)
        | value -> string value

    /// The fields in which a description differs from what a form can express, a sentence each.
    let private differences (config: ModelConfig) (template: ModelConfig) : string list =
        [
            for field in FSharpType.GetRecordFields typeof<ModelConfig> do
                let found, needed = field.GetValue config, field.GetValue template

                if found <> needed then
                    $"{camel field.Name} is {shown found}, not {shown needed}"
        ]

    /// Whether positions do not enter, and no table of them is learned.
    let positionless (config: ModelConfig) : bool = config.Position = HeadRotary || config.Position = NoPosition

    // What open_lm's classes compute; its position encodings have one base, and its widths follow from each other.
    let private openLmTemplate (config: ModelConfig) =
        let plain = ModelConfig.openLm config.Width config.Layers config.Heads config.Rows config.Positions

        { plain with
            ExtendedAt = config.ExtendedAt
            Norm = config.Norm
            QkNorm = config.QkNorm
            PostEmbedNorm = config.PostEmbedNorm
            Position = (if config.Position = LearnedPosition then Rotary else config.Position)
            // Where nothing rotates, these say nothing.
            RotaryWidth = (if positionless config then config.RotaryWidth else plain.RotaryWidth)
            FeedForward = (if config.Gated || config.FeedForward = Gelu then config.FeedForward else SwiGlu)
            FeedForwardWidth = (if config.Gated then ModelConfig.swiGluWidth config.Width else 4 * config.Width)
            FeedForwardBias = (config.FeedForward = GeGlu)
            Tied = config.Tied
        }

    /// The fields of a model that open_lm's JSON cannot express; none where it can.
    let againstOpenLm (config: ModelConfig) : string list = differences config (openLmTemplate config)

    // What most families share: the block's two halves follow each other, nothing is normalised beside the usual.
    let private common (config: ModelConfig) =
        { config with
            QkNorm = false
            PostEmbedNorm = false
            ParallelResidual = false
            Window = 0
            Position = (if config.Position = LearnedPosition then Rotary else config.Position)
        }

    let private llamaLike (config: ModelConfig) =
        { common config with Norm = RmsNorm; FeedForward = SwiGlu; RotaryWidth = config.HeadWidth }

    // A family whose heads divide the width of the residual stream among themselves.
    let private wholeHeads (config: ModelConfig) =
        { common config with
            Width = config.Heads * config.HeadWidth
            FeedForward = SwiGlu
            OutBias = false
            FeedForwardBias = false
        }

    // Rows of adjacent pairs are written as rows of halves, which takes a head that rotates as a whole.
    let private halves (config: ModelConfig) (template: ModelConfig) =
        if config.Position = InterleavedRotary && config.RotaryWidth <> config.HeadWidth then
            { template with Position = Rotary }
        else
            template

    let private neither (config: ModelConfig) = if config.Gated then Gelu else config.FeedForward

    let private templates: (HuggingFaceFamily * string * (ModelConfig -> ModelConfig)) list =
        [
            Llama, "llama", (fun config -> { llamaLike config with OutBias = config.QkvBias })
            Mistral,
            "mistral",
            (fun config ->
                { llamaLike config with
                    QkvBias = false
                    OutBias = false
                    FeedForwardBias = false
                    Window = config.Window
                })
            Qwen2, "qwen2", (fun config -> { llamaLike config with QkvBias = true; OutBias = false; FeedForwardBias = false })
            StableLm,
            "stablelm",
            (fun config ->
                { wholeHeads config with Norm = (if config.Norm = GainLayerNorm then GainLayerNorm else LayerNorm) }
                |> halves config)
            Olmo,
            "olmo",
            (fun config ->
                { wholeHeads config with
                    Norm = PlainLayerNorm
                    NormEpsilon = 1e-5
                    QkvBias = false
                    RotaryWidth = config.HeadWidth
                })
            GptNeoX,
            "gpt_neox",
            (fun config ->
                { common config with
                    Width = config.Heads * config.HeadWidth
                    KeyValueHeads = config.Heads
                    Norm = LayerNorm
                    Position = (if config.Position = InterleavedRotary then Rotary else (common config).Position)
                    FeedForward = neither config
                    ParallelResidual = config.ParallelResidual
                    OutBias = config.QkvBias
                    FeedForwardBias = true
                })
            Gpt2,
            "gpt2",
            (fun config ->
                { common config with
                    Width = config.Heads * config.HeadWidth
                    KeyValueHeads = config.Heads
                    Norm = LayerNorm
                    Position = LearnedPosition
                    FeedForward = neither config
                    QkvBias = true
                    OutBias = true
                    FeedForwardBias = true
                })
            OpenLm, "openlm", (fun config -> { openLmTemplate config with NormEpsilon = config.NormEpsilon })
        ]

    /// The family whose code computes this model, or for each family the fields that speak against it.
    let family (config: ModelConfig) : Result<HuggingFaceFamily, string list> =
        let tried =
            templates |> List.map (fun (family, name, template) -> family, name, differences config (template config))

        match tried |> List.tryFind (fun (_, _, fields) -> fields.IsEmpty) with
        | Some(family, _, _) -> Ok family
        | None -> tried |> List.map (fun (_, name, fields) -> $"""{name}: {System.String.Join("; ", fields)}""") |> Error

    /// The family's name, as model_type has it.
    let familyName (family: HuggingFaceFamily) : string =
        templates |> List.pick (fun (f, name, _) -> if f = family then Some name else None)
