/// Models of every family compute what transformers' formulas give.
module Hybrid.Tests.FamilyTests

open System
open System.IO
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.FamilyReference
open Hybrid.Tests.FormatsSupport
open Hybrid.Tests.Generate
open TorchSharp

let private write (folder: string) (example: Example) : unit =
    File.WriteAllText(Path.Combine(folder, "config.json"), example.Config)
    use _ = torch.NewDisposeScope()

    SafeTensorsWriter.Write(
        Path.Combine(folder, "model.safetensors"),
        [|
            for pair in example.Tensors ->
                let shape, values = pair.Value
                struct (pair.Key, Host.floats (List.map int64 shape) (Array.map float32 values))
        |]
    )

let private length = 9

/// Logits of the whole sequence at once, and those of its end after a cache of its beginning.
let private agrees (family: string) (example: Chooser -> Example) : Test =
    property $"{family}: logits as transformers' formulas give them, cached ones too" (fun seed ->
        inFolder (fun folder ->
            let chooser = Chooser seed
            let example = example chooser
            write folder example
            use file = ModelFiles.Open({ Path = folder; Config = null; TextRows = Nullable(); ImageCodes = Nullable() })
            use model = file.Open(Layout(Frozen = true))
            let ids = chooser.Ints(length, file.Config.Rows) |> Array.map int64
            use scope = torch.NewDisposeScope()
            use _ = torch.inference_mode ()
            let tokens = Host.int64s [ 1L; int64 length ] ids
            let expected = example.Logits ids
            close 1e-4 1e-4 "logits" (Array.concat expected) (values (model.Logits tokens))
            let weights = model.Store.Weights

            // Dynamic scaling turns by the length so far, so a cache holds keys of another rotation beyond the model's positions.
            match file.Config.RotaryScaling with
            | DynamicScaling _ -> ()
            | _ ->
                let place = chooser.Of [ Place.HostMemory; Place.Tensors ]
                use prepared = new Hybrid.Prepared(file.Config, weights, 0, file.Config.Rows, place, false, 1)
                use attending = prepared.Start(1, length, length)

                let read (part: int64[]) =
                    let count = part.Length
                    let logits = prepared.Read(attending, Host.int64s [ int64 count ] part, count, [| count |], None)
                    attending.Grow [| count |]
                    Array.last (values logits |> Array.chunkBySize file.Config.Rows)

                let first = chooser.Int(1, length - 2)
                read ids[.. first - 1] |> ignore
                close 1e-4 1e-4 "cached" (Array.last expected) (read ids[first..])))

let tests =
    testList
        "Family"
        [
            agrees "GPT-2" gpt2
            agrees "GPT-NeoX" gptNeoX
            for family in [ "llama"; "mistral"; "qwen2"; "stablelm" ] do
                agrees family (llamaLike family length)

            testCase "a sequence longer than learned positions is refused in a sentence" (fun () ->
                inFolder (fun folder ->
                    write folder (gpt2 (Chooser 1L))
                    use file = ModelFiles.Open({ Path = folder; Config = null; TextRows = Nullable(); ImageCodes = Nullable() })
                    use model = file.Open(Layout(Frozen = true))
                    use scope = torch.NewDisposeScope()
                    let tokens = torch.zeros ([| 1L; 25L |], dtype = torch.int64)

                    let message =
                        try
                            model.Logits tokens |> ignore
                            ""
                        with :? ShapeException as e ->
                            e.Message

                    Expect.stringContains message "longer than the model's table of 24 learned positions" "the reason"
                    model.Reach 24
                    Expect.stringContains (refusal (fun () -> model.Reach 25)) "has learned 24 positions" "training on more"))

            testCase "a description of another family is named as the likely cause" (fun () ->
                inFolder (fun folder ->
                    let other = llamaLike "llama" length (Chooser 2L)
                    write folder { gpt2 (Chooser 2L) with Config = other.Config }

                    let message =
                        refusal (fun () ->
                            ModelFiles
                                .Open({ Path = folder; Config = null; TextRows = Nullable(); ImageCodes = Nullable() })
                                .Dispose())

                    Expect.stringContains message "the tensors are called as GPT-2's are" "the cause"
                    Expect.stringContains message "missing: layers.0.feed_forward.w12.weight" "what is missing"))
        ]
