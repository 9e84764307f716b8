/// Models convert from every form into every other and back, bit for bit, with what belongs to them.
module Hybrid.Tests.ConvertTests

open System.IO
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.ConvertSupport
open Hybrid.Tests.FormatsSupport
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open TorchSharp

let private families = [ "llama"; "mistral"; "qwen2"; "stablelm"; "olmo"; "gpt_neox"; "gpt2"; "openlm" ]

let private thereAndBack (family: string) =
    property $"hybrid to hf ({family}) and back: descriptions, bits and logits" (fun seed ->
        inFolder (fun folder ->
            let chooser = Chooser seed
            let config, vocabulary = configOf chooser family (chooser.Int(8, 24)) |> withVocabulary chooser
            let kind = chooser.Of dtypes
            let at name = Path.Combine(folder, name)
            source (at "source") seed kind config vocabulary
            let shards = if chooser.Bool() then 5_000_000_000L else int64 (chooser.Int(1, 4000))
            let sharded = convertWith (fun command -> { command with ShardSize = shards })
            let alive = liveTensors ()
            let result = sharded (modelAt (at "source") null) (at "hf") ModelFormat.HuggingFace
            Expect.equal (liveTensors ()) alive "every tensor is released when it is written"
            Expect.equal (string result["family"]) family "the family"

            // What was written is read as what it was.
            use file = ModelFiles.Open(modelAt (at "hf") null)
            Expect.equal file.Config (exported family config) "the description"
            Expect.equal file.Vocabulary vocabulary "the layout"

            if config.Position <> InterleavedRotary || family = "openlm" then
                Expect.equal (parametersOf (modelAt (at "hf") null)) (parametersOf (modelAt (at "source") null)) "every bit"

            // fp16 and bf16 sums over other orders of the same products differ in the last bits only.
            let ids = chooser.Ints(9, vocabulary.TextRows) |> Array.map int64
            close 2e-5 2e-5 "logits" (logitsOf (modelAt (at "source") null) ids) (logitsOf (modelAt (at "hf") null) ids)

            // Back to hybrid (in fp32), and to hf again in the first type: the same files of numbers.
            convert (modelAt (at "hf") null) (at "hybrid") ModelFormat.Hybrid |> ignore
            use back = ModelFiles.Open(modelAt (at "hybrid") null)
            Expect.equal back.Config (exported family config) "the description in hybrid"
            Expect.equal back.Vocabulary vocabulary "the layout in hybrid"

            let narrowed =
                match kind with
                | torch.ScalarType.BFloat16 -> "bf16"
                | torch.ScalarType.Float16 -> "fp16"
                | _ -> "keep"

            convertWith
                (fun command -> { command with ElementType = narrowed })
                (modelAt (at "hybrid") null)
                (at "again")
                ModelFormat.HuggingFace
            |> ignore

            Expect.equal (tensorsOf (at "again")) (tensorsOf (at "hf")) "the same tensors"

            Expect.equal
                (File.ReadAllText(at "again/config.json"))
                (File.ReadAllText(at "hf/config.json"))
                "the same description"))

let private openLmConfig (chooser: Chooser) =
    let config = configOf chooser "openlm" (chooser.Int(8, 24))
    { config with QkNorm = chooser.Bool() }

let private openLm =
    property "open_lm to hf and back, and to hybrid and back: bits of every tensor, buffers too" (fun seed ->
        inFolder (fun folder ->
            let chooser = Chooser seed
            let config, vocabulary = openLmConfig chooser |> withVocabulary chooser
            let kind = chooser.Of dtypes
            let at name = Path.Combine(folder, name)
            source (at "source") seed kind config vocabulary
            convert (modelAt (at "source") null) (at "first") ModelFormat.OpenLm |> ignore
            let file name = modelAt (at $"{name}/epoch_1.pt") (at $"{name}/model.json")
            use first = ModelFiles.Open(file "first")
            Expect.equal first.Config config "the description"
            Expect.equal first.Vocabulary vocabulary "the layout"
            Expect.equal (parametersOf (file "first")) (parametersOf (modelAt (at "source") null)) "every bit"
            Expect.equal (parametersOf (modelAt (at "first") null)) (parametersOf (file "first")) "by its directory"
            convert (file "first") (at "hf") ModelFormat.HuggingFace |> ignore

            // Pairs that became halves stay halves: open_lm computes both.
            if
                config.Position <> InterleavedRotary
                || (ModelFiles.Open(modelAt (at "hf") null).Config.Position = InterleavedRotary)
            then
                convert (modelAt (at "hf") null) (at "again") ModelFormat.OpenLm |> ignore
                Expect.equal (tensorsOf (at "again/epoch_1.pt")) (tensorsOf (at "first/epoch_1.pt")) "by way of hf"

                Expect.equal
                    (File.ReadAllText(at "again/model.json"))
                    (File.ReadAllText(at "first/model.json"))
                    "the description by way of hf"))

