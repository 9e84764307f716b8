module Hybrid.Tests.ProgressTests

open System
open System.IO
open System.Text.Json
open Expecto
open Hybrid.Runner

/// A clock that stands still until it is moved.
type private Clock() =
    inherit TimeProvider()
    member val Now = 0L with get, set
    member clock.Pass(seconds: float) = clock.Now <- clock.Now + TimeSpan.FromSeconds(seconds).Ticks
    override _.TimestampFrequency = TimeSpan.TicksPerSecond
    override clock.GetTimestamp() = clock.Now

let private lines (writer: StringWriter) = writer.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries) |> List.ofArray

let private plain (work: Clock -> Progress -> unit) =
    let clock = Clock()
    use writer = new StringWriter()
    use progress = Progress.On(writer, clock)
    work clock progress
    lines writer

let private streams =
    testCase "progress and messages go to stderr, results to stdout" (fun () ->
        let out, error = Console.Out, Console.Error
        use results = new StringWriter()
        use messages = new StringWriter()

        try
            Console.SetOut results
            Console.SetError messages
            use progress = new Progress()
            use stage = progress.Stage("a", 1L)
            stage.Report 1L
            stage.Dispose()
            stage.Dispose()
            Terminal.Say "said"
            Terminal.Warn "warned"
            Json.Write {| N = 1 |}
        finally
            Console.SetOut out
            Console.SetError error

        Expect.equal (lines results) [ "{\"n\":1}" ] "stdout has the one object"

        // On a terminal the live line has gone to the terminal itself.
        if Console.IsErrorRedirected then
            Expect.sequenceStarts (lines messages) [ "a: 1 steps" ] "begin"
            Expect.hasLength (lines messages) 4 "begin, end once, two messages"
            Expect.contains (lines messages) "warning: warned" "warning")
    |> testSequenced

