/// The study from end to end in its smallest size: its files, going on, other plans, material of one's own; and the paper's estimate.
module Hybrid.Tests.StudyTests

open System
open System.IO
open System.Text.Json.Nodes
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Runner.Study
open Hybrid.Tests.Generate
open Hybrid.Tests.Running

let private paper =
    testCase "the paper's own configuration: parameters, operations, steps" (fun () ->
        Expect.equal (Decoder.parameterCount Study.paperModel) 1_507_033_088L "parameters"
        near 0.0 1e-3 "operations a token" 8.899e9 (ModelConfig.flopsPerToken Study.paperModel 1152)
        let estimate = PaperEstimate.Make()
        Expect.equal estimate.Steps 100_000L "steps"
        Expect.equal estimate.Parameters 1_507_033_088L "the estimate's parameters"
        near 0.0 1e-12 "operations in all" (estimate.FlopsPerToken * 100e9) estimate.TotalFlops

        for gpus in estimate.Plans do
            near 0.0 1e-9 "days" (100e9 / (gpus.TokensPerSecond * float gpus.Count) / 86400.0) gpus.Days)

/// Every stage of a study in a few seconds.
let private smallest =
    """{ "preset": "smoke", "seeds": 2, "alignedSeeds": 1, "imageOnlySeeds": 1, "ratioSeeds": 1, "wordSeeds": 1, "width": 16, "layers": 1, "heads": 1,
         "tokenizer": { "steps": 4, "batch": 4 }, "pretraining": { "steps": 4, "batch": 4 }, "twins": { "steps": 3, "batch": 4 },
         "imageOnly": { "steps": 2, "batch": 4 }, "alignment": { "steps": 4, "batch": 32 }, "trainPairs": 64, "heldOutPairs": 8,
         "heldOutTexts": 8, "evaluations": 2, "probeItems": 8, "pictures": 2, "samples": 4 }"""

let private command config out resume : StudyCommand =
    {
        Preset = "tiny"
        Config = config
        Out = out
        Resume = resume
        DryRun = false
        Seed = Nullable()
        Parallel = Nullable()
        TensorBoard = false
        Json = true
    }

/// Runs a study here; what it writes on stdout.
let private study (command: StudyCommand) : string =
    let out, error = Console.Out, Console.Error
    use results = new StringWriter()

    try
        Console.SetOut results
        Console.SetError TextWriter.Null
        StudyJob.Run(command, CancellationToken.None)
        results.ToString()
    finally
        Console.SetOut out
        Console.SetError error

/// What a stage file holds but for how long it took.
let private stage (path: string) : string =
    match JsonNode.Parse(File.ReadAllText path) with
    | :? JsonObject as stored ->
        match stored["Value"] with
        | :? JsonObject as arm ->
            Expect.isTrue (arm.Remove "Cost") "a stage says what it took"
            arm.ToJsonString()
        | _ -> failtest $"{path} holds no value"
    | _ -> failtest $"{path} is not an object"

/// What the arms found.
let private found (directory: string) : Map<string, string> =
    Directory.GetFiles(Path.Combine(directory, "stages"), "arm-*.json")
    |> Array.map (fun path -> string (Path.GetFileNameWithoutExtension path), stage path)
    |> Map

