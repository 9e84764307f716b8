/// Answers computed by the peers' own programs. They lie outside the repository; where they are absent these tests skip.
module Hybrid.Tests.GoldenTests

open System
open System.Collections.Generic
open System.IO
open System.Text.Json
open System.Threading
open Expecto
open TorchSharp
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats

let private json (path: string) : JsonElement =
    use document = JsonDocument.Parse(File.ReadAllText path)
    document.RootElement.Clone()

let private number (name: string) (element: JsonElement) = (element.GetProperty name).GetDouble()

let private elements (name: string) (element: JsonElement) = [| for item in (element.GetProperty name).EnumerateArray() -> item |]

let private close (within: float) (what: string) (expected: float) (actual: float) =
    Expect.isLessThanOrEqual (abs (actual - expected)) within $"{what}: {actual} instead of {expected}"

let private tokens (path: string) : int64[][] =
    use file = NpyFile.Open path
    use tensor = file.Load()
    Array.chunkBySize (int file.Shape[1]) (tensor.data<int64>().ToArray())

let private mixed (name: string) =
    testCase $"{name}: losses within 1e-4 nats, logits within 1e-3, gradient norms within 1e-3 of themselves" (fun () ->
        let expected = json (Material.shared $"golden/{name}/expected.json")
        let sequences = tokens (Material.shared $"golden/{name}/tokens.npy")

        use file =
            ModelFiles.Open(
                Material.shared $"golden/{name}/epoch_1.pt",
                Material.shared $"golden/{name}/model.json",
                (expected.GetProperty "text_vocab").GetInt32(),
                (expected.GetProperty "image_vocab").GetInt32()
            )

        use model = file.Open(Layout())
        use _ = torch.NewDisposeScope()
        let batch = Sequence.batch model.Vocabulary torch.CPU sequences
        let reference = expected.GetProperty "reference"
        use state = new OptimizerState(model.Store)
        Step.zero model.Store state

        let parts =
            Step.accumulate model.Store state batch.Count (fun weights ->
                Decoder.logits model.Config model.Vocabulary.Rows weights batch.Inputs
                |> Loss.score model.Vocabulary batch
                |> Loss.evaluate Loss.total)

        let sums = parts.data<float32>().ToArray() |> Array.map float
        close 1e-4 "total" (number "total" reference) (Array.sum sums / float batch.Count)

        for kind, key in [ 0, "text"; 1, "image"; 2, "special" ] do
            close 1e-4 key (number key reference) (sums[kind] / float batch.Counts[kind])

        for norm in (reference.GetProperty "grad_norms").EnumerateObject() do
            match (model.Store.Weights norm.Name).grad with
            | null -> failtest $"{norm.Name} has no gradient"
            | gradient ->
                let wanted = norm.Value.GetDouble()
                close (1e-3 * wanted) $"gradient norm of {norm.Name}" wanted (float (gradient.norm().item<float32>()))

        use logits = NpyFile.Open(Material.shared $"golden/{name}/logits.npy")
        use wanted = logits.Load()
        use whole = torch.no_grad ()
        let all = Host.int64s [ int64 sequences.Length; int64 sequences[0].Length ] (Array.concat sequences)
        let difference = (model.Logits all).sub(wanted).abs().max().item<float32>()
        Expect.isLessThan (float difference) 1e-3 "logits")

let private training =
    testCase "train_a: sixty losses within 2e-3, with learning rates and gradient norms" (fun () ->
        let configuration =
            $$"""{
            "model": { "checkpoint": {{JsonSerializer.Serialize(Material.shared "golden/train_a/epoch_0.pt")}},
                       "config": {{JsonSerializer.Serialize(Material.shared "golden/train_a/model.json")}} },
            "vocabulary": { "textRows": 300, "imageCodes": 64 },
            "data": { "train": [{{JsonSerializer.Serialize(Material.shared "golden/train_a/tokens.npy")}}], "order": "sequential" },
            "optimizer": { "learningRate": 3e-3, "weightDecay": 0.1 },
            "schedule": { "kind": "cosine", "warmupSteps": 10, "steps": 60, "minimumLearningRate": 1e-4 },
            "batch": { "sequences": 8, "microBatch": 4 } }"""

        use folder = new Folder()
        use progress = Progress.On(TextWriter.Null, TimeProvider.System)

        let trained (padding: string) =
            let values = [ KeyValuePair("batch.padding", padding) ]
            let plan = TrainPlan(Descriptions.Training("train_a", configuration, values))
            let outcome = TrainJob.Run(plan, folder.At padding, null, CancellationToken.None, progress)
            File.ReadAllLines(Path.Combine(outcome.Run, "metrics.jsonl"))

        let steps = elements "trajectory" (json (Material.shared "golden/train_a/expected.json"))
        let lines = trained "dropped"
        Expect.equal lines.Length steps.Length "a line for each step"

        for dropped, kept in Array.zip lines (trained "kept") do
            use dropped = JsonDocument.Parse dropped
            use kept = JsonDocument.Parse kept

            for key in [ "loss"; "text"; "image"; "structure" ] do
                close 1e-4 $"{key}, padding kept" (number key kept.RootElement) (number key dropped.RootElement)

        for line, step in Array.zip lines steps do
            use document = JsonDocument.Parse line
            let found = document.RootElement
            let at = (found.GetProperty "step").GetInt32()
            Expect.equal at ((step.GetProperty "step").GetInt32()) "step"

            for key in [ "loss"; "text"; "image" ] do
                close 2e-3 $"{key} of step {at}" (number key step) (number key found)

            close 1e-9 $"learning rate of step {at}" (number "lr" step) (number "learningRate" found)
            close 1e-2 $"gradient norm of step {at}" (number "grad_norm" step) (number "gradNorm" found))

