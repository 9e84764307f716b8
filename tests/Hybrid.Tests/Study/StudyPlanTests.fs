/// A study's plan as data: presets, sizes, arms, comparisons and material, and what is refused.
module Hybrid.Tests.StudyPlanTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.Generate

let private armOf (chooser: Chooser) (name: string) : ArmPlan =
    let codes = chooser.Of [ PictureCodes.Learned; PictureCodes.Words; PictureCodes.Told ]

    let start =
        chooser.Of
            [
                Start.FromPretrained
                Start.FromRandom
                (if codes = PictureCodes.Learned then Start.FromAligned else Start.FromWords)
            ]

    {
        Name = name
        Start = start
        Captions = chooser.Of [ CaptionKind.None; CaptionKind.Own; CaptionKind.Long ]
        Codes = codes
        Trainable = if start = Start.FromRandom then "all" else chooser.Of(List.map fst Trainable.presets)
        TextWeight = chooser.Float(0.0, 9.0)
        ImageWeight = chooser.Float(0.0, 9.0)
        Replay = chooser.Float(0.0, 0.9)
        CaptionDrop = chooser.Float(0.0, 1.0)
        Seeds = chooser.Int(0, 5)
        Steps = chooser.Int(0, 99)
        Probed = chooser.Bool()
        Diagnosed = chooser.Bool()
        Sampled = chooser.Bool()
    }

let private comparisonOf (chooser: Chooser) (arms: ArmPlan[]) : Comparison =
    let arm () = (chooser.Of(List.ofArray arms)).Name

    {
        Source = chooser.Of [ "Added"; "Mine" ]
        Statement = "One is like the other."
        Arm = arm ()
        Against = arm ()
        Measure =
            chooser.Of
                [
                    ArmMeasure.Loss
                    ArmMeasure.Text
                    ArmMeasure.Image
                    ArmMeasure.TextAtFirst
                    ArmMeasure.ImageAtFirst
                    ArmMeasure.ImageOnTheWay
                    ArmMeasure.Corpus
                    ArmMeasure.Pictures
                    ArmMeasure.Task "knowledge"
                ]
        Rule = chooser.Of(List.map snd Comparison.rules)
    }

let private materialOf (chooser: Chooser) : MaterialPlan =
    let some () = if chooser.Bool() then Some "there" else None
    let list () = List.init (chooser.Int(0, 3)) string

    {
        Name = "Photographs"
        Model = "model"
        ModelConfig = some ()
        Tokens = "shards"
        HeldOut = some ()
        ImageTokenizer = some ()
        Texts = list ()
        Tasks = list ()
        Prompts = list ()
    }

let private plan (chooser: Chooser) : Plan =
    let budget () : Budget =
        {
            Steps = chooser.Int(1, 1000)
            Batch = chooser.Int(1, 64)
            LearningRate = chooser.Float(0.0, 1.0)
            WarmupSteps = chooser.Int(0, 100)
        }

    let seeds, alone = chooser.Int(1, 6), chooser.Int(0, 6)
    let heads = chooser.Int(1, 8)

    let made: Plan =
        {
            Preset = chooser.Of [ "smoke"; "tiny" ]
            Seed = int64 (chooser.Int(-1000, 1000))
            Seeds = seeds
            AlignedSeeds = chooser.Int(0, seeds)
            ImageOnlySeeds = alone
            FrozenSeeds = chooser.Int(0, alone)
            RatioSeeds = chooser.Int(0, 4)
            WordSeeds = chooser.Int(0, 4)
            Tokenizer = budget ()
            SmallTokenizer = chooser.Bool()
            Width = 2 * heads * chooser.Int(2, 16)
            Layers = chooser.Int(1, 8)
            Heads = heads
            Positions = chooser.Int(94, 256)
            LongPositions = chooser.Int(118, 256)
            TextPositions = chooser.Int(16, 256)
            Pretraining = budget ()
            Twins = budget ()
            ImageOnly = budget ()
            Alignment = budget ()
            TrainPairs = chooser.Int(64, 9999)
            HeldOutPairs = chooser.Int(8, 99)
            HeldOutTexts = chooser.Int(8, 99)
            Evaluations = chooser.Int(1, 20)
            ProbeItems = chooser.Int(8, 99)
            Pictures = chooser.Int(1, 64)
            Samples = chooser.Int(0, 64)
            Guidance = Array.init (chooser.Int(0, 3)) (fun _ -> chooser.Float(0.0, 9.0))
            Material = None
            Arms = Array.init (chooser.Int(0, 3)) (fun i -> armOf chooser $"own-{i}")
            Comparisons = [||]
        }

    let made =
        { made with
            Comparisons = Array.init (chooser.Int(0, 3)) (fun _ -> comparisonOf chooser (Array.ofList (Study.arms made)))
        }

    if chooser.Bool() then
        made
    else
        // Codes that stand for words are World's alone.
        { made with Material = Some(materialOf chooser); Arms = [||]; Comparisons = [||] }

