module Hybrid.Tests.ConvertTests

open System
open System.IO
open System.Text.Json
open System.Text.Json.Nodes
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open TorchSharp

let private dtypes = [ torch.ScalarType.Float32; torch.ScalarType.BFloat16; torch.ScalarType.Float16 ]

/// A tensor's bits, whatever its type.
let private bytesOf (tensor: torch.Tensor) = tensor.contiguous().bytes.ToArray()

/// The random values of a parameter, the same for the same seed.
let private valuesOf (seed: int64) (kind: torch.ScalarType) (name: string) (shape: int64[]) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let chooser = Chooser(seed + int64 (name |> Seq.sumBy int))
    let near = if name.Contains "norm" && name.EndsWith "weight" then 1.0 else 0.0
    let values = (normals chooser 0.3 (shape |> Array.map int |> List.ofArray)).add(Scalars.Of near)
    values.to_type(kind).MoveToOuterDisposeScope()

/// A model on disk as a checkpoint of hybrid, which holds any configuration, with weights of any type.
let private source (folder: string) (seed: int64) (kind: torch.ScalarType) (config: ModelConfig) (vocabulary: Vocabulary) =
    let tensors =
        [|
            for parameter in Architecture.Parameters config ->
                TensorSource(parameter.Name, kind, parameter.Shape, (fun () -> valuesOf seed kind parameter.Name parameter.Shape))
        |]

    Directory.CreateDirectory folder |> ignore
    SafeTensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors)
    File.WriteAllText(Path.Combine(folder, "config.json"), Descriptions.Write(config, vocabulary))

let private modelAt (path: string) (config: string | null) : ModelPath =
    { Path = path; Config = config; TextRows = Nullable(); ImageCodes = Nullable() }

let private convertWith
    (change: ConvertCommand -> ConvertCommand)
    (from: ModelPath)
    (target: string)
    (format: ModelFormat)
    : JsonObject =
    let command =
        change
            {
                From = from
                To = target
                Format = format
                ElementType = "keep"
                ShardSize = 5_000_000_000L
                Json = true
            }

    use silent = Progress.On(TextWriter.Null, TimeProvider.System)
    ConvertJob.Convert(command, silent, CancellationToken.None)

let private convert = convertWith id

/// Every parameter of a model on disk, as bits, with its element type.
let private parametersOf (path: ModelPath) =
    use file = ModelFiles.Open path

    [
        for parameter in Architecture.Parameters file.Config ->
            use values = file.Load parameter.Name
            parameter.Name, (file.TypeOf parameter.Name, bytesOf values)
    ]

/// All tensors of a file or folder under their own names, as bits.
let private tensorsOf (path: string) =
    use file = TensorFiles.Open path

    [
        for entry in file.Entries.Values ->
            use values = file.Load entry.Name
            entry.Name, (entry.Type, List.ofArray entry.Shape, bytesOf values)
    ]
    |> List.sortBy fst

let private logitsOf (path: ModelPath) (ids: int64[]) =
    use file = ModelFiles.Open path
    use model = file.Open(Layout(Frozen = true))
    use scope = torch.NewDisposeScope()
    use _ = torch.inference_mode ()
    values (model.Logits(Host.int64s [ 1L; int64 ids.Length ] ids))

let private rotates (config: ModelConfig) = config.Position = Rotary || config.Position = InterleavedRotary

/// Where nothing rotates, what rotation is like has no place in a family's form.
let private still (config: ModelConfig) =
    if rotates config then
        config
    else
        { config with RotaryWidth = config.HeadWidth; RotaryScaling = NoScaling }

/// What a family of models may be made of.
let private configOf (chooser: Chooser) (family: string) (rows: int) : ModelConfig =
    let any = config chooser rows

    let plain =
        { any with
            QkNorm = false
            PostEmbedNorm = false
            FeedForward = SwiGlu
            ParallelResidual = false
            Window = 0
            QkvBias = false
            OutBias = false
            FeedForwardBias = false
            RotaryWidth = any.HeadWidth
            Position = (if any.Position = LearnedPosition then Rotary else any.Position)
        }

    let whole = { plain with Width = plain.Heads * plain.HeadWidth }
    let neither = chooser.Of [ Gelu; GeluTanh; Relu ]
    let bias = chooser.Bool()

    match family with
    | "llama" -> { plain with Norm = RmsNorm; QkvBias = bias; OutBias = bias; FeedForwardBias = any.FeedForwardBias }
    | "mistral" -> { plain with Norm = RmsNorm; Window = chooser.Int(1, 100) }
    | "qwen2" -> { plain with Norm = RmsNorm; QkvBias = true }
    | "stablelm" ->
        let part = if whole.Position = Rotary then any.RotaryWidth else whole.HeadWidth
        { whole with Norm = chooser.Of [ LayerNorm; GainLayerNorm ]; QkvBias = bias; RotaryWidth = part }
    | "olmo" -> { whole with Norm = PlainLayerNorm; NormEpsilon = 1e-5 }
    | "gpt_neox" ->
        { whole with
            KeyValueHeads = whole.Heads
            Norm = LayerNorm
            Position = (if whole.Position = InterleavedRotary then Rotary else whole.Position)
            RotaryWidth = any.RotaryWidth
            FeedForward = neither
            ParallelResidual = any.ParallelResidual
            QkvBias = bias
            OutBias = bias
            FeedForwardBias = true
        }
    | "gpt2" ->
        { whole with
            KeyValueHeads = whole.Heads
            Norm = LayerNorm
            Position = LearnedPosition
            RotaryBase = 10000.0
            FeedForward = neither
            QkvBias = true
            OutBias = true
            FeedForwardBias = true
        }
    | _ ->
        let heads = chooser.Int(1, 4)
        let width = heads * any.HeadWidth + chooser.Int(0, heads - 1)
        let feedForward = chooser.Of [ SwiGlu; GeGlu; Gelu ]

        { ModelConfig.openLm width any.Layers heads rows 64 with
            // One of these has no other family than open_lm's.
            QkNorm = true
            Norm = any.Norm
            PostEmbedNorm = any.PostEmbedNorm
            Position = plain.Position
            FeedForward = feedForward
            FeedForwardWidth = (if feedForward = Gelu then 4 * width else ModelConfig.swiGluWidth width)
            FeedForwardBias = (feedForward = GeGlu)
            Tied = any.Tied
        }
    |> still

/// An extended vocabulary half of the time, with the sizes before extensions.
let private withVocabulary (chooser: Chooser) (config: ModelConfig) : ModelConfig * Vocabulary =
    if chooser.Bool() then
        let vocabulary = vocabulary chooser
        let padded = vocabulary.Rows + chooser.Int(0, 3)

        { config with Rows = padded; ExtendedAt = [ vocabulary.TextRows ] }, vocabulary
    else
        config, { TextRows = config.Rows; ImageCodes = 0 }

/// What reading an exported description gives: a rotation of pairs became one of halves, everything else is as it was.
let private exported (family: string) (config: ModelConfig) =
    if family <> "openlm" && config.Position = InterleavedRotary then
        { config with Position = Rotary }
    else
        config

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

let private refusals =
    testList
        "refusals"
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
        let golden name = shared $"golden/lm_a/{name}"

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

    testList "Convert" [ yield! families |> List.map thereAndBack; openLm; alongside; refusals; program ]
