/// What the tests of the fid command share: the job by its words, pictures, and features it kept.
module Hybrid.Tests.FidSupport

open System
open System.IO
open System.Text.Json
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.Generate
open Hybrid.Tests.Running

let private command (words: string list) : FidCommand =
    match CommandLine.parse (Array.ofList ("fid" :: words)) with
    | :? RunOutcome as run -> run.Command :?> FidCommand
    | :? UsageOutcome as usage -> failtest usage.Text
    | _ -> failtest "no command"

let measure (words: string list) : JsonElement =
    use progress = Progress.On(TextWriter.Null, TimeProvider.System)
    parsed (FidJob.Measure(command words, progress, CancellationToken.None).ToJson().ToJsonString(Json.Options))

let number (name: string) (element: JsonElement) = (element.GetProperty name).GetDouble()

let part (path: string list) (element: JsonElement) = path |> List.fold (fun (e: JsonElement) name -> e.GetProperty name) element

let picture (seed: int) (width: int) (height: int) : Picture =
    let stream = Random.ofSeed (int64 seed)
    Picture(width, height, Array.init (width * height * 3) (fun i -> byte (Random.bits stream (int64 i))))

/// A folder of pictures of these sizes.
let pictures (folder: Folder) (name: string) (sizes: (int * int) list) : string =
    let path = folder.At name
    Directory.CreateDirectory(Path.Combine(path, "below")) |> ignore

    for i, (width, height) in List.indexed sizes do
        let place = if i % 2 = 0 then path else Path.Combine(path, "below")
        let seed = name.Length * 1000 + i
        File.WriteAllBytes(Path.Combine(place, $"{i:D2}.png"), Pictures.EncodePng(picture seed width height))

    path

/// Sorts rows, since a set has no order.
let rows (width: int) (values: float[]) = Array.chunkBySize width values |> Array.sortBy (fun row -> row[0])

let saved (path: string) : float[] =
    use file = NpyFile.Open path
    use tensor = file.Load()
    values tensor

/// An extractor that gives each channel's mean.
let mean = "torch.mean(x, [2, 3])"
