/// Distances of feature sets by plain loops over arrays, with an eigenvalue solver of its own: nothing here is shared with the core.
module Hybrid.Tests.FidelityReference

open System

/// Eigenvalues and eigenvectors (columns) of a symmetric matrix by Jacobi's cyclic rotations.
let jacobi (matrix: float[,]) : float[] * float[,] =
    let n = matrix.GetLength 0
    let a = Array2D.copy matrix
    let v = Array2D.init n n (fun i j -> if i = j then 1.0 else 0.0)

    for _ in 1..60 do
        for p in 0 .. n - 2 do
            for q in p + 1 .. n - 1 do
                if abs a[p, q] > 1e-300 then
                    let theta = (a[q, q] - a[p, p]) / (2.0 * a[p, q])
                    let t = (if theta >= 0.0 then 1.0 else -1.0) / (abs theta + sqrt (theta * theta + 1.0))
                    let c = 1.0 / sqrt (t * t + 1.0)
                    let s = t * c

                    for k in 0 .. n - 1 do
                        let x, y = a[k, p], a[k, q]
                        a[k, p] <- c * x - s * y
                        a[k, q] <- s * x + c * y

                    for k in 0 .. n - 1 do
                        let x, y = a[p, k], a[q, k]
                        a[p, k] <- c * x - s * y
                        a[q, k] <- s * x + c * y

                    for k in 0 .. n - 1 do
                        let x, y = v[k, p], v[k, q]
                        v[k, p] <- c * x - s * y
                        v[k, q] <- s * x + c * y

    Array.init n (fun i -> a[i, i]), v

let mean (features: float[][]) : float[] =
    Array.init features[0].Length (fun d -> Array.averageBy (fun (row: float[]) -> row[d]) features)

/// The covariance with n − 1.
let covariance (features: float[][]) : float[,] =
    let m = mean features
    let width = m.Length

    Array2D.init width width (fun i j ->
        Seq.sum (seq { for row in features -> (row[i] - m[i]) * (row[j] - m[j]) }) / float (features.Length - 1))

let private multiply (a: float[,]) (b: float[,]) =
    Array2D.init (a.GetLength 0) (b.GetLength 1) (fun i j ->
        Seq.sum (seq { for k in 0 .. a.GetLength 1 - 1 -> a[i, k] * b[k, j] }))

let private root (matrix: float[,]) =
    let values, vectors = jacobi matrix
    let n = values.Length

    Array2D.init n n (fun i j ->
        Seq.sum (seq { for k in 0 .. n - 1 -> vectors[i, k] * sqrt (max 0.0 values[k]) * vectors[j, k] }))

/// |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½.
let frechet (real: float[][]) (generated: float[][]) : float =
    let m1, m2 = mean real, mean generated
    let s1, s2 = covariance real, covariance generated
    let half = root s1
    let values, _ = jacobi (multiply (multiply half s2) half)
    let means = Array.fold2 (fun sum a b -> sum + (a - b) * (a - b)) 0.0 m1 m2
    let traces = Seq.sum (seq { for i in 0 .. m1.Length - 1 -> s1[i, i] + s2[i, i] })
    means + traces - 2.0 * Array.sumBy (fun value -> sqrt (max 0.0 value)) values

let private dot (x: float[]) (y: float[]) = Array.fold2 (fun sum a b -> sum + a * b) 0.0 x y

let private kernel (x: float[]) (y: float[]) = (dot x y / float x.Length + 1.0) ** 3.0

/// The unbiased kernel distance over all pairs.
let kid (real: float[][]) (generated: float[][]) : float =
    let within (set: float[][]) =
        let n = set.Length

        let sum =
            Seq.sum (
                seq {
                    for i in 0 .. n - 1 do
                        for j in 0 .. n - 1 do
                            if i <> j then
                                kernel set[i] set[j]
                }
            )

        sum / float (n * (n - 1))

    let across =
        Seq.sum (
            seq {
                for x in real do
                    for y in generated do
                        kernel x y
            }
        )

    within real + within generated - 2.0 * across / float (real.Length * generated.Length)

let private distance (x: float[]) (y: float[]) = sqrt (Array.fold2 (fun sum a b -> sum + (a - b) * (a - b)) 0.0 x y)

/// Precision, recall, density and coverage with balls that reach to the k-th nearest other sample of the same set.
let neighbours (k: int) (real: float[][]) (generated: float[][]) : float * float * float * float =
    let radii (set: float[][]) =
        set
        |> Array.mapi (fun i x ->
            (set
             |> Array.indexed
             |> Array.filter (fun (j, _) -> j <> i)
             |> Array.map (fun (_, y) -> distance x y)
             |> Array.sort)[k - 1])

    let share (set: float[][]) (holds: float[] -> bool) = float (Array.filter holds set).Length / float set.Length
    let ofReal, ofGenerated = radii real, radii generated

    let inside (centres: float[][]) (radii: float[]) (point: float[]) =
        Array.exists2 (fun centre radius -> distance centre point <= radius) centres radii

    let density =
        Seq.sum (
            seq {
                for g in generated do
                    for i in 0 .. real.Length - 1 do
                        if distance g real[i] <= ofReal[i] then
                            1.0
            }
        )
        / float (k * generated.Length)

    let covered = Array.map2 (fun r radius -> generated |> Array.exists (fun g -> distance r g <= radius)) real ofReal
    let coverage = float (covered |> Array.filter id |> Array.length) / float real.Length
    share generated (inside real ofReal), share real (inside generated ofGenerated), density, coverage
