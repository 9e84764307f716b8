/// What the tests of runs share: small data and configurations, runs, and what they leave.
module Hybrid.Tests.RunSupport

open System
open System.IO
open System.Text.Json
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats

let textRows, codes, length = 24, 9, 16

let vocabulary: Vocabulary = { TextRows = textRows; ImageCodes = codes }

let description (rows: int) =
    $$"""{ "hidden_dim": 16, "n_layers": 2, "n_heads": 2, "seq_len": 32, "vocab_size": {{rows}}, "post_embed_norm": false, "weight_tying": false }"""

/// Captioned sequences with seeded captions and codes.
let sequences (seed: int64) (count: int) : int64[][] =
    [|
        for i in 0 .. count - 1 do
            let stream = Random.ofSeed seed |> Random.numbered (int64 i)
            let caption = Array.init (Random.below 5 stream 0L) (fun k -> Random.below textRows stream (int64 k + 1L))
            let picture = Array.init 4 (fun k -> Random.below codes stream (int64 k + 100L))
            Sequence.compose vocabulary Captioned length caption picture
    |]

let writeTokens (path: string) (rows: int64[][]) =
    NpyFile.Write<int64>(path, ReadOnlyMemory(Array.concat rows), int64 rows.Length, int64 rows[0].Length)

/// A model's description, tokens and a configuration with its changes; the configuration's path.
let prepare (folder: Folder) (changes: string) : string =
    folder.Write("model.json", description textRows) |> ignore
    writeTokens (folder.At "train.npy") (sequences 1L 20)
    writeTokens (folder.At "held.npy") (sequences 2L 6)

    folder.Write(
        "run-config.json",
        $$"""{ "model": { "config": "model.json" }, "vocabulary": { "textRows": {{textRows}}, "imageCodes": {{codes}} },
             "data": { "train": ["train.npy"], "heldOut": ["held.npy"] },
             "optimizer": { "learningRate": 0.01 }, "schedule": { "steps": 12, "warmupSteps": 2 },
             "batch": { "sequences": 4, "microBatch": 2 }, "checkpoint": { "everySteps": 5 }{{changes}} }"""
    )

let plan (config: string) = TrainJob.ReadPlan(config, [])

let run (config: string) (out: string) (resume: string | null) =
    use progress = Progress.On(TextWriter.Null, TimeProvider.System)
    TrainJob.Run(plan config, out, resume, CancellationToken.None, progress)

let bytes (outcome: TrainOutcome) (name: string) = File.ReadAllBytes(Path.Combine(outcome.Checkpoint, name))

let sameModel (a: TrainOutcome) (b: TrainOutcome) =
    Expect.isTrue (bytes a "model.safetensors" = bytes b "model.safetensors") "weights are equal bit for bit"
    Expect.isTrue (bytes a "optimizer.safetensors" = bytes b "optimizer.safetensors") "moments are equal bit for bit"

/// The losses that metrics.jsonl holds, by step.
let losses (outcome: TrainOutcome) =
    File.ReadAllLines(Path.Combine(outcome.Run, "metrics.jsonl"))
    |> Array.map (fun line ->
        use document = JsonDocument.Parse line
        (document.RootElement.GetProperty "step").GetInt32(), (document.RootElement.GetProperty "loss").GetDouble())
