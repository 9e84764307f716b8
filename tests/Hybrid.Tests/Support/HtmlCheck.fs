/// What the tests look at in a page of HTML, without a browser.
module Hybrid.Tests.HtmlCheck

open System.Collections.Generic
open System.Net
open System.Text.Json
open System.Text.RegularExpressions

/// What stands in JSON at a path of names and places: panels.0.curves.1.
let at (path: string) (root: JsonElement) : JsonElement =
    (root, path.Split '.')
    ||> Array.fold (fun element step ->
        if element.ValueKind = JsonValueKind.Array then
            element[int step]
        else
            element.GetProperty step)

/// A text in JSON.
let text (path: string) (root: JsonElement) : string = (at path root).GetString() |> string

/// A number in JSON.
let number (path: string) (root: JsonElement) : float = (at path root).GetDouble()

/// The length of a list in JSON.
let count (path: string) (root: JsonElement) : int = (at path root).GetArrayLength()

let private scripts = Regex("<script([^>]*)>(.*?)</script>", RegexOptions.Singleline)

/// The page without what stands in its script elements.
let withoutScripts (html: string) : string = scripts.Replace(html, "<script$1></script>")

/// The one script that runs.
let script (html: string) : string =
    [ for found in scripts.Matches html -> found.Groups[1].Value, found.Groups[2].Value ]
    |> List.filter (fun (attributes, _) -> attributes = "")
    |> List.exactlyOne
    |> snd

/// The data of the figures, in order.
let data (html: string) : JsonElement list =
    [
        for found in scripts.Matches html do
            if found.Groups[1].Value.Contains "class=\"data\"" then
                use document = JsonDocument.Parse found.Groups[2].Value
                document.RootElement.Clone()
    ]

/// The directives of the page's Content-Security-Policy.
let policy (html: string) : IReadOnlyDictionary<string, string> =
    let content =
        Regex.Match(html, "<meta http-equiv=\"Content-Security-Policy\" content=\"([^\"]*)\">").Groups[1].Value

    (WebUtility.HtmlDecode content |> string).Split ';'
    |> Array.map (fun directive -> directive.Trim().Split(' ', 2))
    |> Array.map (fun parts -> KeyValuePair(parts[0], Array.last parts))
    |> Dictionary
    :> IReadOnlyDictionary<string, string>

let private voids = set [ "meta"; "img"; "br"; "input"; "hr"; "link" ]

/// What is wrong with the nesting of the elements: an end without its beginning, a beginning without its end, an attribute without quotes.
let faults (html: string) : string list =
    let body = Regex.Replace(withoutScripts html, "<style>.*?</style>", "", RegexOptions.Singleline)
    let open' = Stack<string>()

    [
        for tag in Regex.Matches(body, "<(/?)([a-zA-Z][a-zA-Z0-9]*)((?:[^>\"]|\"[^\"]*\")*)>") do
            let name, rest = tag.Groups[2].Value, tag.Groups[3].Value

            if tag.Groups[1].Value = "/" then
                if open'.Count = 0 || open'.Peek() <> name then
                    let inside = if open'.Count = 0 then "nothing" else open'.Peek()
                    $"</{name}> inside {inside}"
                else
                    open'.Pop() |> ignore
            elif not (rest.EndsWith '/' || voids.Contains name) then
                open'.Push name

            if not (Regex.IsMatch(rest, "^(\s+[-a-zA-Z:]+(=\"[^\"<]*\")?)*\s*/?$")) then
                $"attributes of {tag.Value}"

        for name in open' do
            $"<{name}> does not end"

        // Every < begins a tag.
        for stray in Regex.Matches(body, "<(?![/a-zA-Z!])") do
            $"a stray < at {stray.Index}"
    ]
