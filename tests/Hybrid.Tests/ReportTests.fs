module Hybrid.Tests.ReportTests

open System
open System.IO
open System.Text.RegularExpressions
open System.Xml
open Expecto
open Hybrid
open Hybrid.Report
open Hybrid.Runner.Reporting

let private none: Mark list = []

let private curves title y curves marks : IPanel =
    { CurvePanel.Title = title; X = axis "tokens & steps"; Y = y; Curves = curves; Marks = marks }

let private steps = [| 1.0 .. 50.0 |]

let private twins =
    {
        Figure.Name = "twins"
        Title = "Perplexity <of> the twins"
        Source = "Fig. 3"
        Paper = "They meet."
        Found = "They meet \"early\"."
        Panels =
            [
                curves
                    "left"
                    (logAxis "perplexity")
                    [
                        curve "pre-trained" 0 steps (steps |> Array.map (fun x -> 1.0 + 9.0 / x))
                        |> withBand (steps |> Array.map (fun x -> 0.9 + 8.0 / x)) (steps |> Array.map (fun x -> 1.1 + 10.0 / x))
                        curve "random" 1 steps (steps |> Array.map (fun x -> if x = 20.0 then nan else 1.0 + 20.0 / x)) |> dashed
                    ]
                    [ level "floor" 1.0; moment "warm-up ends" 10.0 ]
                curves "right" (axis "loss") [ curve "constant" 2 steps (Array.create 50 3.0) ] none
            ]
    }

let private frozen =
    {
        Figure.Name = "frozen"
        Title = "Frozen configurations"
        Source = "Fig. 6"
        Paper = "None reaches."
        Found = "One does."
        Panels =
            [
                {
                    PointPanel.Title = ""
                    Value = axis "loss, nats"
                    Points =
                        [
                            for label in [ "all"; "embedding and head, with a name too long for one line" ] do
                                for series, name in List.indexed [ "pre-trained"; "random" ] do
                                    {
                                        Label = label
                                        Name = name
                                        Value = 2.0 + float series
                                        Lower = 1.9 + float series
                                        Upper = 2.2 + float series
                                        Series = series
                                    }
                        ]
                    Marks = [ level "base" 2.0 ]
                }
            ]
    }

let private page =
    {
        Title = "A <study> & its report"
        Subtitle = "invented"
        Blocks =
            [
                { KeyNumbers.Numbers = [ { Label = "gap"; Value = "0.003 nats"; Note = "small" } ] }
                {
                    Claims.Title = "Claims"
                    Claims =
                        [
                            {
                                Source = "Fig. 3"
                                Statement = "Same perplexity."
                                Verdict = Verdict.Holds
                                Evidence = "0.003 [−0.004, 0.010]"
                            }
                            {
                                Source = "Fig. 6"
                                Statement = "Frozen is worse."
                                Verdict = Verdict.DoesNotHold
                                Evidence = "no"
                            }
                            {
                                Source = "Fig. 7"
                                Statement = "Aligned is no better."
                                Verdict = Verdict.Undecided
                                Evidence = "wide"
                            }
                        ]
                }
                { Text.Heading = "Twins"; Body = "First.\n\n<script>alert('no')</script>" }
                twins
                frozen
                { table "Forgetting" [ "probe"; "before" ] [ [ "facts"; "96 %" ]; [ "R&D"; "80 %" ] ] with
                    Source = "Table 1"
                }
                {
                    PictureGrid.Title = "Samples"
                    Note = ""
                    Columns = 2
                    Pictures = [ picture "a \"red\" circle" 2 1 [| 255uy; 0uy; 0uy; 0uy; 0uy; 255uy |] ]
                }
                { Code.Body = "hybrid study > out" }
            ]
    }

let private html = lazy (HtmlReport.Render page)

let private svgs =
    lazy [ for found in Regex.Matches(html.Value, "<svg.*?</svg>", RegexOptions.Singleline) -> found.Value ]

let private inFolder (action: string -> unit) =
    let folder = Path.Combine(Path.GetTempPath(), "hybrid-report-" + Guid.NewGuid().ToString "N")

    try
        action folder
    finally
        if Directory.Exists folder then
            Directory.Delete(folder, true)

