/// Every reader of files against damaged ones: each is read, or refused in a sentence, in bounded time and memory.
module Hybrid.Tests.FuzzTests

open System
open Expecto
open Hybrid.Tests.FuzzSupport

let private share = max 1 (inputs / FuzzTextSeeds.targets.Length)

let private report (tally: Tally) =
    printfn
        "%-26s %7d inputs, %6d read, slowest %5.0f ms, %5.1f bytes a byte, %5.1f s"
        tally.Target
        tally.Inputs
        tally.Accepted
        tally.Slowest.TotalMilliseconds
        tally.Heaviest
        tally.Elapsed.TotalSeconds

let private damaged (target: Target) =
    testCase $"damaged inputs are read or refused, nothing else: {target.Name}" (fun () ->
        let tally = attack target 0L share

        if isNull (Environment.GetEnvironmentVariable "HYBRID_FUZZ") |> not then
            report tally

        if not tally.Failures.IsEmpty then
            failtest (String.concat "\n" tally.Failures)

        // Damage that nothing survives, or that spares everything, tries little of a reader.
        if share >= 100 then
            Expect.isGreaterThan tally.Accepted 0 "some are read"

            if not target.Tolerant then
                Expect.isLessThan tally.Accepted share "some are refused")

/// Inputs that were once neither read nor refused.
let private found =
    let half = "\\ud800"

    [
        "training configuration", "half of a surrogate pair in a name", $$"""{"seed":1,"note":"{{half}}"}""", "surrogate"
        "training configuration",
        "a character of value 0 in a path",
        """{"model":{"config":"a\u0000b"},"vocabulary":{"textRows":3,"imageCodes":2},"data":{"train":["a"]},"optimizer":{"learningRate":1},"schedule":{"steps":1},"batch":{"sequences":1}}""",
        "value 0"
        "study plan", "a long key that nobody knows", "{\"" + String('k', 200_000) + "\":1}", "known"
        "probe task", "half of a surrogate pair", $$"""[{"input":"{{half}}","output":"b"}]""", "surrogate"
        "inspect json", "a tokenizer whose model is a list", """{"added_tokens":[],"model":[1]}""", "must be an object"
        "inspect json", "a key given twice", """{"a":1,"a":2}""", "a"
        "inspect json", "half of a surrogate pair", $$"""{"model_type":"{{half}}"}""", "valid JSON"
        "tokenizer.json",
        "a merge that is shorter than the prefix of what follows",
        """{"version":"1.0","added_tokens":[],"model":{"type":"BPE","continuing_subword_prefix":"b b","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}""",
        "continuing_subword_prefix"
        "tokenizer.json",
        "a decoder that takes more than a token has",
        """{"version":"1.0","added_tokens":[],"decoder":{"type":"Strip","content":"a","start":0,"stop":3},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""",
        "Strip"
    ]

let private regressions =
    [
        for name, what, text, part in found do
            testCase $"{name}: {what}" (fun () ->
                let target = FuzzTextSeeds.targets |> List.find (fun target -> target.Name = name)
                let failure, sentence = once target (System.Text.Encoding.UTF8.GetBytes text)
                Expect.isNone failure "read or refused, within bounds"
                Expect.stringContains sentence part "the sentence")
    ]

let tests =
    testList
        "Fuzz"
        [
            testList "found" regressions
            testSequenced (testList "damage" (FuzzTextSeeds.targets |> List.map damaged))
        ]
