/// What a conversion refuses, and that it leaves nothing then.
module Hybrid.Tests.ConvertRefusalTests

open System
open System.IO
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.ConvertSupport
open Hybrid.Tests.FormatsSupport
open TorchSharp

let tests =
    TorchLibrary.Load()

    testList
        "ConvertRefusals"
        [
            testCase "what open_lm cannot express is named" (fun () ->
                inFolder (fun folder ->
                    let at name = Path.Combine(folder, name)
                    let plain = ModelConfig.openLm 16 1 4 20 32

                    let odd = { plain with KeyValueHeads = 2; RotaryBase = 500.0; NormEpsilon = 1e-6 }

                    source (at "source") 1L torch.ScalarType.Float32 odd { TextRows = 20; ImageCodes = 0 }

                    let message =
                        refusal (fun () -> convert (modelAt (at "source") null) (at "out") ModelFormat.OpenLm |> ignore)

                    for part in
                        [ "keyValueHeads is 2, not 4"; "rotaryBase is 500, not 10000"; "normEpsilon is 1E-06, not 1E-05" ] do
                        Expect.stringContains message part "the fields"

                    Expect.isFalse (Directory.Exists(at "out")) "nothing is left"
                    Expect.equal (Directory.GetFileSystemEntries folder) [| at "source" |] "nothing beside it"))

            testCase "what no family computes is named, for each" (fun () ->
                inFolder (fun folder ->
                    let at name = Path.Combine(folder, name)

                    let odd = { ModelConfig.openLm 16 1 4 20 32 with QkNorm = true; RotaryBase = 500.0 }

                    source (at "source") 1L torch.ScalarType.Float32 odd { TextRows = 20; ImageCodes = 0 }

                    let message =
                        refusal (fun () -> convert (modelAt (at "source") null) (at "out") ModelFormat.HuggingFace |> ignore)

                    Expect.stringContains message "openlm: rotaryBase is 500, not 10000" "open_lm's"
                    Expect.stringContains message "qkNorm is True, not False" "the others"
                    Expect.isFalse (Directory.Exists(at "out")) "nothing is left"))

            testCase "a target that is not empty stays as it is" (fun () ->
                inFolder (fun folder ->
                    let at name = Path.Combine(folder, name)

                    source
                        (at "source")
                        1L
                        torch.ScalarType.Float32
                        (ModelConfig.openLm 16 1 4 20 32)
                        { TextRows = 20; ImageCodes = 0 }

                    Directory.CreateDirectory(at "out") |> ignore
                    File.WriteAllText(at "out/mine", "mine")

                    for target in [ "out"; "out/mine"; "source" ] do
                        let message =
                            refusal (fun () -> convert (modelAt (at "source") null) (at target) ModelFormat.Hybrid |> ignore)

                        Expect.stringContains message "is not empty" target

                    Expect.equal (File.ReadAllText(at "out/mine")) "mine" "untouched"
                    Directory.CreateDirectory(at "empty") |> ignore
                    convert (modelAt (at "source") null) (at "empty") ModelFormat.Hybrid |> ignore
                    Expect.isTrue (File.Exists(at "empty/model.safetensors")) "an empty one is filled"))

            testCase "values that fp16 cannot hold, and a narrow type for a checkpoint" (fun () ->
                inFolder (fun folder ->
                    let at name = Path.Combine(folder, name)
                    let config = ModelConfig.openLm 16 1 4 20 32
                    source (at "source") 1L torch.ScalarType.Float32 config { TextRows = 20; ImageCodes = 0 }

                    let narrow dtype format =
                        refusal (fun () ->
                            convertWith
                                (fun command -> { command with ElementType = dtype })
                                (modelAt (at "source") null)
                                (at "out")
                                format
                            |> ignore)

                    Expect.stringContains (narrow "bf16" ModelFormat.Hybrid) "fp32 weights" "a checkpoint is fp32"

                    let tensors =
                        [|
                            for parameter in Architecture.Parameters config ->
                                TensorSource(
                                    parameter.Name,
                                    torch.ScalarType.Float32,
                                    parameter.Shape,
                                    fun () -> torch.full (parameter.Shape, Scalars.Of 1e5, dtype = torch.ScalarType.Float32)
                                )
                        |]

                    SafeTensorsWriter.Write(at "source/model.safetensors", tensors)
                    Expect.stringContains (narrow "fp16" ModelFormat.HuggingFace) "beyond 65504" "the reason"
                    Expect.isFalse (Directory.Exists(at "out")) "nothing is left"))

            testCase "a job that is stopped leaves nothing" (fun () ->
                inFolder (fun folder ->
                    let at name = Path.Combine(folder, name)

                    source
                        (at "source")
                        1L
                        torch.ScalarType.Float32
                        (ModelConfig.openLm 16 1 4 20 32)
                        { TextRows = 20; ImageCodes = 0 }

                    use stop = new CancellationTokenSource()
                    stop.Cancel()

                    let command =
                        {
                            From = modelAt (at "source") null
                            To = at "out"
                            Format = ModelFormat.HuggingFace
                            ElementType = "keep"
                            ShardSize = 100L
                            Json = false
                        }

                    use silent = Progress.On(TextWriter.Null, TimeProvider.System)

                    Expect.throwsT<OperationCanceledException>
                        (fun () -> ConvertJob.Convert(command, silent, stop.Token) |> ignore)
                        "stopped"

                    Expect.equal (Directory.GetFileSystemEntries folder) [| at "source" |] "nothing is left"))
        ]