let private values =
    testList
        "values"
        [
            testCase "lengths are checked" (fun () ->
                Expect.throwsT<ArgumentException> (fun () -> curve "a" 0 [| 1.0 |] [||] |> ignore) "curve"

                Expect.throwsT<ArgumentException>
                    (fun () -> curve "a" 0 [| 1.0 |] [| 1.0 |] |> withBand [||] [||] |> ignore)
                    "band"

                Expect.throwsT<ArgumentException> (fun () -> table "t" [ "a"; "b" ] [ [ "1" ] ] |> ignore) "row"
                Expect.throwsT<ArgumentException> (fun () -> picture "p" 2 2 [| 0uy |] |> ignore) "picture")

            testCase "numbers are written for people" (fun () ->
                for digits, value, text in
                    [
                        3, 0.0, "0"
                        3, 3.14159, "3.14"
                        3, -0.05, "−0.0500"
                        3, 1234567.0, "1,234,567"
                        3, 1e-7, "1E-07"
                        3, nan, "–"
                    ] do
                    Expect.equal (number digits value) text $"{value}")

            testCase "an interval decides the decimals" (fun () ->
                Expect.equal (interval 1.23456 1.201 1.267) "1.235 [1.201, 1.267]" "narrow"
                Expect.equal (interval -12.3 -40.0 15.0) "−12 [−40, 15]" "wide"
                Expect.equal (interval 2.0 nan nan) "2.000 [–, –]" "none")

            testCase "a panel is described in words" (fun () ->
                let words = describe twins.Panels[0]
                Expect.stringContains words "perplexity against tokens & steps" "axes"
                Expect.stringContains words "pre-trained from 10.0 to 1.18" "curve"
                Expect.stringContains (describe frozen.Panels[0]) "all, random: 3.00 [2.90, 3.20]" "points")

            testProperty "thinning keeps the ends, the order and points of the curve" (fun (seed: int) ->
                let stream = Random.ofSeed (int64 seed)
                let n = 3 + Random.below 2000 stream 0L
                let count = 3 + Random.below 300 stream 1L
                let x = Array.init n float
                let y = Array.init n (fun i -> Random.normal stream (int64 i + 2L))
                let thinned = ReportCurves.thin count (curve "a" 0 x y |> withBand y y)

                thinned.X.Length = min n count
                && thinned.X[0] = 0.0
                && Array.last thinned.X = float (n - 1)
                && Array.pairwise thinned.X |> Array.forall (fun (a, b) -> a < b)
                && Array.forall2 (fun (at: float) value -> y[int at] = value) thinned.X thinned.Y
                && thinned.Lower = thinned.Y)
        ]

