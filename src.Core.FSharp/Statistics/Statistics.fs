/// Averages and intervals.
module Hybrid.Statistics

open System

/// The exponential moving average of a curve with its start corrected: e_t = b·e_{t−1} + (1 − b)·x_t, shown as e_t/(1 − bᵗ).
let ema (decay: float) (values: float[]) : float[] =
    let mutable average, weight = 0.0, 0.0

    values
    |> Array.map (fun x ->
        average <- decay * average + (1.0 - decay) * x
        weight <- decay * weight + (1.0 - decay)
        if weight > 0.0 then average / weight else x)

/// An estimate with a 95 % interval.
[<Struct>]
type Interval =
    {
        /// The estimate
        Mean: float
        /// The 2.5th percentile
        Low: float
        /// The 97.5th percentile
        High: float
    }

/// The arithmetic mean; nan of none.
let mean (values: float[]) : float = if values.Length = 0 then nan else Array.average values

/// The sample standard deviation (n − 1).
let deviation (values: float[]) : float =
    if values.Length < 2 then
        nan
    else
        let m = mean values
        sqrt ((values |> Array.sumBy (fun x -> (x - m) * (x - m))) / float (values.Length - 1))

/// The percentile interval of a ratio of sums, Σ numerators ÷ Σ denominators, over resampled units (sequences, items): a mean is
/// the case of denominators 1. Bootstrap of Efron (1979) with `resamples` draws.
let bootstrapRatio (stream: Random.Stream) (resamples: int) (numerators: float[]) (denominators: float[]) : Interval =
    let n = numerators.Length
    let ratio = Array.sum numerators / Array.sum denominators

    if n < 2 then
        { Mean = ratio; Low = nan; High = nan }
    else
        let draw r =
            let own = Random.numbered (int64 r) stream
            let mutable top, bottom = 0.0, 0.0

            for i = 0 to n - 1 do
                let pick = Random.below n own (int64 i)
                top <- top + numerators[pick]
                bottom <- bottom + denominators[pick]

            top / bottom

        let sorted = Array.Parallel.init resamples draw |> Array.filter Double.IsFinite |> Array.sort

        if sorted.Length = 0 then
            { Mean = ratio; Low = nan; High = nan }
        else
            let quantile q = sorted[int (Math.Round(q * float (sorted.Length - 1)))]

            { Mean = ratio; Low = quantile 0.025; High = quantile 0.975 }

/// The bootstrap interval of a mean.
let bootstrapMean (stream: Random.Stream) (resamples: int) (values: float[]) : Interval =
    bootstrapRatio stream resamples values (Array.create values.Length 1.0)

// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
let private student =
    [|
        12.706
        4.303
        3.182
        2.776
        2.571
        2.447
        2.365
        2.306
        2.262
        2.228
        2.201
        2.179
        2.160
        2.145
        2.131
        2.120
        2.110
        2.101
        2.093
        2.086
        2.080
        2.074
        2.069
        2.064
        2.060
        2.056
        2.052
        2.048
        2.045
        2.042
    |]

/// The expansion of Student's quantile about the normal one (Abramowitz & Stegun 26.7.5).
let private expanded (probability: float) (freedom: int) =
    let z, n = Random.normalQuantile probability, float freedom
    let z3, z5 = z ** 3.0, z ** 5.0
    z + (z3 + z) / (4.0 * n) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n)

// Beyond the table the expansion is right to 1e-4.
let private studentQuantile (freedom: int) = if freedom <= student.Length then student[freedom - 1] else expanded 0.975 freedom

// The 0.8 quantile; from three degrees of freedom on the expansion is right to 1e-3.
let private studentPower (freedom: int) =
    match freedom with
    | 1 -> 1.376
    | 2 -> 1.061
    | _ -> expanded 0.8 freedom

/// The 95 % interval of a mean over few independent values (seeds, say), by Student's t. One value has no interval: nan.
let studentMean (values: float[]) : Interval =
    let m = mean values

    if values.Length < 2 then
        { Mean = m; Low = nan; High = nan }
    else
        let half = studentQuantile (values.Length - 1) * deviation values / sqrt (float values.Length)

        { Mean = m; Low = m - half; High = m + half }

/// The smallest mean difference that a 95 % interval over as many pairs, scattered like these, would set apart from zero four times in
/// five: (t₀.₉₇₅ + t₀.₈) · s/√n. nan for fewer than two pairs.
let smallestEffect (differences: float[]) : float =
    let n = differences.Length

    if n < 2 then
        nan
    else
        (studentQuantile (n - 1) + studentPower (n - 1)) * deviation differences / sqrt (float n)
