/// `hybrid align` from the command line, and runs that begin with what it wrote.
module Hybrid.Tests.AlignCommandTests

open System
open System.IO
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Alignment
open Hybrid.Runner.Formats
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open TorchSharp

let private pairs, textRows, codes, width = 12, 10, 7, 4

/// Pairs with seeded tokens; each picture holds the code that its caption's first token names.
let private captionsAndPictures (seed: int64) : int[][] * int[][] =
    let chooser = Chooser seed
    let captions = Array.init pairs (fun _ -> chooser.Ints(chooser.Int(1, 4), textRows))

    captions, captions |> Array.map (fun caption -> Array.append [| caption[0] % codes |] (chooser.Ints(3, codes)))

let private floats (seed: int64) (rows: int) : float32[] = (normals (Chooser seed) 1.0 [ rows; width ]).data<float32>().ToArray()

type private Material = { Codes: string; Ids: string; Text: string; Initial: string; Out: string }

let private material (folder: Folder) : Material =
    let captions, pictures = captionsAndPictures 1L
    let at name = folder.At name
    NpyFile.Write<int64>(at "codes.npy", ReadOnlyMemory(pictures |> Array.concat |> Array.map int64), int64 pairs, 4L)
    NpyFile.Write<float32>(at "text.npy", ReadOnlyMemory(floats 2L textRows), int64 textRows, int64 width)
    NpyFile.Write<float32>(at "initial.npy", ReadOnlyMemory(floats 3L codes), int64 codes, int64 width)

    {
        Codes = at "codes.npy"
        Ids = folder.Write("ids.json", JsonSerializer.Serialize captions)
        Text = at "text.npy"
        Initial = at "initial.npy"
        Out = at "out"
    }

let private words (m: Material) (more: string list) =
    [
        yield! [ "align"; "--codes"; m.Codes; "--text-ids"; m.Ids; "--text-embedding"; m.Text; "--initial"; m.Initial ]
        yield! [ "--steps"; "5"; "--order"; "sequential"; "--out"; m.Out ]
        yield! more
    ]

/// Runs align in this process on tables.
let private align (m: Material) (more: string list) =
    match CommandLine.parse (List.toArray (words m more)) with
    | :? RunOutcome as run -> AlignJob.Run((run.Command :?> AlignCommand), TextWriter.Null, Threading.CancellationToken.None)
    | :? UsageOutcome as usage -> failtest usage.Text
    | _ -> failtest "no command"

let private steps (path: string) = File.ReadAllLines(Path.Combine(path, "metrics.jsonl")) |> Array.map parsed

let private number (name: string) (json: JsonElement) = (json.GetProperty name).GetDouble()

let private tableOf (path: string) =
    use table = EmbeddingTables.Read(path, "the table")
    table.data<float32>().ToArray()

let private refusals: (string * (Folder -> Material -> Material) * string list * string list) list =
    let json text = fun (folder: Folder) (m: Material) -> { m with Ids = folder.Write("bad.json", text) }

    let doubles (name: string) (pick: Material -> string -> Material) (values: float[]) rows columns =
        fun (folder: Folder) (m: Material) ->
            NpyFile.Write<float>(folder.At name, ReadOnlyMemory values, int64 rows, int64 columns)
            pick m (folder.At name)

    let others = String.replicate (pairs - 1) ",[1]"
    let texts (m: Material) path = { m with Text = path }
    let initial (m: Material) path = { m with Initial = path }

    [
        "a caption without tokens", json $"[[]{others}]", [], [ "bad.json"; "caption 0 is empty"; "leave its pair out" ]
        "an id outside the table",
        json $"[[1,{textRows}]{others}]",
        [],
        [ "caption 0, place 1"; $"{textRows}"; $"{textRows} rows" ]
        "an id that is no number", json """[["a"]]""", [], [ "caption 0, place 0"; "a text" ]
        "ids that are no list", json """{"a": 1}""", [], [ "a list of captions"; "an object" ]
        "JSON that ends early", json "[[1],", [], [ "bad.json"; "not valid JSON" ]
        "fewer captions than pictures", json "[[1],[2]]", [], [ $"{pairs} pictures"; "2 captions" ]
        "a table with NaN",
        doubles "nan.npy" texts (Array.init (textRows * width) (fun i -> if i = 9 then nan else 1.0)) textRows width,
        [],
        [ "nan.npy"; "row 2, column 1"; "not a finite number" ]
        "tables of two widths",
        doubles "narrow.npy" initial (Array.replicate (codes * 3) 1.0) codes 3,
        [],
        [ "narrow.npy"; "width 3"; $"width {width}" ]
        "codes that the image table lacks",
        doubles "short.npy" initial (Array.replicate width 1.0) 1 width,
        [],
        [ "codes.npy"; "picture"; "too few rows" ]
        "codes of floating point",
        doubles "codes64.npy" (fun m path -> { m with Codes = path }) (Array.replicate (pairs * 4) 1.0) pairs 4,
        [],
        [ "codes64.npy"; "<f8"; "whole numbers" ]
        "a table of whole numbers", (fun _ m -> { m with Text = m.Codes }), [], [ "codes.npy"; "Int64"; "fp16, fp32 or fp64" ]
        "a file that is cut",
        (fun folder m ->
            File.WriteAllBytes(folder.At "cut.npy", (File.ReadAllBytes m.Codes)[..200])
            { m with Codes = folder.At "cut.npy" }),
        [],
        [ "cut.npy"; "bytes" ]
        "a file that is not there", (fun _ m -> { m with Initial = "nowhere.npy" }), [], [ "nowhere.npy"; "not there" ]
        "a batch larger than the set", (fun _ m -> m), [ "--batch"; "13" ], [ "--batch"; "13"; "12 to train on" ]
        "more held out than there is", (fun _ m -> m), [ "--held-out"; "12" ], [ "--held-out"; "12" ]
        "a code that is not there", (fun _ m -> m), [ "--nearest-of"; "1 7" ], [ "--nearest-of"; "no code 7"; "0 to 6" ]
        "words without a tokenizer", (fun _ m -> m), [ "--codes-of-word"; "red" ], [ "--codes-of-word"; "--tokenizer" ]
        "tokens without a model", (fun _ m -> m), [ "--tokens"; "t" ], [ "--tokens belongs to --model" ]
    ]

