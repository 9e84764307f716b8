// Builds docs/ as a site in site/: pages, evaluated scripts and the reference of the API, readable from the disk and from any server.
// Checks every link within it. Build first; dotnet fsi .ci/site.fsx
open System
open System.Diagnostics
open System.IO
open System.Text.RegularExpressions

let root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))
let site = Path.Combine(root, "site")

let fail (message: string) =
    eprintfn "%s" message
    exit 1

let run (file: string) (arguments: string list) =
    use running = Process.Start(ProcessStartInfo(file, arguments, WorkingDirectory = root, RedirectStandardOutput = true, RedirectStandardError = true))
    let errors = running.StandardError.ReadToEndAsync()
    let output = running.StandardOutput.ReadToEnd() + errors.Result
    running.WaitForExit()

    if running.ExitCode <> 0 then
        fail $"{file} {String.Join(' ', arguments)} ended with {running.ExitCode}:\n{output}"

// fsdocs knows one address for all pages; this stands for it until each page gets its way back to the top.
let top = "/@top@/"

let scripts =
    [ for path in Directory.GetFiles(Path.Combine(root, "docs", "scripts"), "*.fsx") |> Array.sort -> Path.GetFileNameWithoutExtension path ]

if Directory.Exists site then
    Directory.Delete(site, true)

run
    "dotnet"
    ([ "fsdocs"; "build"; "--input"; "docs"; "--output"; site; "--eval"; "--strict"; "--nodefaultcontent" ]
     @ [ "--projects"; Path.Combine(root, "src.Core.FSharp", "Hybrid.Core.fsproj"); "--properties"; "Configuration=Release" ]
     @ [ "--parameters"; "root"; top; "fsdocs-collection-name"; "Hybrid"; "scripts"; "@scripts@" ])

let pages = Directory.GetFiles(site, "*.html", SearchOption.AllDirectories)
let relative (page: string) = Path.GetRelativePath(site, page).Replace('\\', '/')

let listed =
    String.Join("\n", [ for script in scripts -> $"<li><a href=\"{top}scripts/{script}.html\">{script}.fsx</a></li>" ])

// Pages name each other as files of the repository do: page.md#a-heading. fsdocs mends the name where no heading follows.
let mend (page: string) =
    let back = String.replicate (relative page |> Seq.filter ((=) '/') |> Seq.length) "../"
    let text = File.ReadAllText(page).Replace("@scripts@", listed).Replace(top, back)
    File.WriteAllText(page, Regex.Replace(text, "href=\"(?!https?:)([^\"#]*)\\.(md|fsx)(#[^\"]*)?\"", "href=\"$1.html$3\""))

Array.iter mend pages

let names (text: string) = [ for found in Regex.Matches(text, "\\b(?:id|name)=\"?([^\"\\s>]+)\"?") -> found.Groups[1].Value ] |> Set.ofList
let anchors = dict [ for page in pages -> page, lazy (names (File.ReadAllText page)) ]

/// What GitHub's name of a heading and that of fsdocs have in common.
let slug (anchor: string) = Regex.Replace(anchor.ToLowerInvariant(), "[^a-z0-9]", "")

let mutable checkedLinks = 0

let broken =
    [
        for page in pages do
            let text = File.ReadAllText page
            let mutable mended = text

            for link in Regex.Matches(text, "(?:href|src)=\"([^\"]*)\"") |> Seq.map _.Groups[1].Value |> Seq.distinct do
                if not (Regex.IsMatch(link, "^(https?:|mailto:|data:)")) then
                    checkedLinks <- checkedLinks + 1
                    let file, anchor = match link.IndexOf '#' with -1 -> link, "" | at -> link[.. at - 1], link[at + 1 ..]
                    let target = if file = "" then page else Path.GetFullPath(Path.Combine(Path.GetDirectoryName page, Uri.UnescapeDataString file))

                    if not (File.Exists target) then
                        $"{relative page}: {link} leads nowhere"
                    elif anchor <> "" && anchors.ContainsKey target && not (anchors[target].Value.Contains(Uri.UnescapeDataString anchor)) then
                        match anchors[target].Value |> Seq.tryFind (fun name -> slug name = slug anchor) with
                        | Some name -> mended <- mended.Replace($"\"{link}\"", $"\"{file}#{name}\"")
                        | None -> $"{relative page}: {link} names no heading of that page"

            if mended <> text then
                File.WriteAllText(page, mended)
    ]

if not broken.IsEmpty then
    fail (String.Join("\n", broken))

// What is shown of an evaluated script is what it printed; where that is nothing, the evaluation failed without a word.
let silent =
    [
        for script in scripts do
            let text = File.ReadAllText(Path.Combine(site, "scripts", script + ".html"))
            let shown = Regex.Matches(text, "<table class=\"pre\"><tr><td><pre><code>(.*?)</code>", RegexOptions.Singleline)

            if shown.Count = 0 || shown |> Seq.exists (fun output -> String.IsNullOrWhiteSpace output.Groups[1].Value) then
                $"docs/scripts/{script}.fsx: what it prints is not shown; each of its blocks must compile by itself"
    ]

if not silent.IsEmpty then
    fail (String.Join("\n", silent))

printfn $"site/index.html: {pages.Length} pages, {checkedLinks} links within them lead somewhere"