let tests =
    testList
        "Progress"
        [
            testCase "a stage says when it begins and how it ended" (fun () ->
                let said =
                    plain (fun clock progress ->
                        use stage = progress.Stage("twins", 10L)
                        clock.Pass 2.0
                        stage.Report(10L, Metrics(Loss = 3.25, Text = 2.5, Image = 3.5, Structure = 0.01, Tokens = 20_000L)))

                Expect.equal
                    said
                    [
                        "twins: 10 steps"
                        "twins: done in 2.0 s  loss 3.250  text 2.500  image 3.500  structure 0.010  10.0k tokens/s"
                    ]
                    "two lines")

            testCase "a line needs five seconds and five per cent" (fun () ->
                let said =
                    plain (fun clock progress ->
                        use stage = progress.Stage("a", 1000L)

                        // 0.1 s a step: 5 % is 5 s.
                        for step in 1L .. 1000L do
                            clock.Pass 0.1
                            stage.Report step)

                Expect.hasLength said (2 + 19) "begin, end and every 5 %")

            testCase "a fast stage has no lines between" (fun () ->
                let said =
                    plain (fun clock progress ->
                        use stage = progress.Stage("a", 1000L)

                        for step in 1L .. 1000L do
                            clock.Pass 0.001
                            stage.Report step)

                Expect.hasLength said 2 "begin and end")

            testCase "a slow stage shows a sign of life every minute" (fun () ->
                let said =
                    plain (fun clock progress ->
                        use stage = progress.Stage("a", 1_000_000L)

                        for step in 1L .. 10L do
                            clock.Pass 31.0
                            stage.Report step)

                Expect.hasLength said (2 + 5) "one in two reports")

            testCase "a line has what matters" (fun () ->
                let said =
                    plain (fun clock progress ->
                        use stage = progress.Stage("random twin", 200L)
                        clock.Pass 10.0

                        stage.Report(
                            20L,
                            Metrics(
                                Loss = 3.25,
                                Text = 2.5,
                                Image = nan,
                                Tokens = 50_000L,
                                Share = 0.334,
                                Memory = 1_840_000_000L,
                                Note = "epoch 1"
                            )
                        ))

                Expect.equal
                    said[1]
                    "random twin   10 %  20/200  1 min 30 s left  loss 3.250  text 2.500  image not finite  5000 tokens/s  33 % of peak  1.8 GB  epoch 1"
                    "line"

                Expect.stringContains said[2] "random twin: stopped at 20/200 after 10 s" "not finished")

            testCase "time left after a resume counts only steps of this run" (fun () ->
                let said =
                    plain (fun clock progress ->
                        use stage = progress.Stage("a", 1000L, 900L)
                        clock.Pass 10.0
                        stage.Report 950L)

                Expect.stringContains said[0] "a: 100 steps" "what is left"
                Expect.stringContains said[1] "10 s left" "50 steps in 10 s, 50 to go")

            testCase "a stage without a known end counts" (fun () ->
                let said =
                    plain (fun clock progress ->
                        use stage = progress.Stage("reading", 0L)
                        clock.Pass 61.0
                        stage.Report 70L)

                Expect.equal said [ "reading"; "reading  70"; "reading: done in 1 min 01 s" ] "lines")

            testCase "a line fits any width and keeps the name and the per cent" (fun () ->
                let clock = Clock()
                use writer = new StringWriter()
                use progress = Progress.On(writer, clock)
                use stage = progress.Stage("a stage with quite a long name", 100L)
                clock.Pass 1.0
                stage.Report(50L, Metrics(Loss = 3.0, Text = 2.0, Image = 4.0, Tokens = 1000L))

                for width in 10..200 do
                    let line = stage.Line(width, true)
                    Expect.isLessThanOrEqual line.Length width line
                    Expect.stringStarts line "a stage" "name"

                    if width >= 24 then
                        Expect.stringContains line "50 %" "per cent")

            testCase "in a narrow terminal what matters least goes first" (fun () ->
                let clock = Clock()
                use writer = new StringWriter()
                use progress = Progress.On(writer, clock)
                use stage = progress.Stage("train", 2000L)
                clock.Pass 10.0

                stage.Report(
                    200L,
                    Metrics(
                        Loss = 3.25,
                        Text = 2.5,
                        Image = 3.5,
                        Structure = 0.01,
                        Tokens = 50_000L,
                        Share = 0.33,
                        Memory = 1_800_000_000L
                    )
                )

                for width, wanted in
                    [
                        40, "train   10 %  1m30s left  loss 3.250"
                        60, "train   10 %  1m30s left  loss 3.250  5000 tokens/s  1.8 GB"
                        80, "train   10 %  200/2000  1 min 30 s left  loss 3.250  image 3.500  5000 tokens/s"
                    ] do
                    Expect.equal (stage.Line(width, true)) wanted $"{width} columns"

                // Once a part is shown it stays in every wider terminal that shortens words alike, and the bar comes last.
                let parts (width: int) = stage.Line(width, false).Split "  " |> Set.ofArray

                for width in [ yield! [ 40..78 ]; yield! [ 80..200 ] ] do
                    let here, wider = (parts width).Count, (parts (width + 1)).Count
                    Expect.isLessThanOrEqual here (wider + 1) $"{width} columns"

                Expect.isTrue ((stage.Line(200, true)).Contains '━') "a bar where there is room")
            streams

            testCase "a report is cheap" (fun () ->
                let clock = Clock()
                use writer = new StringWriter()
                use progress = Progress.On(writer, clock)
                use stage = progress.Stage("hot", 1_000_000L)
                let before = GC.GetAllocatedBytesForCurrentThread()

                for step in 1L .. 100_000L do
                    stage.Report(step, Metrics(Loss = 1.0, Tokens = step))

                let bytes = GC.GetAllocatedBytesForCurrentThread() - before
                Expect.isLessThan bytes 100_000L "fewer than one byte a report: nothing is formatted")

            testCase "the share of the peak is known once it is measured, between steps of runs that are worth it" (fun () ->
                let share devices before after = PeakShare(1e6, TorchSharp.torch.ScalarType.Float32, devices, before, after)
                let measured = share 1 0.0 0.0
                Expect.isFalse ((measured.Of 1e3).HasValue) "not known yet"
                measured.Between(5, 5, 10)
                Expect.isFalse ((measured.Of 1e3).HasValue) "no step has been made"
                measured.Between(5, 6, 10)
                let found = (measured.Of 1e3).Value
                Expect.isTrue (found > 0.0 && found < 1e3) $"a share, {found}"
                Expect.equal (measured.Of 2e3).Value (2.0 * found) "twice the speed is twice the share"

                for other in [ share 1 1e6 0.0; share 1 0.0 1e9; share 2 0.0 0.0 ] do
                    other.Between(0, 1, 10)
                    Expect.isFalse ((other.Of 1e3).HasValue) "too early, too short, or cores that are shared")

            testCase "JSON is one line with null for what is not finite" (fun () ->
                let text =
                    Json.Text
                        {|
                            Loss = nan
                            PromptIds = [| 1; 2 |]
                            Single = Single.PositiveInfinity
                            Text = "ü <b>\n"
                            Kinds = dict [ "aB", 1.5 ]
                        |}

                Expect.isFalse (text.Contains '\n') "one line"
                use document = JsonDocument.Parse text
                let root = document.RootElement
                Expect.equal (root.GetProperty("loss").ValueKind) JsonValueKind.Null "NaN"
                Expect.equal (root.GetProperty("single").ValueKind) JsonValueKind.Null "infinity"
                Expect.equal (root.GetProperty("prompt_ids").GetArrayLength()) 2 "snake_case"
                Expect.equal (root.GetProperty("kinds").GetProperty("aB").GetDouble()) 1.5 "keys of dictionaries stay"
                Expect.stringContains text "ü <b>" "readable")
        ]
