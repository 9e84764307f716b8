/// Byte-pair encoding written out in plain loops from a tokenizer.json, to compare ids with; it shares no code with the program.
module Hybrid.Tests.TokenizerReference

open System
open System.Collections.Generic
open System.IO
open System.Text
open System.Text.Json

/// An added token: its id, its name, whether it is looked for in the normalized text, whether it is left out of decoded text.
type private Added = { Id: int; Content: string; Normalized: bool; Special: bool }

/// What a reference tokenizer knows.
type Reference =
    private
        {
            Ids: Dictionary<string, int>
            Names: Dictionary<int, string>
            Ranks: Dictionary<struct (string * string), int>
            Added: Added list
            /// SentencePiece's form, with a mark before the text and in the place of spaces; otherwise GPT-2's bytes.
            Marked: bool
            Composed: bool
        }

let private mark = "▁"

/// Reads GPT-2's, GPT-NeoX's or Llama's kind of tokenizer.json.
let load (path: string) : Reference =
    use document = JsonDocument.Parse(File.ReadAllBytes path)
    let root = document.RootElement
    let model = root.GetProperty "model"
    let ids = Dictionary<string, int>(StringComparer.Ordinal)

    for item in (model.GetProperty "vocab").EnumerateObject() do
        ids[item.Name] <- item.Value.GetInt32()

    let ranks = Dictionary<struct (string * string), int>()

    for merge in (model.GetProperty "merges").EnumerateArray() do
        let pair =
            if merge.ValueKind = JsonValueKind.Array then
                struct (string (merge[0].GetString()), string (merge[1].GetString()))
            else
                let parts = (string (merge.GetString())).Split ' '
                struct (parts[0], parts[1])

        ranks[pair] <- ranks.Count

    let added =
        [
            for token in (root.GetProperty "added_tokens").EnumerateArray() do
                {
                    Id = (token.GetProperty "id").GetInt32()
                    Content = string ((token.GetProperty "content").GetString())
                    Normalized = (token.GetProperty "normalized").GetBoolean()
                    Special = (token.GetProperty "special").GetBoolean()
                }
        ]

    let names = Dictionary<int, string>()

    for pair in ids do
        names[pair.Value] <- pair.Key

    for token in added do
        names[token.Id] <- token.Content

    let normalizer =
        match root.GetProperty "normalizer" with
        | found when found.ValueKind = JsonValueKind.Object -> string ((found.GetProperty "type").GetString())
        | _ -> ""

    {
        Ids = ids
        Names = names
        Ranks = ranks
        Added = added
        Marked = (normalizer = "Sequence")
        Composed = (normalizer = "NFC")
    }

/// The character that GPT-2 writes for each byte: printable ones stand for themselves, the others follow from 256 on.
let private byteCharacters: char[] =
    let printable b = b >= 33 && b <= 126 || b >= 161 && b <= 172 || b >= 174

    let mutable next = 256

    [|
        for b in 0..255 do
            if printable b then
                char b
            else
                char next
                next <- next + 1
    |]

/// Pieces of a text: an added token or what stands between them. The leftmost, and of those the longest, comes first.
let private split (tokens: Added list) (text: string) : Choice<int, string> list =
    let pieces = ResizeArray()
    let mutable start = 0
    let mutable at = 0

    while at < text.Length do
        let found =
            tokens
            |> List.filter (fun token -> String.CompareOrdinal(text, at, token.Content, 0, token.Content.Length) = 0)
            |> List.sortByDescending (fun token -> token.Content.Length)
            |> List.tryHead

        match found with
        | Some token ->
            if at > start then
                pieces.Add(Choice2Of2(text.Substring(start, at - start)))

            pieces.Add(Choice1Of2 token.Id)
            at <- at + token.Content.Length
            start <- at
        | None -> at <- at + 1

    if text.Length > start then
        pieces.Add(Choice2Of2(text.Substring start))

    List.ofSeq pieces

type private Kind =
    | Letter
    | Number
    | Space
    | Other

let private kind (rune: Rune) : Kind =
    if Rune.IsWhiteSpace rune then
        Space
    else
        match Rune.GetUnicodeCategory rune with
        | Globalization.UnicodeCategory.UppercaseLetter
        | Globalization.UnicodeCategory.LowercaseLetter
        | Globalization.UnicodeCategory.TitlecaseLetter
        | Globalization.UnicodeCategory.ModifierLetter
        | Globalization.UnicodeCategory.OtherLetter -> Letter
        | Globalization.UnicodeCategory.DecimalDigitNumber
        | Globalization.UnicodeCategory.LetterNumber
        | Globalization.UnicodeCategory.OtherNumber -> Number
        | _ -> Other

