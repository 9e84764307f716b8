/// Curves made smoother, and smaller for the eye: what a figure shows of many points.
module Hybrid.ReportCurves

open System
open Hybrid.Report

/// The exponential moving average of values with its start corrected, as Statistics.ema, over values of which some are missing (NaN):
/// those leave a gap and do not count. A value stands for `steps` steps, so that its weight is decay^steps.
let ema (decay: float) (steps: int) (values: float[]) : float[] =
    let kept = Math.Pow(decay, float steps)
    let mutable average, weight = 0.0, 0.0

    values
    |> Array.map (fun x ->
        if Double.IsFinite x then
            average <- kept * average + (1.0 - kept) * x
            weight <- kept * weight + (1.0 - kept)
            if weight > 0.0 then average / weight else x
        else
            nan)

/// The curve as it is shown: smoothed where it is of single steps, and exponentials of logarithms.
let shown (curve: Curve) : Curve =
    let smooth = if Double.IsNaN curve.Smoothing then curve.Y else ema curve.Smoothing 1 curve.Y
    let form (values: float[]) = if curve.Exponential then Array.map exp values else values

    { curve with
        Y = form smooth
        Lower = form curve.Lower
        Upper = form curve.Upper
        Smoothing = nan
        Exponential = false
    }

/// The values of single steps behind a smoothed curve, as they are shown; none where the curve is not smoothed.
let behind (curve: Curve) : Curve option = if curve.Smoothing > 0.0 then Some(shown { curve with Smoothing = nan }) else None

/// Means over so many neighbouring points that at most `count` are left, and how many points each stands for. The moving average of
/// means is that of the points at the means' ends but for the order within each.
let condense (count: int) (curve: Curve) : Curve * int =
    let n = curve.X.Length
    let size = max 1 ((n + count - 1) / max 1 count)

    if size = 1 then
        curve, 1
    else
        let mean (values: float[]) =
            values
            |> Array.chunkBySize size
            |> Array.map (fun chunk ->
                match Array.filter Double.IsFinite chunk with
                | [||] -> nan
                | finite -> Array.average finite)

        { curve with X = mean curve.X; Y = mean curve.Y }, size

/// Which `count` points of the stretch [start, start + n) of a curve without gaps to keep so that it looks the same: Steinarsson's
/// largest triangle in three buckets ("Downsampling time series for visual representation", 2013).
let private largestTriangles (count: int) (curve: Curve) (offset: int) (n: int) : int[] =
    if n <= count || count < 3 then
        Array.init (min n (max 1 count)) (fun i -> offset + int (int64 i * int64 n / int64 (min n (max 1 count))))
    else
        // Bucket b of the points between the ends begins here.
        let start bucket = offset + 1 + int (int64 bucket * int64 (n - 2) / int64 (count - 2))

        let mean first last (values: float[]) =
            let mutable sum = 0.0

            for i = first to last - 1 do
                sum <- sum + values[i]

            sum / float (last - first)

        let kept = Array.zeroCreate<int> count
        kept[0] <- offset
        kept[count - 1] <- offset + n - 1

        for bucket = 0 to count - 3 do
            let before = kept[bucket]
            let first, next = start (bucket + 1), (if bucket = count - 3 then offset + n else start (bucket + 2))
            let meanX, meanY = mean first next curve.X, mean first next curve.Y
            let mutable largest = -1.0

            for i = start bucket to first - 1 do
                let area =
                    abs (
                        (curve.X[before] - meanX) * (curve.Y[i] - curve.Y[before])
                        - (curve.X[before] - curve.X[i]) * (meanY - curve.Y[before])
                    )

                if area > largest then
                    largest <- area
                    kept[bucket + 1] <- i

        kept

/// The curve with about `count` points, chosen so that it looks the same; a gap stays one, as far as there are fewer gaps than points.
let thin (count: int) (curve: Curve) : Curve =
    let n = curve.X.Length
    let finite i = Double.IsFinite curve.X[i] && Double.IsFinite curve.Y[i]

    if n <= count || count < 3 then
        curve
    else
        // Stretches without a gap, each with the points that are its share.
        let stretches =
            [|
                let mutable start = 0

                for i = 0 to n do
                    if i = n || not (finite i) then
                        if i > start then
                            start, i - start

                        start <- i + 1
            |]

        let total = max 1 (Array.sumBy snd stretches)

        let kept =
            if stretches.Length > count / 2 then
                Array.init count (fun i -> int (int64 i * int64 n / int64 count))
            else
                [|
                    for start, length in stretches do
                        // The point before a stretch that is not the first is its gap.
                        if start > 0 then
                            start - 1

                        yield! largestTriangles (max 1 (int (int64 count * int64 length / int64 total))) curve start length
                |]

        let pick (values: float[]) = if values.Length = 0 then values else kept |> Array.map (fun i -> values[i])

        { curve with
            X = pick curve.X
            Y = pick curve.Y
            Lower = pick curve.Lower
            Upper = pick curve.Upper
        }
