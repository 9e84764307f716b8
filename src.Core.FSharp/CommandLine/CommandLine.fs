/// From the words of a command line to a plain command, a help text, or sentences that say what is wrong with it.
module Hybrid.CommandLine

open System
open System.Collections.Generic
open System.Globalization
open System.Reflection
open Argu
open Hybrid.Arguments
open Hybrid.ArgumentValues
open Hybrid.CommandTable

// ---- help ----

let private placeholder (flag: Flag) =
    match flag.Value with
    | None -> ""
    | Some value when value.Several -> value.Placeholder + "..."
    | Some value -> value.Placeholder

let private shown (flag: Flag) =
    match placeholder flag with
    | "" -> flag.Name
    | value when flag.Positional -> value
    | value -> flag.Name + " " + value

/// Breaks text into lines of at most `width` characters at spaces.
let private wrap (width: int) (text: string) : string list =
    let add (lines: string list) (word: string) =
        match lines with
        | line :: earlier when line.Length + 1 + word.Length <= width -> (line + " " + word) :: earlier
        | lines -> word :: lines

    text.Split(' ') |> Array.fold add [] |> List.rev

let private twoColumns (left: string, right: string) =
    let column = 28
    let lines = wrap (79 - column) right

    [
        if left.Length + 4 > column then
            "  " + left
            yield! lines |> List.map (fun line -> String(' ', column) + line)
        else
            ("  " + left).PadRight column + List.head lines
            yield! lines |> List.tail |> List.map (fun line -> String(' ', column) + line)
    ]

/// The version of this build.
let version: string =
    match Assembly.GetExecutingAssembly().GetCustomAttribute<AssemblyInformationalVersionAttribute>() with
    | null -> "0"
    | attribute -> (attribute.InformationalVersion.Split '+')[0]

/// The first page: what to do first, and every command.
let overview: string =
    [
        $"hybrid {version}"
        ""
        "Finds out, and shows, what language pre-training brings to auto-regressive"
        "image generation."
        ""
        "Do this first:"
        yield! twoColumns ("hybrid study", "the whole experiment with its report, ten minutes on a laptop")
        yield! twoColumns ("hybrid doctor", "if something does not work")
        ""
        "Commands:"
        for entry in table do
            yield! twoColumns (entry.Name, entry.Summary)
        ""
        "hybrid COMMAND --help says what a command takes, and gives an example."
        "Every command takes --json: one JSON object on stdout and nothing else there."
        "Exit codes: 0 done, 1 failed, 2 usage or configuration, 130 interrupted."
    ]
    |> String.concat "\n"

let private synopsis (entry: Entry) (word: string) =
    let named name = entry.Flags.Value |> List.find (fun flag -> flag.Name = name)
    let needed = entry.Choices |> List.filter (fun choice -> choice.Word = word) |> List.collect _.Needs

    [
        "hybrid " + entry.Name
        for flag in entry.Flags.Value do
            if flag.Positional then
                if word = "" then shown flag else word

        for flag in optionsWith word entry do
            if flag.Mandatory || List.contains flag.Name needed then
                shown flag

        if not entry.OneOf.IsEmpty then
            "(" + String.Join(" | ", entry.OneOf |> List.map (named >> shown)) + ")"

        for name in entry.AnyOf do
            $"[{shown (named name)}]"

        "[options]"
    ]
    |> String.concat " "
    |> wrap 75

/// The help of a command, or of what its first word makes of it.
let private page (entry: Entry) (word: string) =
    let words = entry.Choices |> List.map _.Word

    [
        match entry.Choices |> List.tryFind (fun choice -> choice.Word = word) with
        | Some choice -> $"hybrid {entry.Name} {word}: {choice.Summary}."
        | None -> $"hybrid {entry.Name}: {entry.Summary}."
        ""
        "Usage:"
        match synopsis entry word with
        | first :: rest ->
            "  " + first
            yield! rest |> List.map (fun line -> "      " + line)
        | [] -> ()
        ""
        "Options:"
        if word = "" then
            for flag in entry.Flags.Value do
                if flag.Positional then
                    yield! twoColumns (shown flag, flag.Description)
        for flag in optionsWith word entry do
            // Which word an option belongs to need not be said where there is only one.
            let start = $"{word}: "
            let description = flag.Description

            yield!
                twoColumns (
                    shown flag,
                    (if description.StartsWith start then description.Substring start.Length else description)
                )
        yield! twoColumns ("--help", "this text")
        if word = "" && not words.IsEmpty then
            ""
            $"hybrid {entry.Name} {words.Head} --help shows what goes with {words.Head} alone."
        ""
        "Example:"
        let example =
            entry.Choices
            |> List.tryFind (fun choice -> choice.Word = word)
            |> Option.map _.Example
            |> Option.defaultValue entry.Example

        for line in example.Split '\n' do
            "  " + line
    ]
    |> String.concat "\n"

