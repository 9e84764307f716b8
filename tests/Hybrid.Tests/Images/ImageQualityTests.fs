module Hybrid.Tests.ImageQualityTests

open System
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Tests.Generate
open TorchSharp

let private values (stream: Random.Stream) (count: int) = Array.init count (fun i -> float32 (Random.uniform stream (int64 i)))

/// Pictures and what is left of them, [batch, 3, height, width], as arrays and as tensors.
let private pair (seed: int64) (batch: int) (height: int) (width: int) =
    let stream = Random.ofSeed seed
    let a = values (Random.named "a" stream) (batch * 3 * height * width)
    let noise = values (Random.named "noise" stream) a.Length
    let b = Array.map2 (fun x n -> Math.Clamp(x + 0.3f * (n - 0.5f), 0f, 1f)) a noise
    let tensor (values: float32[]) = Host.floats [ int64 batch; 3L; int64 height; int64 width ] values
    a, b, tensor a, tensor b

/// SSIM of one channel by the paper's formulas: the whole 11 × 11 window at every place, nothing separated, nothing expanded.
let private ssimByLoops (x: float[,]) (y: float[,]) : float =
    let weight i j = exp (-float((i - 5) * (i - 5) + (j - 5) * (j - 5)) / (2.0 * 1.5 * 1.5))
    let window = Array2D.init 11 11 weight
    let total = window |> Seq.cast<float> |> Seq.sum

    let places =
        [
            for top in 0 .. x.GetLength 0 - 11 do
                for left in 0 .. x.GetLength 1 - 11 -> top, left
        ]

    let at (top, left) =
        let mean f =
            let mutable sum = 0.0

            for i in 0..10 do
                for j in 0..10 do
                    sum <- sum + window[i, j] / total * f (x[top + i, left + j]) (y[top + i, left + j])

            sum

        let mx, my = mean (fun a _ -> a), mean (fun _ b -> b)
        let vx, vy = mean (fun a _ -> (a - mx) ** 2.0), mean (fun _ b -> (b - my) ** 2.0)
        let covariance = mean (fun a b -> (a - mx) * (b - my))
        let c1, c2 = 0.0001, 0.0009
        (2.0 * mx * my + c1) * (2.0 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))

    places |> List.averageBy at

let private channel (values: float32[]) height width index : float[,] =
    Array2D.init height width (fun y x -> float values[(index * height + y) * width + x])

let tests =
    testList
        "ImageQuality"
        [
            property3 "SSIM is the paper's, channel by channel" (1, 2) (11, 15) (11, 15) (fun seed batch height width ->
                let a, b, original, other = pair seed batch height width
                let found = ImageQuality.ssim original other

                for picture in 0 .. batch - 1 do
                    let channels =
                        [
                            for c in 0..2 ->
                                let index = picture * 3 + c
                                ssimByLoops (channel a height width index) (channel b height width index)
                        ]

                    Expect.isLessThan (abs (found[picture] - List.average channels)) 1e-9 $"picture {picture}")

            testCase "SSIM of equal pictures is 1, and there is none below the window's size" (fun () ->
                use _ = torch.NewDisposeScope()
                let _, _, original, other = pair 1L 2 16 12
                Expect.all (ImageQuality.ssim original original) (fun value -> abs (value - 1.0) < 1e-12) "equal"
                let small = original.narrow (3L, 0L, 10L)
                Expect.all (ImageQuality.ssim small (other.narrow (3L, 0L, 10L))) Double.IsNaN "ten pixels")

            testCase "SSIM of a large picture has no seams" (fun () ->
                use _ = torch.NewDisposeScope()
                let height, width = 1300L, 900L
                let original = (values (Random.ofSeed 1L) (int (height * width)) |> Host.floats [ 1L; 1L; height; width ])
                let other = (original.pow (Scalars.Of 2.0)).roll(1L, 3L)
                let whole = (ImageQuality.ssim original other)[0]
                // The places of two parts that overlap by ten rows are all the places, once each.
                let part (top: int64) (rows: int64) =
                    let cut (x: torch.Tensor) = x.narrow (2L, top, rows + 10L)
                    (ImageQuality.ssim (cut original) (cut other))[0] * float rows

                let parts = (part 0L 490L + part 490L 800L) / 1290.0
                Expect.isLessThan (abs (whole - parts)) 1e-12 "the mean of its parts"
                Expect.isLessThan whole 0.9 "not equal pictures")

            property3 "PSNR and the absolute difference are plain means" (1, 3) (1, 6) (1, 6) (fun seed batch height width ->
                let a, b, original, other = pair seed batch height width
                let size = 3 * height * width
                let psnr, l1 = ImageQuality.psnr original other, ImageQuality.l1 original other

                for picture in 0 .. batch - 1 do
                    let differences = [ for i in picture * size .. (picture + 1) * size - 1 -> float a[i] - float b[i] ]
                    let square = differences |> List.averageBy (fun d -> d * d)
                    Expect.floatClose Accuracy.high psnr[picture] (10.0 * log10 (1.0 / square)) "PSNR"
                    Expect.floatClose Accuracy.high l1[picture] (differences |> List.averageBy abs) "L1")

            testCase "measures of pictures as bytes are those of tensors" (fun () ->
                use _ = torch.NewDisposeScope()

                let bytes name =
                    Array.init (12 * 14 * 3) (fun i -> byte (Random.below 256 (Random.named name (Random.ofSeed 3L)) (int64 i)))

                let a, b = [| bytes "a"; bytes "b" |], [| bytes "c"; bytes "b" |]
                let quality = PictureMeasures.Quality(a, b, 12, 14)

                let tensor (pictures: byte[][]) =
                    (Host.floats [ 2L; 12L; 14L; 3L ] (Array.concat pictures |> Array.map (fun value -> float32 value / 255f)))
                        .permute(0L, 3L, 1L, 2L)

                let x, y = tensor a, tensor b
                Expect.equal [| for q in quality -> q.Psnr |] (ImageQuality.psnr x y) "PSNR"
                Expect.equal [| for q in quality -> q.Ssim |] (ImageQuality.ssim x y) "SSIM"
                Expect.equal [| for q in quality -> q.L1 |] (ImageQuality.l1 x y) "L1"
                Expect.equal (quality[1].Psnr, quality[1].L1) (infinity, 0.0) "equal pictures")

            testCase "measures leave no tensor behind" (fun () ->
                use _ = torch.NewDisposeScope()
                let _, _, original, other = pair 1L 2 16 12
                let live () = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount
                let before = live ()
                ImageQuality.psnr original other |> ignore
                ImageQuality.ssim original other |> ignore
                ImageQuality.l1 original other |> ignore
                Expect.equal (live ()) before "live tensors")

            testCase "the use of a codebook" (fun () ->
                let use' = PictureMeasures.Use(8, [ [| 0; 1; 1 |]; [| 2; 2; 3 |]; [| 0; 3 |] ])
                Expect.equal (use'.Codes, use'.Used, use'.Share) (8, 4, 0.5) "used"
                Expect.floatClose Accuracy.high use'.Entropy 2.0 "four equally frequent codes"
                Expect.floatClose Accuracy.high use'.Perplexity 4.0 "are four"
                let skewed = CodeUse.ofCounts [| 3L; 1L; 0L |]
                let bits = -(0.75 * Math.Log2 0.75 + 0.25 * Math.Log2 0.25)
                Expect.floatClose Accuracy.high skewed.Entropy bits "entropy"
                Expect.floatClose Accuracy.high skewed.Perplexity (2.0 ** bits) "perplexity")
        ]
