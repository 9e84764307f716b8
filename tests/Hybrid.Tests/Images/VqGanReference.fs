/// VQ-GANs in plain loops of double precision, written from the code of their authors and under their names; nothing is shared with the
/// library. Weights are drawn as the forward pass first asks for them, so that a pass also says which entries its author's model has.
module Hybrid.Tests.VqGanReference

open System
open System.Collections.Generic
open Hybrid
open TorchSharp

/// A map of channels, row by row.
type Map = { C: int; H: int; W: int; Data: float[] }

/// Named weights that are drawn when they are first asked for, and rounded to float32 as files hold them.
type Drawn(seed: int64) =
    let table = Dictionary<string, int64[] * float[]>()
    let order = List<string>()

    /// Values of an entry: uniform in centre ± spread.
    member _.Get(name: string, shape: int list, centre: float, spread: float) : float[] =
        match table.TryGetValue name with
        | true, (_, values) -> values
        | _ ->
            let stream = Random.ofSeed seed |> Random.named name
            let count = List.fold (*) 1 shape

            let values =
                Array.init count (fun i -> float (float32 (centre + spread * (2.0 * Random.uniform stream (int64 i) - 1.0))))

            table.Add(name, (Array.ofList shape |> Array.map int64, values))
            order.Add name
            values

    /// The entries as tensors that the caller's scope owns, in the order in which they were asked for.
    member _.Tensors: (string * torch.Tensor) list =
        [
            for name in order do
                let shape, values = table[name]
                name, torch.tensor(Array.map float32 values).reshape shape
        ]

let private at (map: Map) c y x =
    if y < 0 || x < 0 || y >= map.H || x >= map.W then
        0.0
    else
        map.Data[(c * map.H + y) * map.W + x]

let private build c h w (value: int -> int -> int -> float) =
    {
        C = c
        H = h
        W = w
        Data =
            [|
                for i in 0 .. c - 1 do
                    for y in 0 .. h - 1 do
                        for x in 0 .. w - 1 -> value i y x
            |]
    }

/// A k × k convolution; `before` zeros stand before the map, as many as are needed behind it.
let private convolve (drawn: Drawn) (name: string) outputs kernel stride before (shape: int list) (map: Map) =
    let bound = 1.7 / sqrt (float (map.C * kernel * kernel))
    let weight = drawn.Get(name + ".weight", shape, 0.0, bound)
    let bias = drawn.Get(name + ".bias", [ outputs ], 0.0, 0.1)

    build outputs (map.H / stride) (map.W / stride) (fun o y x ->
        let mutable sum = bias[o]

        for i in 0 .. map.C - 1 do
            for dy in 0 .. kernel - 1 do
                for dx in 0 .. kernel - 1 do
                    sum <-
                        sum
                        + weight[((o * map.C + i) * kernel + dy) * kernel + dx]
                          * at map i (y * stride + dy - before) (x * stride + dx - before)

        sum)

let conv3 drawn name outputs (map: Map) = convolve drawn name outputs 3 1 1 [ outputs; map.C; 3; 3 ] map
let conv1 drawn name outputs (map: Map) = convolve drawn name outputs 1 1 0 [ outputs; map.C; 1; 1 ] map
/// A linear layer over channels.
let linear drawn name outputs (map: Map) = convolve drawn name outputs 1 1 0 [ outputs; map.C ] map
/// Zeros behind the map only, then every second position.
let down drawn name (map: Map) = convolve drawn name map.C 3 2 0 [ map.C; map.C; 3; 3 ] map

let up (map: Map) = build map.C (2 * map.H) (2 * map.W) (fun c y x -> at map c (y / 2) (x / 2))
let swish (map: Map) = { map with Data = map.Data |> Array.map (fun v -> v / (1.0 + exp -v)) }
let add (a: Map) (b: Map) = { a with Data = Array.map2 (+) a.Data b.Data }

let groupNorm (drawn: Drawn) (groups: int) name (map: Map) =
    let weight, bias =
        drawn.Get(name + ".weight", [ map.C ], 1.0, 0.3), drawn.Get(name + ".bias", [ map.C ], 0.0, 0.3)

    let size = map.Data.Length / groups

    let moments =
        [|
            for g in 0 .. groups - 1 ->
                let part = Array.sub map.Data (g * size) size
                let mean = Array.average part
                mean, sqrt ((part |> Array.averageBy (fun v -> (v - mean) * (v - mean))) + 1e-6)
        |]

    build map.C map.H map.W (fun c y x ->
        let mean, deviation = moments[c / (map.C / groups)]
        (at map c y x - mean) / deviation * weight[c] + bias[c])