let private wholeStudy =
    testCase "a very small study: its files, going on where it stopped, and what it refuses" (fun () ->
        use folder = new Folder()
        let config = folder.Write("plan.json", smallest)
        let out = folder.At "run"
        let at (name: string) = Path.Combine(out, name)
        let plan = accepted "the plan" (StudyPlan.parse smallest)
        let arms = Study.runs plan
        let result = parsed (study (command config out false))
        let first = found out
        Expect.equal (Set first.Keys) (set [ for arm in arms -> "arm-" + arm.Name ]) "a stage of each arm"

        let page = File.ReadAllText(at "report.html")
        let tasks = [ "knowledge"; "in-context learning" ]

        let statements =
            [
                for comparison in Study.comparisons plan tasks do
                    comparison.Statement
                for task in tasks do
                    $"After training on captioned pictures the model has lost its {task}."
                "No frozen configuration reaches the loss of the fully tuned model."
                "The contrastive loss of aligning image codes with text plateaus."
                "The text tokens nearest to an image code have nothing to do with it."
            ]

        for statement in statements do
            Expect.stringContains page (string (Net.WebUtility.HtmlEncode statement)) "the report has every claim"

        Expect.stringContains page "Does language pre-training help image tokens on World?" "and the answer"

        let said =
            [
                for claim in (result.GetProperty "claims").EnumerateArray() ->
                    string ((claim.GetProperty "statement").GetString())
            ]

        Expect.equal (List.sort said) (List.sort statements) "and so has the result"

        let figures = [ for figure in (result.GetProperty "figures").EnumerateArray() -> string (figure.GetString()) ]
        Expect.isNonEmpty figures "figures"
        Expect.all figures (fun figure -> FileInfo(figure).Length > 0L) "each figure is there"
        Expect.equal (Set figures) (Set(Directory.GetFiles(at "figures"))) "and no other file beside them"

        for name in [ "pretrained"; "twin-pretrained-seed1"; "twin-random-seed1"; "twin-aligned-seed1" ] do
            for file in [ "model.safetensors"; "config.json"; "tokenizer.json" ] do
                Expect.isTrue (File.Exists(at $"models/{name}/{file}")) $"models/{name}/{file}"

        // Each arm is a run that a page of runs can show.
        let logs = [| for arm in arms -> at $"arms/{arm.Name}" |]

        for arm, log in Seq.zip arms (Hybrid.Runner.Runs.RunData.Open(logs, false)) do
            Expect.equal log.Kind Hybrid.Runner.Runs.RunKind.Train arm.Name
            Expect.hasLength log.Metrics.Steps (Study.budgetOf plan arm.Plan).Steps $"steps of {arm.Name}"
            Expect.isTrue (Double.IsFinite(log.Evaluations.Last "loss.image")) $"held-out loss of {arm.Name}"

        let left = Directory.GetFiles(out, "*.part*", SearchOption.AllDirectories)
        Expect.isEmpty left "nothing half-written stays"

        // Again into the same directory: only where that is asked for.
        fails [ "holds a study already"; "--resume auto" ] (fun () -> study (command config out false) |> ignore)

        // Arms that are gone are run again and find the same.
        for name in [ "twin-random-seed1"; "twin-pretrained-seed2"; "image-plus-ffn-seed1" ] do
            File.Delete(at $"stages/arm-{name}.json")

        File.Delete(at "report.html")
        let again = parsed (study (command config out true))
        Expect.equal (found out) first "the same losses"
        Expect.equal ((again.GetProperty "claims").ToString()) ((result.GetProperty "claims").ToString()) "the same verdicts"
        Expect.isTrue (File.Exists(at "report.html")) "the report is written again"

        // Another plan goes on with what is the same in both: one more arm is run, those that are longer now again, no other.
        let written () =
            Directory.GetFiles(at "stages")
            |> Array.map (fun path -> string (Path.GetFileName path), File.GetLastWriteTimeUtc path)
            |> Map

        let before = written ()

        let other =
            smallest.Replace("\"imageOnly\": { \"steps\": 2", "\"imageOnly\": { \"steps\": 1").TrimEnd().TrimEnd('}')
            + """, "arms": [{ "name": "light", "replay": 0.25, "seeds": 1 }],
                   "comparisons": [{ "statement": "Light is like the twin.", "arm": "light", "against": "twin-pretrained", "measure": "corpus", "rule": "same" }] }"""

        let other = parsed (study (command (folder.Write("other.json", other)) out true))
        let after = written ()

        let changed =
            set
                [
                    for KeyValue(name, time) in after do
                        if Map.tryFind name before <> Some time then
                            name
                ]

        let alone =
            set
                [
                    for arm in arms do
                        if arm.Plan.Captions = CaptionKind.None then
                            $"arm-{arm.Name}.json"
                ]

        Expect.equal changed (alone.Add "arm-light-seed1.json") "what was run"
        Expect.stringContains ((other.GetProperty "claims").ToString()) "Light is like the twin." "its own claim"
        let back = parsed (study (command config out true))
        Expect.equal ((back.GetProperty "claims").ToString()) ((result.GetProperty "claims").ToString()) "and back again"

        // One study at a time works in a directory.
        using (new FileStream(at "study.lock", FileMode.Create, FileAccess.ReadWrite, FileShare.None)) (fun _ ->
            fails [ "another study works in"; "--out" ] (fun () -> study (command config out true) |> ignore))

        File.Delete(at "study.lock")

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
            | :? JsonObject as stored ->
                match stored["Value"] with
                | :? JsonObject as arm -> arm[name] <- null
                | _ -> failtest "a stage holds an object"

                stored.ToJsonString()
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
                without "Plan"
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

/// Shards of World's pairs, two captions to a picture, and what a plan names beside them.
let private material (folder: Folder) (world: string) : string =
    let info = ShardInfo(WorldVocabulary.words.Length, 512, 8, 8, 64, "none", String('a', 64), String('b', 64))

    let shards = folder.At "shards"
    let manifest = ShardManifest.Create shards
    let c = Chooser 5

    use writer = new ShardWriter(manifest, info, 1000)

    for i in 0L .. 59L do
        let codes = Array.init 64 (fun _ -> c.Int(0, 511))

        for caption in [ fst (World.pair 1L Split.Train i); fst (World.pair 1L Split.Train (i + 100L)) ] do
            writer.Add(ReadOnlySpan(WorldVocabulary.encode caption), ReadOnlySpan codes)

    writer.Finish()
    let texts = [ for i in 0L .. 199L -> World.document 1L Split.Train i ]
    folder.Write("corpus.txt", String.Join("\n", texts)) |> ignore

    folder.Write(
        "animals.jsonl",
        String.Join(
            "\n",
            [ for i in 0..9 -> $$"""{"query": "the dog", "choices": ["is red .", "is blue ."], "gold": {{i % 2}}}""" ]
        )
    )
    |> ignore

    let model = Path.Combine(world, "models", "pretrained")
    let tokenizer = Path.Combine(world, "models", "image-tokenizer")

    folder.Write(
        "own.json",
        $$"""{ "preset": "smoke", "seeds": 2, "alignedSeeds": 1, "imageOnlySeeds": 1, "ratioSeeds": 1, "wordSeeds": 1,
               "twins": { "steps": 3, "batch": 4 }, "imageOnly": { "steps": 2, "batch": 4 }, "alignment": { "steps": 30, "batch": 32 },
               "trainPairs": 64, "heldOutPairs": 8, "heldOutTexts": 8, "textPositions": 32, "evaluations": 2, "probeItems": 8, "pictures": 2, "samples": 4,
               "material": { "name": "Pairs", "model": "{{model}}", "tokens": "shards", "imageTokenizer": "{{tokenizer}}",
                             "texts": ["corpus.txt"], "tasks": ["animals.jsonl"], "prompts": ["the capital of"] } }"""
    )

let private ownMaterial =
    testCase "material of one's own, two arms side by side" (fun () ->
        use folder = new Folder()
        let world = folder.At "world"

        let none =
            """"seeds": 1, "alignedSeeds": 0, "imageOnlySeeds": 0, "frozenSeeds": 0, "ratioSeeds": 0, "wordSeeds": 0"""

        let first =
            smallest.Replace(
                "\"seeds\": 2, \"alignedSeeds\": 1, \"imageOnlySeeds\": 1, \"ratioSeeds\": 1, \"wordSeeds\": 1",
                none
            )

        study (command (folder.Write("world.json", first)) world false) |> ignore
        let config = material folder world
        let alone = folder.At "alone"
        let result = parsed (study { command config alone false with Parallel = Nullable 1 })
        let names = [ for arm in (result.GetProperty "arms").EnumerateObject() -> arm.Name ]
        Expect.contains names "replay-pretrained-seed1" "text of the corpus is replayed"
        Expect.isFalse (names |> List.exists _.StartsWith("words")) "codes that stand for words are World's"
        let page = File.ReadAllText(Path.Combine(alone, "report.html"))

        for wanted in [ "Pairs: 52 captioned pictures"; "the capital of"; "lost its animals" ] do
            Expect.stringContains page wanted "the report speaks of it"

        // The same arms, two at a time: the same losses.
        let together = folder.At "together"
        study { command config together false with Parallel = Nullable 2 } |> ignore
        Expect.equal (Set (found together).Keys) (Set (found alone).Keys) "the same arms"

        for KeyValue(name, text) in found alone do
            let loss (text: string) =
                match JsonNode.Parse text with
                | null -> failtest "no arm"
                | arm ->
                    [
                        for value in (arm["FinalImageBySequence"] |> Option.ofObj |> Option.get).AsArray() ->
                            string value |> float
                    ]

            List.iter2 (near 1e-3 1e-3 name) (loss text) (loss (Map.find name (found together)))

        // What does not fit is said before anything is trained.
        let refused (change: string -> string) (wanted: string list) =
            let changed = folder.Write("changed.json", change (File.ReadAllText config))
            fails wanted (fun () -> study (command changed (folder.At "refused") true) |> ignore)

        refused _.Replace("\"shards\"", "\"nowhere\"") [ "nowhere" ]
        refused _.Replace("corpus.txt", "missing.txt") [ "missing.txt" ]
        refused _.Replace("animals.jsonl", "missing.jsonl") [ "missing.jsonl" ]
        refused _.Replace("\"heldOutPairs\": 8", "\"heldOutPairs\": 60") [ "shards"; "heldOutPairs" ]
        refused _.Replace("\"seeds\": 2", "\"seeds\": 2, \"positions\": 70") [ "positions" ]
        refused _.Replace("\"texts\": [\"corpus.txt\"], ", "") [ "material.texts"; "replays" ]
        refused _.Replace("models/pretrained", "models/twin-pretrained-seed1") [ "image codes already" ])
    |> testSequenced

let tests = testList "Study" [ paper; wholeStudy; ownMaterial ]
