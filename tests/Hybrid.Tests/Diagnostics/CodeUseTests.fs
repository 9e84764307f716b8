module Hybrid.Tests.CodeUseTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

let tests =
    testList
        "CodeUse"
        [
            case "use by hand" (fun () ->
                let counts = CodeUse.counts 6 [ [| 0; 0; 3 |]; [| 5; 0; 0; 3; 3; 3 |] ]
                Expect.equal counts [| 4L; 0L; 0L; 4L; 0L; 1L |] "counts"
                let use' = CodeUse.ofCounts [| 2L; 0L; 1L; 1L |]
                Expect.equal use'.Codes 4 "codes"
                Expect.equal use'.Used 3 "used"
                near 1e-12 0.0 "½·1 + ½·2 bits" 1.5 use'.Entropy
                near 1e-12 0.0 "perplexity" (2.0 ** 1.5) use'.Perplexity
                Expect.equal (use'.MostFrequent, use'.MostFrequentShare) (0, 0.5) "the most frequent")

            case "nothing counted" (fun () ->
                let nothing = CodeUse.ofCounts [| 0L; 0L |]
                Expect.equal (nothing.Used, nothing.MostFrequent) (0, -1) "none"
                Expect.isNaN nothing.Entropy "no entropy"
                Expect.isNaN (CodeUse.jensenShannon [| 0.0; 0.0 |] [| 1.0; 0.0 |]) "no divergence"
                Expect.isNaN (CodeUse.kullbackLeibler [| 1.0; 0.0 |] [| 0.0; 0.0 |]) "no divergence")

            case "divergences by hand" (fun () ->
                // Of (½, ½) from (¼, ¾): ½ log₂ 2 + ½ log₂ ⅔.
                near 1e-12 0.0 "KL" (0.5 + 0.5 * Math.Log2(2.0 / 3.0)) (CodeUse.kullbackLeibler [| 1.0; 1.0 |] [| 1.0; 3.0 |])

                Expect.equal (CodeUse.kullbackLeibler [| 1.0; 1.0 |] [| 1.0; 0.0 |]) infinity "a code that q lacks"
                near 1e-12 0.0 "one that p lacks" 1.0 (CodeUse.kullbackLeibler [| 1.0; 0.0 |] [| 1.0; 1.0 |])
                Expect.equal (CodeUse.jensenShannon [| 3.0; 0.0 |] [| 0.0; 9.0 |]) 1.0 "nothing in common"
                Expect.equal (CodeUse.jensenShannon [| 1.0; 2.0 |] [| 10.0; 20.0 |]) 0.0 "the same shares")

            property1 "entropy is bounded, perplexity counts equal codes" (1, 40) (fun seed codes ->
                let chooser = Chooser seed
                let counts = Array.init codes (fun _ -> int64 (chooser.Int(0, 5)))
                let found = CodeUse.ofCounts counts

                if Array.sum counts > 0L then
                    Expect.isLessThanOrEqual found.Entropy (Math.Log2(float found.Used) + 1e-12) "log₂ of the used"
                    Expect.isGreaterThanOrEqual found.Entropy 0.0 "not negative"
                    Expect.equal found.Used (counts |> Array.filter (fun n -> n > 0L) |> Array.length) "used"

                near 1e-9 1e-12 "all alike" (float codes) (CodeUse.ofShares (Array.create codes 0.3)).Perplexity)

            property1 "divergences are not negative, and Jensen-Shannon is symmetric" (1, 30) (fun seed codes ->
                let chooser = Chooser seed
                let some () = Array.init codes (fun _ -> chooser.Float(0.01, 1.0))
                let p, q = some (), some ()
                let js = CodeUse.jensenShannon p q
                Expect.isGreaterThanOrEqual (CodeUse.kullbackLeibler p q) 0.0 "KL"
                near 1e-12 0.0 "symmetric" js (CodeUse.jensenShannon q p)
                Expect.isTrue (js >= 0.0 && js <= 1.0) "within a bit"
                near 1e-12 0.0 "of itself" 0.0 (CodeUse.kullbackLeibler p p)
                // The entropy's definition by another way: log₂ n − KL(p ‖ even).
                let even = Array.create codes 1.0

                near 1e-9 0.0 "entropy" (Math.Log2(float codes) - CodeUse.kullbackLeibler p even) (CodeUse.ofShares p).Entropy)

            property1 "what is predicted, against loops" (1, 4) (fun seed count ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let sequences = Array.init count (fun _ -> sequence chooser v 18)
                let rows = Sequence.batchOf (chooser.Of [ Kept; Dropped ]) v torch.CPU sequences

                let scored = Loss.score v rows (normals chooser 2.0 ([ for n in rows.Targets.shape -> int n ] @ [ v.Rows ]))

                let found = CodeUse.predicted scored
                let logits = Array.chunkBySize v.Rows (values scored.Logits)
                let targets = scored.Targets.data<int64>().ToArray()
                let mass, best = Array.zeroCreate<float> v.ImageCodes, Array.zeroCreate<int64> v.ImageCodes
                let mutable correct = 0L

                targets
                |> Array.iteri (fun i target ->
                    if Vocabulary.kind v target = Kind.Image then
                        let own = logits[i][v.FirstCode ..]
                        Reference.softmax own |> Array.iteri (fun code p -> mass[code] <- mass[code] + p)
                        let top = Array.IndexOf(own, Array.max own)
                        best[top] <- best[top] + 1L

                        if v.FirstCode + top = int target then
                            correct <- correct + 1L)

                Expect.equal found.Count rows.Counts[int Kind.Image] "image targets"
                Expect.equal found.Argmax best "the most probable"
                Expect.equal found.Correct correct "correct"
                close 1e-5 1e-5 "probability" mass found.Probability
                near 1e-4 1e-6 "probabilities add up to the targets" (float found.Count) (Array.sum found.Probability)

                let codes =
                    sequences
                    |> Array.map (fun s ->
                        let _, _, codes = Sequence.decompose v s
                        codes)

                Expect.equal found.Targets (CodeUse.counts v.ImageCodes codes) "targets are the data's codes"
                let twice = found + found
                Expect.equal twice.Argmax (Array.map ((*) 2L) best) "sums add")

            case "what is no use of a codebook" (fun () ->
                for bad in [ -1; 4 ] do
                    let sentence = refused "a code outside" (fun () -> CodeUse.counts 4 [ [| bad |] ] |> ignore)
                    Expect.stringContains sentence "outside the 4 codes" "the sentence"

                for wrong in
                    [
                        fun () -> CodeUse.ofShares [| 1.0; -0.1 |] |> ignore
                        fun () -> CodeUse.ofShares [| nan |] |> ignore
                        fun () -> CodeUse.kullbackLeibler [| 1.0 |] [| 1.0; 2.0 |] |> ignore
                    ] do
                    Expect.throwsT<ArgumentException> wrong "no shares")
        ]
