/// Strict reading of JSON: an unknown, missing, repeated or mistyped key is an error that names its path, and all errors of a
/// document are reported at once.
namespace Hybrid

open System
open System.Collections.Generic
open System.Text.Json

/// A key that a reader asks for.
type JsonKey =
    {
        /// With the keys that lead to it: a.b.c
        Name: string
        /// What it may be, in words; empty where a reader does not say
        Wanted: string
        /// The strings that it may be, where these are few
        Choices: string list
    }

/// What the reading of one document collects beside its values: the keys that were asked for, and those that nobody asked for.
[<Sealed>]
type JsonReading() =
    let keys = Dictionary<string, JsonKey>()
    let order = List<string>()
    let unknown = List<string * string list>()

    /// Every key that was asked for, in the order of reading. Those in lists of objects have the number of their object.
    member _.Keys: JsonKey list = [ for name in order -> keys[name] ]

    /// Notes that a key was asked for; the words of a later request stand in for those of one that said nothing.
    member internal _.Ask(key: JsonKey) =
        match keys.TryGetValue key.Name with
        | true, known when known.Wanted <> "" -> ()
        | true, _ -> keys[key.Name] <- key
        | _ ->
            keys.Add(key.Name, key)
            order.Add key.Name

    /// Notes a key that nobody asked for, with the keys of its object that somebody did.
    member internal _.Found(name: string, known: string list) = unknown.Add(name, known)

    /// The names of the keys that nobody asked for.
    member _.Unknown: string list = [ for name, _ in unknown -> name ]

    /// A sentence for each key that nobody asked for.
    member internal reading.UnknownErrors: string list =
        [
            for name, known in unknown do
                match Suggest.dotted order name with
                | [] ->
                    let known = String.Join(", ", List.sort known)
                    $"{name}: is not a known key; known here: {known}."
                | meant ->
                    let meant = String.Join(" or ", List.truncate 3 meant)
                    $"{name}: is not a known key; did you mean {meant}?"
        ]

