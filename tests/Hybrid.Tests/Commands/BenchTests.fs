module Hybrid.Tests.BenchTests

open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Tests.Running

let private figure (found: JsonElement) (key: string) = (found.GetProperty key).GetDouble()

let private train =
    testCase "bench train gives figures that follow from each other" (fun () ->
        let found =
            result
                [
                    yield! [ "bench"; "train"; "--size"; "tiny"; "--batch"; "4"; "--micro-batch"; "2" ]
                    yield! [ "--positions"; "24"; "--steps"; "2"; "--profile" ]
                ]

        let figure = figure found
        let config = { ModelConfig.openLm 128 4 4 1024 24 with Rows = 1024 }
        Expect.equal (figure "parameters") (float (Decoder.parameterCount config)) "parameters"
        Expect.equal (figure "flop_per_token") (ModelConfig.flopsPerToken config 24) "operations of a token"
        Expect.floatClose Accuracy.high (figure "tokens_per_second" * figure "step_seconds") (4.0 * 24.0) "tokens of a step"

        Expect.floatClose
            Accuracy.high
            (figure "share_of_peak" * figure "matrix_peak_flops")
            (figure "tokens_per_second" * figure "flop_per_token")
            "share of the peak"

        let parts = [ for part in (found.GetProperty "profile").EnumerateObject() -> part.Name, part.Value.GetDouble() ]

        Expect.containsAll
            (List.map fst parts)
            [
                for name in
                    [
                        "embedding"
                        "attention"
                        "feed_forward"
                        "head_and_loss"
                        "backward"
                        "clip"
                        "optimizer"
                        "cast"
                        "data_beside"
                    ] -> name + "_seconds"
            ]
            "parts of a step"

        for name, seconds in parts do
            Expect.isGreaterThan seconds 0.0 name

        // Without instructions for bf16 square products are no peak: narrow ones are faster.
        if figure "matrix_peak_flops" > 2e10 then
            Expect.isLessThan (figure "share_of_peak") 1.0 "no more than the peak"

        Expect.isGreaterThan (figure "peak_rss_bytes") 1e7 "memory")

let private sequences =
    testCase "measured sequences hold every kind of id but padding" (fun () ->
        for vocabulary in [ { TextRows = 5; ImageCodes = 3 }; Vocabulary.plainText 4 ] do
            let ids = BenchModels.Sequences(vocabulary, 20, 30, 1) |> Array.concat |> Array.distinct |> Array.sort

            let wanted =
                [|
                    for id in 0 .. vocabulary.Rows - 1 do
                        if vocabulary.ImageCodes = 0 || id <> vocabulary.Pad then
                            int64 id
                |]

            Expect.equal ids wanted "ids")

let private refusals =
    testCase "a size and a model are not measured together" (fun () ->
        let code, _, errors = program [ "bench"; "train"; "--size"; "tiny"; "--model"; "nowhere" ]
        Expect.equal code 2 "exit code"
        Expect.stringContains errors "one model is measured at a time" "why")

let tests = testList "Bench" [ train; sequences; refusals ]
