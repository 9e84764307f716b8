module Hybrid.Tests.ReportFilesTests

open System.IO
open System.Text.RegularExpressions
open System.Xml
open Expecto
open Hybrid.Report
open Hybrid.Runner.Reporting

/// The records of a file of comma-separated values, read by the rules of RFC 4180.
let private records (text: string) : string list list =
    let rec cells (at: int) (done': string list) (all: string list list) =
        if at >= text.Length then
            List.rev all
        else
            let value, next =
                if text[at] = '"' then
                    let found = Regex.Match(text.Substring(at + 1), "^((?:[^\"]|\"\")*)\"")
                    found.Groups[1].Value.Replace("\"\"", "\""), at + 1 + found.Length
                else
                    let found = Regex.Match(text.Substring at, "^[^,\r\n\"]*")
                    found.Value, at + found.Length

            let line = value :: done'

            if next < text.Length && text[next] = ',' then
                cells (next + 1) line all
            else
                Expect.equal (text.Substring(next, 2)) "\r\n" "a line ends in CR LF"
                cells (next + 2) [] (List.rev line :: all)

    cells 0 [] []

let private written (page: Page) (check: Folder -> WrittenReport -> unit) =
    use folder = new Folder()
    check folder (ReportFiles.Write(page, folder.At "report.html"))

let tests =
    testList
        "ReportFiles"
        [
            testCase "the page and its files are written whole" (fun () ->
                written ReportTests.page (fun folder files ->
                    Expect.isTrue (File.ReadAllText(folder.At "report.html") = HtmlReport.Render ReportTests.page) "page"
                    Expect.isEmpty (Directory.GetFiles(folder.At "", "*.part*", SearchOption.AllDirectories)) "nothing aside"

                    for name in [ "twins.svg"; "frozen.svg" ] do
                        let document = XmlDocument()
                        document.Load(folder.At("figures/" + name))
                        Expect.stringContains document.InnerXml "prefers-color-scheme: dark" "follows the reader"

                    // A machine without fonts writes SVG only, and says so.
                    if files.Notes.Count = 0 then
                        for name in [ "twins.png"; "twins-dark.png"; "frozen.png"; "frozen-dark.png" ] do
                            use bitmap = SkiaSharp.SKBitmap.Decode(folder.At("figures/" + name))
                            Expect.isGreaterThan bitmap.Width 1000 "at twice the size"
                            Expect.isGreaterThan (bitmap.Pixels |> Array.distinct).Length 20 "drawn"
                    else
                        Expect.stringContains files.Notes[0] "no fonts" "note"

                    for file in Seq.append files.Figures files.Data do
                        Expect.isTrue (File.Exists file) file))

            testCase "an existing report is replaced" (fun () ->
                use folder = new Folder()
                let path = folder.Write("report.html", "old")
                ReportFiles.Write(ReportTests.page, path) |> ignore
                Expect.isTrue (File.ReadAllText path = HtmlReport.Render ReportTests.page) "new")

            testCase "Markdown says the same, and its links lead somewhere" (fun () ->
                written ReportTests.page (fun folder _ ->
                    let text = File.ReadAllText(folder.At "report.md")

                    for part in
                        [
                            "# A &lt;study&gt; &amp; its report"
                            "- **does not hold**: Frozen is worse. (Fig. 6)"
                            "### Perplexity &lt;of&gt; the twins (Fig. 3)"
                            "*The paper:* They meet."
                            "| probe | before |"
                            "| R&amp;D | 80 % |"
                            "```\nhybrid study > out\n```"
                        ] do
                        Expect.stringContains text part part

                    Expect.isFalse (text.Contains "<script") "no element of a text's own"
                    let links = [ for found in Regex.Matches(text, @"\]\(([^)]*)\)") -> found.Groups[1].Value ]
                    Expect.isGreaterThan links.Length 5 "figures, numbers and pictures"

                    for link in links do
                        Expect.isTrue (File.Exists(folder.At link)) link))

            testCase "numbers read back as they are, whatever the names hold" (fun () ->
                let name = "a \"quoted\", name\nof two lines"
                let y = [| 1.0 / 3.0; nan; 1e-300; -2.5 |]

                let panel: IPanel =
                    {
                        CurvePanel.Title = ""
                        X = axis "x"
                        Y = axis "y"
                        Curves = [ curve name 0 [| 0.0; 1.0; 2.0; 3.0 |] y; curve "e" 1 [| 0.0 |] [| 0.0 |] |> exponential ]
                        Marks = []
                    }

                let heat: IPanel = heat "m" "v" "r" [ "r1"; "r2" ] "c" [ "c1" ] [| 1.5; nan |]
                let figure = { ReportTests.twins with Panels = [ panel; heat; ReportTests.frozen.Panels[0] ] }

                written
                    { ReportTests.page with Blocks = [ figure; table name [ name; "b" ] [ [ "1,5"; "" ] ] ] }
                    (fun folder files ->
                        let rows = records (File.ReadAllText(folder.At "data/twins.csv"))
                        Expect.equal rows[0] [ "figure"; "panel"; "curve"; "x"; "y"; "lower"; "upper" ] "header"
                        Expect.equal (rows |> List.map List.length |> List.distinct) [ 7 ] "as wide as the header"

                        for i, value in Array.indexed y do
                            let row = rows[i + 1]
                            Expect.equal row[..3] [ "twins"; "1"; name; string i ] "place"

                            if System.Double.IsNaN value then
                                Expect.equal row[4] "" "no number"
                            else
                                Expect.equal
                                    (System.Double.Parse(row[4], System.Globalization.CultureInfo.InvariantCulture))
                                    value
                                    "to the last bit"

                        Expect.equal rows[5] [ "twins"; "1"; "e"; "0"; "1"; ""; "" ] "exponentials as they are shown"
                        Expect.equal rows[6] [ "twins"; "m"; "r1"; "c1"; "1.5"; ""; "" ] "matrix"
                        Expect.equal rows[8] [ "twins"; "3"; "pre-trained"; "all"; "2"; "1.9"; "2.2" ] "point with its interval"
                        let other = files.Data |> Seq.find (fun file -> not (file.EndsWith "twins.csv"))
                        Expect.equal (records (File.ReadAllText other)) [ [ name; "b" ]; [ "1,5"; "" ] ] "table"))

            testCase "names that fall together get files of their own" (fun () ->
                let same = table "Ä !" [ "a" ] [ [ "1" ] ]

                written
                    { ReportTests.page with Blocks = [ same; { same with Rows = [] }; { same with Title = "" } ] }
                    (fun _ files -> Expect.equal (Seq.distinct files.Data |> Seq.length) 3 "three files"))
        ]
