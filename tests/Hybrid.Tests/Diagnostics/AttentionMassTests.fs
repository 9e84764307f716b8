module Hybrid.Tests.AttentionMassTests

open System
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Tests.Generate
open TorchSharp

let private drawn (seed: int64) =
    let chooser = Chooser seed
    let v = vocabulary chooser
    let config = config chooser v.Rows
    chooser, v, config, store Fp32 config seed

let private rotation config (store: ParameterStore) length = Decoder.rotation config store.Weights 0L length

/// The masses from the probabilities of whole sequences, with loops: [layer][head] of text, marks, image, self.
let private naive (config: ModelConfig) (v: Vocabulary) (store: ParameterStore) (sequences: int64[][]) =
    let sums = Array.init config.Layers (fun _ -> Array.init config.Heads (fun _ -> Array.zeroCreate<float> 5))
    let mutable queries = 0

    for sequence in sequences do
        let tokens = sequence[.. sequence.Length - 2]
        let length = tokens.Length
        let mutable x = Decoder.embed config store.Weights (Host.int64s [ 1L; int64 length ] tokens)
        let rotation = rotation config store (int64 length)

        let asks =
            [
                for t in 0 .. length - 1 do
                    if Vocabulary.kind v (sequence[t + 1]) = Kind.Image then
                        t
            ]

        queries <- queries + asks.Length

        for layer in 0 .. config.Layers - 1 do
            let normed = Layers.norm config.Norm config.NormEpsilon store.Weights $"layers.{layer}.attention_norm" x

            let p =
                AttentionMass.probabilities config store.Weights $"layers.{layer}.attention" rotation normed
                |> values
                |> Array.chunkBySize length
                |> Array.chunkBySize length

            for h in 0 .. config.Heads - 1 do
                let own = sums[layer][h]

                let add part value = own[part] <- own[part] + value

                for t in asks do
                    let shares = Array.item t p[h]

                    for s in 0..t do
                        let share = shares[s]

                        let part =
                            if s = t then
                                3
                            else
                                match Vocabulary.kind v (tokens[s]) with
                                | Kind.Text -> 0
                                | Kind.Image -> 2
                                | _ -> 1

                        add part share
                        add 4 (if share > 0.0 then -share * Math.Log2 share else 0.0)

            x <- Decoder.block config store.Weights rotation layer x

    sums |> Array.map (Array.map (Array.map (fun sum -> sum / float queries)))