/// The names of the commands that there are, in the order of the help.
let commands: IReadOnlyList<string> = table |> List.map (fun entry -> entry.Name) |> readOnly

/// The options of a command with their placeholders, in the order of its help. Errors: ArgumentException for a name that is
/// no command.
let options (command: string) : IReadOnlyList<string> =
    match table |> List.tryFind (fun entry -> entry.Name = command) with
    | Some entry -> entry.Flags.Value |> List.map shown |> readOnly
    | None -> raise (ArgumentException $"There is no command {command}.")

// ---- parsing ----

/// The name that a word was meant for; the dashes of options say nothing.
let private nearest (word: string) (known: string list) =
    let bare (name: string) = name.TrimStart '-'

    Suggest.nearest (List.map bare known) (bare (word.Replace('_', '-')))
    |> Option.bind (fun meant -> known |> List.tryFind (fun name -> bare name = meant))

let private didYouMean word known =
    match nearest word known with
    | Some name -> $" Did you mean {name}?"
    | None -> ""

let private looksLikeFlag (word: string) =
    (word.StartsWith "--" && word.Length > 2) || (word.Length > 1 && word[0] = '-' && Char.IsLetter word[1])

let private between (value: ValueAttribute) =
    match Double.IsFinite value.Minimum, Double.IsFinite value.Above, Double.IsFinite value.Maximum with
    | true, _, true -> $" from {value.Minimum} to {value.Maximum}"
    | true, _, false -> $" of at least {value.Minimum}"
    | _, true, true -> $" above {value.Above} and at most {value.Maximum}"
    | _ -> ""

/// The sentence that says why a value will not do, if it will not.
let private faultOf (flag: Flag) (field: Type) (word: string) : string option =
    let value = flag.Value |> Option.defaultWith (fun () -> ValueAttribute flag.Name)

    let name =
        if not flag.Positional then flag.Name + " needs"
        elif value.Several then "A word must be"
        else "The first word must be"

    let inRange (number: float) = number >= value.Minimum && number <= value.Maximum && number > value.Above

    let fault wanted = Some $"{name} {wanted}, but was given '{word}'."

    if field = typeof<int> || field = typeof<int64> then
        match Int64.TryParse(word, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) with
        | true, number when inRange (float number) && (field = typeof<int64> || number = int64 (int number)) -> None
        | _ -> fault ("a whole number" + between value)
    elif field = typeof<float> then
        match Double.TryParse(word, NumberStyles.Float, CultureInfo.InvariantCulture) with
        | true, number when Double.IsFinite number && inRange number -> None
        | _ -> fault ("a number" + between value)
    elif value.Closed then
        let choices = value.Placeholder.Split '|' |> Array.toList

        if List.contains word choices then
            None
        elif choices.Length = 1 then
            fault choices.Head
        else
            fault ("one of " + String.Join(", ", choices))
            |> Option.map (fun sentence -> sentence + didYouMean word choices)
    elif value.Ids then
        let isId (id: string) = fst (Int32.TryParse(id, NumberStyles.None, CultureInfo.InvariantCulture))

        let words = splitIds word

        if words.Length > 0 && Array.forall isId words then
            None
        else
            fault "token ids such as \"1 2 3\""
    elif value.Bytes then
        if (parseBytes word).IsSome then None else fault "a size such as 5GB or 500MB"
    elif word = "" && List.contains value.Placeholder [ "PATH"; "F"; "DIR"; "RUN"; "KEY VALUE"; "auto|must|PATH" ] then
        Some $"{name} {value.Placeholder}, but was given nothing."
    else
        None

/// What the words are, by the flags they belong to, and what is wrong with them.
type private Scan = { Given: (Flag * string list) list; Faults: string list; Help: bool }

