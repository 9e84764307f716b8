module Hybrid.Tests.RunReportTests

open System
open System.IO
open System.Text
open Expecto
open Hybrid
open Hybrid.Report
open Hybrid.Runner
open Hybrid.Runner.Reporting
open Hybrid.Runner.Runs
open Hybrid.Tests.Running

let internal line (step: int) (loss: float) =
    $$"""{"step":{{step}},"loss":{{loss}},"text":null,"image":{{loss + 1.0}},"structure":0.5,"counts":{"text":0,"image":60,"structure":4},"learningRate":0.001,"gradNorm":1,"tokensPerSecond":32,"skipped":false}"""

let internal lines (steps: int seq) = String.Join("", steps |> Seq.map (fun step -> line step (3.0 - float step / 100.0) + "\n"))

let internal configuration (rate: float) =
    $$"""{"data":{"train":["</script><b>"]},"schedule":{"steps":50},"optimizer":{"learningRate":{{rate}} } }"""

/// A run's directory in a folder.
let internal run (folder: Folder) (name: string) (metrics: string) =
    Directory.CreateDirectory(folder.At name) |> ignore
    folder.Write(name + "/run.json", configuration (float name.Length)) |> ignore
    folder.Write(name + "/metrics.jsonl", metrics) |> ignore
    folder.At name

let private opened (paths: string list) = RunData.Open(paths, false)

let private figures (page: Page) =
    page.Blocks
    |> Seq.choose (function
        | :? Figure as figure -> Some figure
        | _ -> None)
    |> List.ofSeq

let private tables (page: Page) =
    page.Blocks
    |> Seq.choose (function
        | :? Table as table -> Some table
        | _ -> None)
    |> List.ofSeq

let private notes (page: Page) =
    page.Blocks
    |> Seq.choose (function
        | :? Text as text -> Some text.Body
        | _ -> None)
    |> String.concat "\n"

let private reading =
    testList
        "metrics"
        [
            testCase "lines become columns" (fun () ->
                use folder = new Folder()

                let file =
                    MetricsFile(
                        folder.Write(
                            "m",
                            """{"step":0,"a":1,"b":{"c":[1,2]},"d":true,"e":"x"}""" + "\n" + """{"step":2,"a":null,"f":3}"""
                        )
                    )

                file.Read()
                Expect.sequenceEqual file.Steps [ 0.0; 2.0 ] "steps"
                Expect.sequenceEqual file.Names [ "a"; "b.c.0"; "b.c.1"; "d"; "f" ] "numbers only"
                Expect.isTrue (Double.IsNaN((file.Column "a")[1])) "null is no number"
                Expect.isTrue (Double.IsNaN((file.Column "f")[0])) "nor what is not there"
                Expect.equal (file.Last "a", file.Last "f") (1.0, 3.0) "the last number"
                Expect.equal (file.Skipped, file.Torn) (0, false) "a last line without its end counts")

            testCase "what is no line of metrics is left out and counted" (fun () ->
                use folder = new Folder()
                let bad = [ "{"; "[1]"; "{}"; """{"step":"x"}"""; """{"step":1e999}"""; "\u0000"; """{"\ud800":1,"step":9}""" ]

                let file =
                    MetricsFile(
                        folder.Write("m", String.Join("\n", bad @ [ """{"step":1,"a":2}"""; ""; """{"step":2,"a":3,"b" """ ]))
                    )

                file.Read()
                Expect.equal file.Skipped bad.Length "left out"
                Expect.sequenceEqual file.Steps [ 1.0 ] "the good one"
                Expect.isTrue file.Torn "the last one is cut off")

            testProperty "a file that grows in any parts reads as a whole one" (fun (seed: int) ->
                use folder = new Folder()
                let stream = Random.ofSeed (int64 seed)
                let text = lines [ 0 .. Random.below 30 stream 0L ] + "no line\n" + lines [ 40..45 ]
                let bytes = Encoding.UTF8.GetBytes text
                let path = folder.At "m"
                let growing = MetricsFile path
                let mutable at = 0

                for i in 1..6 do
                    let next = if i = 6 then bytes.Length else at + Random.below (bytes.Length - at + 1) stream (int64 i)
                    use file = new FileStream(path, FileMode.Append)
                    file.Write(bytes, at, next - at)
                    file.Close()
                    at <- next
                    growing.Read()

                let whole = MetricsFile path
                whole.Read()

                Seq.toList growing.Steps = Seq.toList whole.Steps
                && Seq.toList (growing.Column "loss") = Seq.toList (whole.Column "loss")
                && (growing.Skipped, growing.Torn, growing.Generation) = (1, false, 0))

            testCase "a run that goes on from an earlier step, or anew, is read anew" (fun () ->
                use folder = new Folder()
                let path = folder.Write("m", lines [ 0..9 ])
                let file = MetricsFile path
                file.Read()
                File.AppendAllText(path, lines [ 5..7 ])
                file.Read()
                Expect.sequenceEqual file.Steps [ for i in 0..7 -> float i ] "later steps are forgotten"
                Expect.equal file.Generation 1 "and the page must know"
                File.WriteAllText(path, (lines [ 0..20 ]).Replace("0.5", "0.25"))
                file.Read()
                Expect.equal (file.Steps.Count, file.Last "structure") (21, 0.25) "another file of the same name"
                Expect.isGreaterThan file.Generation 1 "once more"
                File.Delete path
                file.Read()
                Expect.isFalse file.Any "gone")
        ]

