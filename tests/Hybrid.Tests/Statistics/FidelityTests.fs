module Hybrid.Tests.FidelityTests

open System
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Tests.Generate
open TorchSharp

/// Features whose columns depend on each other and have different means and widths.
let private features (chooser: Chooser) (count: int) (width: int) : float[][] =
    let mix = Array.init (width * width) (fun _ -> chooser.Float(-1.0, 1.0))
    let shift = Array.init width (fun _ -> chooser.Float(-2.0, 2.0))

    Array.init count (fun _ ->
        let z = chooser.Normals width
        Array.init width (fun i -> shift[i] + Seq.sum (seq { for j in 0 .. width - 1 -> mix[i * width + j] * z[j] })))

let private tensor (rows: float[][]) : torch.Tensor =
    torch.tensor(Array.concat rows, dtype = torch.float64).reshape(int64 rows.Length, int64 rows[0].Length)

let private distance (real: float[][]) (generated: float[][]) = (Frechet.ofFeatures (tensor real) (tensor generated)).Distance

/// The error of the distance that is `distance`.
let private error (real: float[][]) (generated: float[][]) : float =
    let struct (found, error) = Frechet.withError (tensor real) (tensor generated)
    near 1e-9 1e-9 "with its error" (distance real generated) found.Distance
    error

let private kid (real: float[][]) (generated: float[][]) = KernelDistance.unbiased ignore (tensor real) (tensor generated)

/// A rotation by the eigenvectors of a random symmetric matrix.
let private rotation (chooser: Chooser) (width: int) : float[,] =
    let values = Array.init (width * width) (fun _ -> chooser.Float(-1.0, 1.0))

    Array2D.init width width (fun i j -> values[i * width + j] + values[j * width + i])
    |> FidelityReference.jacobi
    |> snd

let private rotate (turn: float[,]) (rows: float[][]) =
    rows
    |> Array.map (fun row ->
        Array.init row.Length (fun i -> Seq.sum (seq { for j in 0 .. row.Length - 1 -> turn[i, j] * row[j] })))

let private diagonal (values: float[]) = torch.diag (torch.tensor (values, dtype = torch.float64))

let private vector (values: float[]) = torch.tensor (values, dtype = torch.float64)

