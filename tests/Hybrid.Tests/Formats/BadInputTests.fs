/// Files that are not what a command takes: each ends in a sentence and leaves nothing behind.
module Hybrid.Tests.BadInputTests

open System
open System.IO
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner.Formats
open TorchSharp

/// Runs the program here; its exit code, stdout and stderr.
let private run (arguments: string list) : int * string * string =
    let out, error = Console.Out, Console.Error
    use results = new StringWriter()
    use messages = new StringWriter()

    try
        Console.SetOut results
        Console.SetError messages
        let code = Hybrid.Runner.Program.Main(Array.ofList arguments)
        code, results.ToString(), messages.ToString()
    finally
        Console.SetOut out
        Console.SetError error
        torch.set_num_threads 1

/// Files that are all right: a model with its tokenizers, tokens, a picture, a task.
let private write (folder: Folder) =
    let files = Hybrid.Runner.Study.StudyFiles(folder.At ".")
    use trainer = new PictureTokenizerTrainer(Study.smoke.Tokenizer, true, false, 1L)
    use tokenizer = trainer.Finish()
    files.SaveTokenizer tokenizer
    let textRows = Hybrid.Runner.Study.Corpus.TextRows
    let vocabulary: Vocabulary = { TextRows = textRows; ImageCodes = tokenizer.Codes }
    let config = Extension.grow vocabulary.Rows (ModelConfig.openLm 16 1 1 textRows 96)
    use model = Model.Random(config, vocabulary, Layout(), 1L)
    files.SaveModel("drawer", model)
    let row = Sequence.compose vocabulary Captioned 96 [| 1; 2 |] (Array.create 64 3)
    NpyFile.Write<int64>(folder.At "tokens.npy", ReadOnlyMemory row, 1L, 96L)
    let _, pixels = World.pair 1L Split.Train 0L
    File.WriteAllBytes(folder.At "picture.png", Pictures.EncodePng(Picture(64, 64, pixels)))

    folder.Write("task.jsonl", """{"query": "the dog", "choices": ["is red .", "is blue ."], "gold": 0}""" + "\n")
    |> ignore

let private noise (seed: int64) (count: int) : byte[] =
    let stream = Random.ofSeed seed |> Random.named "noise"
    Array.init count (fun i -> byte (Random.below 256 stream (int64 i)))

/// Paths that are no file of any kind, with this ending: what they are, and where.
let private bad (folder: Folder) (extension: string) : (string * string) list =
    let made (name: string) (bytes: byte[]) =
        let path = folder.At(name + extension)
        File.WriteAllBytes(path, bytes)
        path

    let directory = folder.At("directory" + extension)
    Directory.CreateDirectory directory |> ignore

    [
        "missing", folder.At("missing" + extension)
        "in a missing folder", folder.At("nowhere/file" + extension)
        "empty", made "empty" [||]
        "a directory", directory
        for seed in 1L .. 3L do
            $"random bytes {seed}", made $"noise{seed}" (noise seed (300 * int seed))
        "zeros", made "zeros" (Array.zeroCreate 2048)
    ]

/// Runs a command with each bad path, and says what went otherwise than a refusal should.
let private complaints (folder: Folder) (extensions: string list) (except: string list) (line: string -> string list) =
    [
        for extension in extensions do
            for what, path in bad folder extension do
                if not (List.contains what except) then
                    let out = folder.At "out"
                    let code, output, errors = run (line path)

                    let wrong =
                        [
                            if code <> 1 && code <> 2 then
                                $"exit code {code}"
                            if output <> "" then
                                $"stdout «{output}»"
                            // On a terminal messages have gone to the terminal itself.
                            if Console.IsErrorRedirected then
                                if String.IsNullOrWhiteSpace errors then
                                    "no sentence"

                                if errors.Contains "denied" then
                                    $"a directory is no question of rights: «{errors}»"

                                if errors.Contains "   at " || errors.Contains "inside the program" then
                                    $"stderr «{errors}»"
                            if Directory.Exists out || File.Exists out then
                                "--out is left behind"
                        ]

                    if Directory.Exists out then
                        Directory.Delete(out, true)

                    for fault in wrong do
                        $"""{what} {extension}: hybrid {String.Join(' ', line path)}: {fault}"""
    ]