/// What is said of an option that there is not: the nearest one, or the key of the configuration that has its name.
let private unknownOption (keys: JsonKey list) (name: string) (known: string list) =
    let letters (text: string) = text.Replace("-", "").Replace("_", "").ToLowerInvariant()
    let last (key: JsonKey) = key.Name.Substring(key.Name.LastIndexOf '.' + 1)

    match keys |> List.filter (fun key -> letters (last key) = letters name && key.Wanted <> "an object") with
    | key :: _ when not (List.contains name known) ->
        $"There is no option {name}. The configuration has the key {key.Name}: give it as --set {key.Name} VALUE."
    | _ -> $"There is no option {name}." + didYouMean name known

/// Reads the words against the flags of a command: whole values go on to Argu, every fault is named.
let private scan (keys: JsonKey list) (flags: Flag list) (words: string list) : Scan =
    let known =
        "--help" :: (flags |> List.filter (fun flag -> not flag.Positional) |> List.map (fun flag -> flag.Name))

    let given flag values scan = { scan with Given = (flag, values) :: scan.Given }

    let fault sentence scan = { scan with Faults = sentence :: scan.Faults }

    let plain: string list -> string list = List.takeWhile (fun word -> not (looksLikeFlag word))

    let rec read (scan: Scan) (words: string list) =
        match words with
        | [] -> scan
        | ("--help" | "-h" | "-?") :: rest -> read { scan with Help = true } rest
        | word :: rest when looksLikeFlag word ->
            let name, inlineValue =
                match word.IndexOf '=' with
                | -1 -> word, []
                | at -> word.Substring(0, at), [ word.Substring(at + 1) ]

            match flags |> List.tryFind (fun flag -> flag.Name = name && not flag.Positional) with
            | None ->
                let sentence = unknownOption keys name known
                // The words after an unknown option are most likely its values: no second complaint about them.
                read (fault sentence scan) (List.skip (List.length (plain rest)) rest)
            | Some flag when flag.Fields.IsEmpty && not inlineValue.IsEmpty -> read (fault $"{name} takes no value." scan) rest
            | Some flag ->
                let wanted = flag.Fields.Length - inlineValue.Length
                let several = flag.Value |> Option.exists (fun value -> value.Several)
                let following = plain rest

                let taken = if several && inlineValue.IsEmpty then following else List.truncate wanted following

                let rest = List.skip taken.Length rest

                if taken.Length < wanted then
                    let next =
                        match rest with
                        | next :: _ ->
                            let equals =
                                if flag.Fields.Length = 1 then
                                    $" A value that begins with - is written {name}=VALUE."
                                else
                                    ""

                            $", but {next} follows.{equals}"
                        | [] -> "."

                    read (fault $"{name} needs {placeholder flag}{next}" scan) rest
                else
                    let values = inlineValue @ taken

                    let faults =
                        if several then
                            values |> List.choose (faultOf flag flag.Fields.Head)
                        else
                            List.map2 (faultOf flag) flag.Fields values |> List.choose id

                    read (List.foldBack fault faults (given flag values scan)) rest
        | word :: rest ->
            match flags |> List.tryFind (fun flag -> flag.Positional) with
            | Some flag when
                flag.Value |> Option.exists (fun value -> value.Several)
                || not (scan.Given |> List.exists (fun (other, _) -> other.Positional))
                ->
                let faults = faultOf flag typeof<string> word |> Option.toList
                read (List.foldBack fault faults (given flag [ word ] scan)) rest
            | _ -> read (fault $"'{word}' belongs to no option. A text with spaces goes in quotes." scan) rest

    let scan = read { Given = []; Faults = []; Help = false } words

    { scan with Given = List.rev scan.Given; Faults = List.rev scan.Faults }

/// The choice that the first word makes; none where there is nothing to choose, or the word is wrong.
let private chosen (entry: Entry) (scan: Scan) : Choice list =
    [
        for flag, values in scan.Given do
            if flag.Positional then
                yield! entry.Choices |> List.filter (fun choice -> values = [ choice.Word ])
    ]