let private frechet =
    testList
        "Fréchet distance"
        [
            property3 "equals plain loops with Jacobi's eigenvalues" (1, 7) (2, 30) (2, 30) (fun seed width n m ->
                let chooser = Chooser seed
                let real, generated = features chooser n width, features chooser m width
                let expected = FidelityReference.frechet real generated
                let scale = Seq.sum (seq { for row in real -> Array.sumBy (fun x -> x * x) row }) / float n
                near (1e-6 * scale) 1e-6 $"{n} against {m}, width {width}" expected (distance real generated))

            property2 "of a set with itself is 0, with fewer samples than dimensions too" (1, 40) (2, 12) (fun seed width n ->
                let real = features (Chooser seed) n width
                let found = Frechet.ofFeatures (tensor real) (tensor real)
                let scale = 1.0 + Seq.sum (seq { for row in real -> Array.sumBy (fun x -> x * x) row })
                near (1e-10 * scale) 0.0 "itself" 0.0 found.Distance
                Expect.equal found.Ranks (struct (int64 (min width (n - 1)), int64 (min width (n - 1)))) "ranks")

            property2 "is the same from either side" (1, 8) (2, 12) (fun seed width n ->
                let chooser = Chooser seed
                let a, b = features chooser n width, features chooser (n + 3) width
                near 1e-8 1e-9 "swapped" (distance a b) (distance b a))

            property2 "does not see a rotation of both" (2, 6) (3, 20) (fun seed width n ->
                let chooser = Chooser seed
                let a, b = features chooser n width, features chooser (n + 2) width
                let turn = rotation chooser width
                near 1e-7 1e-8 "rotated" (distance a b) (distance (rotate turn a) (rotate turn b)))

            property2 "of a moved copy is the squared length of the move" (1, 8) (2, 20) (fun seed width n ->
                let chooser = Chooser seed
                let a = features chooser n width
                let move = chooser.Normals width
                let moved = a |> Array.map (fun row -> Array.map2 (+) row move)
                near 1e-8 1e-9 "moved" (Array.sumBy (fun x -> x * x) move) (distance a moved))

            property1 "of known Gaussians is the closed form" (1, 8) (fun seed width ->
                let chooser = Chooser seed
                let some low = Array.init width (fun _ -> chooser.Float(low, 3.0))
                let m1, m2, d1, d2 = some -3.0, some -3.0, some 0.0, some 0.0
                let square (x: float) = x * x
                let variances = Array.map square
                let expected = Array.sumBy square (Array.map2 (-) m1 m2) + Array.sumBy square (Array.map2 (-) d1 d2)
                let found = Frechet.ofGaussians (vector m1) (diagonal (variances d1)) (vector m2) (diagonal (variances d2))
                near 1e-9 1e-9 "closed form" expected found.Distance
                near 1e-12 1e-12 "parts" found.Distance (found.Means + found.Covariances))

            case "of Gaussians on lines that are not parallel is exact though both are singular" (fun () ->
                // Σ = a aᵀ and b bᵀ: tr (Σ₁Σ₂)^½ = |a·b|.
                let a, b = vector [| 3.0; 4.0 |], vector [| 1.0; 2.0 |]
                let zero = vector [| 0.0; 0.0 |]
                let found = Frechet.ofGaussians zero (torch.outer (a, a)) zero (torch.outer (b, b))
                near 1e-12 1e-12 "25 + 5 − 2 · 11" 8.0 found.Distance
                Expect.equal found.Ranks (struct (1L, 1L)) "ranks")

            case "of points that do not move at all is the distance of their means" (fun () ->
                near 0.0 0.0 "constant" 25.0 (distance [| [| 0.0; 0.0 |]; [| 0.0; 0.0 |] |] [| [| 3.0; 4.0 |]; [| 3.0; 4.0 |] |]))

            property3 "moments in parts are those of the whole, in any order" (1, 6) (2, 40) (1, 40) (fun seed width n cut ->
                let chooser = Chooser seed
                // A mean that is large beside the deviation: sums of squares about 0 would lose all digits.
                let rows = features chooser n width |> Array.map (Array.map (fun x -> 1e6 + x))
                let cut = min cut (n - 1)
                use whole = new FeatureMoments(int64 width)
                use parts = new FeatureMoments(int64 width)
                use second = new FeatureMoments(int64 width)
                whole.Add(tensor rows)
                second.Add(tensor rows[.. cut - 1])
                parts.Add(tensor rows[cut..])
                parts.Add second
                Expect.equal parts.Count (int64 n) "count"
                close 1e-6 1e-12 "mean" (FidelityReference.mean rows) (values parts.Mean)
                let expected = FidelityReference.covariance rows |> Seq.cast<float> |> Array.ofSeq
                close 1e-6 1e-6 "whole" expected (values (whole.Covariance()))
                close 1e-6 1e-6 "parts" expected (values (parts.Covariance())))
        ]

