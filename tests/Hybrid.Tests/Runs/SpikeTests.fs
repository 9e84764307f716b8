/// Spikes of the loss: what is one, and going back before it.
module Hybrid.Tests.SpikeTests

open System
open System.IO
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Tests.DurableSupport
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport

let private heights =
    property "a spike is judged by mean and deviation of the window before it" (fun seed ->
        let chooser = Chooser seed
        let window = chooser.Int(2, 20)
        let rule = { Deviations = Some 3.0; Window = window; Action = SpikeAction.Warn; Limit = 1 }
        let mutable before: float[] = [||]
        let all = [| for _ in 0..60 -> chooser.Float(0.0, 10.0) |]

        for i, loss in Array.indexed all do
            match Spikes.height rule before loss with
            | None -> Expect.isLessThan i window "too few"
            | Some height ->
                let last = all[i - window .. i - 1]
                let mean = Array.average last
                let deviation = sqrt (Array.average [| for x in last -> (x - mean) ** 2.0 |])
                near 1e-9 1e-6 "height" ((loss - mean) / deviation) height

            before <- Spikes.after rule before loss

        Expect.equal (Spikes.after rule before nan) before "what is not finite is left out"
        Expect.isNone (Spikes.height rule before nan) "and is no spike"
        Expect.isEmpty (Spikes.after { rule with Deviations = None } [||] 1.0) "nothing is kept where nothing is a spike")

let private rewinds =
    testCase "after a spike the run goes back, passes over the sequences up to it, and keeps one line for each step" (fun () ->
        use folder = new Folder()

        let config =
            configured folder "c.json" (everything @ [ "checkpoint.keepLast", "null"; "spikes.deviations", "2.6" ])

        let outcome = run config (folder.At "run") null
        Expect.equal (losses outcome |> Array.map fst) [| 0..199 |] "a line for each step"
        let lines = File.ReadAllLines(folder.At "run/metrics.jsonl") |> Array.map parsed

        let noted =
            lines
            |> Array.filter (fun line -> fst (line.TryGetProperty "rewound"))
            |> Array.map (fun line -> (line.GetProperty "step").GetInt32(), line.GetProperty "rewound")

        Expect.isNonEmpty noted "it went back"

        for step, note in noted do
            Expect.equal (step % 15) 0 "to a checkpoint"
            Expect.isGreaterThanOrEqual ((note.GetProperty "step").GetInt32()) step "from a step after it"
            Expect.isGreaterThan ((note.GetProperty "deviations").GetDouble()) 2.6 "because of a spike"

        let state = (Checkpoints(folder.At "run").Newest() |> nonNull).State
        Expect.equal state.Position (200L * 4L + state.PassedOver) "the position"
        Expect.isGreaterThan state.PassedOver 0L "sequences were passed over"
        Expect.isGreaterThanOrEqual state.Rewinds noted.Length "times"

        let limited = configured folder "d.json" (everything @ [ "spikes.limit", "1"; "spikes.deviations", "2.6" ])

        fails [ "went back 1 times already"; "spikes.limit" ] (fun () -> run limited (folder.At "limited") null |> ignore)

        let warned = configured folder "e.json" (everything @ [ "spikes.action", "warn" ])
        run warned (folder.At "warned") null |> ignore

        Expect.isTrue
            (File.ReadAllLines(folder.At "warned/metrics.jsonl") |> Array.exists (fun line -> line.Contains "\"spike\":"))
            "the line says that it was a spike"

        Expect.equal ((Checkpoints(folder.At "warned").Newest() |> nonNull).State.Position) 800L "no sequence was passed over")

let tests =
    TorchLibrary.Load()
    testList "Spikes" [ heights; rewinds ]
