/// The documentation against the program: links lead somewhere, command lines parse, keys and defaults are the real ones.
module Hybrid.Tests.DocsTests

open System
open System.IO
open System.Text.Json.Nodes
open System.Text.RegularExpressions
open Expecto
open Hybrid
open Hybrid.Runner

let internal root: string = Repository.root

let internal pages: string list =
    [
        yield! Directory.GetFiles(Path.Combine(root, "docs"), "*.md", SearchOption.AllDirectories) |> Array.sort

        let readMe = Path.Combine(root, "README.md")

        if File.Exists readMe then
            readMe
    ]

let internal nameOf (page: string) = Path.GetRelativePath(root, page)

let internal lines (page: string) = File.ReadAllLines page |> Array.toList

/// The lines of a page in fenced code (of a language, where one is given), without their indentation, and the lines outside.
let private parted (language: string option) (page: string) : string list * string list =
    let wanted (fence: string) = language |> Option.forall (fun name -> fence = "```" + name)

    let place (inside: string option, code, text) (line: string) =
        let bare = line.Trim()

        match inside with
        | Some _ when bare = "```" -> None, code, text
        | None when bare.StartsWith "```" -> Some bare, code, text
        | Some fence -> inside, (if wanted fence then bare :: code else code), text
        | None -> None, code, line :: text

    let _, code, text = lines page |> List.fold place (None, [], [])
    List.rev code, List.rev text

/// Fails with what was found, where something was.
let internal none (what: string) (found: string list) =
    if not found.IsEmpty then
        let listed = String.Join("\n", found)
        failtest $"{what}:\n{listed}"

// ---- links ----

/// The anchors of a page: headings in lower case, without punctuation, with dashes for spaces.
let private anchors (page: string) : string list =
    snd (parted None page)
    |> List.filter (fun line -> Regex.IsMatch(line, "^#+ "))
    |> List.map (fun line ->
        let heading = line.TrimStart('#').Trim().ToLowerInvariant()
        Regex.Replace(heading, "[^\w\- ]", "").Replace(' ', '-'))

let private brokenLinks (page: string) : string list =
    let text = String.Join("\n", snd (parted None page))
    let folder = Path.GetDirectoryName page |> string

    let targets =
        [
            for m in Regex.Matches(text, "\]\(([^)\s]+)\)") -> m.Groups[1].Value
            for m in Regex.Matches(text, "(?:src|href)=\"([^\"]+)\"") -> m.Groups[1].Value
        ]

    [
        for target in targets do
            if not (Regex.IsMatch(target, "^[a-z]+:")) then
                let file, anchor =
                    match target.IndexOf '#' with
                    | -1 -> target, None
                    | at -> target[.. at - 1], Some target[at + 1 ..]

                let path = if file = "" then page else Path.GetFullPath(Path.Combine(folder, file))

                if not (Path.Exists path) then
                    $"{nameOf page}: {target}"
                elif path.EndsWith ".md" && anchor |> Option.exists (fun name -> not (List.contains name (anchors path))) then
                    $"{nameOf page}: {target} has no such heading"
    ]

/// The paths of the repository that a page names in code, from its root.
let private filesNamed (page: string) : string list =
    [
        for m in Regex.Matches(String.Join("\n", snd (parted None page)), @"`((?:src\.\w+\.\w+|tests|docs|\.ci)/[\w./-]+)`") ->
            m.Groups[1].Value
    ]

let private missingFiles (page: string) : string list =
    [
        for path in filesNamed page do
            let there = Path.Combine(root, path)

            if not (File.Exists there || Directory.Exists there) then
                $"{nameOf page}: {path}"
    ]

// ---- command lines ----

/// The words of a shell's line: quotes keep spaces, and what follows a comment, a pipe or a redirection is left out.
let private words (line: string) : string list =
    let found = Regex.Matches(line, """(?:"[^"]*"|'[^']*'|[^\s"'])+""") |> Seq.map _.Value |> List.ofSeq

    let ends (word: string) = word.StartsWith '#' || List.contains word [ "|"; ">"; "2>"; "&&"; "||"; ";"; "&" ]

    found
    |> List.takeWhile (fun word -> not (ends word))
    |> List.map (fun word -> Regex.Replace(word, "[\"']", ""))

