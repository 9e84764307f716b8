module Hybrid.Tests.RunReportTests

open System
open System.Collections.Generic
open System.IO
open System.Net
open System.Net.Http
open System.Net.Sockets
open System.Text
open System.Text.Json
open System.Text.RegularExpressions
open System.Threading
open System.Threading.Tasks
open Expecto
open Hybrid
open Hybrid.Report
open Hybrid.Runner
open Hybrid.Runner.Reporting
open Hybrid.Runner.Runs
open Hybrid.Tests.Running

let private line (step: int) (loss: float) =
    $$"""{"step":{{step}},"loss":{{loss}},"text":null,"image":{{loss + 1.0}},"structure":0.5,"counts":{"text":0,"image":60,"structure":4},"learningRate":0.001,"gradNorm":1,"tokensPerSecond":32,"skipped":false}"""

let private lines (steps: int seq) = String.Join("", steps |> Seq.map (fun step -> line step (3.0 - float step / 100.0) + "\n"))

let private configuration (rate: float) =
    $$"""{"data":{"train":["</script><b>"]},"schedule":{"steps":50},"optimizer":{"learningRate":{{rate}} } }"""

/// A run's directory in a folder.
let private run (folder: Folder) (name: string) (metrics: string) =
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
                Expect.stringContains html (RunDirectory.Hash(configuration 1.0)) "hash of the configuration"
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

/// Serves runs, of which some may not have begun, to a client.
let private serving (paths: string list) (check: string -> HttpClient -> unit) =
    let runs = RunData.Open(paths, true)
    use watch = new RunWatch(runs, RunPage(runs, Path.GetTempPath(), 0.95), Nullable())
    use stop = new CancellationTokenSource()
    let serving = watch.Serve stop.Token
    use client = new HttpClient(Timeout = TimeSpan.FromSeconds 20.0)

    try
        check watch.Address client
    finally
        stop.Cancel()
        Expect.isTrue (serving.Wait(TimeSpan.FromSeconds 10.0)) "it ends when it is asked to"

let private get (client: HttpClient) (address: string) : string = client.GetStringAsync(address).Result

let private points (client: HttpClient) (address: string) (after: string) : JsonElement =
    parsed (get client (address + "points?after=" + after))

let private text = HtmlCheck.text

