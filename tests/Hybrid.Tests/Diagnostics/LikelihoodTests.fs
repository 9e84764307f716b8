module Hybrid.Tests.LikelihoodTests

open Expecto
open Hybrid
open Hybrid.Likelihood
open Hybrid.Tests.Generate
open TorchSharp

let private drawn (seed: int64) =
    let chooser = Chooser seed
    let config = config chooser (chooser.Int(3, 12))

    let items =
        Array.init (chooser.Int(1, 9)) (fun _ ->
            {
                Context = chooser.Ints(chooser.Int(1, 6), config.Rows)
                Continuation = chooser.Ints(chooser.Int(1, 4), config.Rows)
            })

    chooser, config, store Fp32 config seed, items

/// An item's score by the double-precision reference, one token after another, without padding.
let private byHand (config: ModelConfig) (rows: int) (store: ParameterStore) (item: Item) =
    let sequence = Array.append item.Context item.Continuation |> Array.map int64
    let logits = Reference.logits config (store.Weights >> values) sequence |> Array.map (Array.take rows)

    let places = [ item.Context.Length - 1 .. sequence.Length - 2 ]

    let sum = places |> List.sumBy (fun t -> logits[t][int sequence[t + 1]] - Reference.logSumExp logits[t])

    let greedy = places |> List.forall (fun t -> logits[t][int sequence[t + 1]] = Array.max logits[t])
    sum, greedy

let tests =
    testList
        "Likelihood"
        [
            property "a score is Σ log softmax over the continuation" (fun seed ->
                let chooser, config, store, items = drawn seed
                use store = store
                let scores = score config config.Rows store.Weights (chooser.Int(1, 4)) items
                Expect.equal scores.Length items.Length "one each"

                for item, score in Array.zip items scores do
                    let sum, greedy = byHand config config.Rows store item
                    near 2e-3 2e-4 $"%A{item}" sum score.LogLikelihood
                    Expect.equal score.Greedy greedy "greedy"
                    Expect.equal score.Tokens item.Continuation.Length "tokens")

            property "rows that only pad the table have no probability" (fun seed ->
                let chooser, config, store, items = drawn seed
                use store = store
                let rows = chooser.Int(2, config.Rows)
                let within = Array.map (fun id -> id % rows)

                let items = items |> Array.map (fun i -> { Context = within i.Context; Continuation = within i.Continuation })

                for item, score in Array.zip items (score config rows store.Weights 3 items) do
                    near 2e-3 2e-4 $"%A{item}" (fst (byHand config rows store item)) score.LogLikelihood)

            property "scores depend on neither batch size nor order" (fun seed ->
                let _, config, store, items = drawn seed
                use store = store
                let scores batch items = score config config.Rows store.Weights batch items
                let expected = scores 1 items |> Array.map _.LogLikelihood
                close 1e-4 1e-5 "all at once" expected (scores 100 items |> Array.map _.LogLikelihood)
                close 1e-4 1e-5 "in threes" expected (scores 3 items |> Array.map _.LogLikelihood)
                let reversed = scores 2 (Array.rev items) |> Array.rev |> Array.map _.LogLikelihood
                close 1e-4 1e-5 "in reverse" expected reversed)

            property "the greedy continuation is greedy, and its parts add up" (fun seed ->
                let chooser, config, store, _ = drawn seed
                use store = store
                let context = chooser.Ints(chooser.Int(1, 4), config.Rows)
                let continuation = Sampler.complete config config.Rows store.Weights Draw.greedy 4 None context
                let all = { Context = context; Continuation = continuation }
                let head = { all with Continuation = continuation[..1] }
                let tail = { Context = Array.append context continuation[..1]; Continuation = continuation[2..] }
                let scores = score config config.Rows store.Weights 3 [| all; head; tail |]
                Expect.isTrue scores[0].Greedy "greedy"

                near
                    1e-4
                    1e-5
                    "log p(ab) = log p(a) + log p(b | a)"
                    scores[0].LogLikelihood
                    (scores[1].LogLikelihood + scores[2].LogLikelihood)

                Expect.isLessThan scores[0].LogLikelihood 0.0 "a probability")

            testCase "the best choice has the highest mean per token, the first on ties" (fun () ->
                let score sum tokens = { LogLikelihood = sum; Greedy = false; Tokens = tokens }
                Expect.equal (best [| score -4.0 1; score -6.0 2; score -10.0 3 |]) 1 "mean, not sum"
                Expect.equal (best [| score -4.0 2; score -2.0 1; score -2.0 1 |]) 0 "ties"
                Expect.equal (best [| score -9.0 1 |]) 0 "one")

            case "empty parts and unknown ids are refused" (fun () ->
                let _, config, store, _ = drawn 1L
                use store = store

                for context, continuation in [ [||], [| 1 |]; [| 1 |], [||]; [| -1 |], [| 1 |]; [| 1 |], [| config.Rows |] ] do
                    refused $"%A{(context, continuation)}" (fun () ->
                        score config config.Rows store.Weights 2 [| { Context = context; Continuation = continuation } |]
                        |> ignore)
                    |> ignore

                Expect.isEmpty (score config config.Rows store.Weights 2 [||]) "nothing gives nothing")
        ]