/// A norm scaled and shifted by the quantised map, stretched to the norm's size by repeating the nearest.
let spatialNorm (drawn: Drawn) (quantised: Map) name (map: Map) =
    let stretched =
        build quantised.C map.H map.W (fun c y x -> at quantised c (y * quantised.H / map.H) (x * quantised.W / map.W))

    let normed = groupNorm drawn 32 (name + ".norm_layer") map
    let scale, shift = conv1 drawn (name + ".conv_y") map.C stretched, conv1 drawn (name + ".conv_b") map.C stretched
    { map with Data = Array.map3 (fun n s b -> n * s + b) normed.Data scale.Data shift.Data }

/// What differs between authors in a block: its norm, the shortcut's name, and the projections of attention.
type Style =
    {
        Norm: string -> Map -> Map
        Shortcut: string
        Project: string -> int -> Map -> Map
        /// Norm, query, key, value and output of attention.
        Attention: string * string * string * string * string
    }

let block drawn (style: Style) name outputs (map: Map) =
    let h =
        map
        |> style.Norm(name + ".norm1")
        |> swish
        |> conv3 drawn (name + ".conv1") outputs
        |> style.Norm(name + ".norm2")
        |> swish
        |> conv3 drawn (name + ".conv2") outputs

    add (if map.C = outputs then map else conv1 drawn $"{name}.{style.Shortcut}" outputs map) h

let attend (style: Style) name (map: Map) =
    let norm, query, key, value, output = style.Attention
    let h = style.Norm $"{name}.{norm}" map
    let part part = style.Project $"{name}.{part}" map.C h
    let q, k, v = part query, part key, part value
    let n = map.H * map.W

    let rows =
        [|
            for i in 0 .. n - 1 ->
                let scores =
                    [|
                        for j in 0 .. n - 1 ->
                            Seq.sum (seq { for c in 0 .. map.C - 1 -> q.Data[c * n + i] * k.Data[c * n + j] })
                            / sqrt (float map.C)
                    |]

                let most = Array.max scores
                let shares = scores |> Array.map (fun s -> exp (s - most))
                let total = Array.sum shares
                shares |> Array.map (fun s -> s / total)
        |]

    let mixed =
        build map.C map.H map.W (fun c y x ->
            let row = rows[y * map.W + x]
            Seq.sum (seq { for j in 0 .. n - 1 -> row[j] * v.Data[c * n + j] }))

    add map (style.Project $"{name}.{output}" map.C mixed)

/// The code of each position, and by how much the second best is worse. `cost` of a position's vector and a code.
let quantise codes (cost: float[] -> int -> float) (map: Map) =
    let n = map.H * map.W

    [|
        for i in 0 .. n - 1 ->
            let vector = [| for c in 0 .. map.C - 1 -> map.Data[c * n + i] |]
            let costs = [| for code in 0 .. codes - 1 -> cost vector code |]
            let best = Array.IndexOf(costs, Array.min costs)
            let second = Seq.indexed costs |> Seq.filter (fun (code, _) -> code <> best) |> Seq.map snd |> Seq.min
            best, second - costs[best]
    |]

let distance (book: float[]) (vector: float[]) code =
    let width = vector.Length
    Seq.sum (seq { for c in 0 .. width - 1 -> pown (vector[c] - book[code * width + c]) 2 })

let unit (vector: float[]) =
    let length = max 1e-12 (sqrt (Array.sumBy (fun v -> v * v) vector))
    vector |> Array.map (fun v -> v / length)

/// The map of some codes.
let lookup (book: float[]) width h w (codes: int[]) = build width h w (fun c y x -> book[codes[y * w + x] * width + c])

/// A picture's bytes, [H, W, 3], as a map in [-1, 1].
let ofBytes height width (bytes: byte[]) = build 3 height width (fun c y x -> float bytes[(y * width + x) * 3 + c] / 127.5 - 1.0)

/// Values in [0, 255] that were not yet rounded, [H, W, 3].
let levels (map: Map) =
    [|
        for y in 0 .. map.H - 1 do
            for x in 0 .. map.W - 1 do
                for c in 0..2 -> min 255.0 (max 0.0 ((at map c y x + 1.0) * 127.5))
    |]