let private pages =
    testList
        "page"
        [
            testCase "runs share figures, a table of last values, and what differs" (fun () ->
                use folder = new Folder()
                let a, b = run folder "a" (lines [ 0..49 ]), run folder "bb" (lines [ 0..19 ] + """{"step":20,"lo""")

                folder.Write(
                    "a/evaluations.jsonl",
                    """{"step":50,"loss":{"total":2.5,"image":3},"interval":{"total":[2.4,2.6]}}"""
                )
                |> ignore

                let page = RunPage(opened [ a; b ], folder.At "", 0.9).Build()

                Expect.equal
                    [ for figure in figures page -> figure.Name ]
                    [ "train-loss"; "train-perplexity"; "train-optimisation"; "train-speed" ]
                    "figures"

                let loss = List.head (figures page)

                match loss.Panels[0] with
                | :? CurvePanel as panel ->
                    Expect.equal
                        [ for curve in panel.Curves -> curve.Name, curve.Series ]
                        [ "a", 0; "a, held out", 0; "bb", 1 ]
                        "curves"

                    Expect.equal (panel.Curves[0].X.Length, panel.Curves[2].X.Length) (50, 20) "their points"
                    Expect.equal panel.Curves[0].Smoothing 0.9 "smoothed"
                | _ -> failtest "no curves"

                // No text was learnt: no panel of it.
                Expect.equal [ for panel in loss.Panels -> panel.Title ] [ "All tokens"; "Image tokens"; "Structure" ] "panels"

                match tables page with
                | [ last; differences ] ->
                    let cells row = List.ofSeq last.Rows[row]
                    Expect.equal (List.take 2 (cells 0)) [ "a"; "50 of 50" ] "steps"

                    Expect.equal
                        (cells 0 |> List.skip 5 |> List.take 3)
                        [ "2.50 [2.40, 2.60]"; "3,200"; "1.67 min" ]
                        "held out, tokens, time"

                    Expect.equal (List.take 2 (cells 1)) [ "bb"; "20 of 50" ] "steps"

                    Expect.equal
                        [ for row in differences.Rows -> List.ofSeq row ]
                        [ [ "optimizer.learningRate"; "1"; "2" ] ]
                        "differences"
                | found -> failtest $"{found.Length} tables"

                Expect.stringContains (notes page) "bb: the last line of metrics.jsonl is cut off" "note"
                let html = HtmlReport.Render page
                Expect.isEmpty (HtmlCheck.faults html) "well-formed"
                Expect.stringContains html (RunConfiguration.Hash(configuration 1.0)) "hash of the configuration"
                Expect.stringContains html "<summary>Configuration of a</summary>" "folded"
                Expect.isFalse ((HtmlCheck.withoutScripts html).Contains "<b>") "a configuration is text")

            testCase "each kind of run has its figures, an unknown one too" (fun () ->
                use folder = new Folder()

                let other name (text: string) =
                    Directory.CreateDirectory(folder.At name) |> ignore
                    folder.Write(name + "/metrics.jsonl", text) |> ignore
                    folder.At name

                let paths =
                    [
                        other
                            "image"
                            """{"step":0,"l1":0.1,"l2":0.01,"psnr":20,"codesUsed":7,"generator":null,"picturesPerSecond":9}"""
                        other "align" """{"step":1,"loss":6.9,"temperature":14.3,"accuracy":0.01}"""
                        other "mine" """{"step":0,"reward":1}"""
                    ]

                let page = RunPage(opened paths, folder.At "", 0.95).Build()

                Expect.equal
                    [ for figure in figures page -> figure.Name ]
                    [ "image-reconstruction"; "image-codebook"; "image-speed"; "align-alignment"; "run-others" ]
                    "figures")

            testCase "an alignment stands beside its controls" (fun () ->
                use folder = new Folder()
                Directory.CreateDirectory(folder.At "al") |> ignore
                let course = """{"step":1,"loss":6.9,"temperature":14.3,"accuracy":0.01}""" + "\n"
                folder.Write("al/metrics.jsonl", course) |> ignore
                folder.Write("al/metrics.shuffled.jsonl", course) |> ignore

                folder.Write(
                    "al/align.json",
                    """{"nearest":[1],"configuration":{"steps":1,"batch":8},"sha256":{"tokens":"ab"}}"""
                )
                |> ignore

                let page = RunPage(opened [ folder.At "al" ], folder.At "", 0.95).Build()

                match (List.head (figures page)).Panels[0] with
                | :? CurvePanel as panel ->
                    Expect.equal
                        [ for curve in panel.Curves -> curve.Name, curve.Dashed ]
                        [ "al", false; "al, shuffled", true ]
                        "curves"
                | _ -> failtest "no curves"

                let last = List.head (tables page)
                Expect.equal last.Rows[0].[1] "1 of 1" "steps"
                let html = HtmlReport.Render page
                Expect.stringContains html "&quot;batch&quot;: 8" "configuration"
                Expect.isFalse (html.Contains "&quot;nearest&quot;") "results are no configuration")

            testCase "a study is linked to" (fun () ->
                use folder = new Folder()
                Directory.CreateDirectory(folder.At "a study #1") |> ignore
                folder.Write("a study #1/run.json", """{"job":"study","plan":{}}""") |> ignore
                folder.Write("a study #1/report.html", "") |> ignore
                let html = HtmlReport.Render(RunPage(opened [ folder.At "a study #1" ], folder.At "out", 0.95).Build())
                Expect.stringContains html "href=\"../a%20study%20%231/report.html\"" "from where the page stands")

            testCase "what is no run is refused in a sentence" (fun () ->
                use folder = new Folder()
                let a = run folder "a" ""
                folder.Write("file", "") |> ignore
                Directory.CreateDirectory(folder.At "empty") |> ignore
                Directory.CreateDirectory(folder.At "full") |> ignore
                folder.Write("full/x", "") |> ignore
                let refuses later path wanted = fails wanted (fun () -> RunData.Open([ path ], later) |> ignore)
                refuses false (folder.At "none") [ "there is no run at"; "--watch" ]
                refuses false (folder.At "empty") [ "neither run.json nor metrics.jsonl" ]
                refuses true (folder.At "full") [ "neither run.json nor metrics.jsonl" ]
                refuses true (folder.At "file") [ "is a file" ]
                fails [ "given twice" ] (fun () -> opened [ a; a + "/" ] |> ignore)
                folder.Write("a/run.json", "[1]") |> ignore
                refuses false a [ "run.json must hold a JSON object" ]
                folder.Write("a/run.json", "{\"a\":1,\"a\":2}") |> ignore
                refuses false a [ "run.json is not valid JSON" ])

            testCase "names tell runs apart" (fun () ->
                use folder = new Folder()

                let inner name =
                    Directory.CreateDirectory(folder.At name).Name |> ignore
                    run folder name (lines [ 0 ])

                let names = [ for run in opened [ inner "x/run"; inner "y/run"; inner "z" ] -> run.Name ]
                Expect.equal names [ "x/run"; "y/run"; "z" ] "names")

            testCase "hybrid report writes the page and says where" (fun () ->
                use folder = new Folder()
                let a = run folder "a" (lines [ 0..9 ])
                let found = result [ "report"; a; "--out"; folder.At "out" ]
                Expect.isTrue (File.Exists(HtmlCheck.text "page" found)) "page"
                Expect.isTrue (File.Exists(folder.At "out/report.md")) "Markdown"
                Expect.isTrue (File.Exists(folder.At "out/data/train-loss.csv")) "CSV"
                Expect.isTrue (File.Exists(folder.At "out/figures/train-loss.svg")) "figure"
                Expect.equal (HtmlCheck.number "runs.0.steps" found) 10.0 "steps"
                let code, _, errors = program [ "report"; folder.At "none"; "--out"; folder.At "out" ]
                Expect.equal code 1 "no run"
                Expect.stringContains errors "there is no run at" "a sentence"
                let code, _, errors = program [ "report"; a; "--out"; folder.At "out"; "--port"; "8000" ]
                Expect.equal code 2 "usage"
                Expect.stringContains errors "--port belongs to --watch" "a sentence")
        ]

let tests = testList "RunReport" [ reading; pages ]