/// One JSON object being read. Reads mark keys as known; `Finish` reports the unknown ones. Values that could not be read are
/// replaced by a harmless one, so that reading goes on and every error is found; the errors decide whether the result counts.
type JsonFields internal (path: string, element: JsonElement, errors: List<string>, reading: JsonReading) =
    let known = HashSet<string>()
    let mutable replaced = element.ValueKind <> JsonValueKind.Object

    let fields =
        let found = Dictionary<string, JsonElement>()

        if element.ValueKind = JsonValueKind.Object then
            for property in element.EnumerateObject() do
                if not (found.TryAdd(property.Name, property.Value)) then
                    errors.Add $"""{(if path = "" then property.Name else path + "." + property.Name)}: the key is given twice."""
        else
            errors.Add $"""{(if path = "" then "the document" else path)}: must be an object, not {element.ValueKind}."""

        found

    let at name = if path = "" then name else path + "." + name

    let ask name wanted choices = reading.Ask { Name = at name; Wanted = wanted; Choices = choices }

    let look name =
        known.Add name |> ignore

        match fields.TryGetValue name with
        | true, value -> Some value
        | _ -> None

    let readOneOf choices name (fallback: 'a option) harmless wanted (convert: JsonElement -> 'a option) : 'a =
        ask name wanted choices

        match look name, fallback with
        | Some value, _ ->
            match convert value with
            | Some result -> result
            | None ->
                let meant =
                    if value.ValueKind = JsonValueKind.String then
                        Suggest.nearest choices (Option.defaultValue "" (Option.ofObj (value.GetString())))
                    else
                        None

                let hint = meant |> Option.map (fun choice -> $" Did you mean {choice}?") |> Option.defaultValue ""
                errors.Add $"{at name}: must be {wanted}, not {value.GetRawText()}.{hint}"
                replaced <- true
                harmless
        | None, Some value -> value
        | None, None ->
            errors.Add $"{at name}: is missing; it must be {wanted}."
            replaced <- true
            harmless

    let read name fallback harmless wanted convert = readOneOf [] name fallback harmless wanted convert

    let number (value: JsonElement) =
        match value.ValueKind with
        | JsonValueKind.Number ->
            match value.TryGetDouble() with
            | true, x when Double.IsFinite x -> Some x
            | _ -> None
        | _ -> None

    let whole (value: JsonElement) =
        match value.ValueKind with
        | JsonValueKind.Number ->
            match value.TryGetInt64() with
            | true, x -> Some x
            | _ -> None
        | _ -> None

    /// The names of the keys that the object holds.
    member _.Names: string seq = fields.Keys

    /// Whether a key is there and not null.
    member _.Has(name: string) : bool =
        match fields.TryGetValue name with
        | true, value -> value.ValueKind <> JsonValueKind.Null
        | _ -> false

    /// Whether every value read so far is the document's own, so that checks between values mean something.
    member _.Sound: bool = not replaced

    /// Records an error about a key.
    member _.Error(name: string, sentence: string) : unit = errors.Add $"{at name}: {sentence}"

    /// A number within [low, high].
    member _.Float(name: string, low: float, high: float, ?fallback: float) : float =
        read name fallback low $"a number from {low} to {high}" (number >> Option.filter (fun x -> x >= low && x <= high))

    /// A number within [low, high] that may be absent or null.
    member json.OptionalFloat(name: string, low: float, high: float) : float option =
        ask name $"a number from {low} to {high}" []
        json.Ignore [ name ]
        if json.Has name then Some(json.Float(name, low, high)) else None

    /// An integer within [low, high] that may be absent or null.
    member json.OptionalInt(name: string, low: int, high: int) : int option =
        ask name $"an integer from {low} to {high}" []
        json.Ignore [ name ]
        if json.Has name then Some(json.Int(name, low, high)) else None

    /// An integer within [low, high].
    member _.Int(name: string, low: int, high: int, ?fallback: int) : int =
        read
            name
            fallback
            low
            $"an integer from {low} to {high}"
            (whole >> Option.filter (fun x -> x >= int64 low && x <= int64 high) >> Option.map int)

    /// A 64-bit integer.
    member _.Int64(name: string, ?fallback: int64) : int64 = read name fallback 0L "an integer" whole

    /// True or false.
    member _.Bool(name: string, ?fallback: bool) : bool =
        read name fallback false "true or false" (fun value ->
            match value.ValueKind with
            | JsonValueKind.True -> Some true
            | JsonValueKind.False -> Some false
            | _ -> None)

    /// A string.
    member _.Text(name: string, ?fallback: string) : string =
        read name fallback "" "a string" (fun value ->
            if value.ValueKind = JsonValueKind.String then value.GetString() |> Option.ofObj else None)

    /// A string that may be absent or null.
    member _.OptionalText(name: string) : string option =
        read name (Some None) None "a string" (fun value ->
            match value.ValueKind with
            | JsonValueKind.Null -> Some None
            | JsonValueKind.String -> Some(value.GetString() |> Option.ofObj)
            | _ -> None)

    /// One of several named choices.
    member _.Choice(name: string, choices: (string * 'a) list, ?fallback: 'a) : 'a =
        let names = List.map fst choices
        let words = names |> String.concat ", "

        readOneOf names name fallback (snd choices.Head) $"one of {words}" (fun value ->
            if value.ValueKind = JsonValueKind.String then
                choices |> List.tryFind (fun (choice, _) -> value.ValueEquals choice) |> Option.map snd
            else
                None)

    /// A list of strings, at least one.
    member _.Texts(name: string) : string list =
        read name None [] "a list of strings, at least one" (fun value ->
            if value.ValueKind = JsonValueKind.Array && value.GetArrayLength() > 0 then
                let items =
                    [
                        for item in value.EnumerateArray() do
                            match item.ValueKind with
                            | JsonValueKind.String -> yield! Option.toList (Option.ofObj (item.GetString()))
                            | _ -> ()
                    ]

                if items.Length = value.GetArrayLength() then Some items else None
            else
                None)

    /// A list of strings that may be absent, null or, if it is there, must hold one: else none.
    member json.OptionalTexts(name: string) : string list =
        ask name "a list of strings, at least one" []
        json.Ignore [ name ]
        if json.Has name then json.Texts name else []

    /// A list of integers within [low, high].
    member _.Ints(name: string, low: int, high: int, ?fallback: int list) : int list =
        read name fallback [] $"a list of integers from {low} to {high}" (fun value ->
            if value.ValueKind = JsonValueKind.Array then
                let items =
                    [
                        for item in value.EnumerateArray() do
                            match whole item with
                            | Some x when x >= int64 low && x <= int64 high -> int x
                            | _ -> ()
                    ]

                if items.Length = value.GetArrayLength() then Some items else None
            else
                None)

    /// A list of numbers within [low, high].
    member _.Floats(name: string, low: float, high: float) : float list =
        read name None [] $"a list of numbers from {low} to {high}" (fun value ->
            if value.ValueKind = JsonValueKind.Array then
                let items = [ for item in value.EnumerateArray() -> number item ]
                let within = items |> List.choose id |> List.filter (fun x -> x >= low && x <= high)
                if within.Length = items.Length then Some within else None
            else
                None)

    /// Two numbers, each within [low, high].
    member _.Pair(name: string, low: float, high: float, ?fallback: float * float) : float * float =
        read name fallback (low, low) $"two numbers from {low} to {high}" (fun value ->
            if value.ValueKind = JsonValueKind.Array && value.GetArrayLength() = 2 then
                match number value[0], number value[1] with
                | Some a, Some b when min a b >= low && max a b <= high -> Some(a, b)
                | _ -> None
            else
                None)

    /// A nested object; a missing one reads as empty when `optional`, so that its defaults apply.
    member _.Object(name: string, ?optional: bool) : JsonFields =
        let standIn (text: string) (errors: List<string>) =
            use document = JsonDocument.Parse text
            JsonFields(at name, document.RootElement.Clone(), errors, reading)

        ask name "an object" []

        match look name with
        | Some value when value.ValueKind = JsonValueKind.Object -> JsonFields(at name, value, errors, reading)
        | None when defaultArg optional false -> standIn "{}" errors
        | found ->
            errors.Add(
                match found with
                | Some value -> $"{at name}: must be an object, not {value.GetRawText()}."
                | None -> $"{at name}: is missing; it must be an object."
            )

            replaced <- true
            // The errors of its keys would only repeat that the object is not there.
            standIn "null" (List<string>())

    /// A list of objects, which may be absent: none.
    member _.Objects(name: string) : JsonFields list =
        ask name "a list of objects" []

        match look name with
        | None -> []
        | Some value when value.ValueKind = JsonValueKind.Array ->
            [
                for i, item in Seq.indexed (value.EnumerateArray()) ->
                    JsonFields($"{at name}[{i}]", item.Clone(), errors, reading)
            ]
        | Some value ->
            errors.Add $"{at name}: must be a list of objects, not {value.GetRawText()}."
            replaced <- true
            []

    /// Marks keys as known without reading them.
    member _.Ignore(names: string seq) : unit =
        for name in names do
            known.Add name |> ignore
            ask name "" []

    /// Notes every key that no read asked for: each becomes an error at the end, with the nearest key of the whole document.
    member _.Finish() : unit =
        for name in fields.Keys do
            if not (known.Contains name) then
                reading.Found(at name, List.ofSeq known)

/// Parsing strict JSON: the value, or all errors at once.
module Json =

    /// What is said of a string that is no text.
    let internal halfPair =
        "the document holds half of a surrogate pair (\\ud800 to \\udfff) in a string; give both halves or neither."

    // Half a surrogate pair (\ud800) is valid JSON but no text: reading it fails.
    let rec private visit (element: JsonElement) : unit =
        match element.ValueKind with
        | JsonValueKind.Object ->
            for property in element.EnumerateObject() do
                property.Name |> ignore
                visit property.Value
        | JsonValueKind.Array ->
            for item in element.EnumerateArray() do
                visit item
        | JsonValueKind.String -> element.GetString() |> ignore
        | _ -> ()

    let private isText (root: JsonElement) =
        try
            visit root
            true
        with :? InvalidOperationException ->
            false

    /// Parses text and hands the root object to a reader; what was read, or all errors at once, and which keys were asked for.
    let read (text: string) (read: JsonFields -> 'a) : Result<'a, string list> * JsonReading =
        let reading = JsonReading()

        try
            use document = JsonDocument.Parse(text, JsonDocumentOptions(MaxDepth = 64))

            if not (isText document.RootElement) then
                Error [ halfPair ], reading
            else
                let errors = List<string>()
                let result = read (JsonFields("", document.RootElement, errors, reading))
                errors.AddRange reading.UnknownErrors
                (if errors.Count = 0 then Ok result else Error(List.ofSeq errors)), reading
        with :? JsonException as e ->
            Error [ $"the document is not valid JSON: {e.Message}" ], reading

    /// Parses text and hands the root object to a reader; all errors at once.
    let parse (text: string) (reader: JsonFields -> 'a) : Result<'a, string list> = fst (read text reader)