let private plans =
    testList
        "plans"
        [
            property "a plan that is written out and read back is the same" (fun seed ->
                let plan = plan (Chooser seed)
                Expect.equal (accepted "a plan" (StudyPlan.parse ((StudyPlan.toJson plan).ToJsonString()))) plan "the plan")

            testCase "a preset alone is that preset, and the keys beside it change it" (fun () ->
                for preset in StudyPlan.presets do
                    Expect.equal
                        (accepted "preset" (StudyPlan.parse $$"""{"preset": "{{preset.Preset}}"}"""))
                        preset
                        preset.Preset

                let changed = accepted "changes" (StudyPlan.parse """{"preset": "smoke", "twins": {"steps": 7}, "seed": 5}""")

                Expect.equal
                    changed
                    { Study.withSeed 5L Study.smoke with Twins = { Study.smoke.Twins with Steps = 7 } }
                    "one length and the seeds")

            testCase "every error is named at once" (fun () ->
                StudyPlan.parse
                    """{"preset": "paper", "seeds": 0, "width": "wide", "heads": 0, "positions": 10, "twins": {"steps": 0, "pace": 1},
                        "alignment": {"learningRate": -1}, "smallTokenizer": 1, "pictures": 65, "guidance": ["strong"], "colour": "red",
                        "arms": [{"name": "a b", "start": "nowhere", "pace": 1}], "comparisons": 3, "material": {"name": "mine"}}"""
                |> errorsAt
                    "a plan of mistakes"
                    [
                        "preset"
                        "seeds"
                        "width"
                        "heads"
                        "positions"
                        "twins.steps"
                        "twins.pace"
                        "alignment.learningRate"
                        "smallTokenizer"
                        "pictures"
                        "guidance"
                        "colour"
                        "arms[0].name"
                        "arms[0].start"
                        "arms[0].pace"
                        "comparisons"
                        "material.model"
                        "material.tokens"
                    ]

                StudyPlan.parse
                    """{"seeds": 2, "alignedSeeds": 3, "imageOnlySeeds": 1, "frozenSeeds": 2, "width": 30, "heads": 4, "trainPairs": 100,
                        "alignment": {"batch": 101}, "positions": 60, "longPositions": 90}"""
                |> errorsAt
                    "sizes that do not go together"
                    [ "alignedSeeds"; "frozenSeeds"; "heads"; "alignment.batch"; "positions"; "longPositions" ])

            testCase "arms and comparisons that make no sense are refused" (fun () ->
                StudyPlan.parse
                    """{"arms": [{"name": "a", "start": "words"}, {"name": "b", "start": "aligned", "codes": "words"},
                                 {"name": "c", "start": "random", "trainable": "+ffn"}, {"name": "d"}, {"name": "d"}],
                        "comparisons": [{"statement": "s", "arm": "d", "against": "nobody", "measure": "height", "rule": "nearly"}]}"""
                |> errorsAt
                    "arms of mistakes"
                    [
                        "arms[0].start"
                        "arms[1].start"
                        "arms[2].trainable"
                        "arms"
                        "comparisons[0].against"
                        "comparisons[0].measure"
                        "comparisons[0].rule"
                    ]

                StudyPlan.parse
                    """{"material": {"name": "m", "model": "m", "tokens": "t"}, "arms": [{"name": "w", "codes": "words"}]}"""
                |> errorsAt "words without World" [ "arms" ])

            testCase "a document that is no plan is refused" (fun () ->
                for text in [ ""; "[]"; "null"; "3"; "{"; "{\"preset\": null}"; "\000\000" ] do
                    Expect.isError (StudyPlan.parse text) $"«{text}»")
        ]

