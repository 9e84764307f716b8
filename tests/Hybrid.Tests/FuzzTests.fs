/// Every reader of files against damaged ones: each is read, or refused in a sentence, in bounded time and memory.
module Hybrid.Tests.FuzzTests

open System
open Expecto
open Hybrid.Tests.FuzzSupport

let private share = max 1 (inputs / FuzzSeeds.targets.Length)

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

let tests =
    testList
        "Fuzz"
        [
            testSequenced (testList "damage" (FuzzSeeds.targets |> List.map damaged))
        ]
