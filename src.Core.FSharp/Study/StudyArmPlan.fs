/// Arms, comparisons and material in a study's plan: reading and writing them.
module Hybrid.StudyArmPlan

open System
open System.Text.Json.Nodes
open Hybrid.JsonForm

let private starts =
    [
        "pretrained", Start.FromPretrained
        "random", Start.FromRandom
        "aligned", Start.FromAligned
        "words", Start.FromWords
    ]

let private captions = [ "none", CaptionKind.None; "own", CaptionKind.Own; "long", CaptionKind.Long ]

let private codes = [ "learned", PictureCodes.Learned; "words", PictureCodes.Words; "told", PictureCodes.Told ]

let private fits (name: string) =
    name <> "" && name.Length <= 80 && name |> Seq.forall (fun c -> Char.IsAsciiLetterOrDigit c || c = '-')

/// Reads an arm. One with the name of a known arm changes that one; any other begins as the pre-trained twin, for as many seeds as the
/// twins have.
let private arm (known: ArmPlan list) (fresh: ArmPlan) (json: JsonFields) : ArmPlan =
    let name = json.Text "name"

    if json.Sound && not (fits name) then
        json.Error("name", "must be of letters, digits and hyphens, at most 80.")

    let given = known |> List.tryFind (fun arm -> arm.Name = name) |> Option.defaultValue fresh

    let read =
        {
            Name = name
            Start = json.Choice("start", starts, given.Start)
            Captions = json.Choice("captions", captions, given.Captions)
            Codes = json.Choice("codes", codes, given.Codes)
            Trainable = json.Choice("trainable", Trainable.presets |> List.map (fun (name, _) -> name, name), given.Trainable)
            TextWeight = json.Float("textWeight", 0.0, 1e6, given.TextWeight)
            ImageWeight = json.Float("imageWeight", 0.0, 1e6, given.ImageWeight)
            Replay = json.Float("replay", 0.0, 0.95, given.Replay)
            CaptionDrop = json.Float("captionDrop", 0.0, 1.0, given.CaptionDrop)
            Seeds = json.Int("seeds", 0, 1000, given.Seeds)
            Steps = json.Int("steps", 0, 1_000_000_000, given.Steps)
            Probed = json.Bool("probed", given.Probed)
            Diagnosed = json.Bool("diagnosed", given.Diagnosed)
            Sampled = json.Bool("sampled", given.Sampled)
        }

    if read.Start = Start.FromWords && read.Codes = PictureCodes.Learned then
        json.Error("start", "\"words\" needs codes that stand for words: give \"codes\": \"words\" or \"told\" with it.")

    if read.Start = Start.FromAligned && read.Codes <> PictureCodes.Learned then
        json.Error("start", "\"aligned\" is for learned codes; codes that stand for words have the start \"words\".")

    if read.Start = Start.FromRandom && read.Trainable <> "all" then
        json.Error("trainable", "a random start with frozen parts would never learn to use them; give \"all\".")

    json.Finish()
    read

/// Reads the list `arms`.
let arms (known: ArmPlan list) (fresh: ArmPlan) (json: JsonFields) : ArmPlan[] =
    let read = json.Objects "arms" |> List.map (arm known fresh) |> Array.ofList

    for name, count in read |> Array.countBy _.Name do
        if count > 1 then
            json.Error("arms", $"{count} arms have the name '{name}'.")

    read

/// Reads the list `comparisons`; each must name two arms.
let comparisons (arms: ArmPlan list) (json: JsonFields) : Comparison[] =
    [|
        for json in json.Objects "comparisons" do
            let armOf key =
                let name = json.Text key

                if json.Sound && not (arms |> List.exists (fun arm -> arm.Name = name)) then
                    let known = arms |> List.map _.Name |> String.concat ", "
                    json.Error(key, $"no arm has the name '{name}'; the arms are {known}.")

                name

            let measure =
                let name = json.Text "measure"

                match Comparison.measureOf name with
                | Some measure -> measure
                | None ->
                    if json.Sound then
                        json.Error("measure", $"'{name}' is none; the measures are {Comparison.measureNames}.")

                    ArmMeasure.Loss

            let read =
                {
                    Source = json.Text("source", "Added")
                    Statement = json.Text "statement"
                    Arm = armOf "arm"
                    Against = armOf "against"
                    Measure = measure
                    Rule = json.Choice("rule", Comparison.rules)
                }

            json.Finish()
            read
    |]

/// Reads the object `material`, if there is one.
let material (json: JsonFields) : MaterialPlan option =
    if not (json.Has "material") then
        json.Ignore [ "material" ]
        None
    else
        let json = json.Object "material"
        let some name = if json.Has name then json.Texts name else []

        let read =
            {
                Name = json.Text "name"
                Model = json.Text "model"
                ModelConfig = json.OptionalText "modelConfig"
                Tokens = json.Text "tokens"
                HeldOut = json.OptionalText "heldOut"
                ImageTokenizer = json.OptionalText "imageTokenizer"
                Texts = some "texts"
                Tasks = some "tasks"
                Prompts = some "prompts"
            }

        json.Ignore [ "texts"; "tasks"; "prompts" ]
        json.Finish()
        Some read

/// An arm, every key written out.
let armToJson (arm: ArmPlan) : JsonObject =
    object
        [
            "name", value arm.Name
            "start", value (nameIn starts arm.Start)
            "captions", value (nameIn captions arm.Captions)
            "codes", value (nameIn codes arm.Codes)
            "trainable", value arm.Trainable
            "textWeight", value arm.TextWeight
            "imageWeight", value arm.ImageWeight
            "replay", value arm.Replay
            "captionDrop", value arm.CaptionDrop
            "seeds", value arm.Seeds
            "steps", value arm.Steps
            "probed", value arm.Probed
            "diagnosed", value arm.Diagnosed
            "sampled", value arm.Sampled
        ]

/// What makes an arm's runs what they are: all of it but for how many there are.
let identity (arm: ArmPlan) : string = (armToJson { arm with Seeds = 0 }).ToJsonString()

/// A comparison, every key written out.
let comparisonToJson (comparison: Comparison) : JsonObject =
    object
        [
            "source", value comparison.Source
            "statement", value comparison.Statement
            "arm", value comparison.Arm
            "against", value comparison.Against
            "measure", value (Comparison.nameOf comparison.Measure)
            "rule", value (nameIn Comparison.rules comparison.Rule)
        ]

/// Material, every key that is given.
let materialToJson (material: MaterialPlan) : JsonObject =
    let optional name given = given |> Option.map (fun (text: string) -> name, value text) |> Option.toList
    let some name (items: string list) = if items.IsEmpty then [] else [ name, list items ]

    object
        [
            "name", value material.Name
            "model", value material.Model
            yield! optional "modelConfig" material.ModelConfig
            "tokens", value material.Tokens
            yield! optional "heldOut" material.HeldOut
            yield! optional "imageTokenizer" material.ImageTokenizer
            yield! some "texts" material.Texts
            yield! some "tasks" material.Tasks
            yield! some "prompts" material.Prompts
        ]
