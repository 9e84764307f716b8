/// The codebook of an image tokenizer: nearest codes, updates and use.
module Hybrid.Tests.CodebookTests

open Expecto
open Hybrid
open Hybrid.Tests.ImageTokenizerSupport
open TorchSharp

let tests =
    testList
        "Codebook"
        [
            property "the nearest code is a plain loop's, the first of equals" (fun (seed: int) (n: int) (k: int) (c: int) ->
                use _ = torch.NewDisposeScope()
                let n, k, c = within 1 40 n, within 1 30 k, within 1 5 c
                let stream = Random.ofSeed (int64 seed)
                // Small whole numbers: distances are exact, and ties are common.
                let draw name count = Array.init count (fun i -> Random.below 5 (Random.named name stream) (int64 i) - 2)

                let codebook, vectors = draw "codebook" (k * c), draw "vectors" (n * c)

                let expected =
                    [|
                        for row in 0 .. n - 1 ->
                            seq { 0 .. k - 1 }
                            |> Seq.minBy (fun code ->
                                Seq.sum (
                                    seq {
                                        for axis in 0 .. c - 1 -> pown (codebook[code * c + axis] - vectors[row * c + axis]) 2
                                    }
                                ))
                            |> int64
                    |]

                let tensor (values: int[]) rows = torch.tensor(Array.map float32 values).view(int64 rows, int64 c)

                let codes = Codebook.nearest (tensor codebook k) (tensor vectors n)
                codes.data<int64>().ToArray() = expected)

            testCase "chunks of the distance matrix join to the whole" (fun () ->
                use _ = torch.NewDisposeScope()
                let stream = Random.ofSeed 4L
                let codebook = uniform (Random.named "codebook" stream) -1.0 1.0 [ 4096L; 3L ]
                let vectors = uniform (Random.named "vectors" stream) -1.0 1.0 [ 2500L; 3L ]
                let whole = Codebook.nearest codebook vectors

                let halves =
                    torch.cat (
                        [|
                            Codebook.nearest codebook (vectors.narrow (0L, 0L, 900L))
                            Codebook.nearest codebook (vectors.narrow (0L, 900L, 1600L))
                        |],
                        0L
                    )

                let chosen = codebook.index_select (0L, whole)
                let distance (rows: torch.Tensor) = (rows - vectors).pow(Scalars.Of(2.0)).sum 1L
                let other = distance (codebook.index_select (0L, halves))
                Expect.equal (whole.shape: int64[]) [| 2500L |] "one code a vector"
                Expect.isTrue ((distance chosen - other).abs().max().item<float32>() < 1e-5f) "the same distances")

            property "vectors of codes are found again" (fun (seed: int) (b: int) (h: int) (w: int) ->
                use _ = torch.NewDisposeScope()
                let b, h, w = within 1 3 b, within 1 5 h, within 1 5 w
                let stream = Random.ofSeed (int64 seed)
                let codebook = uniform stream -1.0 1.0 [ 17L; 6L ]

                let codes =
                    torch
                        .tensor(Array.init (b * h * w) (fun i -> int64 (Random.below 17 stream (int64 i))))
                        .view(int64 b, int64 h, int64 w)

                let map = Codebook.lookup codebook codes
                map.shape = [| int64 b; 6L; int64 h; int64 w |] && same codes (Codebook.assign codebook map))

            property
                "an update keeps shapes, stays finite, and fills a codebook of zeros from the batch"
                (fun (seed: int) (n: int) (k: int) ->
                    use _ = torch.NewDisposeScope()
                    let n, k = within 1 60 n, within 1 40 k
                    let stream = Random.ofSeed (int64 seed)
                    let weights = start seed (Codebook.parameters "codebook" (int64 k) 4L)
                    let state = Codebook.state "codebook" weights
                    let learning: Codebook.Learning = { Decay = 0.9; Revival = 0.05; Smoothing = 0.0 }

                    let step number =
                        let vectors = uniform (Random.numbered number stream) -3.0 3.0 [ int64 n; 4L ]
                        let codes = Codebook.nearest state.Vectors vectors
                        Codebook.update learning stream number state vectors codes
                        vectors

                    let first = step 0L
                    let distances = (state.Vectors.unsqueeze 1L - first).abs().amax([| 2L |]).amin [| 1L |]
                    // Every code but the first, which took the whole batch, stands on a vector of the batch.
                    let onBatch = k = 1 || distances.narrow(0L, 1L, int64 k - 1L).max().item<float32>() < 1e-3f

                    for number in 1L .. 20L do
                        step number |> ignore

                    onBatch
                    && state.Vectors.shape = [| int64 k; 4L |]
                    && torch.isfinite(state.Vectors).all().item<bool>()
                    && torch.isfinite(state.Sums).all().item<bool>()
                    && state.Counts.gt(Scalars.Of(0.0)).all().item<bool>()
                    && state.Vectors.abs().max().item<float32>() < 3.1f)

            testCase "an update moves used codes by the averages and draws the same for the same step" (fun () ->
                use _ = torch.NewDisposeScope()

                let fresh () : Codebook.State =
                    {
                        Vectors = torch.tensor([| 1f; 0f; 0f; 1f |]).view(2L, 2L)
                        Counts = torch.tensor [| 2f; 0f |]
                        Sums = torch.tensor([| 2f; 0f; 0f; 0f |]).view(2L, 2L)
                    }

                let vectors = torch.tensor([| 2f; 0f; 4f; 2f |]).view(2L, 2L)
                let codes = torch.tensor [| 0L; 0L |]
                let learning: Codebook.Learning = { Decay = 0.5; Revival = 0.1; Smoothing = 0.0 }
                let state, again = fresh (), fresh ()
                Codebook.update learning (Random.ofSeed 1L) 3L state vectors codes
                Codebook.update learning (Random.ofSeed 1L) 3L again vectors codes
                // counts 0.5·2 + 0.5·2 = 2; sums 0.5·(2, 0) + 0.5·(6, 2) = (4, 1)
                Expect.equal (state.Vectors[0L].data<float32>().ToArray()) [| 2f; 0.5f |] "the mean of the averages"
                let revived = state.Vectors[1L].data<float32>().ToArray()
                Expect.contains [ [| 2f; 0f |]; [| 4f; 2f |] ] revived "the unused code stands on a vector of the batch"
                Expect.isTrue (same state.Vectors again.Vectors) "the same draw")

            testCase "use and entropy" (fun () ->
                use _ = torch.NewDisposeScope()
                let histogram = Codebook.histogram 8 (torch.tensor([| 0L; 1L; 2L; 3L; 0L; 1L; 2L; 3L |]).view(2L, 4L))
                Expect.equal histogram [| 2L; 2L; 2L; 2L; 0L; 0L; 0L; 0L |] "occurrences"
                Expect.equal (CodeUse.ofCounts histogram).Share 0.5 "half of the codes occur"
                Expect.floatClose Accuracy.high (CodeUse.ofCounts histogram).Entropy 2.0 "four equal codes are two bits"
                Expect.equal (CodeUse.ofCounts [| 5L; 0L |]).Entropy 0.0 "one code is no information")
        ]
