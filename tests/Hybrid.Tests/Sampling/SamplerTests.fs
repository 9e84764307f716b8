module Hybrid.Tests.SamplerTests

open System
open Expecto
open Hybrid
open Hybrid.Draw
open Hybrid.Sampler
open Hybrid.Tests.Generate
open TorchSharp

let private plain = ancestral 0L

let private finite (logits: torch.Tensor) = values logits |> Array.map Double.IsFinite

/// A model with an image vocabulary whose positions hold the given count of codes and short captions.
let private painter (seed: int64) =
    let chooser = Chooser seed
    let v = vocabulary chooser
    let config = config chooser v.Rows
    chooser, v, config, store Fp32 config seed

let tests =
    testList
        "Sampler"
        [
            property2 "top-k keeps exactly the k most likely" (1, 20) (1, 25) (fun seed rows k ->
                let logits = normals (Chooser seed) 2.0 [ 3; rows ]
                let kept = finite (restrict { plain with TopK = Some k } logits) |> Array.chunkBySize rows

                for kept, row in Array.zip kept (values logits |> Array.chunkBySize rows) do
                    let expected =
                        row
                        |> Array.mapi (fun i _ -> i)
                        |> Array.sortByDescending (fun i -> row[i])
                        |> Array.truncate k
                        |> Set.ofArray

                    Expect.equal
                        (kept |> Array.indexed |> Array.filter snd |> Array.map fst |> Set.ofArray)
                        expected
                        $"{k} of {rows}")

            property2 "top-k keeps no more than k where logits are equal" (2, 12) (1, 12) (fun seed rows k ->
                let chooser = Chooser seed
                let logits = Array.init rows (fun _ -> float32 (chooser.Int(0, 2))) |> Host.floats [ 1L; int64 rows ]
                let kept = finite (restrict { plain with TopK = Some k } logits)
                Expect.equal (kept |> Array.filter id |> Array.length) (min k rows) "how many"
                let row = values logits
                let least = kept |> Array.mapi (fun i k -> if k then row[i] else infinity) |> Array.min
                let best = kept |> Array.mapi (fun i k -> if k then -infinity else row[i]) |> Array.max
                Expect.isLessThanOrEqual best least "the most likely")

            property1 "top-p keeps the smallest set of the most likely with that probability" (1, 20) (fun seed rows ->
                let chooser = Chooser seed
                let logits = normals chooser 2.0 [ 3; rows ]
                let p = chooser.Float(0.0, 1.0)
                let kept = finite (restrict { plain with TopP = Some p } logits) |> Array.chunkBySize rows

                for kept, row in Array.zip kept (values logits |> Array.chunkBySize rows) do
                    let probability = Reference.softmax row
                    let order = Array.sortByDescending (fun i -> row[i]) [| 0 .. rows - 1 |]
                    let before = order |> Array.scan (fun sum i -> sum + probability[i]) 0.0

                    for place, i in Array.indexed order do
                        // Skips what stands on the border to the last bit.
                        if abs (before[place] - p) > 1e-6 then
                            Expect.equal kept[i] (before[place] < p) $"{place} of {rows} with {before[place]} before it, p = {p}")

            case "the most likely token stays, whatever top-p" (fun () ->
                let logits = Host.floats [ 1L; 3L ] [| 0.0f; 5.0f; 1.0f |]

                for p in [ 0.0; 1e-12; -1.0 ] do
                    let kept = finite (restrict { plain with TopP = Some p } logits)
                    Expect.equal kept [| false; true; false |] $"p = {p}"

                let kept = finite (restrict { plain with TopP = Some 1.0 } logits)
                Expect.equal kept [| true; true; true |] "p = 1")

            property1 "what is kept keeps its logit over the temperature" (2, 20) (fun seed rows ->
                let chooser = Chooser seed
                let logits = normals chooser 2.0 [ 2; rows ]
                let temperature = chooser.Float(0.2, 3.0)
                let sampling = { plain with Temperature = temperature; TopK = Some 3; TopP = Some 0.9 }
                let restricted = values (restrict sampling logits)

                for given, found in Array.zip (values logits) restricted do
                    if Double.IsFinite found then
                        near 1e-5 1e-5 "logit" (given / temperature) found
                    else
                        Expect.equal found -infinity "left out"

                let both = finite (restrict { plain with TopK = Some 3; TopP = Some 0.5 } logits)
                let one = finite (restrict { plain with TopK = Some 3 } logits)
                Expect.isTrue (Array.forall2 (fun b o -> not b || o) both one) "top-p of what top-k left")

            property "draws follow the distribution" (fun seed ->
                let chooser = Chooser seed
                let rows, count = 6, 4000
                let logits = normals chooser 1.0 [ 1; rows ]
                let temperature = chooser.Float(0.7, 1.5)
                let sampling = { plain with Temperature = temperature }
                let stream = Random.ofSeed seed |> Random.named "draws"
                let uniforms = Array.init count (fun i -> Random.uniform stream (int64 i))
                let drawn = ids (draw sampling uniforms (logits.expand (int64 count, int64 rows)))
                let probability = values logits |> Array.map (fun l -> l / temperature) |> Reference.softmax

                let chiSquare =
                    Array.init rows (fun i ->
                        let expected = float count * probability[i]
                        let seen = drawn |> Array.filter ((=) (int64 i)) |> Array.length |> float
                        (seen - expected) ** 2.0 / expected)
                    |> Array.sum

                // Five degrees of freedom: above 35 once in a million.
                Expect.isLessThan chiSquare 35.0 $"%A{probability}")

            property1 "a draw inverts the cumulative distribution" (1, 12) (fun seed rows ->
                let chooser = Chooser seed
                let logits = normals chooser 1.5 [ 1; rows ]
                let cumulative = values logits |> Reference.softmax |> Array.scan (+) 0.0

                for u in [ 0.0; chooser.Float(0.0, 1.0); 1.0 - 1.0 / 9007199254740992.0 ] do
                    let token = int (ids (draw plain [| u |] logits) |> Array.head)

                    if cumulative |> Array.forall (fun c -> abs (c - u) > 1e-6) then
                        Expect.isTrue (cumulative[token] <= u && u < cumulative[token + 1]) $"{u} gave {token}"
                    else
                        Expect.isTrue (token >= 0 && token < rows) "range")

            property1 "what is left out is never drawn" (2, 12) (fun seed rows ->
                let chooser = Chooser seed
                let logits = normals chooser 1.0 [ 1; rows ]
                let k = chooser.Int(1, rows - 1)
                let sampling = { plain with TopK = Some k }
                let kept = finite (restrict sampling logits)
                let edges = [| 0.0; 1.0 - 1.0 / 9007199254740992.0 |]
                let uniforms = Array.append edges (Array.init 40 (fun _ -> chooser.Float(0.0, 1.0)))
                let drawn = ids (draw sampling uniforms (logits.expand (int64 uniforms.Length, int64 rows)))
                Expect.all drawn (fun token -> kept[int token]) $"top {k} of {rows}")

            property1 "temperature 0 takes the most likely" (1, 12) (fun seed rows ->
                let chooser = Chooser seed
                let logits = normals chooser 1.0 [ 4; rows ]

                let expected =
                    values logits |> Array.chunkBySize rows |> Array.map (fun r -> Array.findIndex ((=) (Array.max r)) r)

                let drawn = ids (draw greedy (chooser.Normals 4 |> Array.map abs) logits)
                Expect.equal (Array.map int drawn) expected "argmax")

            property2 "pictures have exactly their count of codes, all in range" (1, 6) (1, 5) (fun seed count pictures ->
                let chooser, v, config, store = painter seed
                use store = store
                let captions = Array.init pictures (fun _ -> chooser.Ints(chooser.Int(0, 4), v.TextRows))

                let sampling =
                    { plain with
                        Seed = seed
                        Guidance = chooser.Of [ 1.0; 3.0 ]
                        Temperature = chooser.Of [ 0.0; 1.0; 50.0 ]
                    }

                let drawn = images config v store.Weights sampling count captions
                Expect.equal drawn.Length pictures "one a caption"

                for codes in drawn do
                    Expect.equal codes.Length count "codes"
                    Expect.all codes (fun code -> code >= 0 && code < v.ImageCodes) "range"

                Expect.equal (images config v store.Weights sampling count captions) drawn "the same seed, the same pictures")

            property "a picture does not depend on the others of its batch" (fun seed ->
                let chooser, v, config, store = painter seed
                use store = store
                let captions = Array.init 4 (fun i -> chooser.Ints(i % 3, v.TextRows))
                let sampling = { plain with Seed = seed; Guidance = chooser.Of [ 1.0; 2.0 ] }
                let whole = images config v store.Weights sampling 5 captions
                Expect.equal (images config v store.Weights sampling 5 captions[..1]) whole[..1] "the first two alone"
                let others = Array.append captions[..1] [| [| 0; 1 |]; [| 1 |]; [||] |]
                let among = images config v store.Weights sampling 5 others
                Expect.equal among[..1] whole[..1] "among others")

            case "another seed, and another number, give another picture" (fun () ->
                let _, v, config, store = painter 11L
                use store = store
                // Hot enough that codes are nearly uniform.
                let draw seed =
                    images config v store.Weights { plain with Seed = seed; Temperature = 30.0 } 20 [| [| 1 |]; [| 1 |] |]

                Expect.notEqual (draw 1L) (draw 2L) "seeds"
                Expect.notEqual (Array.item 0 (draw 1L)) (Array.item 1 (draw 1L)) "numbers")

            property "greedy pictures are the argmax chain of uncached logits, guidance included" (fun seed ->
                let chooser, v, config, store = painter seed
                use store = store
                let caption = chooser.Ints(chooser.Int(1, 4), v.TextRows)
                let guidance = chooser.Of [ 1.0; 2.5 ]
                let sampling = { greedy with Guidance = guidance }
                let codes = images config v store.Weights sampling 4 [| caption |] |> Array.head
                let last tokens = Array.last (Reference.logits config (store.Weights >> values) tokens)

                for place in 0..3 do
                    let seen = codes[.. place - 1] |> Array.map (fun code -> int64 (v.FirstCode + code))
                    let c = last (Array.append (Sequence.prompt v caption) seen)
                    let u = last (Array.append (Sequence.prompt v [||]) seen)
                    let guided = Array.map2 (fun u c -> u + guidance * (c - u)) u c
                    let own = guided[v.FirstCode .. v.FirstCode + v.ImageCodes - 1]
                    // The chosen code is the best, or as good to rounding.
                    near 5e-3 1e-3 $"code {place}" (Array.max own) own[codes[place]])

            property "guidance 1 is none, and guidance 0 forgets the caption" (fun seed ->
                let chooser, v, config, store = painter seed
                use store = store
                let captions = Array.init 2 (fun _ -> chooser.Ints(3, v.TextRows))

                let draw guidance captions =
                    images config v store.Weights { plain with Seed = seed; Guidance = guidance } 4 captions

                Expect.equal (draw 1.0 captions) (images config v store.Weights { plain with Seed = seed } 4 captions) "1"
                Expect.equal (draw 0.0 captions) (draw 1.0 [| [||]; [||] |]) "0")

            property1 "complete is the argmax chain of uncached logits" (1, 6) (fun seed count ->
                let chooser = Chooser seed
                let config = config chooser (chooser.Int(2, 20))
                use store = store Fp32 config seed
                let rows = chooser.Int(2, config.Rows)
                let prompt = chooser.Ints(chooser.Int(1, 5), rows)
                let ids = complete config rows store.Weights greedy count None prompt
                Expect.equal ids.Length count "length"

                for place in 0 .. count - 1 do
                    let seen = Array.append prompt ids[.. place - 1] |> Array.map int64
                    let logits = Array.last (Reference.logits config (store.Weights >> values) seen) |> Array.take rows
                    near 2e-3 1e-4 $"token {place}" (Array.max logits) logits[ids[place]]

                // Stopping at a token returns what came before it.
                let stop = ids[count - 1]
                let stopped = complete config rows store.Weights greedy count (Some stop) prompt
                Expect.equal stopped ids[.. Array.findIndex ((=) stop) ids - 1] "up to the stop"
                Expect.isEmpty (complete config rows store.Weights greedy 0 None prompt) "none asked for")

            case "prompts that are empty, unknown or too long are refused" (fun () ->
                let _, v, config, store = painter 5L
                use store = store
                let complete prompt () = complete config v.Rows store.Weights greedy 1 None prompt |> ignore
                refused "an empty prompt" (complete [||]) |> ignore
                refused "an id outside" (complete [| v.Rows |]) |> ignore
                refused "a negative id" (complete [| -1 |]) |> ignore
                let images config count caption () = images config v store.Weights plain count [| [| 0 |]; caption |] |> ignore
                refused "a caption id outside" (images config 2 [| v.TextRows |]) |> ignore
                refused "a negative caption id" (images config 2 [| -1 |]) |> ignore
                // <doc> <text> … </text> <image>, then 10 codes of which the last is not read: 20 positions hold 7 caption tokens.
                let short = { config with Positions = 20 }
                refused "a caption that does not fit" (images short 10 (Array.zeroCreate 8)) |> ignore
                images short 10 (Array.zeroCreate 7) ())

            case "sampling leaves nothing alive" (fun () ->
                let _, v, config, store = painter 6L
                use store = store

                let sample () =
                    images config v store.Weights { plain with Guidance = 2.0 } 4 [| [| 1 |]; [| 1; 2 |] |] |> ignore
                    complete config v.Rows store.Weights plain 4 None [| 1 |] |> ignore

                sample ()
                let before = liveTensors ()

                for _ in 1..3 do
                    sample ()

                Expect.equal (liveTensors ()) before "live tensors")
        ]
