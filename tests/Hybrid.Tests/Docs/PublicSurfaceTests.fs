/// What others see of the core: every public type and member says what it is, and none comes or goes unnoticed. (The compiler sees to it
/// that the program's say what they are.)
module Hybrid.Tests.PublicSurfaceTests

open System
open System.IO
open System.Reflection
open Expecto
open Hybrid

let private core: Assembly = typeof<ShapeException>.Assembly

/// The members of an assembly whose summary is missing or empty in the XML file beside it.
let private silent (assembly: Assembly) : string list =
    let said = Path.Combine(AppContext.BaseDirectory, $"{assembly.GetName().Name}.xml") |> PublicMembers.summaries

    PublicMembers.ofAssembly assembly
    |> List.filter (fun m -> not (said.Contains m.Id))
    |> List.map (fun m -> $"{m.Id}  ({m.Signature})")

let private documented =
    testCase "every public type and member has a summary" (fun () ->
        Expect.isGreaterThan (PublicMembers.ofAssembly core).Length 1000 "public members that were found"
        let found = silent core
        let listed = String.Join("\n", found)

        if not found.IsEmpty then
            failtest $"{found.Length} have no summary (make them internal, or say what they are):\n{listed}")

// ---- the baseline ----

let private baselineFile = "PublicApi.txt"

/// Rewrites the baseline instead of comparing with it.
let private accept = "HYBRID_ACCEPT_API"

let private baseline =
    testCase "the public API is that of the baseline" (fun () ->
        let now =
            PublicMembers.ofAssembly core
            |> List.map _.Signature
            |> List.distinct
            |> List.sortWith (fun a b -> String.CompareOrdinal(a, b))

        let file = Path.Combine(Repository.root, "tests", "Hybrid.Tests", "Docs", baselineFile)

        if not (String.IsNullOrEmpty(Environment.GetEnvironmentVariable accept)) then
            File.WriteAllLines(file, now)

        let before = File.ReadAllLines file |> Array.toList
        let added, removed = List.except before now, List.except now before

        if not (added.IsEmpty && removed.IsEmpty) then
            let lines = String.Join("\n", [ for line in removed -> "- " + line ] @ [ for line in added -> "+ " + line ])

            failtest
                $"the public API has changed. If it is meant so, run this test once with {accept}=1, which rewrites {baselineFile}, and commit that with the change:\n{lines}"

        Expect.equal before now "the order of the baseline's lines")

let tests = testList "Public surface" [ documented; baseline ]
