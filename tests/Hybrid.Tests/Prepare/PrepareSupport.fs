/// What the tests of preparation share: pairs, a small image tokenizer, and the job without its console.
module Hybrid.Tests.PrepareSupport

open System
open System.Formats.Tar
open System.IO
open System.IO.Compression
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open TorchSharp

let codes, patch = 32, 8

/// A small image tokenizer of random weights: 8 × 8 pixels a code, 32 codes.
let writeTokenizer (path: string) (seed: int64) =
    let config =
        { SceneVqVae.defaults with
            Width = 16L
            InnerWidth = 8L
            DecoderBlocks = 1
            Codes = int64 codes
            CodeWidth = 4L
        }

    let stream = Random.ofSeed seed
    use _ = torch.NewDisposeScope()

    // The codebook is all zeros before training: every picture would get the same codes.
    let tensors =
        [
            for spec in ImageTokenizer.parameters (SceneTokenizer config) do
                let own = Random.named spec.Name stream
                let count = List.fold (*) 1L spec.Shape

                let values = Array.init (int count) (fun i -> float32 (0.2 * Random.normal own (int64 i)))

                struct (spec.Name, torch.tensor(values).reshape(List.toArray spec.Shape))
        ]

    SafeTensorsWriter.Write(path, tensors)
    path

let png (index: int) : string * byte[] =
    let caption, pixels = World.pair 3L Split.Train (int64 index)
    caption, Pictures.EncodePng(Picture(64, 64, pixels))

let writeTar (path: string) (members: (string * byte[]) list) =
    use tar = new TarWriter(File.Create path)

    for name, bytes in members do
        tar.WriteEntry(PaxTarEntry(TarEntryType.RegularFile, name, DataStream = new MemoryStream(bytes)))

/// The pair of a number as the members of a tar.
let pair (index: int) =
    let caption, bytes = png index
    [ $"{index:D6}.png", bytes; $"{index:D6}.txt", Text.Encoding.UTF8.GetBytes caption ]

let broken (index: int) =
    let caption, bytes = png index
    [ $"{index:D6}.png", bytes[.. bytes.Length / 2]; $"{index:D6}.txt", Text.Encoding.UTF8.GetBytes caption ]

/// Two tars of 5 and 4 pairs, among them a torn picture, one that is text, and one without a caption; both tokenizers.
let material (folder: Folder) =
    writeTar (folder.At "a.tar") (List.concat [ pair 0; pair 1; broken 2; pair 3; [ "000004.png", snd (png 4) ]; pair 5; pair 6 ])

    writeTar
        (folder.At "b.tar")
        (List.concat [ pair 7; pair 8; [ "000009.png", "no picture"B; "000009.txt", "a"B ]; pair 10; pair 11 ])

    folder.Write("tokenizer.json", WorldVocabulary.tokenizerJson) |> ignore
    writeTokenizer (folder.At "image.safetensors") 1L |> ignore

let command (folder: Folder) (out: string) : PrepareCommand =
    {
        Input = [| folder.At "a.tar"; folder.At "b.tar" |]
        ImageRoot = null
        TextTokenizer = folder.At "tokenizer.json"
        ImageTokenizer = folder.At "image.safetensors"
        Ema = false
        HalfPrecision = false
        ImageSize = Nullable 16
        ReducingGap = Nullable()
        AllCaptions = false
        MaxTextTokens = Nullable()
        DropLongText = false
        PairsPerShard = 2048
        Workers = Nullable 2
        Strict = false
        Out = folder.At out
        Json = false
    }

let internal prepare (command: PrepareCommand) =
    use progress = Progress.On(TextWriter.Null, TimeProvider.System)
    PrepareJob.Run(command, progress, CancellationToken.None)

/// Every file of a folder by name, with its bytes.
let content (folder: string) =
    [
        for path in Directory.EnumerateFiles folder |> Seq.sort do
            string (Path.GetFileName path), Convert.ToHexString(Security.Cryptography.SHA256.HashData(File.ReadAllBytes path))
    ]

/// What was dropped, by reason.
let internal drops (outcome: PrepareOutcome) =
    outcome.Dropped |> Seq.map (fun drop -> drop.Key, drop.Value) |> Seq.sort |> List.ofSeq

/// The pairs of a folder of shards: the captions' ids and the codes.
let pairsOf (folder: string) =
    use reader = ShardReader.Open folder
    reader.Verify()
    [ for i in 0L .. reader.Count - 1L -> reader.Pair(i).ToTuple() ]

/// The lines of dropped.jsonl: key and reason.
let dropLines (folder: string) =
    let path = Path.Combine(folder, "dropped.jsonl")

    [
        for line in (if File.Exists path then File.ReadAllLines path else [||]) do
            use json = Text.Json.JsonDocument.Parse line
            let field (name: string) = string (json.RootElement.GetProperty(name).GetString())
            field "key", field "reason"
    ]

let utf8 (text: string) = Text.Encoding.UTF8.GetBytes text

let gzip (bytes: byte[]) : byte[] =
    use packed = new MemoryStream()

    do
        use stream = new GZipStream(packed, CompressionLevel.Fastest, true)
        stream.Write(bytes, 0, bytes.Length)

    packed.ToArray()

let write (folder: Folder) (name: string) (bytes: byte[]) =
    let path = folder.At name
    Directory.CreateDirectory(string (Path.GetDirectoryName path)) |> ignore
    File.WriteAllBytes(path, bytes)

/// The keys and captions that a source of pairs gives, with the reasons of what it dropped.
let captionsOf (path: string) (root: string | null) =
    [
        for source in PairSource.Open(path, root) do
            for event in source.Read(PairReading()) do
                match Option.ofObj event.Pair, Option.ofObj event.Drop with
                | Some pair, _ ->
                    Expect.isNonEmpty (pair.Image.Read()) "bytes"
                    pair.Key, List.ofSeq pair.Captions
                | None, Some drop -> drop.Key, [ string drop.Reason ]
                | None, None -> failtest "neither a pair nor a drop"
    ]