/// What a line gives to the program, if it calls it: as `hybrid`, or through `dotnet run … --`.
let private arguments (line: string) : string list option =
    let rec called (words: string list) =
        match words with
        | [] -> None
        | word :: rest when Regex.IsMatch(word, "^[A-Z_]+=") -> called rest
        | program :: rest when program = "hybrid" || program.EndsWith "/hybrid" -> Some rest
        | "dotnet" :: "run" :: rest when List.contains "src.Runner.CSharp" rest ->
            match List.tryFindIndex (fun word -> word = "--") rest with
            | Some at -> Some(List.skip (at + 1) rest)
            | None -> Some []
        | _ -> None

    called (words (Regex.Replace(line, "^\$ ", "")))

/// The command lines of a page: those of its fenced code, and those in running text that have options.
let private commandLines (page: string) : string list list =
    let code, text = parted None page
    let whole = Regex.Replace(String.Join("\n", code), "\\\\\n\s*", " ").Split '\n' |> List.ofArray

    let spans =
        [ for m in Regex.Matches(String.Join(" ", text), "`([^`]+)`") -> m.Groups[1].Value ]
        |> List.filter (fun span -> Regex.IsMatch(span, " -"))

    whole @ spans |> List.choose arguments

let private refusals (page: string) : string list =
    [
        for line in commandLines page do
            let said = String.Join(" ", line)

            match CommandLine.parse (List.toArray line) with
            | :? RunOutcome -> ()
            | :? HelpOutcome when List.exists (fun word -> word = "--help" || word = "--version") line -> ()
            | :? HelpOutcome -> $"{nameOf page}: hybrid {said} only shows help"
            | :? UsageOutcome as outcome -> $"{nameOf page}: hybrid {said}: {outcome.Text}"
            | _ -> $"{nameOf page}: hybrid {said} came to nothing"
    ]

// ---- keys ----

/// Every leaf of a JSON object by its dotted name.
let private flat (root: JsonNode | null) : Map<string, string> =
    let rec visit (path: string) (node: JsonNode | null) =
        [
            match node with
            | :? JsonObject as fields ->
                for field in fields do
                    yield! visit (if path = "" then field.Key else path + "." + field.Key) field.Value
            | null -> path, "null"
            | node -> path, node.ToJsonString()
        ]

    Map.ofList (visit "" root)

let private formats = Path.Combine(root, "docs", "formats.md")

/// The lines of formats.md under a heading of the second level.
let private section (heading: string) : string list =
    lines formats
    |> List.skipWhile (fun line -> line <> "## " + heading)
    |> List.skip 1
    |> List.takeWhile (fun line -> not (line.StartsWith "## "))

/// The rows of a section's table: the first two cells.
let private rows (heading: string) : (string * string) list =
    section heading
    |> List.filter (fun line -> line.StartsWith "| `")
    |> List.map (fun line ->
        let cells = line.Split '|'
        cells[1].Trim(), cells[2].Trim())

let private example (heading: string) : string =
    section heading
    |> List.skipWhile (fun line -> line <> "```json")
    |> List.skip 1
    |> List.takeWhile (fun line -> line <> "```")
    |> String.concat "\n"

let private shortest =
    """{ "model": { "config": "m" }, "vocabulary": { "textRows": 1, "imageCodes": 0 }, "data": { "train": ["a"], "heldOut": ["b"] },
         "optimizer": { "learningRate": 1 }, "schedule": { "steps": 1 }, "batch": { "sequences": 1 } }"""

let private trainingKeys =
    testCase "formats.md gives every key of a training configuration and its default" (fun () ->
        let resolved =
            shortest |> TrainConfig.parse |> Generate.accepted "the shortest configuration" |> TrainConfig.toJson

        let keys = flat (JsonNode.Parse resolved)
        let documented = rows "Training configuration" |> List.map (fun (key, value) -> key.Trim '`', value)
        Expect.equal (documented |> List.map fst |> List.sort) (keys |> Map.toList |> List.map fst) "the keys"

        for key, value in documented do
            // model.config is given, and the start follows from that; what is not one value stands in words.
            if Regex.IsMatch(value, "^`[^`]+`$") && key <> "model.config" then
                let written = JsonNode.Parse(value.Trim '`')
                let real = JsonNode.Parse keys[key]
                Expect.isTrue (JsonNode.DeepEquals(written, real)) $"{key}: formats.md says {value}, the program {keys[key]}")

