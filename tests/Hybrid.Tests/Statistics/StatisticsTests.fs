module Hybrid.Tests.StatisticsTests

open System
open Expecto
open Hybrid
open Hybrid.Statistics
open Hybrid.Tests.Generate

let private stream (seed: int64) = Random.ofSeed seed |> Random.named "bootstrap"

let tests =
    testList
        "Statistics"
        [
            property1 "ema is its formula with the start corrected" (1, 60) (fun seed count ->
                let chooser = Chooser seed
                let b = chooser.Of [ 0.0; 0.5; 0.9; 0.999 ]
                let x = chooser.Normals count

                // (1 − b) Σ b^(t−i) x_i / (1 − b^t)
                let expected =
                    Array.init count (fun t ->
                        let sum = Seq.sum (seq { for i in 0..t -> (1.0 - b) * b ** float (t - i) * x[i] })
                        sum / (1.0 - b ** float (t + 1)))

                close 1e-9 1e-9 $"decay {b}" expected (ema b x))

            property "ema of a constant is that constant, from the first value on" (fun seed ->
                let chooser = Chooser seed
                let value = chooser.Float(-5.0, 5.0)
                close 1e-9 1e-9 "constant" (Array.create 20 value) (ema (chooser.Float(0.0, 0.999)) (Array.create 20 value)))

            testCase "mean and deviation" (fun () ->
                Expect.equal (mean [| 1.0; 2.0; 6.0 |]) 3.0 "mean"
                near 1e-12 0.0 "deviation, n − 1" (sqrt 7.0) (deviation [| 1.0; 2.0; 6.0 |])
                Expect.isTrue (Double.IsNaN(mean [||])) "no mean of nothing"
                Expect.isTrue (Double.IsNaN(deviation [| 1.0 |])) "no deviation of one")

            property "the bootstrap's interval holds the mean and is as wide as the theory says" (fun seed ->
                let chooser = Chooser seed

                let width (count: int) =
                    let x = chooser.Normals count
                    let interval = bootstrapMean (stream seed) 600 x
                    near 1e-12 1e-12 "mean" (Array.average x) interval.Mean
                    Expect.isLessThan interval.Low interval.Mean "low"
                    Expect.isGreaterThan interval.High interval.Mean "high"
                    // 2 · 1.96 · s / √n, and the bootstrap's own noise.
                    let theory = 2.0 * 1.96 * deviation x / sqrt (float count) * sqrt (1.0 - 1.0 / float count)
                    near 0.0 0.4 $"width of {count}" theory (interval.High - interval.Low)
                    interval.High - interval.Low

                let few, many = width 40, width 640
                Expect.isLessThan many (few / 2.0) "sixteen times the data, about a quarter of the width")

            property "the bootstrap of a ratio divides sums, not means of ratios" (fun seed ->
                let chooser = Chooser seed
                let counts = Array.init 30 (fun _ -> float (chooser.Int(1, 50)))
                let rate = chooser.Float(1.0, 5.0)
                let sums = counts |> Array.map (fun c -> rate * c)
                let interval = bootstrapRatio (stream seed) 200 sums counts
                near 1e-9 1e-9 "mean" rate interval.Mean
                near 1e-9 1e-9 "no spread where every unit has the same ratio" 0.0 (interval.High - interval.Low)
                let uneven = sums |> Array.mapi (fun i s -> if i = 0 then s + 100.0 else s)
                let interval = bootstrapRatio (stream seed) 200 uneven counts
                near 1e-9 1e-9 "ratio of sums" (Array.sum uneven / Array.sum counts) interval.Mean)

            property "the bootstrap depends on its stream alone" (fun seed ->
                let x = (Chooser seed).Normals 25
                let interval seed = bootstrapMean (stream seed) 200 x
                Expect.equal (interval seed) (interval seed) "same stream"
                Expect.notEqual (interval seed) (interval (seed + 1L)) "another stream")

            testCase "one unit has no interval" (fun () ->
                for interval in [ bootstrapMean (stream 1L) 100 [| 4.0 |]; studentMean [| 4.0 |] ] do
                    Expect.equal interval.Mean 4.0 "mean"
                    Expect.isTrue (Double.IsNaN interval.Low && Double.IsNaN interval.High) "interval")

            testCase "Student's interval of known cases" (fun () ->
                // Mean 3, s = √2.5, t(4) = 2.776: half width 2.776 · √(2.5 / 5).
                let interval = studentMean [| 1.0; 2.0; 3.0; 4.0; 5.0 |]
                near 1e-12 0.0 "mean" 3.0 interval.Mean
                near 1e-3 0.0 "low" (3.0 - 1.9629) interval.Low
                near 1e-3 0.0 "high" (3.0 + 1.9629) interval.High
                let two = studentMean [| 0.0; 2.0 |]
                near 1e-3 0.0 "two values, t(1) = 12.706" 12.706 (two.High - two.Mean))

            testCase "Student's quantile has its tabled values at any count" (fun () ->
                for df, t in
                    [ 1, 12.706; 2, 4.303; 10, 2.228; 30, 2.042; 31, 2.0395; 40, 2.0211; 60, 2.0003; 120, 1.9799; 2000, 1.9612 ] do
                    // Values ±1 in turn: s² = Σ(x − m)² / df.
                    let x = Array.init (df + 1) (fun i -> if i % 2 = 0 then 1.0 else -1.0)
                    let interval = studentMean x
                    let half = (interval.High - interval.Low) / 2.0
                    near 0.0 3e-4 $"{df} degrees of freedom" t (half / deviation x * sqrt (float x.Length)))
        ]
