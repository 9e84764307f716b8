/// What the tests of conversions share: models of every family on disk, the job, and what it leaves.
module Hybrid.Tests.ConvertSupport

open System
open System.IO
open System.Text.Json.Nodes
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.Generate
open TorchSharp

let dtypes = [ torch.ScalarType.Float32; torch.ScalarType.BFloat16; torch.ScalarType.Float16 ]

/// A tensor's bits, whatever its type.
let bytesOf (tensor: torch.Tensor) = tensor.contiguous().bytes.ToArray()

/// The random values of a parameter, the same for the same seed.
let valuesOf (seed: int64) (kind: torch.ScalarType) (name: string) (shape: int64[]) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let chooser = Chooser(seed + int64 (name |> Seq.sumBy int))
    let near = if name.Contains "norm" && name.EndsWith "weight" then 1.0 else 0.0
    let values = (normals chooser 0.3 (shape |> Array.map int |> List.ofArray)).add(Scalars.Of near)
    values.to_type(kind).MoveToOuterDisposeScope()

/// A model on disk as a checkpoint of hybrid, which holds any configuration, with weights of any type.
let source (folder: string) (seed: int64) (kind: torch.ScalarType) (config: ModelConfig) (vocabulary: Vocabulary) =
    let tensors =
        [|
            for parameter in Architecture.Parameters config ->
                TensorSource(parameter.Name, kind, parameter.Shape, (fun () -> valuesOf seed kind parameter.Name parameter.Shape))
        |]

    Directory.CreateDirectory folder |> ignore
    SafeTensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors)
    File.WriteAllText(Path.Combine(folder, "config.json"), Descriptions.Write(config, vocabulary))

let internal modelAt (path: string) (config: string | null) : ModelPath =
    { Path = path; Config = config; TextRows = Nullable(); ImageCodes = Nullable() }

let internal convertWith
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

let internal convert = convertWith id

/// Every parameter of a model on disk, as bits, with its element type.
let internal parametersOf (path: ModelPath) =
    use file = ModelFiles.Open path

    [
        for parameter in Architecture.Parameters file.Config ->
            use values = file.Load parameter.Name
            parameter.Name, (file.TypeOf parameter.Name, bytesOf values)
    ]

/// All tensors of a file or folder under their own names, as bits.
let tensorsOf (path: string) =
    use file = TensorFiles.Open path

    [
        for entry in file.Entries.Values ->
            use values = file.Load entry.Name
            entry.Name, (entry.Type, List.ofArray entry.Shape, bytesOf values)
    ]
    |> List.sortBy fst

let internal logitsOf (path: ModelPath) (ids: int64[]) =
    use file = ModelFiles.Open path
    use model = file.Open(Layout(Frozen = true))
    use scope = torch.NewDisposeScope()
    use _ = torch.inference_mode ()
    values (model.Logits(Host.int64s [ 1L; int64 ids.Length ] ids))

let rotates (config: ModelConfig) = config.Position = Rotary || config.Position = InterleavedRotary

/// Where nothing rotates, what rotation is like has no place in a family's form.
let still (config: ModelConfig) =
    if rotates config then
        config
    else
        { config with RotaryWidth = config.HeadWidth; RotaryScaling = NoScaling }

/// What a family of models may be made of.
let configOf (chooser: Chooser) (family: string) (rows: int) : ModelConfig =
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
let withVocabulary (chooser: Chooser) (config: ModelConfig) : ModelConfig * Vocabulary =
    if chooser.Bool() then
        let vocabulary = vocabulary chooser
        let padded = vocabulary.Rows + chooser.Int(0, 3)

        { config with Rows = padded; ExtendedAt = [ vocabulary.TextRows ] }, vocabulary
    else
        config, { TextRows = config.Rows; ImageCodes = 0 }

/// What reading an exported description gives: a rotation of pairs became one of halves, everything else is as it was.
let exported (family: string) (config: ModelConfig) =
    if family <> "openlm" && config.Position = InterleavedRotary then
        { config with Position = Rotary }
    else
        config
