/// Reading and writing a study's plan: a preset with some of its sizes changed, and arms, comparisons and material of one's own.
module Hybrid.StudyPlan

open System.Text.Json.Nodes
open Hybrid.JsonForm

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

let private floats (json: JsonFields) (name: string) (given: float[]) : float[] =
    if json.Has name then json.Floats(name, 0.0, 100.0) |> Array.ofList else given

let private sizes (json: JsonFields) (preset: Plan) : Plan =
    { preset with
        Seed = json.Int64("seed", preset.Seed)
        Seeds = json.Int("seeds", 1, 1000, preset.Seeds)
        AlignedSeeds = json.Int("alignedSeeds", 0, 1000, preset.AlignedSeeds)
        ImageOnlySeeds = json.Int("imageOnlySeeds", 0, 1000, preset.ImageOnlySeeds)
        FrozenSeeds = json.Int("frozenSeeds", 0, 1000, preset.FrozenSeeds)
        RatioSeeds = json.Int("ratioSeeds", 0, 1000, preset.RatioSeeds)
        WordSeeds = json.Int("wordSeeds", 0, 1000, preset.WordSeeds)
        Tokenizer = budget json "tokenizer" preset.Tokenizer
        SmallTokenizer = json.Bool("smallTokenizer", preset.SmallTokenizer)
        Width = json.Int("width", 4, 1 <<< 16, preset.Width)
        Layers = json.Int("layers", 1, 1024, preset.Layers)
        Heads = json.Int("heads", 1, 1024, preset.Heads)
        Positions = json.Int("positions", 16, 1 <<< 16, preset.Positions)
        LongPositions = json.Int("longPositions", 16, 1 <<< 16, preset.LongPositions)
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
        Samples = json.Int("samples", 0, 1 <<< 20, preset.Samples)
        Guidance = floats json "guidance" preset.Guidance
        Material = StudyArmPlan.material json
    }

let private agree (json: JsonFields) (plan: Plan) : unit =
    if json.Sound then
        let require holds name sentence =
            if not holds then
                json.Error(name, sentence)

        let world = plan.Material.IsNone

        require (plan.AlignedSeeds <= plan.Seeds) "alignedSeeds" $"asks for {plan.AlignedSeeds} of {plan.Seeds} seeds."

        require
            (plan.FrozenSeeds <= plan.ImageOnlySeeds)
            "frozenSeeds"
            $"asks for {plan.FrozenSeeds} of the {plan.ImageOnlySeeds} seeds of imageOnlySeeds, which they are compared with."

        require
            (not world || plan.Width % plan.Heads = 0 && (plan.Width / plan.Heads) % 2 = 0)
            "heads"
            $"width {plan.Width} does not split into {plan.Heads} heads of even width."

        require
            (plan.Alignment.Batch <= plan.TrainPairs)
            "alignment.batch"
            $"asks for {plan.Alignment.Batch} pairs at a time of {plan.TrainPairs}."

        // World's longest caption has 24 words, its pictures 64 codes, and there are six marks.
        require (not world || plan.Positions >= 94) "positions" "World's longest sequence has 94 tokens."
        require (not world || plan.LongPositions >= 118) "longPositions" "World's long captions need 118 or more."

        for arm in Study.arms plan do
            require
                (world || arm.Seeds = 0 || arm.Codes = PictureCodes.Learned)
                "arms"
                $"'{arm.Name}' needs codes that stand for words, which World alone has."

/// Reads a plan: `preset` names what the other keys change. Errors: every one, each naming its key.
let parse (text: string) : Result<Plan, string list> =
    Json.parse text (fun json ->
        let preset = json.Choice("preset", presets |> List.map (fun plan -> plan.Preset, plan), Study.tiny)

        let plan = sizes json preset
        let fresh = { StudyArms.pretrained with Seeds = plan.Seeds }
        let plan = { plan with Arms = StudyArmPlan.arms (Study.arms plan) fresh json }
        let plan = { plan with Comparisons = StudyArmPlan.comparisons (Study.arms plan) json }
        agree json plan
        json.Finish()
        plan)

let private budgetToJson (budget: Budget) : JsonObject =
    object
        [
            "batch", value budget.Batch
            "learningRate", value budget.LearningRate
            "steps", value budget.Steps
            "warmupSteps", value budget.WarmupSteps
        ]

/// A budget to the last digit, wherever it is written.
let budgetText (budget: Budget) : string = (budgetToJson budget).ToJsonString()

/// The plan, every key written out; `parse` reads it back.
let toJson (plan: Plan) : JsonObject =
    let all (json: 'a -> JsonObject) (items: 'a seq) : JsonNode =
        JsonArray [| for item in items -> json item :> (JsonNode | null) |]

    object
        [
            "preset", value plan.Preset
            "seed", value plan.Seed
            "seeds", value plan.Seeds
            "alignedSeeds", value plan.AlignedSeeds
            "imageOnlySeeds", value plan.ImageOnlySeeds
            "frozenSeeds", value plan.FrozenSeeds
            "ratioSeeds", value plan.RatioSeeds
            "wordSeeds", value plan.WordSeeds
            "tokenizer", budgetToJson plan.Tokenizer
            "smallTokenizer", value plan.SmallTokenizer
            "width", value plan.Width
            "layers", value plan.Layers
            "heads", value plan.Heads
            "positions", value plan.Positions
            "longPositions", value plan.LongPositions
            "textPositions", value plan.TextPositions
            "pretraining", budgetToJson plan.Pretraining
            "twins", budgetToJson plan.Twins
            "imageOnly", budgetToJson plan.ImageOnly
            "alignment", budgetToJson plan.Alignment
            "trainPairs", value plan.TrainPairs
            "heldOutPairs", value plan.HeldOutPairs
            "heldOutTexts", value plan.HeldOutTexts
            "evaluations", value plan.Evaluations
            "probeItems", value plan.ProbeItems
            "pictures", value plan.Pictures
            "samples", value plan.Samples
            "guidance", list plan.Guidance
            "material",
            (match plan.Material with
             | Some material -> StudyArmPlan.materialToJson material
             | None -> null)
            "arms", all StudyArmPlan.armToJson plan.Arms
            "comparisons", all StudyArmPlan.comparisonToJson plan.Comparisons
        ]
