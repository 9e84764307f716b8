module Hybrid.Tests.LayersTests

open System.Collections.Generic
open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

/// Parameters of these specs as double-precision tensors with random values, and the same values as arrays.
let private drawn (chooser: Chooser) (specs: ParameterSpec list) : Weights * (string -> float[]) =
    let tensors =
        dict [ for spec in specs -> spec.Name, (normals chooser 0.7 (List.map int spec.Shape)).``to`` torch.float64 ]

    lookup tensors, fun name -> values tensors[name]

let private wide (chooser: Chooser) (shape: int list) = (normals chooser 1.0 shape).``to`` torch.float64

/// The rows of the last axis.
let private rows (tensor: torch.Tensor) : float[][] =
    values tensor |> Array.chunkBySize (int tensor.shape[tensor.shape.Length - 1])

let private attended (q: torch.Tensor) (k: torch.Tensor) (v: torch.Tensor) : float[] =
    let b, h, t, c = int q.shape[0], int q.shape[1], int q.shape[2], int q.shape[3]
    let s = int k.shape[2]
    let q, k, v = rows q, rows k, rows v

    [|
        for i in 0 .. b * h - 1 do
            for j in 0 .. t - 1 do
                let seen = s - t + j

                let weights =
                    [| for m in 0..seen -> Reference.dot q[i * t + j] k[i * s + m] / sqrt (float c) |] |> Reference.softmax

                for n in 0 .. c - 1 do
                    weights |> Array.mapi (fun m w -> w * v[i * s + m][n]) |> Array.sum
    |]