let tests =
    testList
        "AttentionMass"
        [
            property2 "probabilities add up to 1 over what a query sees, and are 0 elsewhere" (1, 3) (1, 12) (fun seed b t ->
                let chooser, _, config, store = drawn seed
                use _ = store
                let x = normals chooser 1.0 [ b; t; config.Width ]
                let p = AttentionMass.probabilities config store.Weights "layers.0.attention" (rotation config store (int64 t)) x
                Expect.equal p.shape [| int64 b; int64 config.Heads; int64 t; int64 t |] "shape"
                let rows = Array.chunkBySize t (values p)

                rows
                |> Array.iteri (fun i row ->
                    let query = i % t
                    near 1e-5 0.0 "sum" 1.0 (Array.sum row)

                    row
                    |> Array.iteri (fun key share ->
                        let seen = key <= query && (config.Window = 0 || key > query - config.Window)
                        Expect.isTrue (if seen then share >= 0.0 else share = 0.0) $"query {query}, key {key}")))

            property2 "probabilities times values are what attention mixes" (1, 3) (1, 12) (fun seed b t ->
                let chooser, _, config, store = drawn seed
                use _ = store
                let x = normals chooser 1.0 [ b; t; config.Width ]
                let rotation = rotation config store (int64 t)
                let prefix = "layers.0.attention"
                let p = AttentionMass.probabilities config store.Weights prefix rotation x
                let q, k, v = Layers.queriesKeysValues config store.Weights prefix rotation x
                let mixed = p.matmul v
                close 1e-5 1e-4 "attend" (values (Layers.attendWithin (int64 config.Window) q k v)) (values mixed)
                let joined = mixed.transpose(1, 2).reshape(int64 b, int64 t, int64 (ModelConfig.queryWidth config))
                let whole = Layers.projection config.OutBias store.Weights (prefix + ".out_proj") joined
                let attention = Layers.attention config store.Weights prefix rotation x
                close 1e-4 1e-3 "attention" (values attention) (values whole))

            property "some rows of the probabilities are those of all" (fun seed ->
                let chooser = Chooser seed
                let heads, t, c = chooser.Int(1, 3), chooser.Int(2, 9), chooser.Int(1, 4)
                let some () = normals chooser 1.0 [ 1; heads; t; c ]
                let q, k = some (), some ()
                let window = int64 (chooser.Of [ 0; 2; 5 ])
                let first = chooser.Int(0, t - 1)
                let rows = chooser.Int(1, t - first)
                let all = AttentionMass.probabilitiesOf window 0L (int64 t) q k
                let part = AttentionMass.probabilitiesOf window (int64 first) (int64 rows) q k
                close 1e-6 1e-5 "rows" (values (all.narrow (2, int64 first, int64 rows))) (values part))

            costly "masses against loops over whole matrices" (fun seed ->
                let chooser, v, config, store = drawn seed
                use _ = store
                let sequences = Array.init 3 (fun _ -> Array.truncate (chooser.Int(12, 18)) (sequence chooser v 20))
                let asked = sequences |> Array.sumBy (fun s -> (Sequence.counts v s)[int Kind.Image])

                if asked > 0L then
                    let found = AttentionMass.toText config v store.Weights (struct (2, 4)) sequences
                    let expected = naive config v store sequences
                    Expect.equal found.Queries asked "queries"

                    for layer in found.Layers do
                        for h in 0 .. config.Heads - 1 do
                            let own = expected[layer.Layer][h]
                            let parts = [| layer.Text[h]; layer.Marks[h]; layer.Image[h]; layer.Self[h]; layer.Entropy[h] |]
                            close 1e-5 1e-4 $"layer {layer.Layer}, head {h}" own parts
                            near 1e-5 0.0 "masses add up to 1" 1.0 (Array.sum parts[..3])

                            // Rows, weighted by their queries, give the whole.
                            let rows =
                                Array.map2
                                    (fun mass n -> if n = 0L then 0.0 else mass * float n)
                                    layer.TextByRow[h]
                                    found.QueriesByRow

                            near 1e-6 1e-6 "rows" layer.Text[h] (Array.sum rows / float found.Queries))

            case "even attention by hand: equal keys share what a query sees" (fun () ->
                let v: Vocabulary = { TextRows = 5; ImageCodes = 4 }
                let config = { ModelConfig.openLm 4 2 2 v.Rows 32 with FeedForwardWidth = 4 }
                use store = store Fp32 config 1L

                // Queries of zero look everywhere alike.
                for layer in 0..1 do
                    Parameters.set store $"layers.{layer}.attention.in_proj.weight" (torch.zeros (12L, 4L))

                // <doc> <text> 1 2 </text> <image> a b c d </image> </doc>: codes are predicted at positions 5 to 8.
                let tokens = Sequence.compose v Captioned 14 [| 1; 2 |] [| 0; 1; 2; 3 |]
                let found = AttentionMass.toText config v store.Weights (struct (2, 2)) [| tokens |]
                let even = [ for seen in 6.0 .. 9.0 -> 2.0 / seen ]
                near 1e-9 0.0 "even" (List.average even) found.EvenText
                Expect.equal found.Queries 4L "queries"
                Expect.equal found.QueriesByRow [| 2L; 2L |] "by row"
                close 1e-12 0.0 "even by row" [| List.average even[..1]; List.average even[2..] |] found.EvenTextByRow

                for layer in found.Layers do
                    close 1e-6 0.0 "text" [| found.EvenText; found.EvenText |] layer.Text
                    close 1e-6 0.0 "text by row" found.EvenTextByRow layer.TextByRow[0]
                    near 1e-6 0.0 "own position" (List.average [ for n in 6.0 .. 9.0 -> 1.0 / n ]) layer.Self[0]
                    near 1e-6 0.0 "marks" (List.average [ 3.0 / 6.0; 4.0 / 7.0; 4.0 / 8.0; 4.0 / 9.0 ]) layer.Marks[0]
                    near 1e-6 0.0 "codes" (List.average [ 0.0; 0.0; 1.0 / 8.0; 2.0 / 9.0 ]) layer.Image[0]
                    near 1e-5 0.0 "entropy" (List.average [ for n in 6.0 .. 9.0 -> Math.Log2 n ]) layer.Entropy[0])

            case "in bf16 nearly as in fp32, and no tensor stays alive" (fun () ->
                let chooser = Chooser 3L
                let v = vocabulary chooser
                let config = { ModelConfig.openLm 32 2 4 v.Rows 64 with FeedForwardWidth = 32; QkNorm = true }
                use wide = store Fp32 config 3L
                use half = store Bf16 config 3L

                let sequences =
                    Array.init 3 (fun _ ->
                        Sequence.compose v Captioned 20 (chooser.Ints(4, v.TextRows)) (chooser.Ints(6, v.ImageCodes)))

                let of' (store: ParameterStore) = AttentionMass.toText config v store.Weights (struct (2, 3)) sequences
                let a = of' wide
                let before = liveTensors ()
                let b = of' half
                Expect.equal (liveTensors ()) before "live tensors"

                for x, y in Array.zip a.Layers b.Layers do
                    close 0.02 0.0 "text" x.Text y.Text)

            case "no picture, no queries; a picture larger than the grid, or an id outside, is refused" (fun () ->
                let _, v, config, store = drawn 4L
                use _ = store

                let none =
                    AttentionMass.toText
                        config
                        v
                        store.Weights
                        (struct (0, 0))
                        [| Sequence.compose v TextOnly 8 [| 1; 2 |] [||] |]

                Expect.equal none.Queries 0L "no queries"
                Expect.isNaN none.Layers[0].Text[0] "no mean"
                let large = Sequence.compose v ImageOnly 8 [||] [| 0; 1; 1 |]
                let ask tokens () = AttentionMass.toText config v store.Weights (struct (1, 2)) [| tokens |] |> ignore
                Expect.stringContains (refused "three codes" (ask large)) "more than 2 codes" "the sentence"
                Expect.stringContains (refused "an id" (ask [| 0L; int64 v.Rows |])) "outside the vocabulary" "the sentence")
        ]
