/// `hybrid evaluate --details` from end to end.
module Hybrid.Tests.DetailsCommandTests

open System
open System.IO
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport

let private numbers (from: JsonElement) (key: string) : float[] =
    [|
        for number in (from.GetProperty key).EnumerateArray() ->
            if number.ValueKind = JsonValueKind.Null then nan else number.GetDouble()
    |]

let private value (from: JsonElement) (key: string) : float = (from.GetProperty key).GetDouble()

let private within (from: JsonElement) (path: string list) : JsonElement =
    path |> List.fold (fun (at: JsonElement) key -> at.GetProperty key) from

/// The sum over the places of an object with `count` and a mean.
let private total (places: JsonElement) (key: string) : float =
    Array.map2 (fun n mean -> if n = 0.0 then 0.0 else n * mean) (numbers places "count") (numbers places key)
    |> Array.sum

/// A run of a few steps, and the checkpoint that it began from.
let private trained (folder: Folder) : string =
    let config = prepare folder ""
    run config (folder.At "first") null |> ignore

    let again =
        File
            .ReadAllText(config)
            .Replace(
                "\"model\": { \"config\": \"model.json\" }",
                "\"model\": { \"checkpoint\": \"first\" }, \"initialisation\": \"pretrained\""
            )

    let second = folder.Write("second.json", again)
    run second (folder.At "run") null |> ignore
    folder.At "run"

let private details =
    testCase "details add up to the losses, and what was there stays as it was" (fun () ->
        use folder = new Folder()
        let model = trained folder
        let tokens = folder.At "held.npy"
        let line = [ "evaluate"; "--model"; model; "--tokens"; tokens ]
        let plain = result line

        let found =
            result (line @ [ "--details"; "--grid"; "2"; "2"; "--sequences"; "3"; "--against"; folder.At "first" ])

        for key in plain.EnumerateObject() do
            Expect.equal (found.GetProperty(key.Name).GetRawText()) (key.Value.GetRawText()) key.Name

        let more = found.GetProperty "details"
        let sum kind = value (found.GetProperty "loss") kind * value (found.GetProperty "count") kind
        let inside kind = value (within found [ "within"; "loss" ]) kind * value (found.GetProperty "count") kind

        for kind in [ "image"; "text" ] do
            for part in [ "positions"; "by_caption" ] do
                let places = within more [ kind; part ]
                near 1e-3 1e-5 $"{kind} {part}" (sum kind) (total places "loss")
                near 1e-3 1e-5 $"{kind} {part} within" (inside kind) (total places "within")

            let leak = within more [ "leak"; kind ]

            near
                1e-4
                1e-4
                $"leak of {kind}"
                ((sum kind - inside kind) / value (found.GetProperty "count") kind)
                (value leak "mean")

        near 1e-3 1e-5 "marks" (sum "structure") (total (more.GetProperty "marks") "loss")

        for part in [ "rows"; "columns" ] do
            let places = within more [ "image"; part ]
            Expect.equal (numbers places "count") [| 12.0; 12.0 |] $"6 pictures of 2 by 2: {part}"
            near 1e-3 1e-5 part (sum "image") (total places "loss")

        Expect.equal (numbers more "grid") [| 2.0; 2.0 |] "the grid"
        let used = within more [ "codes"; "data" ]
        Expect.equal (value used "codes") (float codes) "codes"
        Expect.isTrue (value used "entropy" <= Math.Log2(float codes)) "bits"
        let attention = more.GetProperty "attention"
        Expect.equal (value attention "queries") 12.0 "3 pictures of 4 codes"

        for layer in attention.GetProperty("layers").EnumerateArray() do
            let part key = numbers layer key

            for h in 0..1 do
                let masses = [ for key in [ "text"; "marks"; "image"; "self" ] -> (part key)[h] ]
                near 1e-5 0.0 "masses" 1.0 (List.sum masses)

        let gradients = more.GetProperty "gradients"
        Expect.isTrue (abs (value (gradients.GetProperty "all") "cosine") <= 1.0) "a cosine"
        let against = more.GetProperty "against"
        Expect.isGreaterThan (value (within against [ "distance"; "all" ]) "distance") 0.0 "it has moved"
        let other = result [ "evaluate"; "--model"; folder.At "first"; "--tokens"; tokens ]
        let loss (of': JsonElement) kind = value (of'.GetProperty "loss") kind

        for kind in [ "total"; "text"; "image"; "structure" ] do
            let difference = within against [ "difference"; kind ]
            near 1e-6 1e-6 $"difference of {kind}" (loss found kind - loss other kind) (value difference "mean")
            let interval = numbers difference "interval"
            Expect.isTrue (interval[0] <= value difference "mean" && value difference "mean" <= interval[1]) "its interval")

