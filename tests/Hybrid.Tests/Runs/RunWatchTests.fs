module Hybrid.Tests.RunWatchTests

open System
open System.IO
open System.Net
open System.Net.Http
open System.Net.Sockets
open System.Text
open System.Text.Json
open System.Text.RegularExpressions
open System.Threading
open Expecto
open Hybrid.Runner.Runs
open Hybrid.Tests.Running
open Hybrid.Tests.RunReportTests

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

let tests =
    testList
        "RunWatch"
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