let private kernels =
    testList
        "kernel distance"
        [
            property3 "equals plain loops" (1, 7) (2, 25) (2, 25) (fun seed width n m ->
                let chooser = Chooser seed
                let real, generated = features chooser n width, features chooser m width
                near 1e-8 1e-9 "loops" (FidelityReference.kid real generated) (kid real generated).Distance)

            property2 "its error is that of leaving each sample out" (1, 4) (3, 9) (fun seed width n ->
                let chooser = Chooser seed
                let real, generated = features chooser n width, features chooser (n + 2) width

                let variance (left: float[]) =
                    let count = float left.Length
                    (count - 1.0) / count * Array.sumBy (fun x -> (x - Array.average left) ** 2.0) left

                let without i (rows: float[][]) = Array.removeAt i rows
                let first = Array.init n (fun i -> FidelityReference.kid (without i real) generated)
                let second = Array.init (n + 2) (fun i -> FidelityReference.kid real (without i generated))
                near 1e-7 1e-6 "jackknife" (sqrt (variance first + variance second)) (kid real generated).Error)

            case "is unbiased: near 0 for small sets of one distribution, and its error says how near" (fun () ->
                let chooser = Chooser 5L
                let draw () = Array.init 24 (fun _ -> chooser.Normals 6)
                let found = Array.init 200 (fun _ -> kid (draw ()) (draw ()))
                let mean = found |> Array.averageBy _.Distance
                let deviation = Statistics.deviation (found |> Array.map _.Distance)
                Expect.isLessThan (abs mean) (3.5 * deviation / sqrt 200.0) "mean of 200"
                let said = found |> Array.averageBy _.Error
                Expect.isLessThan deviation (1.1 * said) "the error is no less than what is seen"
                Expect.isLessThan said (2.0 * deviation) "and no more than twice that")

            case "subsets of all samples are the whole, smaller ones scatter about it, and the seed decides them" (fun () ->
                let chooser = Chooser 8L
                let real, generated = tensor (features chooser 40 5), tensor (features chooser 40 5)
                let stream seed = Random.ofSeed seed |> Random.named "kid"
                let whole = (KernelDistance.unbiased ignore real generated).Distance
                let all = KernelDistance.subsets ignore (stream 1L) 3 1000L real generated
                near 1e-9 1e-9 "all" whole all.Mean
                near 1e-9 0.0 "all are one" 0.0 all.Deviation
                Expect.equal all.Size 40L "size"
                let some = KernelDistance.subsets ignore (stream 1L) 400 20L real generated
                near (4.0 * some.Deviation / sqrt 400.0) 0.0 "mean of subsets" whole some.Mean
                Expect.equal (KernelDistance.subsets ignore (stream 1L) 400 20L real generated) some "the same seed"
                Expect.notEqual (KernelDistance.subsets ignore (stream 2L) 400 20L real generated) some "another seed")

            case "in several blocks is what plain loops say, neighbourhoods too" (fun () ->
                let chooser = Chooser 10L
                let block = int (Features.rowsTogether 2L)
                let real, generated = features chooser (block + 40) 2, features chooser (block + 7) 2
                near 1e-9 1e-9 "distance" (FidelityReference.kid real generated) (kid real generated).Distance
                let precision, recall, density, coverage = FidelityReference.neighbours 3 real generated
                let found = Neighbourhoods.measure ignore 3 (tensor real) (tensor generated)
                let all = [| found.Precision; found.Recall; found.Density; found.Coverage |]
                close 1e-12 1e-12 "four shares" [| precision; recall; density; coverage |] all)

            case "tells its caller of every row" (fun () ->
                let chooser = Chooser 9L
                let mutable rows = 0L

                KernelDistance.unbiased
                    (fun n -> rows <- rows + n)
                    (tensor (features chooser 7 2))
                    (tensor (features chooser 5 2))
                |> ignore

                Expect.equal rows 19L "2 N + M")
        ]