let private watching =
    testList
        "watch"
        [
            testCase "the page asks for points and gets those that it does not have" (fun () ->
                use folder = new Folder()
                let a = run folder "a" (lines [ 0..9 ])

                serving [ a; folder.At "later" ] (fun address client ->
                    let html = get client address
                    Expect.isEmpty (HtmlCheck.faults html) "well-formed"
                    Expect.equal ((HtmlCheck.policy html)["connect-src"]) "'self'" "it may ask its server"
                    let live = Regex.Match(html, "id=\"live-data\">(.*?)</script>").Groups[1].Value |> parsed
                    let first = points client address ""
                    Expect.equal (text "structure" first) (text "structure" live) "the page is of this structure"
                    Expect.equal (text "after" first) "10.0,0.0" "where it ends"
                    Expect.stringContains (text "status" first) "a: 10 of 50 steps; later: not begun" "status"

                    let total = "figures.train-loss.panels.0.curves.0"
                    Expect.equal (HtmlCheck.count (total + ".y") first) 10 "all points"
                    File.AppendAllText(Path.Combine(a, "metrics.jsonl"), lines [ 10; 11 ] + """{"step":12,""")
                    let next = points client address (text "after" first)

                    Expect.equal
                        [ for x in (HtmlCheck.at (total + ".x") next).EnumerateArray() -> x.GetDouble() ]
                        [ 10.0; 11.0 ]
                        "new points only"

                    Expect.equal (text "after" next) "12.0,0.0" "half a line does not count"
                    Expect.equal (text "structure" next) (text "structure" first) "the page goes on"
                    let none = points client address (text "after" next)
                    Expect.isEmpty ((none.GetProperty "figures").EnumerateObject()) "nothing new"
                    let table = (none.GetProperty "tables").EnumerateObject() |> Seq.exactlyOne
                    Expect.equal (text "0.1" table.Value) "12 of 50" "cells"
                    Expect.stringContains html $"id=\"{table.Name}\"" "of a table that is on the page"
                    run folder "later" (lines [ 0 ]) |> ignore
                    let begun = points client address (text "after" none)
                    Expect.notEqual (text "structure" begun) (text "structure" none) "a run that begins makes another page"))

            testCase "many lines come in parts" (fun () ->
                use folder = new Folder()
                let a = run folder "a" (lines [ 0..11999 ])

                serving [ a ] (fun address client ->
                    let rec gather after total =
                        let reply = points client address after
                        let total = total + int (HtmlCheck.number "figures.train-loss.panels.0.curves.0.x.count" reply)

                        if (reply.GetProperty "more").GetBoolean() then
                            gather (text "after" reply) total
                        else
                            total

                    Expect.equal (gather "" 0) 12000 "each once"))

            testCase "nothing else is answered, and nobody else" (fun () ->
                use folder = new Folder()
                let a = run folder "a" (lines [ 0 ])

                serving [ a ] (fun address client ->
                    let status (method: HttpMethod) (path: string) (host: string | null) =
                        use request = new HttpRequestMessage(method, address + path)
                        request.Headers.Host <- host
                        use answer = client.Send request
                        int answer.StatusCode

                    let port = Uri(address).Port
                    Expect.equal (Uri(address).Host) "127.0.0.1" "this machine only"

                    for path in [ "run.json"; "a/run.json"; "points/"; "%2e%2e/run.json"; "favicon.ico"; "?"; "points" ] do
                        let wanted = if path = "?" || path = "points" then 200 else 404
                        Expect.equal (status HttpMethod.Get path null) wanted path

                    for host in [ "evil.example"; "127.0.0.1"; $"127.0.0.1.evil.example:{port}"; $"127.0.0.1:{port + 1}" ] do
                        Expect.equal (status HttpMethod.Get "" host) 421 host

                    Expect.equal (status HttpMethod.Get "" $"localhost:{port}") 200 "localhost"
                    Expect.equal (status HttpMethod.Head "" null) 200 "HEAD"
                    Expect.equal (status HttpMethod.Post "" null) 405 "POST"

                    for after in [ "x"; "1"; "-1.0"; "9999999.0"; "1.0,1.0"; "99999999999999.0" ] do
                        Expect.equal (status HttpMethod.Get ("points?after=" + after) null) 200 after

                    let raw (text: string) =
                        use socket = new TcpClient("127.0.0.1", port)
                        use stream = socket.GetStream()
                        stream.Write(Encoding.Latin1.GetBytes text)
                        socket.Client.Shutdown SocketShutdown.Send
                        use reader = new StreamReader(stream)
                        reader.ReadToEnd()

                    Expect.stringStarts
                        (raw "GET /../../etc/passwd HTTP/1.1\r\nHost: evil\r\n\r\n")
                        "HTTP/1.1 421"
                        "another name"

                    Expect.stringStarts
                        (raw $"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n")
                        "HTTP/1.1 404"
                        "no file"

                    Expect.stringStarts
                        (raw $"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: 127.0.0.1:{port}\r\n\r\n")
                        "HTTP/1.1 421"
                        "two names"

                    Expect.stringStarts (raw "nonsense\r\n\r\n") "HTTP/1.1 400" "nonsense"
                    Expect.stringStarts (raw ("GET / HTTP/1.1\r\n" + String('a', 9000))) "HTTP/1.1 400" "too long"
                    Expect.equal (raw "GET / HT") "" "half a request"
                    Expect.stringContains (get client address) "<!DOCTYPE html>" "it still serves"))

            testCase "a port that is taken is a sentence" (fun () ->
                use taken = new TcpListener(IPAddress.Loopback, 0)
                taken.Start()
                let port = (taken.LocalEndpoint :?> IPEndPoint).Port
                let runs = RunData.Open([ Path.Combine(Path.GetTempPath(), "hybrid-no-run") ], true)

                fails [ $"the port {port} of 127.0.0.1 cannot be had"; "--port" ] (fun () ->
                    (new RunWatch(runs, RunPage(runs, ".", 0.9), Nullable port)).Dispose()))
        ]

let tests = testList "RunReport" [ reading; pages; watching ]
