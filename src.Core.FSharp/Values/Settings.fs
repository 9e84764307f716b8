namespace Hybrid

open System
open System.Collections.Generic
open System.Text.Json
open System.Text.Json.Nodes

/// Values put at dotted names into a strict JSON document, as `--set a.b.c value` does. A name that is no key is answered with those
/// that may have been meant.
module Settings =

    // A key given twice is an error here too: a JsonObject could not hold it.
    let private strict = JsonDocumentOptions(AllowDuplicateProperties = false)

    /// A value that is JSON as such, anything else as a string.
    let private node (value: string) : JsonNode | null =
        try
            JsonNode.Parse(value, documentOptions = strict)
        with :? JsonException ->
            JsonValue.Create value

    let rec private place (names: string list) (value: JsonNode | null) (target: JsonObject) : string option =
        match names with
        | []
        | "" :: _ -> Some "a part of the name is empty; a name is keys with dots between them."
        | [ last ] ->
            target[last] <- value
            None
        | first :: rest ->
            match target[first] with
            | null ->
                let inner = JsonObject()
                target[first] <- inner
                place rest value inner
            | :? JsonObject as inner -> place rest value inner
            | _ -> Some $"{first} is not an object."

    /// The document with the values that could be put into it, and what is wrong with the others.
    let private placed
        (values: KeyValuePair<string, string> list)
        (text: string)
        : Result<JsonObject * Map<string, string>, string> =
        try
            match JsonNode.Parse(text, documentOptions = strict) with
            | :? JsonObject as root ->
                let refused =
                    [
                        for pair in values do
                            match place (List.ofArray (pair.Key.Split '.')) (node pair.Value) root with
                            | Some sentence -> pair.Key, sentence
                            | None -> ()
                    ]

                // What cannot be written is no text.
                root.ToJsonString() |> ignore
                Ok(root, Map refused)
            | _ -> Error "the configuration must be a JSON object."
        with
        | :? JsonException as e -> Error $"the configuration is not valid JSON: {e.Message}"
        | :? InvalidOperationException -> Error Json.halfPair

    /// Puts values at dotted names into a document. Errors: a sentence for a name that leads through something that is not an object,
    /// or text that is not JSON.
    let put (values: KeyValuePair<string, string> seq) (text: string) : Result<string, string list> =
        match placed (List.ofSeq values) text with
        | Error sentence -> Error [ sentence ]
        | Ok(root, refused) when refused.IsEmpty -> Ok(root.ToJsonString())
        | Ok(_, refused) -> Error [ for name, sentence in Map.toSeq refused -> $"--set {name}: {sentence}" ]

    /// What stands at a dotted name of a document.
    let private present (name: string) (text: string) : string option =
        let step (found: JsonNode option) (key: string) =
            match found with
            | Some(:? JsonObject as fields) -> Option.ofObj fields[key]
            | _ -> None

        name.Split '.'
        |> Array.fold step (Option.ofObj (JsonNode.Parse(text, documentOptions = strict)))
        |> Option.map _.ToJsonString()

    let private mostShown = 12

    /// A key for a person: its name, what it may be and what it is now.
    let private shown (text: string) (key: JsonKey) : string * string =
        let now =
            if key.Wanted = "an object" then
                None
            else
                present key.Name text |> Option.map (fun value -> $"now {value}")

        key.Name, String.Join(", ", [ yield! List.filter ((<>) "") [ key.Wanted ]; yield! Option.toList now ])

    let private listed (text: string) (keys: JsonKey list) : string =
        let rows = keys |> List.truncate mostShown |> List.map (shown text)
        let width = rows |> List.map (fun (name, _) -> name.Length) |> List.max
        let more = keys.Length - rows.Length

        [
            for name, words in rows do
                $"\n    {name.PadRight width}  {words}".TrimEnd ' '
            if more > 0 then
                $"\n    and {more} more"
        ]
        |> String.concat ""

    /// The sentence for a name that is no key, or that stands for a whole object.
    let private answer (keys: JsonKey list) (text: string) (name: string) : string =
        let meant = Suggest.dotted (keys |> List.map _.Name) name

        let inside =
            meant
            |> List.filter (fun other -> other.StartsWith(name.TrimEnd '.' + ".", StringComparison.OrdinalIgnoreCase))

        let keyOf (other: string) = keys |> List.find (fun key -> key.Name = other)

        let above =
            keys
            |> List.filter (fun key -> name.StartsWith(key.Name + ".", StringComparison.Ordinal))
            |> List.sortByDescending _.Name.Length
            |> List.tryHead

        let beside =
            match above with
            | Some key -> keys |> List.filter (fun other -> other.Name.StartsWith(key.Name + "."))
            | None -> []

        match inside, meant with
        | _ when above |> Option.exists (fun key -> key.Wanted <> "an object") ->
            let key = Option.get above
            $"--set {name}: {key.Name} has no keys of its own; it must be {key.Wanted}."
        | _ :: _, _ -> $"--set {name}: the name stands for an object, whose keys are{listed text (List.map keyOf inside)}"
        | [], [ one ] ->
            let words =
                match shown text (keyOf one) with
                | _, "" -> ""
                | _, words -> $" ({words})"

            $"--set {name}: there is no such key. Did you mean {one}{words}?"
        | [], [] when not beside.IsEmpty -> $"--set {name}: there is no such key. There are{listed text beside}"
        | [], [] ->
            let first = keys |> List.filter (fun key -> not (key.Name.Contains '.')) |> List.map _.Name
            $"""--set {name}: there is no such key. Names begin with one of {String.Join(", ", first)}."""
        | [], several -> $"--set {name}: there is no such key. Did you mean one of{listed text (List.map keyOf several)}"

    /// Puts values at dotted names into a document and hands it to a reader. Errors: all at once; for a name that is no key a
    /// sentence with those that may have been meant, what they may be, and what they are.
    let read (values: KeyValuePair<string, string> seq) (text: string) (reader: JsonFields -> 'a) : Result<'a, string list> =
        let values = List.ofSeq values

        match placed values text with
        | Error sentence -> Error [ sentence ]
        | Ok(root, refused) ->
            let result, reading = Json.read (root.ToJsonString()) reader
            let keys = reading.Keys
            let isObject (value: string) = node value :? JsonObject

            let wrong =
                [
                    for pair in values do
                        let key = keys |> List.tryFind (fun key -> key.Name = pair.Key)

                        match Map.tryFind pair.Key refused, key with
                        | Some sentence, _ when not (pair.Key.EndsWith '.') || Suggest.dotted (List.map _.Name keys) pair.Key = [] ->
                            pair.Key, $"--set {pair.Key}: {sentence}"
                        | None, Some key when key.Wanted <> "an object" || isObject pair.Value -> ()
                        | _ -> pair.Key, answer keys text pair.Key
                ]
                |> List.distinct

            // What the reader says of the same names would only repeat it.
            let said (error: string) =
                wrong
                |> List.exists (fun (name, _) ->
                    reading.Unknown
                    |> List.exists (fun other ->
                        (name = other || name.StartsWith(other + ".")) && error.StartsWith $"{other}: is not a known key")
                    || error.StartsWith $"{name}: must be an object"
                    || (name.Contains '.' && error.StartsWith(name.Substring(0, name.LastIndexOf '.') + ": must be ")))

            match result, List.map snd wrong with
            | result, [] -> result
            | Ok _, wrong -> Error wrong
            | Error errors, wrong -> Error(wrong @ List.filter (said >> not) errors)
