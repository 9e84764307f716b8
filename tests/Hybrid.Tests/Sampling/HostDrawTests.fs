/// Drawing in host memory against drawing by torch's operators, and against the rules themselves.
module Hybrid.Tests.HostDrawTests

#nowarn "9"

open System
open Expecto
open FSharp.NativeInterop
open Hybrid
open Hybrid.Draw
open Hybrid.Tests.Generate
open TorchSharp

let private token (sampling: Sampling) (uniform: float) (logits: float32[]) =
    let room = HostDraw.room logits.Length
    let x, weights = Array.zeroCreate room, Array.zeroCreate room
    Array.blit logits 0 x 0 logits.Length
    use x = fixed x
    use weights = fixed weights

    let rule: HostDraw.Rule =
        {
            Temperature = sampling.Temperature
            TopK = Option.defaultValue 0 sampling.TopK
            TopP = Option.defaultValue 1.0 sampling.TopP
        }

    HostDraw.token rule uniform logits.Length x weights

let private sampling (chooser: Chooser) (columns: int) =
    { ancestral 0L with
        Temperature = chooser.Of [ 0.0; 0.3; 1.0; 4.0 ]
        TopK = chooser.Of [ None; Some 1; Some(chooser.Int(1, columns)); Some(columns + 3) ]
        TopP = chooser.Of [ None; Some(chooser.Float(0.0, 1.0)); Some 0.0; Some 1.0 ]
    }

/// The tokens that may be drawn, by sorting, and the probability of each: of equal logits the first stay.
let private kept (sampling: Sampling) (logits: float32[]) =
    let scaled = logits |> Array.map (fun l -> float l / sampling.Temperature)
    let order = [| 0 .. logits.Length - 1 |] |> Array.sortBy (fun i -> -scaled[i], i)
    let order = sampling.TopK |> Option.fold (fun order k -> Array.truncate k order) order
    let p = Reference.softmax (order |> Array.map (fun i -> scaled[i]))
    let before = Array.scan (+) 0.0 p
    let limit = Option.defaultValue 1.0 sampling.TopP
    let borders = if limit < 1.0 then before |> Array.map (fun b -> abs (b - limit)) |> Array.min else 1.0

    let order =
        order |> Array.indexed |> Array.filter (fun (place, _) -> place = 0 || limit >= 1.0 || before[place] < limit)

    order |> Array.map snd |> Array.sort, borders

let tests =
    testList
        "HostDraw"
        [
            property1 "tokens are those that torch's operators draw" (1, 700) (fun seed columns ->
                let chooser = Chooser seed
                let logits = chooser.Normals columns |> Array.map (fun x -> float32 (3.0 * x))
                let row = Host.floats [ 1L; int64 columns ] logits
                let sampling = sampling chooser columns

                for _ in 1..20 do
                    let u = chooser.Float(0.0, 1.0)
                    let by u = Array.head (ids (draw sampling [| Math.Clamp(u, 0.0, 1.0 - 1e-12) |] row))
                    // On the border of two tokens, or of those that stay, rounding decides.
                    let borders = if sampling.Temperature > 0.0 then snd (kept sampling logits) else 1.0

                    if borders > 1e-5 && by (u - 1e-5) = by (u + 1e-5) then
                        Expect.equal (int64 (token sampling u logits)) (by u) $"{sampling} of {columns}, {u}")

            property1 "those that stay, and no others, are drawn, equal logits or not" (1, 40) (fun seed columns ->
                let chooser = Chooser seed
                let step = chooser.Of [ 0.5f; 1.0f; 100.0f ]
                let logits = Array.init columns (fun _ -> step * float32 (chooser.Int(-2, 2)))
                let sampling = { sampling chooser columns with Temperature = chooser.Of [ 0.7; 2.0 ] }
                let stay, borders = kept sampling logits

                if borders > 1e-5 then
                    let p = Reference.softmax (stay |> Array.map (fun i -> float logits[i] / sampling.Temperature))
                    let from = Array.scan (+) 0.0 p

                    for place, id in Array.indexed stay do
                        if p[place] > 1e-4 then
                            for u in [ from[place] + 1e-5; from[place] + p[place] / 2.0; from[place + 1] - 1e-5 ] do
                                Expect.equal (token sampling u logits) id $"{sampling}: {u} of {logits}"

                    for u in [ 0.0; 1.0 - 1.0 / 9007199254740992.0 ] do
                        Expect.contains stay (token sampling u logits) "the ends")

            case "logits that are not numbers, or all −∞, still give a token" (fun () ->
                for value in [ Single.NaN; Single.NegativeInfinity; Single.PositiveInfinity ] do
                    for sampling in [ greedy; { ancestral 0L with TopK = Some 2; TopP = Some 0.5 } ] do
                        let drawn = token sampling 0.5 (Array.create 5 value)
                        Expect.isTrue (drawn >= 0 && drawn < 5) $"{value}")

            property2
                "products and the activations after them are those of torch's operators"
                (1, 40)
                (1, 70)
                (fun seed inputs outputs ->
                    let chooser = Chooser seed
                    use _ = torch.inference_mode ()
                    use _ = torch.NewDisposeScope()
                    let rows = chooser.Int(1, 9)
                    let x = normals chooser 1.0 [ rows; inputs ]
                    let weight, bias = normals chooser 0.3 [ outputs; inputs ], normals chooser 1.0 [ outputs ]
                    let bias = chooser.Of [ Some bias; None ]
                    let other = normals chooser 1.0 [ rows; outputs ]
                    use packed = Projection.Make(weight, bias, true, rows)
                    use plain = Projection.Make(weight, bias, false, rows)
                    let y = torch.matmul (x, weight.t ())
                    let y = bias |> Option.fold (fun (y: torch.Tensor) bias -> y.plus bias) y

                    let f (activation: FeedForward) (v: float) =
                        match activation with
                        | SwiGlu -> Reference.silu v
                        | GeGlu
                        | Gelu -> Reference.gelu v
                        | GeluTanh -> Reference.geluTanh v
                        | Relu -> max 0.0 v

                    for projection in [ packed; plain ] do
                        close 1e-4 1e-5 "alone" (values y) (values (projection.Apply x))
                        close 1e-4 1e-5 "plus" (values (y.plus other)) (values (projection.Plus(other, x)))
                        close 1e-4 1e-5 "times" (values (y.mul other)) (values (projection.Times(other, x)))

                        for activation in [ SwiGlu; GeGlu; Gelu; GeluTanh; Relu ] do
                            let expected = values y |> Array.map (f activation)
                            close 2e-4 1e-5 $"{activation}" expected (values (projection.Activated(activation, x))))
        ]
