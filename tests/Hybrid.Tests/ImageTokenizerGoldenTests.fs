/// The photograph VQ-VAE against the answers of its reference.
module Hybrid.Tests.ImageTokenizerGoldenTests

open System
open System.Collections.Generic
open System.IO
open System.IO.Compression
open Expecto
open Hybrid
open SkiaSharp
open TorchSharp

/// The folder of real material, or a skipped test.
let private material () =
    let rec root (folder: DirectoryInfo | null) =
        match folder with
        | null -> None
        | folder when File.Exists(Path.Combine(folder.FullName, "Hybrid.sln")) -> Some folder.FullName
        | folder -> root folder.Parent

    let folder =
        match Environment.GetEnvironmentVariable "HYBRID_TEST_DATA" with
        | null
        | "" ->
            match root (DirectoryInfo AppContext.BaseDirectory) with
            | Some root -> Path.GetFullPath(Path.Combine(root, "..", "shared"))
            | None -> ""
        | folder -> folder

    if Directory.Exists(Path.Combine(folder, "golden", "vqvae_a")) then
        folder
    else
        skiptest "the real material (HYBRID_TEST_DATA, or ../shared beside the repository) is absent"

/// A picture as floats [1, 3, H, W] in [0, 1].
let private readPng (path: string) =
    use bitmap = SKBitmap.Decode path
    let width, height = bitmap.Width, bitmap.Height
    let colours = bitmap.Pixels

    let channel (f: SKColor -> byte) = colours |> Array.map (fun colour -> float32 (f colour) / 255f)

    torch.tensor(Array.concat [ channel _.Red; channel _.Green; channel _.Blue ]).view(1L, 3L, int64 height, int64 width)

/// The numbers of a version 1 .npy file, behind its header.
let private readNpy<'number when 'number: struct and 'number: (new: unit -> 'number) and 'number :> ValueType> (path: string) =
    let bytes = File.ReadAllBytes path
    let header = 10 + int (BitConverter.ToUInt16(bytes, 8))
    System.Runtime.InteropServices.MemoryMarshal.Cast<byte, 'number>(ReadOnlySpan(bytes, header, bytes.Length - header)).ToArray()

/// The golden test of the photograph VQ-VAE: codes equal except on ties, pictures within a grey level, PSNR as published.
/// `load` reads the entries of a checkpoint: their names, their shapes and a lookup.
let photographs (load: string -> (string * int64[]) list * Weights) : Test =
    testCase "the photograph VQ-VAE encodes and decodes as its reference does" (fun () ->
        let folder = material ()
        use _ = torch.NewDisposeScope()
        let entries, weights = load (Path.Combine(folder, "data", "vqvae_photos", "vqvae.pt"))

        match ImageTokenizer.infer entries with
        | Error text -> failtest text
        | Ok config ->
            let golden name = Path.Combine(folder, "golden", "vqvae_a", name)
            Expect.equal (ImageTokenizer.codes config, ImageTokenizer.stride config) (512L, 4L) "512 codes, stride 4"
            let images = torch.cat ([| for i in 0..2 -> readPng (golden $"in_{i}.png") |], 0L)
            let codes = (ImageTokenizer.encode config weights images).reshape(-1L).data<int64>().ToArray()
            let expected, margins = readNpy<int64>(golden "codes.npy"), readNpy<float32>(golden "margin.npy")
            Expect.equal codes.Length expected.Length "1,024 codes a picture"

            let wrong =
                [
                    for i in 0 .. codes.Length - 1 do
                        if codes[i] <> expected[i] && margins[i] > 1e-4f then
                            i, codes[i], expected[i], margins[i]
                ]

            Expect.isEmpty wrong "codes differ only on ties"
            let decoded = ImageTokenizer.decode config weights (torch.tensor(expected).view(3L, 32L, 32L))
            let reference = torch.cat ([| for i in 0..2 -> readPng (golden $"rec_{i}.png") |], 0L)
            let greyLevels = ((decoded - reference).abs().max() * 255.0).item<float32>()
            Expect.isLessThan greyLevels 1.0f "pictures agree within a grey level"
            use document = Text.Json.JsonDocument.Parse(File.ReadAllText(golden "expected.json"))

            let published = [| for value in document.RootElement.GetProperty("psnr").EnumerateArray() -> value.GetDouble() |]

            for ours, theirs in Seq.zip (ImageTokenizer.psnr images decoded) published do
                Expect.isLessThan (abs (ours - theirs)) 0.02 "PSNR as published"

            let used = Codebook.histogram 512 (torch.tensor codes) |> Seq.filter (fun n -> n > 0L) |> Seq.length
            Expect.equal used (document.RootElement.GetProperty("codes_used").GetInt32()) "codes used as published")

/// The float32 tensors of one torch checkpoint of plain, contiguous tensors, by walking its pickle's opcodes: enough for the
/// golden file, and no reader for anything else.
let private loadTorch (path: string) : (string * int64[]) list * Weights =
    use archive = ZipFile.OpenRead path

    let bytes (name: string) =
        match archive.GetEntry name with
        | null -> failtest $"{path} has no entry {name}"
        | entry ->
            use stream = entry.Open()
            use memory = new MemoryStream()
            stream.CopyTo memory
            memory.ToArray()

    let pickle = bytes "archive/data.pkl"
    let texts, numbers = ResizeArray<string>(), ResizeArray<int64>()
    let shapes, table = ResizeArray<string * int64[]>(), Dictionary<string, torch.Tensor>()

    // A tensor is: name, (once) "storage", key, device, then the storage's length, the offset, lengths and strides.
    let flush () =
        if texts.Count >= 3 && numbers.Count >= 4 then
            let dimensions = (numbers.Count - 2) / 2
            let shape = numbers.GetRange(2, dimensions).ToArray()

            let values =
                Runtime.InteropServices.MemoryMarshal
                    .Cast<byte, float32>(ReadOnlySpan(bytes $"archive/data/{texts[texts.Count - 2]}"))
                    .ToArray()

            shapes.Add(texts[0], shape)
            table[texts[0]] <- torch.tensor(values).view shape

        texts.Clear()
        numbers.Clear()

    let mutable position = 0

    while position < pickle.Length do
        let argument = position + 1
        let code = char pickle[position]

        position <-
            argument
            + match code with
              | '\128'
              | 'q'
              | 'h' -> 1
              | 'r'
              | 'j' -> 4
              | 'c' ->
                  let line from = Array.IndexOf(pickle, 10uy, from) + 1
                  line (line argument) - argument
              | 'X' ->
                  let length = BitConverter.ToInt32(pickle, argument)
                  let text = Text.Encoding.UTF8.GetString(pickle, argument + 4, length)

                  if text.EndsWith ".weight" || text.EndsWith ".bias" || text = "_metadata" then
                      flush ()

                  texts.Add text
                  4 + length
              | 'K' ->
                  numbers.Add(int64 pickle[argument])
                  1
              | 'M' ->
                  numbers.Add(int64 (BitConverter.ToUInt16(pickle, argument)))
                  2
              | 'J' ->
                  numbers.Add(int64 (BitConverter.ToInt32(pickle, argument)))
                  4
              | _ -> 0

    List.ofSeq shapes, (fun name -> table[name])

let tests = testList "ImageTokenizer golden" [ photographs loadTorch ]