let private stories =
    testCase "stories260K: greedy ids and mean losses of its own text" (fun () ->
        let reference = json (Material.shared "data/stories260K/reference.json")
        use file = ModelFiles.Open(Material.shared "data/stories260K")
        use codec = PromptCodec.Beside file
        use model = file.Open(Layout(Frozen = true))

        for story in elements "greedy" reference do
            let ids name = elements name story |> Array.map _.GetInt32()
            let prompt, greedy = ids "prompt_ids", ids "greedy_ids"
            Expect.equal (codec.Encode((story.GetProperty "prompt").GetString() |> nonNull)) prompt "ids of the prompt"
            Expect.equal (model.Complete(prompt, greedy.Length, -1, Drawing(Temperature = 0.0))) greedy "greedy ids"
            let score = model.Score([| { Context = prompt; Continuation = greedy } |], 1)
            Expect.isTrue score[0].Greedy "every greedy id is the first choice"

            let sequence = Array.append prompt greedy |> Array.map int64
            let loss = model.Losses([| sequence |], 1)
            close 1e-4 "mean loss" (number "mean_loss" story) (loss[0].Text / float loss[0].TextCount))

let private probes =
    testCase "probe_a: sums, predictions and greedy matches of stories260K on COPA and Jeopardy" (fun () ->
        let expected = (json (Material.shared "golden/probe_a/expected.json")).GetProperty "tasks"
        use file = ModelFiles.Open(Material.shared "data/stories260K")
        use codec = PromptCodec.Beside file
        use model = file.Open(Layout(Frozen = true))

        for name, source in [ "copa", "copa.jsonl"; "jeopardy", "jeopardy_all.jsonl" ] do
            let wanted = expected.GetProperty name
            let items = elements "items" wanted
            use folder = new Folder()
            let path = folder.At $"{name}.jsonl"
            File.WriteAllLines(path, File.ReadLines(Material.shared $"data/probes/{source}") |> Seq.truncate items.Length)
            let result = ProbeResult.Of(model, codec, ProbeTask.Read path, CancellationToken.None)
            close 1e-9 $"accuracy of {name}" (number "accuracy" wanted) result.Accuracy.Mean

            if (wanted.GetProperty "loss_per_token").ValueKind = JsonValueKind.Number then
                close 1e-4 $"loss of {name}" (number "loss_per_token" wanted) result.LossPerToken.Mean

            for i, item in Array.indexed items do
                let scores = result.Scores[i]

                match item.TryGetProperty "sums" with
                | true, sums ->
                    for j, sum in Seq.indexed (sums.EnumerateArray()) do
                        close 1e-3 $"{name} {i}.{j}" (sum.GetDouble()) scores[j].LogLikelihood

                    Expect.equal (elements "tokens" item |> Array.map _.GetInt32()) (scores |> Array.map _.Tokens) "tokens"
                    Expect.equal (Likelihood.best scores) ((item.GetProperty "predicted").GetInt32()) $"prediction {i}"
                | _ ->
                    close 1e-3 $"{name} {i}" (number "sum" item) scores[0].LogLikelihood
                    Expect.equal scores[0].Tokens ((item.GetProperty "tokens").GetInt32()) "tokens"
                    Expect.equal scores[0].Greedy ((item.GetProperty "greedy_match").GetBoolean()) $"greedy match {i}")

let tests =
    TorchLibrary.Load()
    testList "Golden" [ mixed "lm_a"; mixed "lm_c"; training; stories; probes ]
