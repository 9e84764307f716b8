module Hybrid.Tests.SettingsTests

open System.Collections.Generic
open Expecto
open Hybrid
open Hybrid.Tests.Generate

let private shortest =
    """{ "model": { "config": "m" }, "vocabulary": { "textRows": 1, "imageCodes": 0 }, "data": { "train": ["a"] },
         "optimizer": { "learningRate": 0.5 }, "schedule": { "steps": 1 }, "batch": { "sequences": 1 } }"""

let private pairs (values: (string * string) list) = [ for key, value in values -> KeyValuePair(key, value) ]

/// What is said of names and values that are put into the shortest training configuration.
let private said (values: (string * string) list) : string list =
    match TrainConfig.parseWith (pairs values) shortest with
    | Ok _ -> failtest $"{values} was accepted"
    | Error errors -> errors

let private saidOnce (name: string) (value: string) : string =
    match said [ name, value ] with
    | [ sentence ] -> sentence
    | sentences -> failtest $"{name}: not one sentence but {sentences}"

let tests =
    testList
        "Settings"
        [
            testCase "a name that is no key is answered with the dotted name that was meant" (fun () ->
                for name in
                    [ "learningRate"; "optimizer.learnigRate"; "optimzer.learningRate"; "optimizer.learning"; "LearningRate" ] do
                    Expect.equal
                        (saidOnce name "1")
                        $"--set {name}: there is no such key. Did you mean optimizer.learningRate (a number from 0 to 1000000, now 0.5)?"
                        name)

            testCase "a name that stands for an object is answered with its keys" (fun () ->
                for name in [ "optimizer."; "optimizer"; "schedule."; "memory" ] do
                    let sentence = saidOnce name "1"
                    let start = name.TrimEnd '.' + "."

                    for key in TrainConfig.keys.Value do
                        if key.Name.StartsWith start then
                            Expect.stringContains sentence $"\n    {key.Name} " $"{name}: {key.Name}")

            testCase "an object may take the place of an object" (fun () ->
                let config =
                    TrainConfig.parseWith (pairs [ "schedule", """{ "steps": 7 }"""; "batch.sequences", "3" ]) shortest
                    |> accepted "the configuration"

                Expect.equal (config.Schedule.Steps, config.Sequences) (7, 3) "both")

            testCase "names that nothing is like, and that lead through a value, get one sentence each" (fun () ->
                Expect.stringContains (saidOnce "zzzzzzzz" "1") "Names begin with one of model, " "what there is"
                Expect.stringContains (saidOnce "optimizer.zzzzzzzz" "1") "\n    optimizer.betas " "what the object has"
                Expect.equal (saidOnce "seed.x" "1") "--set seed.x: seed has no keys of its own; it must be an integer." "seed"
                Expect.stringContains (saidOnce "optimizer.learningRate.x" "1") "learningRate is not an object" "a value"
                Expect.stringContains (saidOnce "a..b" "1") "a part of the name is empty" "an empty part")

            testCase "several mistakes come together, those of the file too" (fun () ->
                match
                    TrainConfig.parseWith
                        (pairs [ "learningRate", "1"; "schedule.kind", "cosin" ])
                        (shortest.Replace("0.5", "-1"))
                with
                | Ok _ -> failtest "accepted"
                | Error errors ->
                    Expect.hasLength errors 3 "three"
                    Expect.exists errors (fun error -> error.StartsWith "--set learningRate: ") "the name"
                    Expect.exists errors (fun error -> error.EndsWith "Did you mean cosine?") "the value"
                    Expect.exists errors (fun error -> error.StartsWith "optimizer.learningRate: must be") "the file")

            testCase "a choice that is misspelt is answered with the one that was meant, at any depth" (fun () ->
                for key in TrainConfig.keys.Value @ ImageTrainConfig.keys.Value do
                    for choice in key.Choices do
                        let sentences =
                            let base', parse =
                                if List.exists (fun (known: JsonKey) -> known = key) TrainConfig.keys.Value then
                                    shortest, (fun values text -> TrainConfig.parseWith values text |> Result.map ignore)
                                else
                                    """{ "imageSize": 64 }""",
                                    (fun values text -> ImageTrainConfig.parseWith values text |> Result.map ignore)

                            match parse (pairs [ key.Name, "\"" + choice + "q\"" ]) base' with
                            | Ok() -> failtest $"{key.Name} took {choice}q"
                            | Error sentences -> sentences

                        Expect.exists
                            sentences
                            (fun sentence -> sentence.EndsWith $"Did you mean {choice}?")
                            $"{key.Name} {choice}")

            testCase "what fits a key of another object is named in a file as well" (fun () ->
                match TrainConfig.parse (shortest.Replace("\"batch\"", "\"weightDecay\": 0, \"batch\"")) with
                | Ok _ -> failtest "accepted"
                | Error errors ->
                    Expect.equal
                        errors
                        [ "weightDecay: is not a known key; did you mean optimizer.weightDecay?" ]
                        "the whole name")

            property "a typo in the last key of any name is seen through" (fun seed ->
                let chooser = Chooser seed
                let keys = TrainConfig.keys.Value |> List.filter (fun key -> key.Wanted <> "an object")
                let key = (chooser.Of keys).Name
                let last = key.LastIndexOf '.' + 1

                if key.Length - last >= 6 then
                    let typo = key.Insert(chooser.Int(last + 1, key.Length - 1), "q")
                    Expect.stringContains (saidOnce typo "1") key typo)

            testCase "every key of the resolved configurations is known, and says what it may be" (fun () ->
                let rec names (path: string) (node: System.Text.Json.Nodes.JsonNode | null) =
                    match node with
                    | :? System.Text.Json.Nodes.JsonObject as fields ->
                        [
                            for field in fields do
                                yield! names (if path = "" then field.Key else path + "." + field.Key) field.Value
                        ]
                    | _ -> [ path ]

                let resolved =
                    TrainConfig.parse shortest |> accepted "it" |> TrainConfig.toJson |> System.Text.Json.Nodes.JsonNode.Parse

                for name in names "" resolved do
                    match TrainConfig.keys.Value |> List.tryFind (fun key -> key.Name = name) with
                    | Some key -> Expect.isNotEmpty key.Wanted name
                    | None -> failtest $"{name} is not known")
        ]