let private errors =
    testList
        "Fréchet distance's error"
        [
            property1 "is the derivative by each sample's weight" (1, 4) (fun seed width ->
                let chooser = Chooser seed
                let n, m = width + 6, width + 9
                let real, generated = features chooser n width, features chooser m width

                // The distance of weighted samples, weights that sum to 1: (1 − ε) of all the same and ε more on one of them.
                let weighted (rows: float[][]) (at: int) (step: float) =
                    let count = float rows.Length
                    let weight i = (1.0 - step) / count + (if i = at then step else 0.0)

                    let mean =
                        Array.init width (fun d -> Seq.sum (seq { for i in 0 .. rows.Length - 1 -> weight i * rows[i].[d] }))

                    let covariance =
                        [|
                            for a in 0 .. width - 1 do
                                for b in 0 .. width - 1 ->
                                    Seq.sum (
                                        seq {
                                            for i in 0 .. rows.Length - 1 ->
                                                weight i * (rows[i].[a] - mean[a]) * (rows[i].[b] - mean[b])
                                        }
                                    )
                                    * count
                                    / (count - 1.0)
                        |]

                    vector mean, (vector covariance).reshape(int64 width, int64 width)

                let variance (rows: float[][]) (against: torch.Tensor * torch.Tensor) =
                    let derivative at =
                        let value step =
                            let mean, covariance = weighted rows at step
                            (Frechet.ofGaussians mean covariance (fst against) (snd against)).Distance

                        (value 1e-5 - value -1e-5) / 2e-5

                    let derivatives = Array.init rows.Length derivative
                    Statistics.deviation derivatives ** 2.0 / float rows.Length

                let expected = sqrt (variance real (weighted generated 0 0.0) + variance generated (weighted real 0 0.0))
                // The covariances' n / (n − 1) is a factor of the derivative here and not there.
                near 1e-6 (1.5 / float n) "delta method" expected (error real generated))

            case "is what distances of sets drawn anew scatter" (fun () ->
                let chooser = Chooser 3L
                let draw shift scale = Array.init 300 (fun _ -> chooser.Normals 4 |> Array.map (fun x -> shift + scale * x))
                let found = Array.init 150 (fun _ -> distance (draw 0.0 1.0) (draw 0.5 1.4))
                let said = error (draw 0.0 1.0) (draw 0.5 1.4)
                near 0.0 0.25 "standard error" (Statistics.deviation found) said)

            case "is not known with as few samples as dimensions" (fun () ->
                let chooser = Chooser 4L
                Expect.isNaN (error (features chooser 5 5) (features chooser 30 5)) "5 of 5")

            case "the distance of infinitely many is nearer to the truth than that of all there are" (fun () ->
                let chooser = Chooser 6L
                let stream = Random.ofSeed 1L |> Random.named "fid"

                let pairs =
                    Array.init 12 (fun _ ->
                        let draw () = tensor (Array.init 120 (fun _ -> chooser.Normals 10))
                        let real, generated = draw (), draw ()

                        match Frechet.extrapolate stream real generated with
                        | None -> failtest "120 samples of 10 dimensions are enough"
                        | Some(limit, points) ->
                            Expect.equal (Array.map fst points) [| 1.0; 0.8; 0.6; 0.5; 0.4 |] "shares"
                            near 1e-9 1e-9 "all" (Frechet.ofFeatures real generated).Distance (snd points[0])
                            limit, snd points[0])

                // One distribution: the truth is 0.
                let limit, all = pairs |> Array.averageBy fst, pairs |> Array.averageBy snd
                Expect.isGreaterThan all 0.3 "the bias of 120 samples"
                Expect.isLessThan (abs limit) (0.25 * all) "what is left of it"

                Expect.isNone
                    (Frechet.extrapolate stream (tensor (features chooser 12 5)) (tensor (features chooser 40 5)))
                    "40 % of 12")
        ]

