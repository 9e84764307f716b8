/// The study: its plan as data, the rules of its verdicts, the paper's estimate, and a very small study from end to end.
module Hybrid.Tests.StudyTests

open System
open System.IO
open System.Text.Json.Nodes
open System.Threading
open Expecto
open Hybrid
open Hybrid.Report
open Hybrid.Statistics
open Hybrid.Tests.Generate
open Hybrid.Tests.Running

let private plan (chooser: Chooser) : Plan =
    let budget () : Budget =
        {
            Steps = chooser.Int(1, 1000)
            Batch = chooser.Int(1, 64)
            LearningRate = chooser.Float(0.0, 1.0)
            WarmupSteps = chooser.Int(0, 100)
        }

    let seeds = chooser.Int(1, 6)
    let heads = chooser.Int(1, 8)

    let made: Plan =
        {
            Preset = chooser.Of [ "smoke"; "tiny" ]
            Seeds = Array.init seeds (fun i -> int64 i + 1L)
            AlignedSeeds = chooser.Int(1, seeds)
            ImageOnlySeeds = Array.init (chooser.Int(1, 6)) (fun i -> int64 i + 1L)
            Tokenizer = budget ()
            SmallTokenizer = chooser.Bool()
            Width = 2 * heads * chooser.Int(2, 16)
            Layers = chooser.Int(1, 8)
            Heads = heads
            Positions = chooser.Int(94, 256)
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
        }

    Study.withSeed (int64 (chooser.Int(-1000, 1000))) made

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
                        "alignment": {"learningRate": -1}, "smallTokenizer": 1, "pictures": 65, "colour": "red"}"""
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
                        "colour"
                    ]

                StudyPlan.parse
                    """{"seeds": 2, "alignedSeeds": 3, "width": 30, "heads": 4, "trainPairs": 100, "alignment": {"batch": 101}}"""
                |> errorsAt "sizes that do not go together" [ "alignedSeeds"; "heads"; "alignment.batch" ])

            testCase "a document that is no plan is refused" (fun () ->
                for text in [ ""; "[]"; "null"; "3"; "{"; "{\"preset\": null}"; "\000\000" ] do
                    Expect.isError (StudyPlan.parse text) $"«{text}»")
        ]

let private arms =
    testList
        "arms"
        [
            property "names are unique, seeds are the plan's, and a frozen arm starts from the pre-trained model" (fun seed ->
                let drawn = plan (Chooser seed)

                for plan in drawn :: StudyPlan.presets do
                    let twins, alone = Study.twins plan, Study.imageOnly plan
                    let arms = Array.append twins alone
                    let names = arms |> Array.map _.Name
                    Expect.equal (Array.distinct names) names "names"

                    Expect.all
                        names
                        (fun name -> name |> Seq.forall (fun c -> Char.IsAsciiLetterOrDigit c || c = '-'))
                        "fit for files"

                    Expect.isTrue
                        (twins |> Array.forall (fun arm -> not arm.ImageOnly && arm.Trainable = "all"))
                        "twins are fully tuned"

                    Expect.all alone _.ImageOnly "image-only"

                    let count start = twins |> Array.filter (fun arm -> arm.Start = start) |> Array.map _.Seed
                    Expect.equal (count Start.FromPretrained) plan.Seeds "pre-trained"
                    Expect.equal (count Start.FromRandom) plan.Seeds "random"
                    Expect.equal (count Start.FromAligned) plan.Seeds[.. plan.AlignedSeeds - 1] "aligned"

                    let frozen = alone |> Array.filter (fun arm -> arm.Trainable <> "all")
                    Expect.all frozen (fun arm -> arm.Start = Start.FromPretrained && arm.Seed = plan.ImageOnlySeeds[0]) "frozen"
                    Expect.hasLength frozen 4 "the four frozen configurations"
                    let known = Trainable.presets |> List.map fst
                    Expect.all arms (fun arm -> List.contains arm.Trainable known) "what may move is a preset"
                    Expect.all arms (fun arm -> arm.Probed = (not arm.ImageOnly && arm.Start = Start.FromPretrained)) "probed")

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

let private interval mean low high : Interval = { Mean = mean; Low = low; High = high }
let private single mean = interval mean nan nan
let private centred mean half = interval mean (mean - half) (mean + half)

/// Claims that two sets of runs end at the same value.
let private samenesses: (string * (float[] -> float[] -> Claim)) list =
    [
        "twinsEnd", Study.twinsEnd
        "imagePart", Study.imagePart
        "textEnd", Study.textEnd 0.3
        "imageOnlyTwins", Study.imageOnlyTwins
        "alignedStart", Study.alignedStart
    ]

let private bootstrap seed = Random.ofSeed seed |> Random.named "verdicts"

let private verdicts =
    testList
        "verdicts"
        [
            property "same: within the margin, outside it, across it, or one run" (fun seed ->
                let c = Chooser seed
                let margin = c.Float(0.01, 1.0)
                let sign = c.Of [ 1.0; -1.0 ]
                let inside = margin * c.Float(-0.4, 0.4)
                Expect.equal (Study.same margin (centred inside (0.5 * margin))) Verdict.Holds "within"
                Expect.equal (Study.same margin (centred (sign * 2.0 * margin) (0.9 * margin))) Verdict.DoesNotHold "outside"
                Expect.equal (Study.same margin (centred (sign * margin) (0.1 * margin))) Verdict.Undecided "across the edge"
                Expect.equal (Study.same margin (centred 0.0 (3.0 * margin))) Verdict.Undecided "too wide"
                Expect.equal (Study.same margin (single inside)) Verdict.Undecided "one run")

            property "below: the whole interval on one side of zero" (fun seed ->
                let c = Chooser seed
                let size = c.Float(0.001, 5.0)
                Expect.equal (Study.below (centred -size (0.9 * size))) Verdict.Holds "below"
                Expect.equal (Study.below (centred size (0.9 * size))) Verdict.DoesNotHold "above"
                Expect.equal (Study.below (centred (c.Of [ size; -size ]) (1.1 * size))) Verdict.Undecided "across"
                Expect.equal (Study.below (single -size)) Verdict.Undecided "one run")

            property1 "all: one that fails decides, then one that is open" (1, 8) (fun seed count ->
                let c = Chooser seed
                let given = List.init count (fun _ -> c.Of [ Verdict.Holds; Verdict.DoesNotHold; Verdict.Undecided ])

                let expected =
                    if List.exists ((=) Verdict.DoesNotHold) given then Verdict.DoesNotHold
                    elif List.forall ((=) Verdict.Holds) given then Verdict.Holds
                    else Verdict.Undecided

                Expect.equal (Study.all given) expected "together"
                Expect.equal (Study.all (List.rev given)) expected "in any order")

            for name, claim in samenesses do
                property1 $"{name}: no effect, a planted effect, and one run" (3, 8) (fun seed runs ->
                    let c = Chooser seed
                    let first = Array.init runs (fun _ -> c.Float(1.0, 5.0))
                    let noise = c.Normals runs |> Array.map (fun x -> 1e-4 * x)
                    let shifted by = Array.map2 (fun a n -> a + by + n) first noise
                    Expect.equal (claim first (shifted 0.0)).Verdict Verdict.Holds "no effect"
                    let effect = c.Of [ 1.0; -1.0 ] * c.Float(0.1, 2.0)
                    Expect.equal (claim first (shifted effect)).Verdict Verdict.DoesNotHold "an effect"
                    Expect.equal (claim (Array.take 1 first) (Array.take 1 (shifted 0.0))).Verdict Verdict.Undecided "one run"
                    let wild = first |> Array.mapi (fun i a -> a + (if i % 2 = 0 then 3.0 else -3.0))
                    Expect.equal (claim first wild).Verdict Verdict.Undecided "noise larger than the margin")

            property1 "textStart: lower, higher, and one run" (3, 8) (fun seed runs ->
                let c = Chooser seed
                let random = Array.init runs (fun _ -> c.Float(1.0, 5.0))
                let noise = c.Normals runs |> Array.map (fun x -> 1e-3 * x)
                let gap = c.Float(0.1, 2.0)
                let pretrained by = Array.map2 (fun r n -> r + by + n) random noise
                Expect.equal (Study.textStart 3 (pretrained -gap) random).Verdict Verdict.Holds "lower"
                Expect.equal (Study.textStart 3 (pretrained gap) random).Verdict Verdict.DoesNotHold "higher"

                Expect.equal
                    (Study.textStart 3 (Array.take 1 (pretrained -gap)) (Array.take 1 random)).Verdict
                    Verdict.Undecided
                    "one run")

            property "forgotten: less or more than a quarter of what was above chance" (fun seed ->
                let c = Chooser seed
                let chance = c.Float(0.1, 0.5)
                let gained = c.Float(0.2, 0.5)
                let before = centred (chance + gained) (0.1 * gained)
                let verdict after = (Study.forgotten "knowledge" chance before after).Verdict
                Expect.equal (verdict (centred chance (0.2 * gained))) Verdict.Holds "lost"
                Expect.equal (verdict (centred (chance + 0.9 * gained) (0.2 * gained))) Verdict.DoesNotHold "kept"
                Expect.equal (verdict (centred (chance + 0.25 * gained) (0.1 * gained))) Verdict.Undecided "between"
                Expect.equal (verdict (single chance)) Verdict.Undecided "one item"

                for never in [ centred chance (0.1 * gained); single (chance + gained) ] do
                    Expect.equal
                        (Study.forgotten "knowledge" chance never (centred chance 0.01)).Verdict
                        Verdict.Undecided
                        "what was not known cannot be lost")

            property1 "frozenNeverReach: every configuration decides" (1, 6) (fun seed count ->
                let c = Chooser seed
                let worse = Array.init count (fun i -> struct ($"frozen {i}", centred (c.Float(-2.0, -0.2)) 0.1))
                let verdict given = (Study.frozenNeverReach given).Verdict
                let place = c.Int(0, count - 1)
                let with' interval = worse |> Array.updateAt place (struct ("other", interval))
                Expect.equal (verdict worse) Verdict.Holds "all worse"
                Expect.equal (verdict (with' (centred 0.5 0.1))) Verdict.DoesNotHold "one better"
                Expect.equal (verdict (with' (centred 0.0 0.1))) Verdict.Undecided "one as good"
                Expect.equal (verdict (with' (single -1.0))) Verdict.Undecided "one without an interval"

                for struct (name, _) in worse do
                    Expect.stringContains (Study.frozenNeverReach worse).Evidence name "the evidence names it")

            property1 "plateau: a fall that ends early and high, and others" (30, 400) (fun seed steps ->
                let c = Chooser seed
                let pairs = c.Int(32, 1024)
                let chance = Math.Log(float pairs)
                let start, level = chance * c.Float(1.1, 1.5), chance * c.Float(0.6, 0.9)
                let at i = float i / float (steps - 1)
                let verdict shape = (Study.plateau pairs (Array.init steps shape)).Verdict
                let settled low i = low + (start - low) * exp (-12.0 * at i)
                Expect.equal (verdict (settled level)) Verdict.Holds "early and high"
                Expect.equal (verdict (settled (0.2 * chance))) Verdict.DoesNotHold "low: the pairs are told apart"
                Expect.equal (verdict (fun i -> start + (level - start) * at i)) Verdict.DoesNotHold "still falling"
                Expect.equal (verdict (fun _ -> level)) Verdict.Undecided "never fell"
                Expect.equal (verdict (fun i -> level + 0.3 * at i)) Verdict.Undecided "rose"

                for few in [ 1; 2; 29 ] do
                    Expect.equal (Study.plateau pairs (Array.init few (settled level))).Verdict Verdict.Undecided $"{few} steps")

            property1 "nearestAreNoise: words that go with a code, and words that do not" (30, 100) (fun seed count ->
                let c = Chooser seed
                let shuffled = Array.init count (fun _ -> c.Float(0.1, 0.3))
                let noise = c.Normals count |> Array.map (fun x -> 0.01 * x)

                let verdict by =
                    (Study.nearestAreNoise (Array.map2 (fun s n -> s + by + n) shuffled noise) shuffled (bootstrap seed)).Verdict

                Expect.equal (verdict 0.0) Verdict.Holds "noise"
                Expect.equal (verdict (c.Float(0.1, 0.6))) Verdict.DoesNotHold "meaning"
                let wild = shuffled |> Array.mapi (fun i s -> s + (if i % 2 = 0 then 0.9 else -0.9))
                Expect.equal (Study.nearestAreNoise wild shuffled (bootstrap seed)).Verdict Verdict.Undecided "too few to tell"
                Expect.equal (Study.nearestAreNoise [| 0.5 |] [| 0.1 |] (bootstrap seed)).Verdict Verdict.Undecided "one code"
                Expect.equal (Study.nearestAreNoise [||] [||] (bootstrap seed)).Verdict Verdict.Undecided "no code")
        ]

let private paper =
    testCase "the paper's own configuration: parameters, operations, steps" (fun () ->
        Expect.equal (Decoder.parameterCount Study.paperModel) 1_507_033_088L "parameters"
        near 0.0 1e-3 "operations a token" 8.899e9 (ModelConfig.flopsPerToken Study.paperModel 1152)
        let estimate = Hybrid.Runner.Study.PaperEstimate.Make()
        Expect.equal estimate.Steps 100_000L "steps"
        Expect.equal estimate.Parameters 1_507_033_088L "the estimate's parameters"
        near 0.0 1e-12 "operations in all" (estimate.FlopsPerToken * 100e9) estimate.TotalFlops

        for gpus in estimate.Plans do
            near 0.0 1e-9 "days" (100e9 / (gpus.TokensPerSecond * float gpus.Count) / 86400.0) gpus.Days)

/// Every stage of a study in a few seconds.
let private smallest =
    """{ "preset": "smoke", "seeds": 2, "alignedSeeds": 1, "imageOnlySeeds": 1, "width": 16, "layers": 1, "heads": 1,
         "tokenizer": { "steps": 4, "batch": 4 }, "pretraining": { "steps": 4, "batch": 4 }, "twins": { "steps": 3, "batch": 4 },
         "imageOnly": { "steps": 2, "batch": 4 }, "alignment": { "steps": 4, "batch": 32 }, "trainPairs": 64, "heldOutPairs": 8,
         "heldOutTexts": 8, "evaluations": 2, "probeItems": 8, "pictures": 2 }"""

let private command config out resume : StudyCommand =
    {
        Preset = "tiny"
        Config = config
        Out = out
        Resume = resume
        DryRun = false
        Seed = Nullable()
        Json = true
    }

/// Runs a study here; what it writes on stdout.
let private study (command: StudyCommand) : string =
    let out, error = Console.Out, Console.Error
    use results = new StringWriter()

    try
        Console.SetOut results
        Console.SetError TextWriter.Null
        Hybrid.Runner.Study.StudyJob.Run(command, CancellationToken.None)
        results.ToString()
    finally
        Console.SetOut out
        Console.SetError error

/// What the arms found: all that a stage file holds but how long it took.
let private found (directory: string) : Map<string, string> =
    Directory.GetFiles(Path.Combine(directory, "stages"), "arm-*.json")
    |> Array.map (fun path ->
        match JsonNode.Parse(File.ReadAllText path) with
        | :? JsonObject as arm ->
            Expect.isTrue (arm.Remove "Seconds" && arm.Remove "TokensPerSecond") "a stage says how long it took"
            string (Path.GetFileNameWithoutExtension path), arm.ToJsonString()
        | _ -> failtest $"{path} is not an object")
    |> Map

let private wholeStudy =
    testCase "a very small study: its files, going on where it stopped, and what it refuses" (fun () ->
        use folder = new Folder()
        let config = folder.Write("plan.json", smallest)
        let out = folder.At "run"
        let at (name: string) = Path.Combine(out, name)
        let plan = accepted "the plan" (StudyPlan.parse smallest)
        let arms = Array.append (Study.twins plan) (Study.imageOnly plan)
        let result = parsed (study (command config out false))
        let first = found out
        Expect.equal (Set first.Keys) (set [ for arm in arms -> "arm-" + arm.Name ]) "a stage of each arm"

        let page = File.ReadAllText(at "report.html")
        let ones = [| 1.0 |]

        let claims =
            [
                for _, claim in samenesses do
                    claim ones ones
                Study.textStart 1 ones ones
                for ability in [ "knowledge"; "in-context learning" ] do
                    Study.forgotten ability 0.25 (single 0.5) (single 0.5)
                Study.frozenNeverReach [||]
                Study.plateau 32 ones
                Study.nearestAreNoise ones ones (bootstrap 1L)
            ]

        for claim in claims do
            Expect.stringContains page claim.Statement "the report has every claim"

        let said =
            [
                for claim in (result.GetProperty "claims").EnumerateArray() ->
                    string ((claim.GetProperty "statement").GetString())
            ]

        Expect.equal (List.sort said) (claims |> List.map _.Statement |> List.sort) "and so has the result"

        let figures = [ for figure in (result.GetProperty "figures").EnumerateArray() -> string (figure.GetString()) ]
        Expect.isNonEmpty figures "figures"
        Expect.all figures (fun figure -> FileInfo(figure).Length > 0L) "each figure is there"
        Expect.equal (Set figures) (Set(Directory.GetFiles(at "figures"))) "and no other file beside them"

        for name in [ "pretrained"; "twin-pretrained-seed1"; "twin-random-seed1"; "twin-aligned-seed1" ] do
            for file in [ "model.safetensors"; "config.json"; "tokenizer.json" ] do
                Expect.isTrue (File.Exists(at $"models/{name}/{file}")) $"models/{name}/{file}"

        let left = Directory.GetFiles(out, "*.part*", SearchOption.AllDirectories)
        Expect.isEmpty left "nothing half-written stays"

        // Again into the same directory: only where that is asked for.
        fails [ "holds a study already"; "--resume auto" ] (fun () -> study (command config out false) |> ignore)
        let other = folder.Write("other.json", smallest.Replace("\"heldOutPairs\": 8", "\"heldOutPairs\": 9"))
        fails [ "another plan"; "--out" ] (fun () -> study (command other out true) |> ignore)

        // Arms that are gone are run again and find the same.
        for name in [ "twin-random-seed1"; "twin-pretrained-seed2"; "image-plus-ffn-seed1" ] do
            File.Delete(at $"stages/arm-{name}.json")

        File.Delete(at "report.html")
        let again = parsed (study (command config out true))
        Expect.equal (found out) first "the same losses"
        Expect.equal ((again.GetProperty "claims").ToString()) ((result.GetProperty "claims").ToString()) "the same verdicts"
        Expect.isTrue (File.Exists(at "report.html")) "the report is written again"

        // Damaged files are named, with what to do.
        let damaged (file: string) (text: string) (wanted: string list) =
            let whole = File.ReadAllBytes(at file)
            File.WriteAllText(at file, text)
            fails wanted (fun () -> study (command config out true) |> ignore)
            File.WriteAllBytes(at file, whole)

        let stage = "stages/arm-twin-random-seed2.json"
        let text = File.ReadAllText(at stage)

        let without (name: string) =
            match JsonNode.Parse text with
            | :? JsonObject as arm ->
                arm[name] <- null
                arm.ToJsonString()
            | _ -> failtest "a stage is an object"

        for broken in
            [
                ""
                "null"
                "[]"
                "{}"
                text[.. text.Length / 2]
                "\000\000\000"
                text.Replace("\"Evaluations\"", "\"Evaluated\"")
                without "Evaluations"
                without "Name"
            ] do
            damaged stage broken [ stage; "delete it to run the stage again" ]

        for broken in
            [
                ""
                "null"
                "[]"
                "3"
                "{}"
                """{"plan": {}, "plan": {}, "halfPrecision": true}"""
                """{"plan": {}, "halfPrecision": 1}"""
            ] do
            damaged "run.json" broken [ "run.json"; "is not the description of a study" ]

        let fit = File.ReadAllBytes(at "models/pretrained/model.safetensors")
        File.WriteAllBytes(at "models/pretrained/model.safetensors", fit[..99])
        fails [ "models/pretrained/model.safetensors" ] (fun () -> study (command config out true) |> ignore)
        File.Delete(at "models/pretrained/model.safetensors")
        fails [ "models/pretrained/model.safetensors" ] (fun () -> study (command config out true) |> ignore)

        // A directory that holds something else is left alone.
        folder.Write("kept.txt", "kept") |> ignore
        fails [ "is not empty"; "--out" ] (fun () -> study (command config (folder.At ".") false) |> ignore))
    |> testSequenced

let tests = testList "Study" [ plans; arms; verdicts; paper; wholeStudy ]
