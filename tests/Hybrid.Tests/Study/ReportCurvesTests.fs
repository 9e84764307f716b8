module Hybrid.Tests.ReportCurvesTests

open System
open Expecto
open Hybrid
open Hybrid.Report
open Hybrid.Tests.ReportTests

let tests =
    testList
        "ReportCurves"
        [

            testProperty "a moving average is that of the statistics, and knows gaps" (fun (seed: int) ->
                let stream = Random.ofSeed (int64 seed)
                let n = 1 + Random.below 200 stream 0L
                let values = Array.init n (fun i -> Random.normal stream (int64 i + 1L))
                let decay = float (Random.below 100 stream 999L) / 100.0
                let near (a: float) (b: float) = abs (a - b) <= 1e-9
                let whole = Array.forall2 near (ReportCurves.ema decay 1 values) (Statistics.ema decay values)
                // A missing value neither counts nor hides what comes after it.
                let gapped = values |> Array.collect (fun value -> [| value; nan |]) |> ReportCurves.ema decay 1
                let kept = gapped |> Array.indexed |> Array.filter (fun (i, _) -> i % 2 = 0) |> Array.map snd
                whole && Array.forall2 near kept (Statistics.ema decay values) && Double.IsNaN gapped[1])

            testCase "a curve is condensed to means that stand for as many steps" (fun () ->
                let line = curve "a" 0 (Array.init 1000 float) (Array.init 1000 (fun i -> float i / 10.0)) |> smoothable 0.9
                let condensed, each = ReportCurves.condense 100 line
                Expect.equal each 10 "steps each"
                Expect.equal condensed.X.Length 100 "points"
                Expect.floatClose Accuracy.high condensed.Y[3] 3.45 "mean of 30 to 39"
                let whole = ReportCurves.ema 0.9 1 line.Y |> Array.last
                let part = ReportCurves.ema 0.9 each condensed.Y |> Array.last
                Expect.isLessThan (abs (whole - part)) 0.5 "the averages stay together, half a mean apart at most"
                Expect.equal (ReportCurves.condense 1000 line) (line, 1) "a short curve stays"
                Expect.throwsT<ArgumentException> (fun () -> line |> smoothable 1.0 |> ignore) "weight")

            testCase "what is smoothed is shown smoothed, its steps behind it" (fun () ->
                let raw = curve "a" 0 steps (Array.init 50 (fun i -> float (i % 2))) |> smoothable 0.5 |> exponential
                Expect.floatClose Accuracy.high (ReportCurves.shown raw).Y[1] (exp (2.0 / 3.0)) "average, then exponential"
                Expect.equal (ReportCurves.behind raw |> Option.map (fun curve -> curve.Y[1])) (Some(exp 1.0)) "step"
                Expect.isNone (ReportCurves.behind (raw |> smoothable 0.0)) "nothing is smoothed by 0"
                Expect.isNone (ReportCurves.behind (curve "b" 0 steps steps)) "nor what is not of single steps"
                Expect.stringContains (describe (curves "" (axis "y") [ raw ] none)) "from 1.00 to 2.72" "in words")

            testCase "thinning keeps gaps" (fun () ->
                let y = Array.init 10000 (fun i -> if i >= 4000 && i < 5000 then nan else float (i % 7))
                let thinned = ReportCurves.thin 200 (curve "a" 0 (Array.init 10000 float) y)
                Expect.isLessThanOrEqual thinned.X.Length 210 "short"
                Expect.equal (thinned.Y |> Array.filter Double.IsNaN |> Array.length) 1 "one gap"
                Expect.equal (Array.head thinned.X, Array.last thinned.X) (0.0, 9999.0) "the ends"
                let ragged = curve "b" 0 (Array.init 5000 float) (Array.init 5000 (fun i -> if i % 2 = 0 then nan else 1.0))
                Expect.isLessThanOrEqual (ReportCurves.thin 200 ragged).X.Length 200 "with more gaps than points")

            testProperty "thinning keeps the ends, the order and points of the curve" (fun (seed: int) ->
                let stream = Random.ofSeed (int64 seed)
                let n = 3 + Random.below 2000 stream 0L
                let count = 3 + Random.below 300 stream 1L
                let x = Array.init n float
                let y = Array.init n (fun i -> Random.normal stream (int64 i + 2L))
                let thinned = ReportCurves.thin count (curve "a" 0 x y |> withBand y y)

                thinned.X.Length = min n count
                && thinned.X[0] = 0.0
                && Array.last thinned.X = float (n - 1)
                && Array.pairwise thinned.X |> Array.forall (fun (a, b) -> a < b)
                && Array.forall2 (fun (at: float) value -> y[int at] = value) thinned.X thinned.Y
                && thinned.Lower = thinned.Y)
        ]