let private rendering =
    testList
        "page"
        [
            testCase "everything said is on it" (fun () ->
                for text in
                    [
                        "They meet."
                        "This run"
                        "The paper"
                        "0.003 [−0.004, 0.010]"
                        "Same perplexity."
                        "holds"
                        "does not hold"
                        "undecided"
                        "✓"
                        "✗"
                        "Forgetting"
                        "96 %"
                        "Samples"
                        "Fig. 3"
                        "Table 1"
                        "pre-trained"
                        "random"
                        "warm-up ends"
                        "floor"
                        "loss, nats"
                        "0.003 nats"
                    ] do
                    Expect.stringContains html.Value text text)

            testCase "text is escaped" (fun () ->
                for raw in [ "<script"; "A <study>"; "R&D"; "a \"red\" circle"; "<of>"; "study > out" ] do
                    Expect.isFalse (html.Value.Contains raw) raw

                Expect.stringContains html.Value "A &lt;study&gt; &amp; its report" "title"
                Expect.stringContains html.Value "a &quot;red&quot; circle" "caption")

            testCase "it needs nothing from elsewhere" (fun () ->
                for link in [ "http:"; "https:"; "//"; "@import"; "<link"; "<script"; "<iframe" ] do
                    let body = Regex.Replace(html.Value, "base64,[A-Za-z0-9+/=]*", "")
                    Expect.isFalse (body.Contains link) link

                for source in Regex.Matches(html.Value, "src=\"([^\"]*)\"") do
                    Expect.stringStarts source.Groups[1].Value "data:image/png;base64," "pictures are inside"

                for address in Regex.Matches(html.Value, @"url\(([^)]*)\)") do
                    Expect.stringStarts address.Groups[1].Value "#" "only its own parts")

            testCase "it is for phones and for light and dark" (fun () ->
                for text in
                    [
                        "name=\"viewport\""
                        "width=device-width"
                        "prefers-color-scheme: dark"
                        "max-width: 700px"
                        "image-rendering: pixelated"
                    ] do
                    Expect.stringContains html.Value text text

                // The figures have no colour of their own that would stay in the dark.
                for svg in svgs.Value do
                    Expect.stringContains svg "var(--ink)" "ink"
                    Expect.isFalse (Regex.IsMatch(svg, "(fill|stroke)=\"(#|white|black)")) "colours are variables"

                let sets = Regex.Matches(html.Value, "--s0:(#[0-9A-F]{6})")
                Expect.equal sets.Count 2 "two themes"
                Expect.notEqual sets[0].Value sets[1].Value "with their own colours")

            testCase "each panel is drawn wide and narrow, well-formed, described, with its own ids" (fun () ->
                Expect.hasLength svgs.Value 6 "three panels, two widths"

                for svg in svgs.Value do
                    let document = XmlDocument()
                    document.LoadXml svg

                    match document.DocumentElement with
                    | null -> failtest "no element"
                    | root -> Expect.isGreaterThan (root.GetAttribute "aria-label").Length 20 "described"

                let ids = [ for found in Regex.Matches(html.Value, " id=\"([^\"]*)\"") -> found.Groups[1].Value ]
                Expect.equal (List.distinct ids) ids "ids are unique"

                for address in Regex.Matches(html.Value, @"url\(#([^)]*)\)") do
                    Expect.contains ids address.Groups[1].Value "what is referred to exists")

            testCase "pictures keep their pixels" (fun () ->
                let found = Regex.Match(html.Value, "base64,([A-Za-z0-9+/=]*)\"")
                use bitmap = SkiaSharp.SKBitmap.Decode(Convert.FromBase64String found.Groups[1].Value)
                Expect.equal (bitmap.Width, bitmap.Height) (2, 1) "size"
                Expect.equal (bitmap.GetPixel(0, 0)) (SkiaSharp.SKColor(255uy, 0uy, 0uy)) "red"
                Expect.equal (bitmap.GetPixel(1, 0)) (SkiaSharp.SKColor(0uy, 0uy, 255uy)) "blue")

            testCase "it is the same every time" (fun () -> Expect.isTrue (HtmlReport.Render page = html.Value) "twice")

            testCase "figures without numbers are drawn all the same" (fun () ->
                let empty =
                    { twins with
                        Panels =
                            [
                                curves "" (logAxis "y") [] none
                                curves "" (logAxis "y") [ curve "negative" 0 [| 1.0; 2.0 |] [| -1.0; 0.0 |] ] none
                                curves "" (axis "y") [ curve "one" 0 [| 5.0 |] [| 5.0 |] ] none
                                { PointPanel.Title = ""; Value = axis "v"; Points = []; Marks = none }
                            ]
                    }

                Expect.stringContains (HtmlReport.Render { page with Blocks = [ empty ] }) "</svg>" "drawn")
        ]

let private files =
    testList
        "files"
        [
            testCase "the page and the figures are written whole" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "report.html")
                    let written = HtmlReport.Write(page, path, Path.Combine(folder, "figures"))
                    Expect.isTrue (File.ReadAllText path = html.Value) "page"
                    Expect.isEmpty (Directory.GetFiles(folder, "*.part", SearchOption.AllDirectories)) "nothing aside"

                    for name in [ "twins.svg"; "frozen.svg" ] do
                        let document = XmlDocument()
                        document.Load(Path.Combine(folder, "figures", name))
                        Expect.stringContains document.InnerXml "prefers-color-scheme: dark" "follows the reader"

                    // A machine without fonts writes SVG only, and says so.
                    if written.Notes.Count = 0 then
                        for name in [ "twins.png"; "twins-dark.png"; "frozen.png"; "frozen-dark.png" ] do
                            use bitmap = SkiaSharp.SKBitmap.Decode(Path.Combine(folder, "figures", name))
                            Expect.isGreaterThan bitmap.Width 1000 "at twice the size"
                            Expect.isGreaterThan (bitmap.Pixels |> Array.distinct).Length 20 "drawn"
                    else
                        Expect.stringContains written.Notes[0] "no fonts" "note"))

            testCase "an existing report is replaced" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "report.html")
                    Directory.CreateDirectory folder |> ignore
                    File.WriteAllText(path, "old")
                    HtmlReport.Write(page, path, null) |> ignore
                    Expect.isTrue (File.ReadAllText path = html.Value) "new"))
        ]

let tests = testList "Report" [ values; rendering; files ]
