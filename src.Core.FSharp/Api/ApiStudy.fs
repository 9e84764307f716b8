/// The C# door to the built-in data, and to the experiment as data.
namespace Hybrid.Api

open System
open System.Collections.Generic
open Hybrid

/// A caption and its picture.
[<Sealed>]
type WorldPair internal (caption: string, scene: Scene) =

    /// At most 24 words.
    member _.Caption: string = caption

    /// The caption as token ids.
    member _.CaptionIds: int[] = WorldVocabulary.encode caption

    /// 64 · 64 · 3 bytes, row by row, red green blue.
    member _.Pixels: byte[] = WorldPicture.render scene

    /// The picture as `Worlds.WordCodeCount` codes that stand for words, row by row: a picture without an image tokenizer.
    member _.WordCodes: int[] = WorldWords.encode scene

/// World, the data that are built in: seeded scenes with captions, and text. What is in an item decides its split, so the two splits
/// do not overlap.
[<AbstractClass; Sealed>]
type Worlds private () =

    /// Pair `index` of a split: a function of the seed, the split and the index alone.
    static member Pair(seed: int64, split: Split, index: int64) : WorldPair =
        let struct (caption, scene) = World.scene seed split index
        WorldPair(caption, scene)

    /// Document `index` of the text corpus, at most 80 words.
    static member Document(seed: int64, split: Split, index: int64) : string = World.document seed split index

    /// How many words there are: rows of a text table.
    static member Words: int = WorldVocabulary.words.Length

    /// The id that ends a document.
    static member EndId: int = WorldVocabulary.endId

    /// The ids of the words of a text, 0 for one that is unknown.
    static member Encode(text: string) : int[] = WorldVocabulary.encode text

    /// The words of ids. Errors: InputException for an id outside the vocabulary.
    static member Decode(ids: IEnumerable<int>) : string = WorldVocabulary.decode ids

    /// How many codes stand for words.
    static member WordCodeCount: int = WorldWords.words.Length

    /// Codes of a picture in words.
    static member WordCodesPerPicture: int = WorldWords.codes

/// An arm of the study that is set key by key. `Plan` is what it comes to.
[<Sealed>]
type ArmOptions private (start: ArmPlan) =
    let mutable plan = start

    /// The pre-trained twin on captioned pictures under another name, for one seed. Letters, digits and hyphens.
    new(name: string) = ArmOptions { StudyArms.pretrained with Name = name }

    /// The keys of another arm under another name, to be changed.
    new(arm: ArmPlan, name: string) = ArmOptions { arm with Name = name }

    /// The arm. What is set later does not change it.
    member _.Plan: ArmPlan = plan

    /// Where its weights start.
    member _.Start
        with get (): Start = plan.Start
        and set (value: Start) = plan <- { plan with Start = value }

    /// What stands before its pictures.
    member _.Captions
        with get (): CaptionKind = plan.Captions
        and set (value: CaptionKind) = plan <- { plan with Captions = value }

    /// What its pictures are written in.
    member _.Codes
        with get (): PictureCodes = plan.Codes
        and set (value: PictureCodes) = plan <- { plan with Codes = value }

    /// What moves, a name of `Trainable.presets`: all, new-rows, embedding-head, +norms and the like.
    member _.Trainable
        with get (): string = plan.Trainable
        and set (value: string) = plan <- { plan with Trainable = value }

    /// Weight of the loss on text tokens.
    member _.TextWeight
        with get (): float = plan.TextWeight
        and set (value: float) = plan <- { plan with TextWeight = value }

    /// Weight of the loss on image tokens.
    member _.ImageWeight
        with get (): float = plan.ImageWeight
        and set (value: float) = plan <- { plan with ImageWeight = value }

    /// Share of each step's sequences that are text of the pre-training corpus, in [0, 1).
    member _.Replay
        with get (): float = plan.Replay
        and set (value: float) = plan <- { plan with Replay = value }

    /// Share of the captioned sequences that lose their caption, in [0, 1].
    member _.CaptionDrop
        with get (): float = plan.CaptionDrop
        and set (value: float) = plan <- { plan with CaptionDrop = value }

    /// How many of the study's seeds it is run for; 0: not at all.
    member _.Seeds
        with get (): int = plan.Seeds
        and set (value: int) = plan <- { plan with Seeds = value }

    /// Steps; 0: the study's for captioned or for image-only runs.
    member _.Steps
        with get (): int = plan.Steps
        and set (value: int) = plan <- { plan with Steps = value }

    /// Whether knowledge and in-context learning are probed along the way.
    member _.Probed
        with get (): bool = plan.Probed
        and set (value: bool) = plan <- { plan with Probed = value }

    /// Whether gradients, distances, attention and losses by place are looked into, for the first seed.
    member _.Diagnosed
        with get (): bool = plan.Diagnosed
        and set (value: bool) = plan <- { plan with Diagnosed = value }

    /// Whether pictures are drawn.
    member _.Sampled
        with get (): bool = plan.Sampled
        and set (value: bool) = plan <- { plan with Sampled = value }

/// Studies as data: `hybrid study --config F` runs what `Json` gives.
[<AbstractClass; Sealed>]
type Studies private () =

    /// A minute on two cores: every stage runs, and most verdicts stay undecided.
    static member Smoke: Plan = Study.smoke

    /// The study that a laptop can run.
    static member Tiny: Plan = Study.tiny

    /// A plan as JSON. Errors: InputException naming every key that is wrong.
    static member Read(source: string, json: string) : Plan =
        match StudyPlan.parse json with
        | Ok plan -> plan
        | Error errors ->
            let lines = String.Join("\n  ", errors)
            raise (InputException $"{source} cannot be used:\n  {lines}")

    /// The text that `Read` reads back, with every key.
    static member Json(plan: Plan) : string =
        (StudyPlan.toJson plan).ToJsonString(Text.Json.JsonSerializerOptions(WriteIndented = true))

    /// A plan with its own arms run for no seed, so that only those that are added are.
    static member WithoutArms(plan: Plan) : Plan = { plan with Arms = [| for arm in Study.arms plan -> { arm with Seeds = 0 } |] }

    /// A plan with further arms, or others in the place of those with the same name, and further comparisons.
    static member With(plan: Plan, arms: IEnumerable<ArmPlan>, comparisons: IEnumerable<Comparison>) : Plan =
        { plan with
            Arms = StudyArms.replace arms (List.ofArray plan.Arms) |> List.toArray
            Comparisons = Array.append plan.Comparisons (Seq.toArray comparisons)
        }

    /// Every run of a plan.
    static member Runs(plan: Plan) : IReadOnlyList<Arm> = Study.runs plan

    /// How long a run trains.
    static member Budget(plan: Plan, run: Arm) : Budget = Study.budgetOf plan run.Plan

    /// A claim about two arms by name. `measure` is loss, text, image, text-at-first, image-at-first, image-on-the-way, corpus,
    /// pictures, or task: and a task's name. Errors: InputException for another one.
    static member Compare(statement: string, arm: string, against: string, measure: string, rule: Rule) : Comparison =
        match Comparison.measureOf measure with
        | Some measure ->
            {
                Source = "Ours"
                Statement = statement
                Arm = arm
                Against = against
                Measure = measure
                Rule = rule
            }
        | None -> raise (InputException $"'{measure}' is no measure of an arm; there are {Comparison.measureNames}.")

    /// What becomes of a claim, from both arms' measures by seed.
    static member Judge(comparison: Comparison, arm: IReadOnlyList<float>, against: IReadOnlyList<float>) : Report.Claim =
        Comparison.claim comparison (Seq.toArray arm) (Seq.toArray against)