let private golden =
    testCase "align_a through the command line" (fun () ->
        let folder = Material.shared "golden/align_a"
        let file name = Path.Combine(folder, name)
        let expected = parsed (File.ReadAllText(file "expected.json"))
        use own = new Folder()

        let found =
            result
                [
                    yield! [ "align"; "--codes"; file "image_codes.npy"; "--text-ids"; file "text_ids.json" ]
                    yield! [ "--text-embedding"; file "text_embedding.npy"; "--initial"; file "image_embedding_init.npy" ]
                    yield! [ "--batch"; "64"; "--steps"; "60"; "--learning-rate"; "0.01"; "--betas"; "0.9"; "0.98" ]
                    yield! [ "--epsilon"; "1e-6"; "--order"; "sequential"; "--out"; own.At "out" ]
                ]

        let wanted = [| for step in (expected.GetProperty "trajectory").EnumerateArray() -> step |]
        let steps = [| for step in (found.GetProperty "steps").EnumerateArray() -> step |]
        Expect.equal steps.Length wanted.Length "steps"

        for step, wanted in Array.zip steps wanted do
            for name in [ "step"; "loss"; "temperature"; "accuracy" ] do
                near 1e-3 0.0 name (number name wanted) (number name step)

        let final = tableOf (own.At "out")
        close 1e-3 1e-3 "the table" (tableOf (file "image_embedding_final.npy") |> Array.map float) (final |> Array.map float))

