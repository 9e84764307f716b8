module Hybrid.Tests.ReportTests

open System
open System.Text
open System.Text.RegularExpressions
open System.Xml
open Expecto
open Hybrid
open Hybrid.Report
open Hybrid.Runner.Reporting

let internal none: Mark list = []

let internal curves title y curves marks : IPanel =
    { CurvePanel.Title = title; X = axis "tokens & steps"; Y = y; Curves = curves; Marks = marks }

let internal steps = [| 1.0 .. 50.0 |]

let internal twins =
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

let internal frozen =
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

let internal page =
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
                for raw in [ "<script>alert"; "A <study>"; "R&D"; "a \"red\" circle"; "<of>"; "study > out" ] do
                    Expect.isFalse ((HtmlCheck.withoutScripts html.Value).Contains raw) raw

                Expect.stringContains html.Value "A &lt;study&gt; &amp; its report" "title"
                Expect.stringContains html.Value "a &quot;red&quot; circle" "caption")

            testCase "it needs nothing from elsewhere" (fun () ->
                let body = Regex.Replace(HtmlCheck.withoutScripts html.Value, "base64,[A-Za-z0-9+/=]*", "")

                for link in [ "http:"; "https:"; "//"; "@import"; "<link"; "<iframe"; "<base" ] do
                    Expect.isFalse (body.Contains link) link

                for source in Regex.Matches(body, "src=\"([^\"]*)\"") do
                    Expect.stringStarts source.Groups[1].Value "data:image/png;" "pictures are inside"

                for address in Regex.Matches(body, @"url\(([^)]*)\)") do
                    Expect.stringStarts address.Groups[1].Value "#" "only its own parts"

                let script = HtmlCheck.script html.Value
                let addresses = [ for found in Regex.Matches(script, @"https?://[^""'`\s]*") -> found.Value ]
                Expect.equal (List.distinct addresses) [ "http://www.w3.org/2000/svg" ] "the script names SVG's namespace only"

                for word in [ "eval("; "new Function"; "innerHTML"; "document.write"; "import("; "XMLHttpRequest"; "WebSocket" ] do
                    Expect.isFalse (script.Contains word) word)

            testCase "a browser may run its script and load nothing" (fun () ->
                let policy = HtmlCheck.policy html.Value
                let hash = Security.Cryptography.SHA256.HashData(Encoding.UTF8.GetBytes(HtmlCheck.script html.Value))
                Expect.equal policy["default-src"] "'none'" "nothing but"
                Expect.equal policy["script-src"] $"'sha256-{Convert.ToBase64String hash}'" "this script"
                Expect.equal policy["img-src"] "data:" "pictures in the page"
                Expect.isFalse (policy.ContainsKey "connect-src") "no connection"
                let place = html.Value.IndexOf "Content-Security-Policy"
                Expect.isLessThan place (html.Value.IndexOf "<style") "before anything that it is about")

            testCase "it is well-formed" (fun () -> Expect.isEmpty (HtmlCheck.faults html.Value) "tags that match")

            testCase "the script has the numbers of each figure" (fun () ->
                match HtmlCheck.data html.Value with
                | [ twins; frozen ] ->
                    let curve = HtmlCheck.at "panels.0.curves.0" twins
                    Expect.equal (HtmlCheck.text "name" curve) "pre-trained" "name"
                    Expect.equal (HtmlCheck.number "x.count" curve) 50.0 "even steps are three numbers"
                    Expect.equal (HtmlCheck.number "y.1" curve) 5.5 "y"
                    Expect.equal (HtmlCheck.count "upper" curve) 50 "band"
                    Expect.equal (HtmlCheck.at "panels.0.curves.1.y.19" twins).ValueKind Json.JsonValueKind.Null "a gap is null"
                    Expect.equal (HtmlCheck.number "panels.0.points.3.lower" frozen) 2.9 "point"
                | found -> failtest $"{found.Length} blocks of data")

            testCase "no name gets out of its block" (fun () ->
                let hostile = "</script><b>x</b><!--<script>\u2028"
                let figure = { twins with Panels = [ curves hostile (axis hostile) [ curve hostile 0 steps steps ] none ] }
                let rendered = HtmlReport.Render { page with Title = hostile; Subtitle = hostile; Blocks = [ figure ] }
                Expect.isFalse ((HtmlCheck.withoutScripts rendered).Contains "<b>") "no tag"
                Expect.isEmpty (HtmlCheck.faults rendered) "well-formed"
                let data = List.exactlyOne (HtmlCheck.data rendered)
                Expect.equal (HtmlCheck.text "panels.0.curves.0.name" data) hostile "the name as it is")

            testCase "the contents lead to every part" (fun () ->
                let targets =
                    [ for found in Regex.Matches(html.Value, "href=\"#([^\"]*)\"") -> found.Groups[1].Value ] |> List.distinct

                let ids = [ for found in Regex.Matches(html.Value, " id=\"([^\"]*)\"") -> found.Groups[1].Value ]
                Expect.isTrue (Set.isSubset (Set.ofList targets) (Set.ofList ids)) "anchors exist"

                Expect.isTrue
                    (Set.isSubset (set [ "claims"; "twins"; "frozen"; "forgetting"; "samples" ]) (Set.ofList targets))
                    "the parts")

            testCase "links are relative, folded blocks are folded" (fun () ->
                for target in [ "javascript:alert(1)"; "//host/x"; "/etc/passwd"; "http://host"; "a\\b"; "" ] do
                    Expect.throwsT<ArgumentException> (fun () -> link "a" target |> ignore) target

                let blocks: IBlock list =
                    [
                        { Links.Heading = "More"; Links = [ link "study" "../study/report.html" ] }
                        { Folded.Summary = "Configuration"; Blocks = [ { Code.Body = "{ }" } ] }
                    ]

                let rendered = HtmlReport.Render { page with Blocks = blocks }
                Expect.stringContains rendered "<a href=\"../study/report.html\">study</a>" "link"
                Expect.isTrue (Regex.IsMatch(rendered, "<details[^>]*><summary>Configuration</summary>\\s*<pre")) "folded")

            testCase "many long curves stay a small page" (fun () ->
                let n = 100_000
                let x = Array.init n float
                let y = Array.init n (fun i -> 1.0 + 1.0 / float (i + 1) + 0.1 * sin (float i))
                let all kind = [ for i in 1..4 -> curve $"arm {i}" i x y |> kind ]

                let figures: IBlock list =
                    [
                        for i in 1..6 do
                            { twins with
                                Name = $"figure-{i}"
                                Panels =
                                    [
                                        curves "a" (axis "y") (all (smoothable 0.95)) none
                                        curves "b" (logAxis "y") (all dashed) none
                                    ]
                            }
                    ]

                let rendered = HtmlReport.Render { page with Blocks = figures }
                Expect.isLessThan rendered.Length 2_000_000 "48 curves of 100,000 points"

                for block in HtmlCheck.data rendered do
                    let curve = HtmlCheck.at "panels.0.curves.0" block
                    Expect.isLessThanOrEqual (HtmlCheck.count "y" curve) 2000 "points"
                    Expect.equal (HtmlCheck.number "each" curve) 50.0 "steps that each stands for")

            testCase "a matrix is drawn in colours, with its values where they fit" (fun () ->
                let names count = [ for i in 1..count -> $"n{i}" ]
                let small = heat "small" "nats" "row" (names 3) "column" (names 4) (Array.init 12 float)

                let large =
                    heat "large" "cosine" "layer" (names 30) "step" (names 2000) (Array.init 60000 (fun i -> sin (float i)))
                    |> centred 0.0

                let tensors = [ for i in 8..11 -> $"layers.{i}.attention.in_proj.weight" ]
                let named = heat "named" "cosine" "layer" tensors "step" (names 2) (Array.init 8 float)
                let gaps = heat "gaps" "nats" "row" (names 2) "column" (names 1) [| nan; nan |]
                let rendered = HtmlReport.Render { page with Blocks = [ { twins with Panels = [ small; large; gaps; named ] } ] }
                Expect.isEmpty (HtmlCheck.faults rendered) "well-formed"
                Expect.stringContains rendered "nats by row (3) and column (4), from 0 to 11.0" "in words"
                Expect.isLessThan rendered.Length 1_000_000 "small"
                Expect.stringContains rendered ">layers.11…<" "names that are too long lose what they have in common"

                let picture =
                    Regex.Match(rendered, "<image class=\"cells\"[^>]*base64,([A-Za-z0-9+/=]*)\"").Groups[1].Value
                    |> Convert.FromBase64String

                use bitmap = SkiaSharp.SKBitmap.Decode picture
                Expect.equal (bitmap.Width, bitmap.Height) (4, 3) "a pixel for each cell"
                Expect.equal (bitmap.GetPixel(0, 0)) (SkiaSharp.SKColor.Parse "#440154") "the least"
                Expect.equal (bitmap.GetPixel(3, 2)) (SkiaSharp.SKColor.Parse "#FDE725") "the largest"
                let data = List.exactlyOne (HtmlCheck.data rendered)
                Expect.equal (HtmlCheck.count "panels.0.values" data) 12 "values"
                Expect.throwsT<ArgumentException> (fun () -> heat "" "" "" (names 2) "" (names 2) [| 1.0 |] |> ignore) "too few")

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

                for address in Regex.Matches(HtmlCheck.withoutScripts html.Value, @"url\(#([^)]*)\)") do
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

let tests = testList "Report" [ values; rendering ]
