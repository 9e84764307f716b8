module Hybrid.Tests.ShapeTests

open System
open System.Runtime.CompilerServices
open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

type private Made() =

    // A method of its own, so that no local of the test holds the scalar.
    [<MethodImpl(MethodImplOptions.NoInlining)>]
    static member Scalar() : WeakReference = WeakReference(Scalars.Of 3.5)

let tests =
    testList
        "Shape"
        [
            case "a shape that does not fit is named with both shapes" (fun () ->
                let tensor = torch.zeros [| 2L; 3L |]
                Shape.require "x" [ 2L; 3L ] tensor
                Shape.require "x" [ -1L; 3L ] tensor

                for expected in [ [ 2L ]; [ 3L; 3L ]; [ -1L; -1L; -1L ]; [ -1L; 2L ]; [] ] do
                    misshapen $"%A{expected}" (fun () -> Shape.require "x" expected tensor)

                let message =
                    try
                        Shape.require "logits" [ -1L; 4L ] tensor
                        ""
                    with :? ShapeException as e ->
                        e.Message

                Expect.equal message "logits has shape [2, 3]; it must have shape [any, 4]." "the sentence")

            case "an element type that does not fit is refused" (fun () ->
                Shape.requireType "x" torch.float32 (torch.zeros [| 1L |])
                misshapen "int64" (fun () -> Shape.requireType "x" torch.int64 (torch.zeros [| 1L |])))

            property2 "host arrays become tensors row by row" (1, 5) (1, 5) (fun seed a b ->
                let chooser = Chooser seed
                let numbers = chooser.Ints(a * b, 1000) |> Array.map int64
                let tensor = Host.int64s [ int64 a; int64 b ] numbers
                Expect.equal (tensor.shape, tensor.dtype) ([| int64 a; int64 b |], torch.int64) "int64"
                Expect.equal (ids tensor) numbers "values"
                let floats = chooser.Normals(a * b) |> Array.map float32
                let tensor = Host.floats [ int64 a; int64 b ] floats
                Expect.equal (tensor.shape, tensor.dtype) ([| int64 a; int64 b |], torch.float32) "fp32"
                Expect.equal (values tensor) (Array.map float floats) "values")

            case "a scalar outlives the call that it is made for" (fun () ->
                let scalar = Made.Scalar()
                GC.Collect()
                GC.WaitForPendingFinalizers()
                Expect.isTrue scalar.IsAlive "kept, though nothing refers to it"
                // Kept, but not for good.
                for i in 1..1000 do
                    Scalars.Of i |> ignore

                GC.Collect()
                Expect.isFalse scalar.IsAlive "let go later")

            property1 "plus is the sum, in place or not" (1, 9) (fun seed n ->
                let chooser = Chooser seed
                let a, b, c = normals chooser 1.0 [ n ], normals chooser 1.0 [ n ], chooser.Float(-2.0, 2.0)
                let expected = Array.map2 (+) (values a) (values b)
                let before = values a
                close 1e-6 1e-6 "tensor" expected (values (a.plus b))
                close 1e-6 1e-6 "scalar" (before |> Array.map ((+) c)) (values (a.plus c))
                Expect.equal (values a) before "left alone"
                a.plus_ b |> ignore
                close 1e-6 1e-6 "tensor in place" expected (values a)
                a.plus_ c |> ignore
                close 2e-6 2e-6 "scalar in place" (expected |> Array.map ((+) c)) (values a))
        ]
