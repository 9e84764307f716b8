/// What the tests of image tokenizers share: small ones of each kind, with weights and pictures of a seed.
module Hybrid.Tests.ImageTokenizerSupport

open System
open System.Collections.Generic
open Expecto
open FsCheck
open Hybrid
open TorchSharp

let property name test = testPropertyWithConfig { FsCheckConfig.defaultConfig with maxTest = 20 } name test

/// A length in [low, high] made of any generated number.
let within low high (generated: int) = low + abs (generated % (high - low + 1))

/// Numbers uniform in [low, high) of a stream, as float32 of a shape.
let uniform (stream: Random.Stream) (low: float) (high: float) (shape: int64 list) =
    let count = shape |> List.fold (*) 1L |> int

    let values = Array.init count (fun i -> float32 (low + (high - low) * Random.uniform stream (int64 i)))

    torch.tensor(values).view(Array.ofList shape)

/// The weights of a list of parameters, started as they ask.
let start (seed: int) (parameters: ParameterSpec list) : Weights =
    let table = Dictionary<string, torch.Tensor>()

    for parameter in parameters do
        let stream = Random.ofSeed (int64 seed) |> Random.named parameter.Name
        let shape = Array.ofList parameter.Shape

        table[parameter.Name] <-
            match parameter.Init with
            | TruncatedNormal deviation ->
                let values = Array.zeroCreate<float32>(int (List.fold (*) 1L parameter.Shape))
                Random.fillTruncatedNormal deviation stream (values.AsSpan())
                torch.tensor(values).view shape
            | Uniform bound -> uniform stream -bound bound parameter.Shape
            | Zeros -> torch.zeros shape
            | Ones -> torch.ones shape

    fun name -> table[name]

let smallScenes (blocks: int) (codes: int64) : SceneVqVaeConfig =
    {
        Channels = 3L
        Patch = 4L
        Width = 16L
        InnerWidth = 8L
        EncoderBlocks = blocks
        EncoderKernel = (if blocks = 2 then 3L else 1L)
        DecoderBlocks = 1
        Codes = codes
        CodeWidth = 6L
    }

let smallPhotos (halvings: int) (blocks: int) : VqVaeConfig =
    {
        Channels = 3L
        Encoder = [ for _ in 1..halvings -> { Width = 8L; Kernel = 4L } ] @ [ { Width = 12L; Kernel = 3L } ]
        EncoderStack = { Blocks = blocks; InnerWidth = if blocks = 0 then 0L else 5L }
        Codes = 19L
        CodeWidth = 7L
        DecoderWidth = 10L
        DecoderStack = { Blocks = 1; InnerWidth = 4L }
        Doublings = [ for _ in 2..halvings -> 6L ]
    }

let smallVqGan (levels: int) (blocks: int) (quantiser: VqGanQuantiser) : VqGanConfig =
    { VqGan.moVq67M with
        Base = 32L
        Levels = [ for level in 1..levels -> 32L * int64 ((level + 1) / 2) ]
        Blocks = blocks
        EncoderAttention = [ levels - 1 ]
        DecoderAttention = (if quantiser = NearestCode then [ levels - 1 ] else [])
        MiddleAttention = (blocks = 1)
        Codes = 21L
        CodeWidth = 3L
        DecoderNorm = (if quantiser = NearestCode then SpatialNorm else PlainNorm)
        Quantiser = quantiser
    }

/// A tokenizer of any kind with weights that use several codes.
let tokenizer (seed: int) : TokenizerConfig * Weights =
    let config =
        match seed % 3 with
        | 0 -> SceneTokenizer(smallScenes (within 0 2 (seed / 3)) 23L)
        | 1 -> PhotoTokenizer(smallPhotos (within 1 3 (seed / 3)) (within 0 2 (seed / 9)))
        | _ ->
            let quantiser = if seed / 18 % 2 = 0 then NearestCode else GreatestLogit
            VqGanTokenizer(smallVqGan (within 1 3 (seed / 3)) (within 1 2 (seed / 9)) quantiser)

    let weights = start seed (ImageTokenizer.parameters config)
    let stream = Random.ofSeed (int64 seed) |> Random.named "codebook"

    let codebook =
        match config with
        | SceneTokenizer scenes -> uniform stream -1.0 1.0 [ scenes.Codes; scenes.CodeWidth ]
        | PhotoTokenizer photos -> uniform stream -0.2 0.2 [ photos.Codes; photos.CodeWidth ]
        | VqGanTokenizer gan -> uniform stream -1.0 1.0 [ gan.Codes; gan.CodeWidth ]

    config, (fun name -> if name = ImageTokenizer.codebook config then codebook else weights name)

let pictures (seed: int) (config: TokenizerConfig) (batch: int) (height: int) (width: int) =
    let stride = ImageTokenizer.stride config

    uniform
        (Random.ofSeed (int64 seed) |> Random.named "pictures")
        0.0
        1.0
        [ int64 batch; 3L; int64 height * stride; int64 width * stride ]

let same (a: torch.Tensor) (b: torch.Tensor) = a.shape = b.shape && a.equal(b).all().item<bool>()