/// GPT-2's words: an English suffix after an apostrophe; letters, digits or other signs, each with one space before; or spaces, of
/// which the last is left to a word that follows.
let private words (text: string) : string list =
    let runes = text.EnumerateRunes() |> Array.ofSeq
    let found = ResizeArray<string>()
    let mutable at = 0

    let take (count: int) =
        found.Add(String.Join("", runes[at .. at + count - 1]))
        at <- at + count

    /// How many runes from a place on are of a kind.
    let run (from: int) (wanted: Kind) =
        let mutable stop = from

        while stop < runes.Length && kind runes[stop] = wanted do
            stop <- stop + 1

        stop - from

    let suffix () =
        [ "'s"; "'t"; "'re"; "'ve"; "'m"; "'ll"; "'d" ]
        |> List.tryFind (fun ending ->
            at + ending.Length <= runes.Length && String.Join("", runes[at .. at + ending.Length - 1]) = ending)

    while at < runes.Length do
        match suffix () with
        | Some ending -> take ending.Length
        | None ->
            let ahead = if runes[at] = Rune ' ' then 1 else 0

            let word = [ Letter; Number; Other ] |> List.map (run (at + ahead)) |> List.tryFind (fun count -> count > 0)

            match word with
            | Some count -> take (ahead + count)
            | None ->
                let spaces = run at Space
                take (if at + spaces < runes.Length && spaces > 1 then spaces - 1 else spaces)

    List.ofSeq found

/// Joins the pair that was learnt first, the leftmost of them, until none is left.
let private merge (reference: Reference) (symbols: string list) : string list =
    let list = ResizeArray symbols
    let mutable go = true

    while go do
        let mutable best, place = Int32.MaxValue, -1

        for i in 0 .. list.Count - 2 do
            match reference.Ranks.TryGetValue(struct (list[i], list[i + 1])) with
            | true, rank when rank < best ->
                best <- rank
                place <- i
            | _ -> ()

        if place < 0 then
            go <- false
        else
            list[place] <- list[place] + list[place + 1]
            list.RemoveAt(place + 1)

    List.ofSeq list

let private encodePiece (reference: Reference) (piece: string) : int list =
    if reference.Marked then
        piece.EnumerateRunes()
        |> Seq.collect (fun rune ->
            let character = rune.ToString()

            if reference.Ids.ContainsKey character then
                [ character ]
            else
                [ for b in Encoding.UTF8.GetBytes character -> $"<0x%02X{b}>" ])
        |> List.ofSeq
        |> merge reference
        |> List.map (fun symbol -> reference.Ids[symbol])
    else
        words piece
        |> List.collect (fun word -> [ for b in Encoding.UTF8.GetBytes word -> string byteCharacters[int b] ] |> merge reference)
        |> List.map (fun symbol -> reference.Ids[symbol])

/// Sequences that are not in Unicode's composed form, with what they are in it. The runtime may know no other: it can be without ICU.
let composed: (string * string) list =
    [
        "e\u0301", "\u00E9"
        "o\u0302\u0323", "\u1ED9"
        "q\u0307\u0323", "q\u0323\u0307"
        "\u1100\u1161\u11A8", "\uAC01"
        "\u212B", "\u00C5"
    ]

/// The ids of a text, without marks around it; of what is not in composed form, it may hold the sequences of `composed` only.
let encode (reference: Reference) (text: string) : int[] =
    let normalize (piece: string) =
        if reference.Composed then
            composed |> List.fold (fun (text: string) (from, into) -> text.Replace(from, into)) piece
        elif reference.Marked then
            mark + piece.Replace(" ", mark)
        else
            piece

    let raw, normalized = reference.Added |> List.partition (fun token -> not token.Normalized)

    let normalized = normalized |> List.map (fun token -> { token with Content = normalize token.Content })

    [|
        for outer in split raw text do
            match outer with
            | Choice1Of2 id -> id
            | Choice2Of2 piece ->
                for inner in split normalized (normalize piece) do
                    match inner with
                    | Choice1Of2 id -> id
                    | Choice2Of2 rest -> yield! encodePiece reference rest
    |]

/// The text of ids; special tokens are left out unless they are wanted.
let decode (reference: Reference) (special: bool) (ids: int[]) : string =
    let hidden =
        if special then
            set []
        else
            reference.Added |> List.filter (fun token -> token.Special) |> List.map (fun token -> token.Content) |> set

    let tokens =
        ids |> Array.map (fun id -> reference.Names[id]) |> Array.filter (fun name -> not (hidden.Contains name))

    if reference.Marked then
        let text = StringBuilder()
        let bytes = ResizeArray<byte>()

        // Bytes in a row are a text together, or a question mark each.
        let flush () =
            let strict = UTF8Encoding(false, true)

            try
                text.Append(strict.GetString(bytes.ToArray())) |> ignore
            with :? DecoderFallbackException ->
                text.Append('\uFFFD', bytes.Count) |> ignore

            bytes.Clear()

        for token in tokens do
            if token.Length = 6 && token.StartsWith "<0x" then
                bytes.Add(Convert.ToByte(token.Substring(3, 2), 16))
            else
                flush ()
                text.Append(token.Replace(mark, " ")) |> ignore

        flush ()
        let whole = text.ToString()
        if whole.StartsWith ' ' then whole.Substring 1 else whole
    else
        tokens
        |> Array.collect (fun token ->
            let bytes = token |> Seq.map (fun c -> Array.IndexOf(byteCharacters, c)) |> Array.ofSeq

            if Array.contains -1 bytes then Encoding.UTF8.GetBytes token else Array.map byte bytes)
        |> Encoding.UTF8.GetString
