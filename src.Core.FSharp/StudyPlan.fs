/// Reading and writing a study's plan: a preset with some of its sizes changed.
module Hybrid.StudyPlan

open System.Text.Json
open System.Text.Json.Nodes

/// The presets that can be run here, by name. "paper" is a configuration to plan with, not one of these.
let presets: Plan list = [ Study.smoke; Study.tiny ]

let private million = 1_000_000_000

let private budget (json: JsonFields) (name: string) (given: Budget) : Budget =
    let own = json.Object(name, true)

    let result =
        {
            Steps = own.Int("steps", 1, million, given.Steps)
            Batch = own.Int("batch", 1, 1 <<< 20, given.Batch)
            LearningRate = own.Float("learningRate", 0.0, 1e3, given.LearningRate)
            WarmupSteps = own.Int("warmupSteps", 0, million, given.WarmupSteps)
        }

    own.Finish()
    result

let private seeds (json: JsonFields) (name: string) (given: int64[]) : int64[] =
    Array.init (json.Int(name, 1, 1000, given.Length)) int64

/// Reads a plan: `preset` names what the other keys change. Errors: every one, each naming its key.
let parse (text: string) : Result<Plan, string list> =
    Json.parse text (fun json ->
        let preset = json.Choice("preset", presets |> List.map (fun plan -> plan.Preset, plan), Study.tiny)

        let seed = json.Int64("seed", 1L)

        let plan =
            { preset with
                Seeds = seeds json "seeds" preset.Seeds
                AlignedSeeds = json.Int("alignedSeeds", 1, 1000, preset.AlignedSeeds)
                ImageOnlySeeds = seeds json "imageOnlySeeds" preset.ImageOnlySeeds
                Tokenizer = budget json "tokenizer" preset.Tokenizer
                SmallTokenizer = json.Bool("smallTokenizer", preset.SmallTokenizer)
                Width = json.Int("width", 4, 1 <<< 16, preset.Width)
                Layers = json.Int("layers", 1, 1024, preset.Layers)
                Heads = json.Int("heads", 1, 1024, preset.Heads)
                Positions = json.Int("positions", 94, 1 <<< 16, preset.Positions)
                TextPositions = json.Int("textPositions", 16, 1 <<< 16, preset.TextPositions)
                Pretraining = budget json "pretraining" preset.Pretraining
                Twins = budget json "twins" preset.Twins
                ImageOnly = budget json "imageOnly" preset.ImageOnly
                Alignment = budget json "alignment" preset.Alignment
                TrainPairs = json.Int("trainPairs", 32, 1 <<< 28, preset.TrainPairs)
                HeldOutPairs = json.Int("heldOutPairs", 8, 1 <<< 24, preset.HeldOutPairs)
                HeldOutTexts = json.Int("heldOutTexts", 8, 1 <<< 24, preset.HeldOutTexts)
                Evaluations = json.Int("evaluations", 1, 1000, preset.Evaluations)
                ProbeItems = json.Int("probeItems", 8, 1 <<< 20, preset.ProbeItems)
                Pictures = json.Int("pictures", 1, 64, preset.Pictures)
            }

        let plan = Study.withSeed seed plan

        if json.Sound && plan.AlignedSeeds > plan.Seeds.Length then
            json.Error("alignedSeeds", $"asks for {plan.AlignedSeeds} of {plan.Seeds.Length} seeds.")

        if json.Sound && (plan.Width % plan.Heads <> 0 || (plan.Width / plan.Heads) % 2 <> 0) then
            json.Error("heads", $"width {plan.Width} does not split into {plan.Heads} heads of even width.")

        if json.Sound && plan.Alignment.Batch > plan.TrainPairs then
            json.Error("alignment.batch", $"asks for {plan.Alignment.Batch} pairs at a time of {plan.TrainPairs}.")

        json.Finish()
        plan)

/// The plan, every key written out; `parse` reads it back.
let toJson (plan: Plan) : JsonObject =
    let value (v: 'a) : JsonNode | null = JsonValue.Create<'a> v

    let budget (budget: Budget) : JsonNode | null =
        JsonSerializer.SerializeToNode(
            {|
                steps = budget.Steps
                batch = budget.Batch
                learningRate = budget.LearningRate
                warmupSteps = budget.WarmupSteps
            |}
        )

    let json = JsonObject()

    for name, field in
        [
            "preset", value plan.Preset
            "seed", value plan.Seeds[0]
            "seeds", value plan.Seeds.Length
            "alignedSeeds", value plan.AlignedSeeds
            "imageOnlySeeds", value plan.ImageOnlySeeds.Length
            "tokenizer", budget plan.Tokenizer
            "smallTokenizer", value plan.SmallTokenizer
            "width", value plan.Width
            "layers", value plan.Layers
            "heads", value plan.Heads
            "positions", value plan.Positions
            "textPositions", value plan.TextPositions
            "pretraining", budget plan.Pretraining
            "twins", budget plan.Twins
            "imageOnly", budget plan.ImageOnly
            "alignment", budget plan.Alignment
            "trainPairs", value plan.TrainPairs
            "heldOutPairs", value plan.HeldOutPairs
            "heldOutTexts", value plan.HeldOutTexts
            "evaluations", value plan.Evaluations
            "probeItems", value plan.ProbeItems
            "pictures", value plan.Pictures
        ] do
        json.Add(name, field)

    json
