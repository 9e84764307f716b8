module Hybrid.Tests.WeightDistanceTests

open System
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Tests.Generate
open TorchSharp

let private table (rows: int) (numbers: float list) =
    Host.floats [ int64 rows; int64 (numbers.Length / rows) ] [| for x in numbers -> float32 x |]

let private spec (name: string) (shape: int64 list) : ParameterSpec = { Name = name; Shape = shape; Init = Zeros }

let private words: Vocabulary = { TextRows = 2; ImageCodes = 1 }

let tests =
    testList
        "WeightDistance"
        [
            case "by hand, with a table that grew" (fun () ->
                let specs = [ spec "tok_embeddings.weight" [ 10L; 1L ]; spec "layers.0.attention.in_proj.weight" [ 1L; 2L ] ]

                let now =
                    function
                    | "tok_embeddings.weight" -> table 10 [ 3.0; 4.0; 0.0; 0.0; 0.0; 0.0; 0.0; 0.0; 0.0; 5.0 ]
                    | _ -> table 1 [ 0.0; 2.0 ]

                let start =
                    function
                    | "tok_embeddings.weight" -> table 2 [ 3.0; 0.0 ]
                    | _ -> table 1 [ 2.0; 0.0 ]

                let found = WeightDistance.between words specs start now

                Expect.equal
                    [ for g in found.Groups -> g.Group ]
                    [ "embedding, text rows"; "embedding, new rows"; "layer 0 attention" ]
                    "groups"

                let text, added, attention = found.Groups[0], found.Groups[1], found.Groups[2]
                near 1e-12 0.0 "‖(0, 4)‖ / 3" (4.0 / 3.0) text.Distance
                near 1e-12 0.0 "(3, 4) and (3, 0)" 0.6 text.Cosine
                Expect.equal (text.Norm, text.StartNorm, text.Parameters) (5.0, 3.0, 2L) "norms"
                Expect.equal (added.Norm, added.Parameters) (5.0, 8L) "new rows have a norm"
                Expect.isNaN added.Distance "and no start"
                near 1e-12 0.0 "a right angle" 0.0 attention.Cosine
                near 1e-12 0.0 "√8 / 2" (sqrt 2.0) attention.Distance
                // Without the new rows: differences (0, 4, −2, 2) of a start (3, 0, 2, 0).
                near 1e-12 0.0 "whole" (sqrt 24.0 / sqrt 13.0) found.Whole.Distance
                Expect.equal found.Whole.Parameters 4L "what has a start"
                Expect.equal [ for l in found.Layers -> l.Group, l.Parameters ] [ "layer 0", 2L ] "layers")

            case "a start of zeros has no relative distance" (fun () ->
                let specs = [ spec "layers.0.attention.in_proj.bias" [ 2L ] ]
                let vector x = Host.floats [ 2L ] [| float32 x; 0.0f |]
                let found = WeightDistance.between words specs (fun _ -> vector 0.0) (fun _ -> vector 1.0)
                Expect.isNaN found.Whole.Distance "0 / 0"
                Expect.equal (found.Whole.Norm, found.Whole.StartNorm) (1.0, 0.0) "norms")

            costly "of any model: 0 from itself; scaled by 1 + ε it is ε away in the same direction" (fun seed ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let config = config chooser (v.Rows + chooser.Int(0, 3))
                use store = store Fp32 config seed
                let specs = Decoder.parameters config
                let same = WeightDistance.between v specs store.MasterOf store.MasterOf
                Expect.equal same.Whole.Distance 0.0 "itself"
                Expect.equal same.Whole.Parameters (Decoder.parameterCount config) "every parameter"
                Expect.equal (same.Groups |> Array.sumBy _.Parameters) (Decoder.parameterCount config) "in groups"
                Expect.equal same.Layers.Length config.Layers "layers"

                let scaled name =
                    use master = store.MasterOf name
                    master.mul (Scalars.Of 1.25)

                let found = WeightDistance.between v specs store.MasterOf scaled

                for group in Array.append found.Groups found.Layers do
                    near 1e-6 0.0 $"{group.Group}: distance" 0.25 group.Distance
                    near 1e-9 0.0 $"{group.Group}: cosine" 1.0 group.Cosine

                let squares (groups: WeightChange[]) = groups |> Array.sumBy (fun g -> g.Norm ** 2.0)
                near 1e-9 1e-9 "norms add" (found.Whole.Norm ** 2.0) (squares found.Groups))

            case "against the model that was extended, through the door; no tensor stays alive" (fun () ->
                let v: Vocabulary = { TextRows = 9; ImageCodes = 4 }
                let config = { ModelConfig.openLm 8 2 2 9 32 with FeedForwardWidth = 8 }
                use old = Model.Random(config, Vocabulary.plainText 9, Layout(Frozen = true), 1L)
                use grown = Model.Extend(config, v, Layout(), (fun name -> old.Values name), "random", null, 2L)
                let before = liveTensors ()
                let found = Diagnosis.WeightDistance(grown, (fun name -> old.Values name))
                Expect.equal (liveTensors ()) before "live tensors"
                Expect.equal found.Whole.Distance 0.0 "nothing has moved yet"
                let added = found.Groups |> Array.filter (fun g -> g.Group.EndsWith "new rows")

                Expect.equal
                    [ for g in added -> g.Group, g.Parameters ]
                    [ "embedding, new rows", 88L; "head, new rows", 88L ]
                    "7 + 4 rows of 8")

            case "a start of another shape is refused" (fun () ->
                let specs = [ spec "tok_embeddings.weight" [ 4L; 2L ] ]

                for other in [ [ 5L; 2L ]; [ 4L; 3L ]; [ 8L ] ] do
                    misshapen "another shape" (fun () ->
                        let ones () = torch.ones (List.toArray other)
                        WeightDistance.between words specs (fun _ -> ones ()) (fun _ -> torch.ones (4L, 2L)) |> ignore))
        ]
