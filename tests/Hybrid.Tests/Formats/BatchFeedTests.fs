module Hybrid.Tests.BatchFeedTests

open System
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open TorchSharp

let private layout: Vocabulary = { TextRows = 50; ImageCodes = 16 }

let private plan (padding: string) : TrainPlan =
    TrainPlan(
        Descriptions.Training(
            "the feed",
            $$"""{ "model": { "config": "none" }, "vocabulary": { "textRows": 50, "imageCodes": 16 },
                   "data": { "train": ["none"], "length": 24 }, "optimizer": { "learningRate": 1e-3 }, "schedule": { "steps": 9 },
                   "batch": { "sequences": 6, "microBatch": 2, "padding": "{{padding}}" }, "seed": 5 }""",
            []
        )
    )

/// Sequences that are a function of their place and position, each later or earlier than its turn; `before` sees what is asked for.
let private source (before: int64 -> int64 -> unit) : ISequenceSource =
    { new ISequenceSource with
        member _.Count = 17L
        member _.Length = 24
        member _.Name = "a source"

        member _.Row(place, position) =
            before place position
            Thread.Sleep(int ((place * 7L + position) % 3L))
            let chooser = Chooser(place + 1000L * position)
            sequence chooser layout 24

        member _.Dispose() = ()
    }

let private contents (batches: Batch[]) =
    [
        for batch in batches do
            let result = ids batch.Inputs, ids batch.Targets, ids batch.Kinds, List.ofArray batch.Counts, batch.Inputs.shape
            result
    ]

let private taken (feed: BatchFeed) =
    let batches = feed.Next()
    let found = contents batches
    BatchFeed.Release batches
    found

let private order =
    testCase "steps come in their order, whatever composes them" (fun () ->
        for padding, rule in [ "dropped", Dropped; "kept", Kept ] do
            let plan = plan padding
            use source = source (fun _ _ -> ())

            let wanted =
                [
                    for step in 2L .. 8L do
                        let places = BatchFeed.Places(source, plan, step)
                        let rows = places |> Array.mapi (fun i place -> source.Row(place, step * 6L + int64 i))
                        let batches = Sequence.microBatches rule layout torch.CPU 2 rows
                        contents batches
                        Array.iter Sequence.release batches
                ]

            for threads in [ 0; 1; 3; 9 ] do
                use feed = new BatchFeed(source, plan, plan.Config.MicroBatch, torch.CPU, 2L, 9L, threads)
                Expect.equal [ for _ in 2..8 -> taken feed ] wanted $"{padding}, {threads} threads"
                Expect.throwsT<Channels.ChannelClosedException> (fun () -> taken feed |> ignore) "and then no more")

let private bounded =
    testCase "few steps are composed ahead" (fun () ->
        let mutable rows = 0
        use source = source (fun _ _ -> Interlocked.Increment &rows |> ignore)
        use feed = new BatchFeed(source, plan "dropped", 4, torch.CPU, 0L, Int64.MaxValue, 2)
        taken feed |> ignore
        let mutable before = -1

        while rows <> before do
            before <- rows
            Thread.Sleep 200

        Expect.isLessThanOrEqual rows (6 * 6) "the step that was taken, four that wait, and one that has no room yet")

let private refusal =
    testCase "what a source refuses is said at its step, and what nobody asks for is let go" (fun () ->
        let refuse _ position =
            if position = 3L * 6L + 2L then
                raise (InputException "this sequence is damaged.")

        use source = source refuse
        let plan = plan "dropped"

        using (new BatchFeed(source, plan, plan.Config.MicroBatch, torch.CPU, 0L, 9L, 4)) (fun feed ->
            for _ in 0..2 do
                taken feed |> ignore

            fails [ "this sequence is damaged." ] (fun () -> taken feed |> ignore))

        use unread = new BatchFeed(source, plan, plan.Config.MicroBatch, torch.CPU, 3L, 9L, 4)
        Thread.Sleep 50)

let private bench =
    testCase "bench load gives figures that follow from each other" (fun () ->
        let check (length: float) (sequences: float) (found: Text.Json.JsonElement) =
            let figure (key: string) = (found.GetProperty key).GetDouble()
            Expect.equal (figure "length", figure "sequences", figure "batch") (length, sequences, 4.0) "what was read"
            let counted = figure "sequences_per_second" * (length - 1.0) * (1.0 - figure "padding_share")
            Expect.floatClose Accuracy.medium (figure "tokens_per_second") counted "tokens that count"
            let model = figure "matrix_peak_flops" / figure "flop_per_token"
            Expect.floatClose Accuracy.medium (figure "model_tokens_per_second") model "what a model takes"
            Expect.floatClose Accuracy.medium (figure "ratio") (figure "tokens_per_second" / model) "the ratio"
            Expect.isGreaterThan (figure "ratio") (figure "wanted_ratio") "data do not wait"
            Expect.isGreaterThan (figure "bytes_per_second") 1.0 "bytes"
            figure "padding_share"

        let run rest = result ([ "bench"; "load"; "--batch"; "4"; "--seconds"; "0.2"; "--threads"; "2" ] @ rest)
        let padding = check 64.0 20000.0 (run [ "--positions"; "64" ])
        Expect.isGreaterThan padding 0.0 "captions end where they end"
        use folder = new Folder()

        using
            (new ShardWriter(ShardManifest.Create(folder.At "shards"), ShardInfo(50, 16, 3, 3, 8, "none", "", ""), 4))
            (fun writer ->
                for i in 0..8 do
                    writer.Add(ReadOnlySpan [| 1; 2; i |], ReadOnlySpan(Array.init 9 id))

                writer.Finish())

        // Three words, nine codes and six marks of 24 positions: 17 targets of 23 count.
        let padding = check 24.0 9.0 (run [ "--tokens"; folder.At "shards"; "--positions"; "24" ])
        Expect.floatClose Accuracy.high padding (6.0 / 23.0) "padding"
        let code, _, errors = program [ "bench"; "load"; "--tokens"; folder.At "nowhere" ]
        Expect.equal code 1 "exit code"
        Expect.stringContains errors "nowhere" "what is not there")

let tests =
    TorchLibrary.Load()
    testList "BatchFeed" [ order; bounded; refusal; bench ]