let private people =
    testCase "for a person: tables of at most 80 columns; the model against itself is where it was" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        run config (folder.At "run") null |> ignore
        let line = [ "evaluate"; "--model"; folder.At "run"; "--tokens"; folder.At "held.npy"; "--details" ]
        let code, output, errors = program (line @ [ "--against"; folder.At "run" ])
        Expect.equal code 0 errors

        for part in
            [
                "leak to other kinds"
                "image loss by place in the picture (--grid H W gives rows)"
                "text loss by length of the caption"
                "gradients of text and image loss over 6 sequences"
                "attention where image codes are predicted"
                "loss less that of"
                "distance from it"
            ] do
            Expect.stringContains output part "a table"

        let known (row: string) = not (row.Contains(folder.At "run"))

        for row in output.Split '\n' |> Array.filter known do
            Expect.isLessThanOrEqual row.Length 80 row

        let last = (output.TrimEnd().Split '\n' |> Array.last).Split(' ', StringSplitOptions.RemoveEmptyEntries)
        Expect.equal last[..2] [| "all"; "0"; "1.000" |] "no distance, the same direction")

let private shards =
    testCase "shards say their grid; another one, or one that does not fit, is refused" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        run config (folder.At "run") null |> ignore

        using
            (new ShardWriter(ShardManifest.Create(folder.At "shards"), ShardInfo(textRows, codes, 1, 4, 8, "none", "", ""), 4))
            (fun writer ->
                for sequence in sequences 3L 5 do
                    let _, caption, picture = Sequence.decompose vocabulary sequence
                    writer.Add(ReadOnlySpan caption, ReadOnlySpan picture)

                writer.Finish false)

        let line = [ "evaluate"; "--model"; folder.At "run"; "--details"; "--tokens" ]
        let found = (result (line @ [ folder.At "shards" ])).GetProperty "details"
        Expect.equal (numbers found "grid") [| 1.0; 4.0 |] "the grid of the shards"
        Expect.equal (numbers (within found [ "image"; "columns" ]) "count") [| 5.0; 5.0; 5.0; 5.0 |] "columns"

        for tokens in [ "shards"; "held.npy" ] do
            let code, output, errors = program (line @ [ folder.At tokens; "--grid"; "3"; "2"; "--json" ])
            Expect.equal (code, output) (2, "") "refused"
            Expect.stringContains errors "--grid 3 2 has 6 places" "the sentence"
            Expect.stringContains errors "4 codes" "what the pictures have")