let tests =
    TorchLibrary.Load()

    testList
        "AlignCommand"
        [
            golden

            testList
                "refuses"
                [
                    for name, change, more, sentence in refusals do
                        case name (fun () ->
                            use folder = new Folder()
                            let changed = change folder (material folder)
                            fails sentence (fun () -> align changed more)
                            Expect.isFalse (Directory.Exists(folder.At "out")) "nothing is written")
                ]

            case "a directory holds the table twice, the steps, and what was asked for" (fun () ->
                use folder = new Folder()
                let m = material folder

                align
                    m
                    [
                        "--control"
                        "shuffled-captions"
                        "random-text"
                        "--held-out"
                        "3"
                        "--nearest-of"
                        "2 5"
                        "--nearest"
                        "3"
                    ]

                Expect.equal (steps m.Out).Length 5 "steps"
                let table = tableOf m.Out
                Expect.equal table (tableOf (Path.Combine(m.Out, "image_embedding.npy"))) "both forms"
                Expect.notEqual table (tableOf m.Initial) "rows moved"
                let json = parsed (File.ReadAllText(Path.Combine(m.Out, "align.json")))
                let controls = json.GetProperty "controls"

                for name in [ "shuffled-captions"; "random-text" ] do
                    Expect.isTrue (File.Exists(Path.Combine(m.Out, $"metrics.{name}.jsonl"))) "a control's steps"
                    let retrieval = (controls.GetProperty name).GetProperty "retrieval"
                    near 1e-9 0.0 "chance" (1.0 / 3.0) (number "chance" retrieval)

                let nearest = [| for code in (json.GetProperty "nearest").EnumerateArray() -> code |]
                Expect.equal (nearest |> Array.map (fun n -> (n.GetProperty "code").GetInt32())) [| 2; 5 |] "codes"
                Expect.equal ((nearest[0].GetProperty "tokens").GetArrayLength()) 3 "tokens of each"
                Expect.equal (number "trained_on" (json.GetProperty "configuration") + 3.0 <= float pairs) true "held out"
                fails [ "exists already" ] (fun () -> align m []))

            case "files of other element types and axes give the same" (fun () ->
                use folder = new Folder()
                let m = material folder
                align m []
                let expected = steps m.Out |> Array.map (number "loss")
                let _, pictures = captionsAndPictures 1L
                let flat = Array.concat pictures
                let at name = folder.At name
                NpyFile.Write<int>(at "i4.npy", ReadOnlyMemory flat, int64 pairs, 4L)
                NpyFile.Write<uint16>(at "u2.npy", ReadOnlyMemory(Array.map uint16 flat), int64 pairs, 2L, 2L)
                NpyFile.Write<byte>(at "u1.npy", ReadOnlyMemory(Array.map byte flat), int64 pairs, 4L)
                use text = torch.tensor(floats 2L textRows).reshape(int64 textRows, int64 width)
                NpyFile.Write(at "f8.npy", text.``to`` torch.float64)
                NpyFile.Write(at "f2.npy", text.``to`` torch.float16)

                for codes in [ "i4.npy"; "u2.npy"; "u1.npy" ] do
                    for table, tolerance in [ "f8.npy", 1e-6; "f2.npy", 2e-2 ] do
                        let out = at (codes + table)
                        align { m with Codes = at codes; Text = at table; Out = out } []
                        close tolerance tolerance $"{codes} {table}" expected (steps out |> Array.map (number "loss")))

            property1 "sequential batches wrap, and shuffled ones hold no pair twice" (2, pairs) (fun seed batch ->
                use folder = new Folder()
                let m = material folder
                align m [ "--batch"; string batch ]
                let found = steps m.Out |> Array.map (number "loss")
                let captions, pictures = captionsAndPictures 1L
                let text = torch.tensor(floats 2L textRows).reshape(int64 textRows, int64 width)
                let images = torch.tensor(floats 3L codes).reshape(int64 codes, int64 width)
                use aligner = new Aligner(text, images, AlignerOptions())

                for step in 0..4 do
                    let own = Array.init batch (fun i -> (step * batch + i) % pairs)
                    aligner.Step(own |> Array.map (fun i -> captions[i]), own |> Array.map (fun i -> pictures[i]))

                close 1e-6 1e-6 "losses" (aligner.Read() |> Array.map _.Loss) found)

            case "a model's own rows are aligned on its data, and a run begins with them" (fun () ->
                use folder = new Folder()
                let config = RunSupport.prepare folder ""
                let trained = RunSupport.run config (folder.At "run") null
                let out = folder.At "aligned"

                let command =
                    [| "align"; "--model"; trained.Run; "--tokens"; folder.At "train.npy"; "--steps"; "3"; "--out"; out |]

                match CommandLine.parse command with
                | :? RunOutcome as run ->
                    AlignJob.Run((run.Command :?> AlignCommand), TextWriter.Null, Threading.CancellationToken.None)
                | _ -> failtest "no command"

                use file = ModelFiles.Open trained.Run
                use model = file.Open(Layout(Frozen = true))
                let vocabulary = RunSupport.vocabulary
                let rows = model.Values("tok_embeddings.weight").narrow(0L, int64 vocabulary.FirstCode, int64 RunSupport.codes)
                let before, after = values rows, tableOf out |> Array.map float
                Expect.equal after.Length before.Length "a row for each code"
                Expect.isTrue (before <> after && Array.forall2 (fun a b -> abs (a - b) < 0.05) before after) "three small steps"

                let next = RunSupport.prepare folder """, "newRows": "./aligned" """
                let start = TrainStart.Fresh(RunSupport.plan next, Layout())
                use started = start.Model
                let own = started.Values("tok_embeddings.weight").narrow(0L, int64 vocabulary.FirstCode, int64 RunSupport.codes)
                Expect.equal (values own) after "the image rows are the table's"
                use plain = (TrainStart.Fresh(RunSupport.plan (RunSupport.prepare folder ""), Layout())).Model
                let text (model: Model) = bits (model.Values("tok_embeddings.weight").narrow(0L, 0L, int64 vocabulary.FirstCode))
                Expect.equal (text started) (text plain) "the others are as without it")

            case "a table that does not fit a run is refused" (fun () ->
                use folder = new Folder()
                let m = material folder
                let config = RunSupport.prepare folder """, "newRows": "initial.npy" """

                fails [ "newRows"; "initial.npy"; $"{codes} rows of width {width}"; "9 image codes" ] (fun () ->
                    (TrainStart.Fresh(RunSupport.plan config, Layout())).Model |> ignore)

                let missing = RunSupport.prepare folder """, "newRows": "nothing.npy" """
                fails [ "newRows"; "there is nothing at" ] (fun () -> RunSupport.plan missing |> ignore)
                Expect.isTrue (File.Exists m.Initial) "the table is there")
        ]