/// Faults of the command line as a whole: missing, repeated and contradicting options.
let private wholeFaults (entry: Entry) (scan: Scan) =
    let count name = scan.Given |> List.filter (fun (flag, _) -> flag.Name = name) |> List.length

    // An option without its value, or misspelt, has had its complaint already.
    let named (name: string) =
        scan.Faults
        |> List.exists (fun sentence -> sentence.StartsWith(name + " needs ") || sentence.EndsWith $" Did you mean {name}?")

    let list (names: string list) = String.Join(" and ", names)

    [
        for flag in entry.Flags.Value do
            if flag.Unique && count flag.Name > 1 then
                $"{flag.Name} is given more than once."

            if flag.Mandatory && count flag.Name = 0 && not (named flag.Name) then
                $"hybrid {entry.Name} needs {shown flag}: {flag.Description}."

        match entry.OneOf |> List.filter (fun name -> count name > 0) with
        | [] when not entry.OneOf.IsEmpty ->
            if not (List.exists named entry.OneOf) then
                $"""hybrid {entry.Name} needs one of {String.Join(", ", entry.OneOf)}."""
        | first :: second :: rest -> $"{list (first :: second :: rest)} exclude each other: give one of them."
        | _ -> ()

        if not entry.AnyOf.IsEmpty && not (entry.AnyOf |> List.exists (fun name -> count name > 0 || named name)) then
            $"""hybrid {entry.Name} needs at least one of {String.Join(", ", entry.AnyOf)}."""

        for choice in chosen entry scan do
            for name in choice.Needs do
                if count name = 0 && not (named name) then
                    let flag = entry.Flags.Value |> List.find (fun flag -> flag.Name = name)
                    $"hybrid {entry.Name} {choice.Word} needs {shown flag}: {flag.Description}."

            let rooms =
                entry.Choices |> List.collect (fun other -> [ for name in other.Needs @ other.Takes -> name, other.Word ])

            for name in rooms |> List.map fst |> List.distinct do
                if count name > 0 && not (List.contains name (choice.Needs @ choice.Takes)) then
                    let words = rooms |> List.filter (fun (other, _) -> other = name) |> List.map snd
                    $"""{name} belongs to {String.Join(", ", words)}, not to {choice.Word}."""

        for name, other in entry.Beside do
            if count name > 0 && count other = 0 && not (named other) then
                $"{name} goes only with {other}."

        match entry.Together |> List.partition (fun name -> count name > 0) with
        | _ :: _ as there, (_ :: _ as missing) ->
            let verb = if there.Length = 1 then "is" else "are"
            $"{list there} {verb} given without {list missing}: they go together."
        | _ -> ()
    ]

let private usage (about: string) (faults: string list) : Outcome =
    let text = String.Join("\n", faults)
    UsageOutcome $"{text}\nSee: hybrid {about}--help"

let private parseCommand (entry: Entry) (words: string list) : Outcome =
    let scan = scan entry.Keys.Value entry.Flags.Value words

    if scan.Help then
        HelpOutcome(page entry (chosen entry scan |> List.map _.Word |> List.tryHead |> Option.defaultValue ""))
    else
        match scan.Faults @ wholeFaults entry scan with
        | [] ->
            let canonical =
                [|
                    for flag, values in scan.Given do
                        match flag with
                        | flag when flag.Positional -> yield! values
                        | flag when flag.Fields.Length > 1 || flag.Fields.IsEmpty -> yield! flag.Name :: values
                        | flag -> yield! values |> List.collect (fun value -> [ flag.Name; protect flag value ])
                |]

            try
                RunOutcome(entry.Read canonical)
            with :? ArguException as error ->
                // Only a value that is itself one of the options gets this far.
                usage (entry.Name + " ") [ ((error.Message.Split(char 10))[0]).Replace("ERROR: ", "").Trim() ]
        | faults -> usage (entry.Name + " ") faults

/// Parses the words of a command line (without the program's name). Never fails: wrong words give a UsageOutcome that names
/// every fault in a sentence.
let parse (arguments: string[]) : Outcome =
    let (|Known|_|) name = table |> List.tryFind (fun entry -> entry.Name = name)

    match List.ofArray arguments with
    | [] -> HelpOutcome overview
    | [ "--version" ] -> HelpOutcome $"hybrid {version}"
    | [ ("--help" | "-h" | "-?" | "help") ] -> HelpOutcome overview
    | "help" :: Known entry :: words -> parseCommand entry (words @ [ "--help" ])
    | Known entry :: words -> parseCommand entry words
    | word :: _ when looksLikeFlag word -> usage "" [ $"There is no option {word}." + didYouMean word [ "--help"; "--version" ] ]
    | word :: _ -> usage "" [ $"There is no command {word}." + didYouMean word (List.ofSeq commands) ]