let private alongside =
    testList
        "what comes along"
        [
            testCase "tokenizers of pictures and of text, into every form and on from there" (fun () ->
                inFolder (fun folder ->
                    let at name = Path.Combine(folder, name)
                    let vocabulary = { TextRows = 8; ImageCodes = 4 }

                    let config = { ModelConfig.openLm 16 1 4 vocabulary.Rows 32 with ExtendedAt = [ 8 ] }

                    source (at "source") 1L torch.ScalarType.Float32 config vocabulary
                    File.WriteAllText(at "source/image_tokenizer.safetensors", "pictures")

                    File.WriteAllText(
                        at "source/tokenizer.json",
                        """{"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
                        "model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"dog":2},"unk_token":"[UNK]"}}"""
                    )

                    for i, (format, name) in
                        List.indexed
                            [
                                ModelFormat.HuggingFace, "hf"
                                ModelFormat.OpenLm, "openlm"
                                ModelFormat.Hybrid, "hybrid"
                                ModelFormat.HuggingFace, "again"
                            ] do
                        let before = [ "source"; "hf"; "openlm"; "hybrid" ][i]
                        let result = convert (modelAt (at before) null) (at name) format
                        Expect.equal ((result["notes"] |> nonNull).AsArray().Count) 0 "no notes"
                        Expect.equal (File.ReadAllText(at $"{name}/image_tokenizer.safetensors")) "pictures" name
                        use file = ModelFiles.Open(modelAt (at name) null)
                        Expect.equal file.Vocabulary vocabulary name
                        Expect.equal file.Config.ExtendedAt [ 8 ] name
                        use tokenizer = HuggingFaceTokenizer.Open(file.TokenizerPath |> nonNull)
                        Expect.equal (tokenizer.Encode("a dog", false)) [| 1; 2 |] name

                        Expect.equal
                            (tokenizer.Encode("<doc>dog<image_code_3><unused_7>", false))
                            [| vocabulary.Doc; 2; vocabulary.FirstCode + 3; 7 |]
                            name

                    for file in [ "tokenizer.json"; "tokenizer_config.json"; "config.json"; "generation_config.json" ] do
                        Expect.equal (File.ReadAllText(at $"again/{file}")) (File.ReadAllText(at $"hf/{file}")) file))

            testCase "biases that were put in are left out again only while they are zero" (fun () ->
                inFolder (fun folder ->
                    let at name = Path.Combine(folder, name)

                    let config = { ModelConfig.openLm 16 2 4 20 32 with Norm = GainLayerNorm }

                    source (at "source") 1L torch.ScalarType.BFloat16 config { TextRows = 20; ImageCodes = 0 }
                    convert (modelAt (at "source") null) (at "hf") ModelFormat.HuggingFace |> ignore
                    use file = ModelFiles.Open(modelAt (at "hf") null)
                    Expect.equal file.Config.Norm GainLayerNorm "zero biases"
                    let weights = at "hf/model.safetensors"
                    use tensors = TensorFiles.Open weights

                    // As another program leaves it that trained the biases.
                    let trained =
                        [|
                            for entry in tensors.Entries.Values ->
                                TensorSource(
                                    entry.Name,
                                    entry.Type,
                                    entry.Shape,
                                    fun () ->
                                        if entry.Name = "model.layers.1.input_layernorm.bias" then
                                            torch.full (entry.Shape, Scalars.Of 0.5, dtype = entry.Type)
                                        else
                                            tensors.Load entry.Name
                                )
                        |]

                    SafeTensorsWriter.Write(weights, trained)
                    use file = ModelFiles.Open(modelAt (at "hf") null)
                    Expect.equal file.Config.Norm LayerNorm "trained biases"
                    use bias = file.Load "layers.1.attention_norm.bias"
                    Expect.equal (bias.to_type(torch.float32).data<float32>().ToArray()) (Array.create 16 0.5f) "their values"))
        ]

/// The shared checkpoints through the program itself.
let private program =
    testCase "the program: an open_lm .pt to hf, evaluated without --text-rows, and back" (fun () ->
        let golden name = Material.shared $"golden/lm_a/{name}"

        inFolder (fun folder ->
            let at name = Path.Combine(folder, name)

            let made =
                result
                    [
                        "convert"
                        "--from"
                        golden "epoch_1.pt"
                        "--from-config"
                        golden "model.json"
                        "--text-rows"
                        "300"
                        "--image-codes"
                        "64"
                        "--to"
                        at "hf"
                        "--format"
                        "hf"
                        "--shard-size"
                        "100KB"
                    ]

            for file in (made.GetProperty "files").EnumerateArray() do
                Expect.isTrue (File.Exists(file.GetString() |> nonNull)) "a file that was named"

            Expect.equal ((made.GetProperty "family").GetString()) "stablelm" "the family"
            let evaluated = result [ "evaluate"; "--model"; at "hf"; "--tokens"; golden "tokens.npy" ]
            use expected = JsonDocument.Parse(File.ReadAllText(golden "expected.json"))
            let reference = expected.RootElement.GetProperty "reference"
            let found = evaluated.GetProperty "loss"

            for key, wanted in [ "total", "total"; "text", "text"; "image", "image"; "structure", "special" ] do
                near 1e-4 0.0 key ((reference.GetProperty wanted).GetDouble()) ((found.GetProperty key).GetDouble())

            result [ "convert"; "--from"; at "hf"; "--to"; at "back"; "--format"; "open_lm" ] |> ignore
            Expect.equal (tensorsOf (at "back/epoch_1.pt")) (tensorsOf (golden "epoch_1.pt")) "every bit"))

let tests =
    TorchLibrary.Load()
    testList "Convert" [ yield! families |> List.map thereAndBack; openLm; alongside; program ]