let private arms =
    testList
        "arms"
        [
            property "runs have unique names fit for files, the plan's seeds, and one first seed each" (fun seed ->
                let drawn = plan (Chooser seed)

                for plan in drawn :: StudyPlan.presets do
                    let arms, runs = Study.arms plan, Study.runs plan
                    let names = runs |> Array.map _.Name
                    Expect.equal (Array.distinct names) names "names"

                    Expect.all
                        names
                        (fun name -> name |> Seq.forall (fun c -> Char.IsAsciiLetterOrDigit c || c = '-'))
                        "fit for files"

                    for arm in arms do
                        let own = runs |> Array.filter (fun run -> run.Plan = arm)
                        Expect.equal (own |> Array.map _.Seed) [| for i in 1 .. arm.Seeds -> plan.Seed + int64 i - 1L |] arm.Name
                        Expect.equal (own |> Array.filter _.First |> Array.length) (min 1 arm.Seeds) "one is the first"

                    let known = Trainable.presets |> List.map fst
                    Expect.all arms (fun arm -> List.contains arm.Trainable known) "what may move is a preset"

                    Expect.all
                        arms
                        (fun arm -> arm.Start <> Start.FromWords || arm.Codes <> PictureCodes.Learned)
                        "the start from words is for codes that stand for words")

            testCase "an arm of one's own changes the arm of its name, or stands beside the others" (fun () ->
                let plan =
                    accepted
                        "arms"
                        (StudyPlan.parse
                            """{"preset": "smoke", "arms": [{"name": "twin-random", "seeds": 1}, {"name": "light", "replay": 0.25, "steps": 5}],
                                "comparisons": [{"statement": "s", "arm": "light", "against": "twin-pretrained", "measure": "task:knowledge", "rule": "higher"}]}""")

                let arm name = Study.arms plan |> List.find (fun arm -> arm.Name = name)
                let usual name = Study.arms Study.smoke |> List.find (fun arm -> arm.Name = name)
                Expect.equal (arm "twin-random") { usual "twin-random" with Seeds = 1 } "only its seeds"

                Expect.equal
                    (arm "light")
                    { StudyArms.pretrained with Name = "light"; Replay = 0.25; Steps = 5; Seeds = plan.Seeds }
                    "as the pre-trained twin but for its keys"

                Expect.equal (Study.budgetOf plan (arm "light")).Steps 5 "its own length"
                Expect.equal (Study.arms plan).Length ((Study.arms Study.smoke).Length + 1) "one more"
                let last = List.last (Study.comparisons plan [ "knowledge" ])

                Expect.equal
                    (last.Arm, last.Measure, last.Rule)
                    ("light", ArmMeasure.Task "knowledge", Rule.Higher)
                    "its comparison")

            testCase "what is compared beyond the paper is what is run" (fun () ->
                let plan = { Study.tiny with RatioSeeds = 0 }
                let sources plan = Study.comparisons plan [ "knowledge" ] |> List.map _.Source |> Set
                Expect.isFalse ((sources plan).Contains "More text") "no such arm"
                Expect.isTrue ((sources Study.tiny).Contains "More text") "there"
                let names = Study.arms Study.tiny |> List.map _.Name |> Set

                for comparison in Study.comparisons Study.tiny [ "knowledge" ] do
                    Expect.isTrue (names.Contains comparison.Arm && names.Contains comparison.Against) comparison.Statement)

            property2
                "evaluations ascend, are denser at the start and end with the last step"
                (1, 500)
                (1, 20)
                (fun _ steps count ->
                    let budget = { Study.smoke.Twins with Steps = steps }
                    let at = Study.evaluationSteps budget count
                    Expect.equal (Array.last at) steps "the last step"
                    Expect.isGreaterThanOrEqual at[0] 1 "the first"
                    Expect.isTrue (Array.pairwise at |> Array.forall (fun (a, b) -> a < b)) "ascending"
                    Expect.isLessThanOrEqual at.Length count "no more than asked for"

                    if steps > count * count then
                        let gaps = Array.pairwise (Array.append [| 0 |] at) |> Array.map (fun (a, b) -> b - a)

                        Expect.isTrue
                            (Array.pairwise gaps |> Array.forall (fun (a, b) -> a <= b + 1))
                            "gaps grow, but for rounding")
        ]

let tests = testList "StudyPlan" [ plans; arms ]