let tests =
    testList
        "Layers"
        [
            property3 "linear is y = x Wᵀ over the last axis" (1, 4) (1, 9) (1, 9) (fun seed t d f ->
                let chooser = Chooser seed
                let w, x = wide chooser [ f; d ], wide chooser [ 2; t; d ]
                let y = Layers.linear w x
                Expect.equal y.shape [| 2L; int64 t; int64 f |] "shape"
                let expected = rows x |> Array.collect (Reference.apply (Reference.matrix d (values w)))
                close 1e-12 1e-12 "values" expected (values y))

            property2 "every norm is its formula" (1, 5) (1, 20) (fun seed t d ->
                let chooser = Chooser seed

                for kind in [ LayerNorm; GainLayerNorm; PlainLayerNorm; RmsNorm ] do
                    let weights, get = drawn chooser (Layers.normParameters kind "n" d)
                    let epsilon = chooser.Of [ 1e-5; 0.1 ]
                    let x = (wide chooser [ 2; t; d ]).add(Scalars.Of(chooser.Float(-3.0, 3.0)))
                    let y = Layers.norm kind epsilon weights "n" x
                    Expect.equal y.shape x.shape "shape"
                    let expected = rows x |> Array.collect (Reference.norm kind epsilon get "n")
                    close 1e-9 1e-9 $"{kind}" expected (values y))

            property1 "norms of bf16 have fp32 statistics" (8, 64) (fun seed d ->
                let chooser = Chooser seed

                for kind in [ LayerNorm; GainLayerNorm; PlainLayerNorm; RmsNorm ] do
                    let weights, get = drawn chooser (Layers.normParameters kind "n" d)
                    let weights name = (weights name).``to`` torch.bfloat16

                    let get name =
                        values (weights name)
                        |> fun v ->
                            (ignore (get name)
                             v)
                    // In bf16 a sum of squares of such values would be off by more than the result's own rounding.
                    let x = (normals chooser 1.0 [ 3; d ]).add(Scalars.Of(20.0)).``to`` torch.bfloat16
                    let y = Layers.norm kind 1e-5 weights "n" x
                    Expect.equal y.dtype torch.bfloat16 "type"
                    let expected = rows x |> Array.collect (Reference.norm kind 1e-5 get "n")
                    close 0.02 0.01 $"{kind}" expected (values y))

            testCase "norms have the parameters that open_lm gives them" (fun () ->
                let named kind = Layers.normParameters kind "n" 4 |> List.map (fun s -> s.Name, s.Shape, s.Init)
                Expect.equal (named LayerNorm) [ "n.weight", [ 4L ], Ones; "n.bias", [ 4L ], Zeros ] "LayerNorm"
                Expect.equal (named GainLayerNorm) [ "n.weight", [ 4L ], Ones ] "gain only"
                Expect.equal (named PlainLayerNorm) [] "neither"
                Expect.equal (named RmsNorm) [ "n.weight", [ 4L ], Ones ] "RMS")

            property2 "rotation turns each head's pairs by position · θ^(−2i/C)" (1, 6) (0, 3000) (fun seed t start ->
                let chooser = Chooser seed
                let b, h = chooser.Int(1, 2), chooser.Int(1, 3)

                for position in [ Rotary; InterleavedRotary ] do
                    let config = { config chooser 9 with Position = position; RotaryScaling = NoScaling }
                    let c, r = config.HeadWidth, config.RotaryWidth

                    match Layers.rotation config torch.CPU torch.float64 (int64 start) (int64 t) with
                    | None -> failtest "no tables"
                    | Some rotation ->
                        Expect.equal rotation.Cosine.shape [| int64 t; 1L; int64 r |] "the cosines' shape"
                        Expect.equal rotation.Sine.shape rotation.Cosine.shape "the sines' shape"
                        let x = wide chooser [ b; t; h; c ]
                        let turned = Layers.rotate config rotation x
                        Expect.equal turned.shape x.shape "shape"

                        let expected =
                            rows x
                            |> Array.mapi (fun row v ->
                                let place = float (start + row / h % t)

                                let part =
                                    Array.truncate r v |> Reference.turn (position = InterleavedRotary) config.RotaryBase place

                                Array.append part (Array.skip r v))
                            |> Array.concat

                        // The tables are rounded to fp32, whatever the position.
                        close 1e-6 1e-6 $"{position}" expected (values turned))

            testCase "positions that do not turn have no tables" (fun () ->
                for position in [ HeadRotary; NoPosition ] do
                    let config = { ModelConfig.openLm 8 1 2 9 9 with Position = position }
                    Expect.isNone (Layers.rotation config torch.CPU torch.float32 0L 5L) $"{position}")

            property3
                "attend is causal softmax attention, for the last T of S positions"
                (1, 3)
                (1, 7)
                (0, 5)
                (fun seed h t earlier ->
                    let chooser = Chooser seed
                    let b, c = chooser.Int(1, 2), chooser.Int(1, 5)
                    let q = wide chooser [ b; h; t; c ]
                    let k, v = wide chooser [ b; h; t + earlier; c ], wide chooser [ b; h; t + earlier; c ]
                    let y = Layers.attend q k v
                    Expect.equal y.shape q.shape "shape"
                    // The factor 1/√C is an fp32 number.
                    close 1e-6 1e-6 "values" (attended q k v) (values y)

                    if earlier = 0 then
                        let fused = torch.nn.functional.scaled_dot_product_attention (q, k, v, is_casual = true)
                        close 1e-6 1e-6 "the fused kernel" (values fused) (values y))

            case "attend of very long sequences takes the fused kernel and agrees" (fun () ->
                let chooser = Chooser 1L
                let t = 8200
                let make () = normals chooser 1.0 [ 1; 1; t; 2 ]
                let q, k, v = make (), make (), make ()
                let y = rows (Layers.attend q k v)
                let queries, keys, mixed = rows q, rows k, rows v

                for place in [ 0; 1; 4095; 4096; t - 1 ] do
                    let weights = [| for m in 0..place -> Reference.dot queries[place] keys[m] / sqrt 2.0 |] |> Reference.softmax

                    let expected = Array.init 2 (fun n -> weights |> Array.mapi (fun m w -> w * mixed[m][n]) |> Array.sum)
                    close 1e-5 1e-4 $"position {place}" expected y[place])

            property2 "attention is the reference, with groups, norms of q and k, and positions" (1, 3) (1, 7) (fun seed b t ->
                let chooser = Chooser seed
                let config = config chooser 9
                let weights, get = drawn chooser (Layers.attentionParameters config 0 "a")
                let x = wide chooser [ b; t; config.Width ]
                let rotation = Layers.rotation config torch.CPU torch.float64 0L (int64 t)
                let y = Layers.attention config weights "a" rotation x
                Expect.equal y.shape x.shape "shape"
                let expected = rows x |> Array.chunkBySize t |> Array.collect (Reference.attention config get "a")
                close 1e-5 1e-5 $"%A{config}" (Array.concat expected) (values y))

            property2 "feed-forward layers are the reference" (1, 3) (1, 5) (fun seed b t ->
                let chooser = Chooser seed
                let config = config chooser 9
                let weights, get = drawn chooser (Layers.feedForwardParameters config 0 "f")
                let x = wide chooser [ b; t; config.Width ]
                let y = Layers.feedForward config weights "f" x
                Expect.equal y.shape x.shape "shape"
                let expected = rows x |> Array.collect (Reference.feedForward config get "f")
                close 1e-9 1e-9 $"{config.FeedForward}" expected (values y))

            property "a layer looks up exactly the parameters that it declares" (fun seed ->
                let chooser = Chooser seed
                let config = config chooser 9
                let asked = HashSet<string>()

                let spied (weights: Weights) : Weights =
                    fun name ->
                        asked.Add name |> ignore
                        weights name

                let x = wide chooser [ 1; 2; config.Width ]
                let rotation = Layers.rotation config torch.CPU torch.float64 0L 2L
                let specs = Layers.attentionParameters config 3 "a"
                Layers.attention config (spied (fst (drawn chooser specs))) "a" rotation x |> ignore
                Expect.equal (Set.ofSeq asked) (specs |> List.map _.Name |> Set.ofList) "attention"
                asked.Clear()
                let specs = Layers.feedForwardParameters config 3 "f"
                Layers.feedForward config (spied (fst (drawn chooser specs))) "f" x |> ignore
                Expect.equal (Set.ofSeq asked) (specs |> List.map _.Name |> Set.ofList) "feed-forward")

            testCase "residual projections start smaller the deeper they stand" (fun () ->
                let config = { ModelConfig.openLm 64 8 4 9 9 with FeedForward = SwiGlu }

                for layer in [ 0; 5 ] do
                    let start (name: string) =
                        Layers.attentionParameters config layer "a" @ Layers.feedForwardParameters config layer "f"
                        |> List.find (fun s -> s.Name.EndsWith name)
                        |> fun s ->
                            match s.Init with
                            | TruncatedNormal deviation -> deviation
                            | other -> failtest $"{name} starts as {other}"

                    let depth = sqrt (2.0 * float (layer + 1))
                    near 1e-12 0.0 "in_proj" (1.0 / 8.0) (start "in_proj.weight")
                    near 1e-12 0.0 "w12" (1.0 / 8.0) (start "w12.weight")
                    near 1e-12 0.0 "out_proj" (1.0 / 8.0 / depth) (start "out_proj.weight")
                    near 1e-12 0.0 "w3" (1.0 / 16.0 / depth) (start "w3.weight"))
        ]