let private neighbourhoods =
    let measure k real generated = Neighbourhoods.measure ignore k (tensor real) (tensor generated)

    testList
        "neighbourhoods"
        [
            property3 "equal plain loops" (1, 4) (5, 20) (5, 20) (fun seed width n m ->
                let chooser = Chooser seed
                let k = chooser.Int(1, 4)
                let real = features chooser n width
                // Some of the same, some elsewhere.
                let generated = Array.append real[.. n / 2] (features chooser m width)
                let precision, recall, density, coverage = FidelityReference.neighbours k real generated
                let found = measure k real generated
                let all = [| found.Precision; found.Recall; found.Density; found.Coverage |]
                close 1e-12 1e-12 "four shares" [| precision; recall; density; coverage |] all)

            case "of a set with itself are full, duplicates too" (fun () ->
                let real = features (Chooser 1L) 20 3

                for rows in [ real; Array.append real real; Array.replicate 6 real[0] ] do
                    let found = measure 3 rows rows
                    Expect.equal (found.Precision, found.Recall, found.Coverage) (1.0, 1.0, 1.0) "shares"
                    Expect.isGreaterThanOrEqual found.Density 1.0 "density")

            case "of sets far apart are empty" (fun () ->
                let real = features (Chooser 1L) 20 3
                let found = measure 3 real (real |> Array.map (Array.map (fun x -> x + 1e4)))
                Expect.equal (found.Precision, found.Recall, found.Density, found.Coverage) (0.0, 0.0, 0.0, 0.0) "shares")

            case "of one mode of two: precise, and half is not covered" (fun () ->
                let chooser = Chooser 2L
                let mode at = Array.init 40 (fun _ -> chooser.Normals 2 |> Array.map (fun x -> at + x))
                let found = measure 5 (Array.append (mode 0.0) (mode 100.0)) (mode 0.0)
                Expect.isGreaterThan found.Precision 0.85 "precision"
                Expect.isLessThanOrEqual found.Recall 0.5 "recall"
                Expect.isLessThanOrEqual found.Coverage 0.5 "coverage"
                Expect.isGreaterThan found.Coverage 0.3 "coverage of the first mode")

            case "need more samples than neighbours" (fun () ->
                let chooser = Chooser 3L
                let sentence = refused "3 of 3" (fun () -> measure 3 (features chooser 3 2) (features chooser 9 2) |> ignore)
                Expect.stringContains sentence "real holds 3 samples; with 3 neighbours there must be 4 at least." "real"
                let sentence = refused "3 of 3" (fun () -> measure 3 (features chooser 9 2) (features chooser 3 2) |> ignore)
                Expect.stringContains sentence "generated holds 3 samples" "generated")
        ]

let private refusals =
    testList
        "refuses"
        [
            case "features that are not features, with a sentence each" (fun () ->
                let good = tensor (features (Chooser 1L) 4 3)

                let says (part: string) (features: torch.Tensor) =
                    Expect.stringContains (refused part (fun () -> Fidelity.Frechet(good, features) |> ignore)) part part
                    Expect.stringContains (refused part (fun () -> Fidelity.Kid(good, features) |> ignore)) part part

                says "a covariance needs two" (good.narrow (0L, 0L, 1L))
                says "features are [pictures, width]" (good.reshape 12L)
                says "features are float16, float32 or float64" (good.``to`` torch.int64)
                says "both sets need the same extractor" (good.narrow (1L, 0L, 2L))
                let broken = good.clone ()
                broken[2L, 1L] <- torch.tensor nan
                says "row 2, column 1 (NaN)" broken)

            case "no dispose, no leak: arrays of the door leave nothing behind" (fun () ->
                let chooser = Chooser 2L
                let rows = features chooser 9 3
                let array = Array2D.init 9 3 (fun i j -> float32 (rows[i].[j]))
                let before = liveTensors ()
                let frechet = Fidelity.Frechet(array, array)
                let kid = Fidelity.Kid(array, array)
                let struct (again, _) = Fidelity.FrechetWithError(array, array)
                Expect.equal (Fidelity.Neighbours(array, array, 2)).Recall 1.0 "neighbours"
                near 1e-9 0.0 "with its error" frechet.Distance again.Distance
                near 1e-6 0.0 "itself" 0.0 frechet.Distance
                Expect.isLessThan kid.Distance 0.0 "all pairs but a sample with itself are nearer across than within"
                let after = liveTensors ()
                Expect.equal after before "live tensors")
        ]

let tests =
    Hybrid.Runner.TorchLibrary.Load()
    testList "Fidelity" [ frechet; errors; kernels; neighbourhoods; refusals ]
