/// The image tokenizers against the answers of their references.
module Hybrid.Tests.ImageTokenizerGoldenTests

open System
open System.Collections.Generic
open System.IO
open System.IO.Compression
open Expecto
open Hybrid
open SkiaSharp
open TorchSharp

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

/// What a tokenizer must agree with.
type private Golden =
    {
        /// Under golden/.
        Folder: string
        /// The checkpoint, from the root of the material.
        Checkpoint: string
        Codes: int64
        Stride: int64
        Grid: int64
    }

/// Codes equal except on ties; pictures within a grey level.
let private agrees (load: string -> (string * int64[]) list * Weights) (golden: Golden) : Test =
    testCase golden.Folder (fun () ->
        let folder = Material.shared $"golden/{golden.Folder}"
        use _ = torch.NewDisposeScope()
        let entries, weights = load (Material.shared golden.Checkpoint)

        match ImageTokenizer.infer entries with
        | Error text -> failtest text
        | Ok config ->
            let file name = Path.Combine(folder, name)
            Expect.equal (ImageTokenizer.codes config) golden.Codes "the size of the codebook"
            Expect.equal (ImageTokenizer.stride config) golden.Stride "the stride"
            let images = torch.cat ([| for i in 0..2 -> readPng (file $"in_{i}.png") |], 0L)
            let codes = ImageTokenizer.encode config weights images
            Expect.equal codes.shape [| 3L; golden.Grid; golden.Grid |] "the grid"
            let codes = codes.reshape(-1L).data<int64>().ToArray()
            let expected, margins = readNpy<int64>(file "codes.npy"), readNpy<float32>(file "margin.npy")
            Expect.equal codes.Length expected.Length "as many codes"

            let wrong =
                [
                    for i in 0 .. codes.Length - 1 do
                        if codes[i] <> expected[i] && margins[i] > 1e-4f then
                            i, codes[i], expected[i], margins[i]
                ]

            Expect.isEmpty wrong "codes differ only on ties"
            let grid = torch.tensor(expected).view(3L, golden.Grid, golden.Grid)
            let decoded = ImageTokenizer.decode config weights grid
            let reference = torch.cat ([| for i in 0..2 -> readPng (file $"rec_{i}.png") |], 0L)
            let greyLevels = ((decoded - reference).abs().max() * 255.0).item<float32>()
            // A reference rounded to bytes is half a level off by itself.
            Expect.isLessThan greyLevels 0.51f "pictures agree within a grey level"

            if File.Exists(file "expected.json") then
                use document = Text.Json.JsonDocument.Parse(File.ReadAllText(file "expected.json"))

                let published = [| for value in document.RootElement.GetProperty("psnr").EnumerateArray() -> value.GetDouble() |]

                for ours, theirs in Seq.zip (ImageQuality.psnr images decoded) published do
                    Expect.isLessThan (abs (ours - theirs)) 0.02 "PSNR as published"

                let histogram = Codebook.histogram (int golden.Codes) (torch.tensor codes)
                let used = histogram |> Seq.filter (fun n -> n > 0L) |> Seq.length
                Expect.equal used (document.RootElement.GetProperty("codes_used").GetInt32()) "codes used as published"

            if File.Exists(file "decoded.npy") then
                let floats = torch.tensor(readNpy<float32>(file "decoded.npy")).view decoded.shape
                let inside = ((floats + 1.0) * 0.5).clamp(Scalars.Of(0.0), Scalars.Of(1.0))
                let difference = (decoded - inside).abs().max().item<float32>()
                Expect.isLessThan difference 1e-4f "pictures agree before rounding")

/// The tokenizers against their references. `load` reads the entries of a checkpoint: names, shapes and a lookup.
let golden (load: string -> (string * int64[]) list * Weights) : Test =
    testList
        "golden"
        [
            agrees
                load
                {
                    Folder = "vqvae_a"
                    Checkpoint = "data/vqvae_photos/vqvae.pt"
                    Codes = 512L
                    Stride = 4L
                    Grid = 32L
                }
            agrees load { Folder = "movq_a"; Checkpoint = "golden/movq_a/movq.ckpt"; Codes = 256L; Stride = 8L; Grid = 8L }
        ]

/// The float32 tensors of one torch checkpoint of plain, contiguous tensors, by walking its pickle's opcodes: enough for the
/// golden file, and no reader for anything else.
let private loadTorch (path: string) : (string * int64[]) list * Weights =
    use archive = ZipFile.OpenRead path

    let bytes (name: string) =
        match archive.Entries |> Seq.tryFind (fun entry -> entry.FullName.EndsWith("/" + name)) with
        | None -> failtest $"{path} has no entry {name}"
        | Some entry ->
            use stream = entry.Open()
            use memory = new MemoryStream()
            stream.CopyTo memory
            memory.ToArray()

    let pickle = bytes "data.pkl"
    let texts, numbers = ResizeArray<string>(), ResizeArray<int64>()
    let shapes, table = ResizeArray<string * int64[]>(), Dictionary<string, torch.Tensor>()

    let isKey (text: string) = text |> Seq.forall Char.IsDigit

    let isName (text: string) = not (isKey text || text = "storage" || text = "cpu" || text.StartsWith "cuda")

    // A tensor is: name, "storage", key, device (repeated texts may be left out), then the storage's length, the offset, lengths and strides.
    let flush () =
        if texts.Count >= 2 && numbers.Count >= 4 then
            let dimensions = (numbers.Count - 2) / 2
            let shape = numbers.GetRange(2, dimensions).ToArray()

            let values =
                Runtime.InteropServices.MemoryMarshal
                    .Cast<byte, float32>(ReadOnlySpan(bytes $"data/{Seq.find isKey texts}"))
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

                  if isName text then
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

    flush ()
    List.ofSeq shapes, (fun name -> table[name])

let tests = testList "ImageTokenizer" [ golden loadTorch ]
