/// docs/csharp.md: its C# is that of tests/Hybrid.Snippets, which compiles, runs, and leaves no tensor behind.
module Hybrid.Tests.CSharpPageTests

open System
open System.IO
open System.Text.RegularExpressions
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Snippets
open TorchSharp

let private dedented (lines: string list) : string =
    let indent (line: string) = line.Length - line.TrimStart().Length
    let least = lines |> List.filter (String.IsNullOrWhiteSpace >> not) |> List.map indent |> List.min
    String.Join("\n", [ for line in lines -> if String.IsNullOrWhiteSpace line then "" else line[least..].TrimEnd() ])

/// The regions of the snippets' sources, by name.
let private regions: (string * string) list =
    [
        for file in Directory.GetFiles(Path.Combine(Repository.root, "tests", "Hybrid.Snippets"), "*.cs") do
            let text = File.ReadAllText(file).ReplaceLineEndings "\n"

            for m in Regex.Matches(text, @"[ ]*#region (.+)\n((?:.*\n)*?)[ ]*#endregion") do
                m.Groups[1].Value.Trim(), dedented (List.ofArray (m.Groups[2].Value.TrimEnd('\n').Split '\n'))
    ]

/// The page's C#, block by block.
let private blocks: string list =
    let text = File.ReadAllText(Path.Combine(Repository.root, "docs", "csharp.md")).ReplaceLineEndings "\n"
    [ for m in Regex.Matches(text, "```csharp\n((?:.*\n)*?)```") -> m.Groups[1].Value.TrimEnd '\n' ]

let private same =
    testCase "the page shows what is compiled" (fun () ->
        Expect.isGreaterThan regions.Length 6 "regions"

        for name, text in regions do
            Expect.contains blocks text $"the region '{name}' stands on docs/csharp.md as it is compiled"

        Expect.equal blocks.Length regions.Length "every block of C# on the page is a region of tests/Hybrid.Snippets")

/// Runs a snippet twice, and counts the tensors that the second run leaves; the first may leave constants that are made once.
let private clean (name: string) (snippet: unit -> unit) =
    testCase name (fun () ->
        snippet ()
        let before = Generate.liveTensors ()
        snippet ()
        Expect.equal (Generate.liveTensors ()) before "tensors that are left")

/// A small model as an open_lm file with its description.
let private written (folder: Folder) : string * string =
    let config = ModelConfig.openLm 32 2 4 100 64
    let vocabulary = Vocabulary.plainText 100
    use model = Api.Model.Random(config, vocabulary, Api.Layout(), 1L)
    let path, description = folder.At "model.safetensors", folder.At "model.json"

    let tensors =
        [|
            for shape in Api.Architecture.Parameters config ->
                TensorSource(shape.Name, torch.ScalarType.Float32, shape.Shape, (fun () -> model.Values shape.Name))
        |]

    SafeTensorsWriter.Write(path, tensors)
    File.WriteAllText(description, Api.Exports.OpenLm(config, vocabulary).Json)
    path, description

let tests =
    testList
        "The page on C#"
        [
            same
            clean "a model" (fun () ->
                Expect.floatClose
                    { absolute = 1.0; relative = 0.0 }
                    (Composing.RandomModel())
                    (log 171.0)
                    "a random model's loss")
            clean "a block" (fun () ->
                let struct (before, after) = Composing.OwnBlock()
                Expect.isLessThan after (0.5 * before) "the loss after 30 steps")
            clean "a loss" (fun () ->
                let struct (before, after, terms) = Composing.OwnTerm()
                Expect.isLessThan after (0.5 * before) "the loss after 30 steps"
                Expect.sequenceEqual [ for term in terms -> term.Name ] [ "text"; "image"; "structure"; "focal"; "z" ] "terms")
            clean "an extension" (fun () ->
                let struct (moving, kept) = Composing.Extended()
                Expect.isTrue kept "old logits keep their bits"
                Expect.equal moving (2L * 71L * 32L) "only the new rows of two tables move")
            clean "open_lm weights" (fun () ->
                use folder = new Folder()
                let path, description = written folder
                Expect.equal (Composing.FromOpenLm(path, description)) [| 1L; 3L; 100L |] "logits")
            clean "a study arm" (fun () ->
                let struct (runs, json, judged) = Experiments.Study()

                Expect.equal
                    [ for run in runs -> run.Plan.Name ]
                    (List.collect (List.replicate 3) [ "replay-light"; "replay-light-random" ])
                    "runs"

                Expect.equal judged.Verdict Report.Verdict.Holds "the verdict"
                StudyPlan.parse json |> Generate.accepted "the plan" |> ignore)
            clean "the twins" (fun () ->
                let struct (pretrained, random) = Experiments.Twins(2, 6)
                let late (losses: float[]) = Array.average losses[3..]
                Expect.isLessThan (late pretrained) pretrained[0] "the pre-trained twin learns"
                Expect.isLessThan (late random) random[0] "the random twin learns")
        ]