let private refuses
    (name: string)
    (extensions: string list)
    (except: string list)
    (line: Folder -> string -> string list)
    : Test =
    testCase name (fun () ->
        use folder = new Folder()
        write folder
        let faults = complaints folder extensions except (line folder)
        Expect.isEmpty faults (String.Join('\n', faults)))
    |> testSequenced

let private model (folder: Folder) = folder.At "models/drawer"
let private images (folder: Folder) = folder.At "models/image-tokenizer/image_tokenizer.safetensors"
let private words (folder: Folder) = folder.At "models/drawer/tokenizer.json"
let private tensors = [ ""; ".safetensors"; ".pt" ]

let private arguments =
    [
        refuses "evaluate --model" tensors [] (fun f bad -> [ "evaluate"; "--model"; bad; "--tokens"; f.At "tokens.npy" ])
        refuses "evaluate --tokens" [ ""; ".npy"; ".tar" ] [] (fun f bad -> [ "evaluate"; "--model"; model f; "--tokens"; bad ])
        refuses "complete --model" tensors [] (fun _ bad -> [ "complete"; "--model"; bad; "--prompt"; "the dog" ])
        refuses "generate --model" tensors [] (fun f bad -> [ "generate"; "--model"; bad; "--prompt"; "a"; "--out"; f.At "out" ])
        refuses "generate --prompts-file" [ ".txt"; "" ] [] (fun f bad ->
            [ "generate"; "--model"; model f; "--prompts-file"; bad; "--out"; f.At "out" ])
        refuses "fid --generated" [ ".npy"; ".tar"; ".tar.gz"; ".png"; ".jsonl"; "" ] [] (fun f bad ->
            TorchScripts.ofExpression (f.At "mean.pt") "torch.mean(x, [2, 3])"
            NpyFile.Write<float32>(f.At "features.npy", ReadOnlyMemory [| 1.0f .. 12.0f |], 4L, 3L)
            [ "fid"; "--real"; f.At "features.npy"; "--generated"; bad; "--extractor"; f.At "mean.pt" ])
        refuses "fid --extractor" [ ".pt"; "" ] [] (fun f bad ->
            [ "fid"; "--real"; f.At "picture.png"; "--generated"; f.At "picture.png"; "--extractor"; bad ])
        refuses "probe --model" tensors [] (fun f bad -> [ "probe"; "--model"; bad; "--tasks"; f.At "task.jsonl" ])
        refuses "probe --tasks" [ ".jsonl"; "" ] [] (fun f bad -> [ "probe"; "--model"; model f; "--tasks"; bad ])
        refuses "tokenize --tokenizer" [ ".json"; "" ] [] (fun _ bad -> [ "tokenize"; "--tokenizer"; bad; "--text"; "a" ])
        // A text may hold anything.
        refuses
            "tokenize --file"
            [ ".txt" ]
            [ "empty"; "random bytes 1"; "random bytes 2"; "random bytes 3"; "zeros" ]
            (fun f bad -> [ "tokenize"; "--tokenizer"; words f; "--file"; bad ])
        refuses "image --tokenizer" tensors [] (fun f bad ->
            [ "image"; "encode"; "--tokenizer"; bad; "--input"; f.At "picture.png"; "--out"; f.At "out" ])
        refuses "image encode --input" [ ".png"; ".jpg"; ".webp"; "" ] [] (fun f bad ->
            [ "image"; "encode"; "--tokenizer"; images f; "--input"; bad; "--out"; f.At "out" ])
        refuses "image decode --input" [ ".npy"; ".json"; "" ] [] (fun f bad ->
            [ "image"; "decode"; "--tokenizer"; images f; "--input"; bad; "--out"; f.At "out" ])
        refuses "inspect" [ ""; ".json"; ".npy"; ".tar"; ".safetensors"; ".pt"; ".jsonl" ] [] (fun _ bad -> [ "inspect"; bad ])
        refuses "train --config" [ ".json"; "" ] [] (fun f bad -> [ "train"; "--config"; bad; "--out"; f.At "out" ])
        refuses "study --config" [ ".json"; "" ] [] (fun f bad -> [ "study"; "--config"; bad; "--out"; f.At "out" ])
        refuses "prepare --text-tokenizer" [ ".json"; "" ] [] (fun f bad ->
            [
                "prepare"
                "--input"
                f.At "."
                "--text-tokenizer"
                bad
                "--image-tokenizer"
                images f
                "--image-size"
                "64"
                "--out"
                f.At "out"
            ])
        refuses "prepare --image-tokenizer" tensors [] (fun f bad ->
            [
                "prepare"
                "--input"
                f.At "."
                "--text-tokenizer"
                words f
                "--image-tokenizer"
                bad
                "--image-size"
                "64"
                "--out"
                f.At "out"
            ])
        refuses "prepare --input" [ ".tar"; ".csv"; ".parquet"; ".tsv"; "" ] [] (fun f bad ->
            [
                "prepare"
                "--input"
                bad
                "--text-tokenizer"
                words f
                "--image-tokenizer"
                images f
                "--image-size"
                "64"
                "--out"
                f.At "out"
            ])
    ]

