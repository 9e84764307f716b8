/// What the tests of training an image tokenizer share: scenes, and the command for a small tokenizer.
module Hybrid.Tests.ImageTrainSupport

open System.Collections.Generic
open System.IO
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats

let png (index: int) : byte[] =
    let _, pixels = World.pair 11L Split.Train (int64 index)
    Pictures.EncodePng(Picture(64, 64, pixels))

/// A folder of scenes; its path.
let scenes (folder: Folder) (count: int) =
    Directory.CreateDirectory(folder.At "pictures") |> ignore

    for i in 0 .. count - 1 do
        File.WriteAllBytes(folder.At $"pictures/{i:D3}.png", png i)

    folder.At "pictures"

/// A tokenizer that learns scenes of 32 × 32 pixels in seconds.
let small =
    [
        "imageSize", "32"
        "model.width", "16"
        "model.blocks", "1"
        "model.innerWidth", "8"
        "model.codes", "64"
        "model.codeWidth", "8"
        "batch.pictures", "8"
        "schedule.warmupSteps", "5"
        "optimizer.learningRate", "3e-3"
        "codebook.decay", "0.9"
        "codebook.initialPictures", "16"
        "data.heldOutShare", "0.2"
    ]

let internal command (input: string list) (out: string) (settings: (string * string) list) : ImageTrainCommand =
    {
        Input = List.toArray input
        Config = null
        Set = [| for key, value in small @ settings -> KeyValuePair(key, value) |]
        Out = out
        Resume = false
        TensorBoard = false
        Json = false
    }