let private strangers =
    testCase "against a model of another shape, and one with neither weights nor words in common" (fun () ->
        use folder = new Folder()
        let config = prepare folder ""
        run config (folder.At "run") null |> ignore

        /// A run of another model over the same or other text rows.
        let other (name: string) (change: string) (rows: int) =
            folder.Write(name + ".json", (description rows).Replace("\"n_layers\": 2", change)) |> ignore

            let text =
                File
                    .ReadAllText(config)
                    .Replace("model.json", name + ".json")
                    .Replace("\"steps\": 12", "\"steps\": 1")
                    .Replace("\"warmupSteps\": 2", "\"warmupSteps\": 0")
                    .Replace($"\"textRows\": {textRows}", $"\"textRows\": {rows}")

            run (folder.Write(name + "-run.json", text)) (folder.At name) null |> ignore
            folder.At name

        let line = [ "evaluate"; "--model"; folder.At "run"; "--tokens"; folder.At "held.npy"; "--details" ]

        for name, layers in [ "deeper", 3; "shallower", 1 ] do
            let path = other name $"\"n_layers\": {layers}" textRows
            let found = within (result (line @ [ "--against"; path ])) [ "details"; "against" ]
            Expect.equal (found.GetProperty("distance").ValueKind) JsonValueKind.Null $"{name}: no distance"
            Expect.isTrue (Double.IsFinite(value (within found [ "difference"; "text" ]) "mean")) $"{name}: a difference"

        let stranger = other "stranger" "\"n_layers\": 1" (textRows + 3)
        let code, output, errors = program (line @ [ "--against"; stranger; "--json" ])
        Expect.equal (code, output) (1, "") "refused"
        Expect.stringContains errors "cannot be compared" "the sentence")

let private extended =
    testCase
        "against the language model of before the extension: old rows have a distance, new ones a norm, losses none"
        (fun () ->
            use folder = new Folder()
            let config = prepare folder ""
            let stream = Random.ofSeed 8L

            let texts =
                [| for i in 0..9 -> [| for t in 0..15 -> int64 (Random.below textRows stream (int64 (16 * i + t))) |] |]

            writeTokens (folder.At "text.npy") texts
            let both = File.ReadAllText config

            let text =
                both
                    .Replace($"\"imageCodes\": {codes}", "\"imageCodes\": 0")
                    .Replace("train.npy", "text.npy")
                    .Replace("held.npy", "text.npy")

            run (folder.Write("text.json", text)) (folder.At "text") null |> ignore

            let grown =
                both.Replace(
                    "\"model\": { \"config\": \"model.json\" }",
                    "\"model\": { \"checkpoint\": \"text\" }, \"initialisation\": \"pretrained\""
                )

            run (folder.Write("grown.json", grown)) (folder.At "grown") null |> ignore

            let details =
                (result
                    [
                        "evaluate"
                        "--model"
                        folder.At "grown"
                        "--tokens"
                        folder.At "held.npy"
                        "--details"
                        "--against"
                        folder.At "text"
                    ])
                    .GetProperty
                    "details"

            let against = details.GetProperty "against"
            Expect.equal (against.GetProperty("difference").ValueKind) JsonValueKind.Null "no difference of losses"

            let groups =
                [
                    for group in (within against [ "distance"; "groups" ]).EnumerateArray() ->
                        group.GetProperty("group").GetString(), group
                ]

            let group name = groups |> List.find (fun (other, _) -> other = name) |> snd
            let old, added = group "embedding, text rows", group "embedding, new rows"

            Expect.equal
                (value old "parameters", value added "parameters")
                (float (16 * textRows), float (16 * (7 + codes)))
                "rows"

            Expect.isTrue (value old "distance" > 0.0 && value old "distance" < 1.0) "old rows have moved"
            Expect.equal (added.GetProperty("distance").ValueKind) JsonValueKind.Null "new rows have no start"
            Expect.isGreaterThan (value added "norm") 0.0 "but a norm"

            // The language model by itself has no pictures: no codes, no gradients to compare, no attention from codes.
            let plain =
                (result [ "evaluate"; "--model"; folder.At "text"; "--tokens"; folder.At "text.npy"; "--details" ]).GetProperty
                    "details"

            for key in [ "codes"; "gradients"; "attention"; "against"; "grid" ] do
                Expect.equal (plain.GetProperty(key).ValueKind) JsonValueKind.Null key

            Expect.equal (Array.sum (numbers (within plain [ "text"; "positions" ]) "count")) 150.0 "15 targets of 10 texts")

let tests = testList "DetailsCommand" [ details; people; shards; strangers; extended ]