/// A model's folder with one of its files replaced.
let private parts =
    testCase "a model's folder with one bad file" (fun () ->
        let faults =
            [
                for file in [ "model.safetensors"; "config.json"; "tokenizer.json"; "image_tokenizer.safetensors" ] do
                    use folder = new Folder()
                    write folder
                    let path = Path.Combine(model folder, file)
                    let whole = File.ReadAllBytes path

                    let line (bad: string) =
                        if File.Exists path then
                            File.Delete path
                        elif Directory.Exists path then
                            Directory.Delete path

                        if Directory.Exists bad then
                            Directory.CreateDirectory path |> ignore
                        elif File.Exists bad then
                            File.Copy(bad, path)

                        [ "generate"; "--model"; model folder; "--prompt"; "the dog"; "--out"; folder.At "out" ]

                    yield! complaints folder [ ".part" ] [] line |> List.map (fun fault -> $"{file}: {fault}")

                    // Cut short, at every tenth of its length.
                    for tenth in 0..9 do
                        if Directory.Exists path then
                            Directory.Delete path

                        File.WriteAllBytes(path, whole[.. whole.Length * tenth / 10 - 1])

                        let code, output, errors =
                            run [ "generate"; "--model"; model folder; "--prompt"; "the dog"; "--out"; folder.At "out" ]

                        if
                            code <> 1
                            || output <> ""
                            || errors.Contains "inside the program"
                            || Directory.Exists(folder.At "out")
                        then
                            $"{file} cut at {tenth} tenths: exit code {code}, stdout «{output}», stderr «{errors}»"
            ]

        Expect.isEmpty faults (String.Join('\n', faults)))
    |> testSequenced

/// The same lines with files that are all right go through: the refusals above are of the bad file.
let private fit =
    testCase "the files beside the bad ones are all right" (fun () ->
        use folder = new Folder()
        write folder

        for line in
            [
                [ "evaluate"; "--model"; model folder; "--tokens"; folder.At "tokens.npy" ]
                [ "complete"; "--model"; model folder; "--prompt"; "the dog"; "--max-tokens"; "2" ]
                [ "probe"; "--model"; model folder; "--tasks"; folder.At "task.jsonl" ]
                [ "tokenize"; "--tokenizer"; words folder; "--text"; "the dog" ]
                [
                    "image"
                    "encode"
                    "--tokenizer"
                    images folder
                    "--input"
                    folder.At "picture.png"
                    "--out"
                    folder.At "encoded"
                ]
                [ "inspect"; model folder ]
                [ "generate"; "--model"; model folder; "--prompt"; "the dog"; "--out"; folder.At "drawn" ]
            ] do
            let code, output, errors = run line
            Expect.equal code 0 $"""hybrid {String.Join(' ', line)}: {errors}"""
            Expect.isNotEmpty output "a result")
    |> testSequenced

let tests = testList "BadInput" (fit :: parts :: arguments)
