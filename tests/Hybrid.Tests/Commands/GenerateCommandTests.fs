/// The generate command: captions from a file, several strengths of guidance, and what `fid` reads of them.
module Hybrid.Tests.GenerateCommandTests

open System
open System.IO
open System.Text.Json
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open TorchSharp

/// A tiny random model of World's captions and codes, with its tokenizers beside it.
let private model (folder: Folder) : string =
    let files = Study.StudyFiles(folder.At ".")
    use trainer = new PictureTokenizerTrainer(Study.smoke.Tokenizer, true, false, 1L)
    use tokenizer = trainer.Finish()
    files.SaveTokenizer tokenizer
    let textRows = Study.Corpus.TextRows
    let vocabulary: Vocabulary = { TextRows = textRows; ImageCodes = tokenizer.Codes }
    let config = Extension.grow vocabulary.Rows (ModelConfig.openLm 16 1 1 textRows 96)
    use model = Model.Random(config, vocabulary, Layout(), 1L)
    files.SaveModel("drawer", model)
    folder.At "models/drawer"

let private entries (folder: string) : JsonElement[] =
    File.ReadAllLines(Path.Combine(folder, "pictures.jsonl")) |> Array.map parsed

let private text (name: string) (element: JsonElement) = string ((element.GetProperty name).GetString())

let private codes (element: JsonElement) = [ for code in (element.GetProperty "codes").EnumerateArray() -> code.GetInt32() ]

let private sweep =
    testCase "captions of a file at several strengths: a folder each, one list, one sheet, and each as if drawn alone" (fun () ->
        use folder = new Folder()
        let model = model folder
        let captions = [ "a red circle"; "a blue square"; "a red circle" ]
        let file = folder.Write("captions.txt", String.Join("\r\n", captions) + "\r\n\r\n")
        let draw out words = result ([ "generate"; "--model"; model; "--seed"; "3"; "--out"; folder.At out ] @ words)
        let drawn = draw "swept" [ "--prompts-file"; file; "--count"; "2"; "--cfg"; "1"; "2.5" ]
        Expect.equal ((drawn.GetProperty "files").GetArrayLength()) 12 "files"
        let swept = entries (folder.At "swept")

        Expect.equal
            [ for entry in swept -> text "file" entry, text "caption" entry, (entry.GetProperty "cfg").GetDouble() ]
            [
                for strength, name in [ 1.0, "cfg-1"; 2.5, "cfg-2.5" ] do
                    for i, caption in List.indexed captions do
                        for number in 0..1 -> $"{name}/{i:D4}-{number:D2}.png", caption, strength
            ]
            "the list"

        let grid = Pictures.Read(folder.At "swept/grid.png")

        Expect.equal
            (grid.Width, grid.Height)
            (4 * 64 + 3 * 2, 3 * 64 + 2 * 2)
            "rows of captions, columns of strengths and numbers"

        // A picture of the sheet is the file of its caption, strength and number.
        let at caption strength number = Pictures.Crop(grid, (2 * strength + number) * 66, caption * 66, 64, 64).Pixels

        Expect.equal (at 1 1 0) (Pictures.Read(folder.At "swept/cfg-2.5/0001-00.png")).Pixels "caption 1, strength 2.5"
        Expect.equal (at 2 0 1) (Pictures.Read(folder.At "swept/cfg-1/0002-01.png")).Pixels "caption 2, strength 1"

        // Alone, without folders; a later call with fewer captions draws the same for those that it has.
        draw "alone" ([ "--prompt" ] @ captions @ [ "--count"; "2"; "--cfg"; "2.5" ]) |> ignore
        let alone = entries (folder.At "alone")
        Expect.equal (alone |> Array.map (text "file") |> Array.head) "0000-00.png" "no folder"
        Expect.equal (alone |> Array.map codes) (swept[6..] |> Array.map codes) "the same codes"
        Expect.notEqual (codes swept[0]) (codes swept[4]) "one caption twice is two pictures"

        // What fid makes of them.
        TorchScripts.ofExpression (folder.At "mean.pt") "torch.mean(x, [2, 3])"

        let fid generated =
            [
                "fid"
                "--real"
                folder.At "alone"
                "--generated"
                generated
                "--extractor"
                folder.At "mean.pt"
                "--measures"
                "kid"
            ]

        Expect.equal ((result (fid (folder.At "swept/cfg-2.5"))).GetProperty("n").GetInt32()) 6 "one strength, no sheet"
        let code, _, errors = program (fid (folder.At "swept"))
        Expect.equal code 1 "strengths are not one set"
        Expect.stringContains errors "cfg-2.5" "which to name")

let private numbering =
    testCase "pictures drawn in several calls are those of one" (fun () ->
        use _ = torch.NewDisposeScope()
        let vocabulary: Vocabulary = { TextRows = 9; ImageCodes = 12 }
        use model = Model.Random(ModelConfig.openLm 16 1 2 vocabulary.Rows 24, vocabulary, Layout(), 1L)
        let captions = [| for i in 0..6 -> [| i; 1 |] |]

        let draw (first: int) (count: int) =
            model.DrawImages(captions[first .. first + count - 1], 8, Drawing(Seed = 5L, First = int64 first), ignore)

        let whole = (draw 0 7).Tokens
        Expect.equal (Array.append (draw 0 4).Tokens (draw 4 3).Tokens) whole "two calls")

let private refusals =
    testCase "files of captions that are none, and captions that do not fit, are refused before anything is drawn" (fun () ->
        use folder = new Folder()
        let model = model folder

        let says (wanted: string list) (words: string list) =
            let code, output, errors = program ([ "generate"; "--model"; model; "--out"; folder.At "out" ] @ words)
            Expect.equal (code, output) (1, "") "refused"

            for part in wanted do
                Expect.stringContains errors part "the sentence"

            Expect.isFalse (Directory.Exists(folder.At "out")) "nothing is left"

        says [ "holds no captions" ] [ "--prompts-file"; folder.Write("empty.txt", "\n \n") ]
        says [ "absent.txt"; "does not exist" ] [ "--prompts-file"; folder.At "absent.txt" ]
        File.WriteAllBytes(folder.At "latin.txt", [| 0xE9uy; 10uy |])
        says [ "not UTF-8" ] [ "--prompts-file"; folder.At "latin.txt" ]
        let long = String.replicate 40 "red "
        says [ "a caption of"; "does not fit" ] [ "--prompts-file"; folder.Write("long.txt", $"a circle\n{long}\n") ])

let tests =
    TorchLibrary.Load()
    testList "GenerateCommand" [ sweep; numbering; refusals ]
