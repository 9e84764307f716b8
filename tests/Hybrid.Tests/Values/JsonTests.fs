module Hybrid.Tests.JsonTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate

/// Reads one of each kind of field.
let private readAll (json: JsonFields) =
    let inner = json.Object "inner"
    let deep = inner.Int("deep", 1, 9)
    inner.Finish()

    let result =
        json.Float("float", 0.0, 1.0),
        json.Int("int", -5, 5),
        json.Int64 "long",
        json.Bool "bool",
        json.Text "text",
        json.Choice("choice", [ "one", 1; "two", 2 ]),
        json.Texts "texts",
        json.Pair("pair", 0.0, 1.0),
        json.OptionalText "optional",
        deep

    json.Finish()
    result

let private good =
    """{"float": 0.5, "int": -5, "long": -9007199254740993, "bool": true, "text": "é", "choice": "two", "texts": ["a", "b"],
        "pair": [0, 1], "optional": null, "inner": {"deep": 3}}"""

/// The document with one key's value replaced.
let private withValue (key: string) (value: string) =
    let fields =
        [
            "float", "0.5"
            "int", "1"
            "long", "1"
            "bool", "true"
            "text", "\"t\""
            "choice", "\"one\""
            "texts", "[\"a\"]"
            "pair", "[0, 1]"
            "inner", "{\"deep\": 3}"
        ]

    fields
    |> List.map (fun (name, old) -> $"\"{name}\": {(if name = key then value else old)}")
    |> String.concat ", "
    |> fun body -> "{" + body + "}"

let tests =
    testList
        "Json"
        [
            testCase "reads one of each" (fun () ->
                let read = Json.parse good readAll |> accepted "a good document"

                Expect.equal read (0.5, -5, -9007199254740993L, true, "é", 2, [ "a"; "b" ], (0.0, 1.0), None, 3) "the values")

            testCase "every mistyped or out-of-range value is named" (fun () ->
                let wrong =
                    [
                        "float", [ "\"x\""; "1.5"; "-0.1"; "null"; "true"; "[1]"; "1e400" ]
                        "int", [ "0.5"; "6"; "-6"; "\"1\""; "1e99"; "null" ]
                        "long", [ "0.5"; "9223372036854775808"; "{}" ]
                        "bool", [ "0"; "\"true\""; "null" ]
                        "text", [ "1"; "null"; "[]" ]
                        "choice", [ "\"three\""; "\"One\""; "1"; "null" ]
                        "texts", [ "[]"; "\"a\""; "[1]"; "[\"a\", null]" ]
                        "pair", [ "[0]"; "[0, 1, 1]"; "[0, 2]"; "[-1, 0]"; "0"; "[\"a\", 1]" ]
                        "inner", [ "1"; "[]"; "null" ]
                    ]

                for key, values in wrong do
                    for value in values do
                        match Json.parse (withValue key value) readAll with
                        | Ok _ -> failtest $"{key} = {value} was accepted"
                        | Error errors ->
                            Expect.isNonEmpty
                                (errors |> List.filter (fun e -> e.StartsWith $"{key}:"))
                                $"{key} = {value} is named"

                            Expect.all errors (fun e -> e.StartsWith key) $"{key} = {value} is the only thing wrong; {errors}")

            testCase "every missing key is named, all at once" (fun () ->
                Json.parse "{}" readAll
                |> errorsAt "an empty document" [ "inner"; "float"; "int"; "long"; "bool"; "text"; "choice"; "texts"; "pair" ])

            testCase "errors of different kinds come together" (fun () ->
                let text =
                    """{"float": 2, "int": "x", "long": 1, "bool": true, "text": "t", "chioce": "one", "texts": ["a"], "pair": [0, 1],
                        "inner": {"deep": 0, "depe": 1}, "text": "again"}"""

                Json.parse text readAll
                |> errorsAt
                    "a document full of errors"
                    [ "float"; "int"; "choice"; "chioce"; "inner.deep"; "inner.depe"; "text" ])

            testCase "an unknown key is named with the nearest known one" (fun () ->
                match Json.parse (good.Replace("\"float\"", "\"flaot\"")) readAll with
                | Ok _ -> failtest "accepted"
                | Error errors ->
                    let unknown = errors |> List.filter (fun e -> e.StartsWith "flaot:")
                    Expect.equal unknown.Length 1 "one error for the key"
                    Expect.stringContains unknown.Head "did you mean float?" "the suggestion")

            testCase "an unknown key far from all lists what is known" (fun () ->
                match Json.parse (good.Replace("\"float\"", "\"zzzzzzzzzzzz\"")) readAll with
                | Ok _ -> failtest "accepted"
                | Error errors ->
                    let unknown = errors |> List.filter (fun e -> e.StartsWith "zzzz")
                    Expect.equal unknown.Length 1 "one error for the key"
                    Expect.stringContains unknown.Head "bool, choice, float" "what is known")

            testCase "text that is not JSON, or not an object, is one sentence" (fun () ->
                for text in [ ""; "{"; "nonsense"; "{\"a\": }"; "{} {}"; String.replicate 100 "[" ] do
                    match Json.parse text readAll with
                    | Ok _ -> failtest $"{text} was accepted"
                    | Error errors -> Expect.equal errors.Length 1 $"{text}: one error"

                for text in [ "[]"; "1"; "null"; "\"x\"" ] do
                    match Json.parse text readAll with
                    | Ok _ -> failtest $"{text} was accepted"
                    | Error errors -> Expect.stringContains errors.Head "must be an object" $"{text}")

            testCase "half a character pair is an error, not a crash" (fun () ->
                for text in
                    [
                        withValue "text" "\"\\ud800\""
                        withValue "choice" "\"\\ud800\""
                        withValue "texts" "[\"\\udc00\"]"
                        good.Replace("\"float\"", "\"\\ud800\"")
                    ] do
                    Expect.isError (Json.parse text readAll) text)

            testCase "edit distances" (fun () ->
                for a, b, edits in
                    [
                        "", "", 0
                        "", "abc", 3
                        "kitten", "sitting", 3
                        "Seed", "seed", 0
                        "flaw", "lawn", 2
                        "flaot", "float", 1
                    ] do
                    Expect.equal (Suggest.distance a b) edits $"{a} to {b}"
                    Expect.equal (Suggest.distance b a) edits $"{b} to {a}")

            property "the nearest word is the one that was meant" (fun seed ->
                let chooser = Chooser seed
                let words = [ "learningRate"; "weightDecay"; "sequences"; "checkpoint"; "imageCodes" ]
                let word = chooser.Of words
                let place = chooser.Int(0, word.Length - 1)

                let typo =
                    match chooser.Int(0, 2) with
                    | 0 -> word.Remove(place, 1)
                    | 1 -> word.Insert(place, "x")
                    | _ -> word.Remove(place, 1).Insert(place, "q")

                Expect.equal (Suggest.nearest words typo) (Some word) typo
                Expect.equal (Suggest.nearest words "~") None "nothing is near")
        ]