let private imageTrainingKeys =
    testCase "formats.md gives every key of an image tokenizer's training and its default" (fun () ->
        let resolved kind =
            $"""{{ "kind": "{kind}", "imageSize": 64, "data": {{ "inputs": ["a"] }} }}"""
            |> ImageTrainConfig.parse
            |> Generate.accepted "the shortest configuration"
            |> ImageTrainConfig.toJson
            |> JsonNode.Parse
            |> flat

        let photo, movq = resolved "vqvae", resolved "movq"
        let documented = rows "Image tokenizer training" |> List.map (fun (key, value) -> key.Trim '`', value)
        let keys = Set.ofSeq photo.Keys + Set.ofSeq movq.Keys
        Expect.equal (documented |> List.map fst |> List.sort) (Set.toList keys) "the keys"

        for key, value in documented do
            // What one kind has before a semicolon, the other has behind it.
            let values = Regex.Match(value, "^`([^`]+)`(?:; movq `?([^`]+)`?)?$")

            let given =
                if values.Groups[2].Success then
                    [ photo, 1; movq, 2 ]
                else
                    [ (if photo.ContainsKey key then photo else movq), 1 ]

            if values.Success && key <> "data.shortSide" then
                for real, group in given do
                    let written = values.Groups[group].Value

                    Expect.isTrue
                        (JsonNode.DeepEquals(JsonNode.Parse written, JsonNode.Parse real[key]))
                        $"{key}: {written}, not {real[key]}")

let private planKeys =
    testCase "formats.md gives every key of a study's plan" (fun () ->
        let named (cell: string) = [ for m in Regex.Matches(cell, "`([^`]+)`") -> m.Groups[1].Value ]
        let documented = rows "Study plan" |> List.collect (fst >> named) |> List.sort
        let keys = [ for field in StudyPlan.toJson Study.tiny -> field.Key ] |> List.sort
        Expect.equal documented keys "the keys")

let private examples =
    testCase "the examples of configurations are accepted" (fun () ->
        example "Training configuration" |> TrainConfig.parse |> Generate.accepted "formats.md" |> ignore
        example "Image tokenizer training" |> ImageTrainConfig.parse |> Generate.accepted "formats.md" |> ignore
        example "Study plan" |> StudyPlan.parse |> Generate.accepted "formats.md" |> ignore

        for page in [ "study.md"; "findings.md" ] do
            let text = File.ReadAllText(Path.Combine(root, "docs", page))

            for plan in Regex.Matches(text, "```json\n(.*?)```", RegexOptions.Singleline) do
                StudyPlan.parse plan.Groups[1].Value |> Generate.accepted page |> ignore

        String.Join("\n", fst (parted (Some "json") (Path.Combine(root, "docs", "quick-start.md"))))
        |> TrainConfig.parse
        |> Generate.accepted "quick-start.md"
        |> ignore)

/// Plans that a page shows: the words of the command after `$ hybrid`, and what stands under it in the same fence.
let private plans (page: string) : (string list * string) list =
    [
        for block in Regex.Matches(File.ReadAllText page, "```\n\$ (hybrid plan (?:.|\\\\\n)*)\n((?:.|\n)*?)\n```") do
            let line = Regex.Replace(block.Groups[1].Value, "\\\\\n\s*", " ")

            match arguments line with
            | Some words -> words, block.Groups[2].Value
            | None -> ()
    ]

let private planned =
    testCase "the plans that scaling.md shows are what the command prints" (fun () ->
        let found = plans (Path.Combine(root, "docs", "scaling.md"))
        Expect.isGreaterThanOrEqual found.Length 6 "plans"

        for words, shown in found do
            match CommandLine.parse (List.toArray words) with
            | :? RunOutcome as outcome ->
                match outcome.Command with
                | :? PlanCommand as command ->
                    let printed = PlanJob.Make(command).ToText()
                    // Whole lines, the table at least.
                    Expect.stringContains ("\n" + printed + "\n") ("\n" + shown + "\n") (String.Join(" ", "hybrid" :: words))
                    Expect.stringContains shown "← picked" "the table"
                | other -> failtest $"{other}"
            | other -> failtest $"{other}")

let tests =
    testList
        "Docs"
        [
            testCase "relative links lead to a file" (fun () ->
                Expect.isNonEmpty pages "pages"
                none "broken links" (pages |> List.collect brokenLinks))
            testCase "files that a page names are there" (fun () ->
                Expect.isGreaterThan (pages |> List.collect filesNamed).Length 50 "files that were found"
                none "files that are not there" (pages |> List.collect missingFiles))
            testCase "command lines parse" (fun () ->
                let all = pages |> List.collect commandLines
                Expect.isGreaterThan all.Length 10 "command lines that were found"
                none "command lines that are refused" (pages |> List.collect refusals))
            trainingKeys
            imageTrainingKeys
            planKeys
            examples
            planned
        ]
