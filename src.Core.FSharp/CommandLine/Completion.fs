/// Completion of command lines in bash, zsh and fish: scripts made from the same table as the help.
module Hybrid.Completion

open System
open Hybrid.Arguments
open Hybrid.CommandTable

/// The shells that there are scripts for.
let shells: string list = [ "bash"; "zsh"; "fish" ]

/// What may stand where an option wants a value.
type private Wanted =
    | Words of string list
    /// Files and folders, after words that may stand there as well.
    | Paths of string list
    | Folders
    /// A dotted key, then its value.
    | Setting
    | Anything

let private wanted (flag: Flag) : Wanted =
    match flag.Value with
    | None -> Anything
    | Some value when value.Closed -> Words(List.ofArray (value.Placeholder.Split '|'))
    | Some value ->
        match value.Placeholder with
        | "KEY VALUE" -> Setting
        | "DIR" -> Folders
        | "F"
        | "PATH"
        | "RUN" -> Paths []
        | "auto|must|PATH" -> Paths [ "auto"; "must" ]
        | _ -> Anything

let private several (flag: Flag) = flag.Value |> Option.exists _.Several
let private options (entry: Entry) = optionsWith "" entry
let private positional (entry: Entry) = entry.Flags.Value |> List.tryFind _.Positional

let private lines (lines: string list) = String.concat "\n" lines + "\n"
let private spaced (words: string list) = String.concat " " words
let private quoted (text: string) = "'" + text.Replace("'", "'\\''") + "'"

// ---- bash ----

let private bashDriver =
    """
# The words before the one that is completed. A value may be joined to its option by =, where bash takes a word apart.
_hybrid() {
    local IFS=$' \t\n' cur=${COMP_WORDS[COMP_CWORD]} command= action= option= after=0 takes=0 kind= list= word i
    local -a words=()
    COMPREPLY=()
    [[ $cur == = ]] && cur=
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == = ]] || words+=("${COMP_WORDS[i]}")
    done
    command=${words[0]-}
    if [[ ${#words[@]} -eq 0 || $command == help ]]; then
        _hybrid_words "$_hybrid_commands"
        return
    fi
    # The last option, and how many words stand after it.
    for ((i = 1; i < ${#words[@]}; i++)); do
        if [[ ${words[i]} == -* ]]; then
            option=${words[i]} after=0
        else
            after=$((after + 1))
            [[ -z $option && -z $action ]] && action=${words[i]}
        fi
    done
    _hybrid_value "$command" "$option"
    if [[ $cur != -* && $after -lt $takes ]]; then
        if [[ $kind == setting && $after -eq 1 ]]; then
            _hybrid_setting "$command" "${words[${#words[@]} - 1]}"
            kind=words
        fi
        case $kind in
        words) _hybrid_words "$list" ;;
        setting) _hybrid_words "$(_hybrid_keys "$command")" ;;
        paths) _hybrid_words "$list"; compopt -o default 2>/dev/null ;;
        folders) compopt -o dirnames 2>/dev/null ;;
        esac
        return
    fi
    _hybrid_first "$command"
    if [[ -n $kind && $cur != -* && -z $option && ( -z $action || $takes -gt 1 ) ]]; then
        _hybrid_words "$list"
        [[ $kind == paths ]] && compopt -o default 2>/dev/null
        return
    fi
    _hybrid_options "$command" "$action"
    # What may be given once and is there already is not offered again.
    for word in $list; do
        [[ " ${words[*]} " == *" $word "* && " $again " != *" $word "* ]] || COMPREPLY+=($(compgen -W "$word" -- "$cur"))
    done
}

_hybrid_words() { COMPREPLY=($(compgen -W "$1" -- "$cur")); }

complete -F _hybrid hybrid
"""

/// A function with a case for each pattern.
let private bashCases (name: string) (subject: string) (first: string list) (cases: (string * string) list) =
    [
        name + "() {"
        yield! first |> List.map (fun line -> "    " + line)
        if not cases.IsEmpty then
            "    case " + subject + " in"

            for pattern, does in cases do
                "    " + pattern + ") " + does + " ;;"

            "    esac"
        "}"
    ]

let private bashValue (flag: Flag) =
    let takes = if several flag then 999 else flag.Fields.Length

    match wanted flag with
    | Words words -> $"takes={takes} kind=words list={quoted (spaced words)}"
    | Paths words -> $"takes={takes} kind=paths list={quoted (spaced words)}"
    | Folders -> $"takes={takes} kind=folders"
    | Setting -> $"takes={takes} kind=setting"
    | Anything -> $"takes={takes} kind=anything"

let private bash () =
    let withKeys = table |> List.filter (fun entry -> not entry.Keys.Value.IsEmpty)

    lines
        [
            "# Completion of hybrid in bash, made by: hybrid completion bash"
            ""
            "_hybrid_commands=" + quoted (spaced ([ for entry in table -> entry.Name ] @ [ "--help"; "--version" ]))
            ""
            "# What the value of an option is."
            yield!
                bashCases
                    "_hybrid_value"
                    "\"$1 $2\""
                    [ "takes=0 kind= list=" ]
                    [
                        for entry in table do
                            for flag in options entry do
                                if not flag.Fields.IsEmpty then
                                    $"\"{entry.Name} {flag.Name}\"", bashValue flag
                    ]
            ""
            "# What stands before all options."
            yield!
                bashCases
                    "_hybrid_first"
                    "$1"
                    [ "takes=0 kind= list=" ]
                    [
                        for entry in table do
                            match positional entry with
                            | Some flag -> entry.Name, bashValue { flag with Fields = [ typeof<string> ] }
                            | None -> ()
                    ]
            ""
            "# The options of a command, and those that may be given again."
            yield!
                bashCases
                    "_hybrid_options"
                    "\"$1 $2\""
                    [ "again=" ]
                    [
                        for entry in table do
                            let pattern (word: string) = if word = "" then $"\"{entry.Name} \"*" else $"\"{entry.Name} {word}\""

                            for word in (entry.Choices |> List.map _.Word) @ [ "" ] do
                                let flags = optionsWith word entry
                                let again = flags |> List.filter (fun flag -> not flag.Unique) |> List.map _.Name
                                let all = (flags |> List.map _.Name) @ [ "--help" ]
                                pattern word, $"list={quoted (spaced all)} again={quoted (spaced again)}"
                    ]
            ""
            "# The keys of a configuration, and the values of those that have few."
            yield!
                bashCases
                    "_hybrid_keys"
                    "$1"
                    []
                    [
                        for entry in withKeys do
                            let keys = entry.Keys.Value |> List.filter (fun key -> key.Wanted <> "an object")
                            entry.Name, "echo " + quoted (spaced (keys |> List.map _.Name))
                    ]
            ""
            yield!
                bashCases
                    "_hybrid_setting"
                    "\"$1 $2\""
                    [ "list=" ]
                    [
                        for entry in withKeys do
                            for key in entry.Keys.Value do
                                if not key.Choices.IsEmpty then
                                    $"\"{entry.Name} {key.Name}\"", "list=" + quoted (spaced key.Choices)
                    ]
        ]
    + bashDriver

// ---- zsh ----

/// A description in brackets.
let private bracketed (text: string) = "[" + text.Replace("\\", "\\\\").Replace("[", "\\[").Replace("]", "\\]") + "]"

let private zshAction (entry: Entry) (flag: Flag) =
    match wanted flag with
    | Words words -> "(" + spaced words + ")"
    | Paths [] -> "_files"
    | Paths words -> "_alternative \"words:word:(" + spaced words + ")\" \"files:file:_files\""
    | Folders -> "_files -/"
    | Setting -> "_hybrid_keys_" + entry.Name
    | Anything -> " "

let private zshMessage (flag: Flag) =
    match flag.Value with
    | Some value -> value.Placeholder.Replace(":", "\\:")
    | None -> ""

let private zshOption (entry: Entry) (flag: Flag) =
    let start = if flag.Unique then $"({flag.Name}){flag.Name}" else "*" + flag.Name
    let about = bracketed flag.Description
    let action = zshAction entry flag

    match flag.Fields.Length with
    | 0 -> start + about
    | _ when wanted flag = Setting -> $"{start}{about}:KEY:{action}:VALUE:_hybrid_setting_{entry.Name}"
    | 1 when several flag -> $"{start}{about}:*-*:{zshMessage flag}:{action}"
    | 1 -> $"{start}={about}:{zshMessage flag}:{action}"
    | count -> start + about + String.replicate count $":{zshMessage flag}: "

let private zshArguments (entry: Entry) (word: string) =
    [
        "_arguments -s \\"
        match positional entry with
        | Some flag ->
            let place = if several flag then "*" else "1"
            "    " + quoted $"{place}:{zshMessage flag}:{zshAction entry flag}" + " \\"
        | None -> ()
        for flag in optionsWith word entry do
            "    " + quoted (zshOption entry flag) + " \\"
        "    '--help[this text]'"
    ]

let private zshKeys (entry: Entry) =
    [
        $"_hybrid_keys_{entry.Name}() {{"
        "    local -a keys=("
        for key in entry.Keys.Value do
            if key.Wanted <> "an object" then
                "        " + quoted (key.Name + (if key.Wanted = "" then "" else ":" + key.Wanted.Replace(":", "\\:")))
        "    )"
        "    _describe key keys"
        "}"
        ""
        $"_hybrid_setting_{entry.Name}() {{"
        "    case $words[CURRENT-1] in"
        for key in entry.Keys.Value do
            if not key.Choices.IsEmpty then
                $"    {key.Name}) compadd {spaced key.Choices} ;;"
        "    esac"
        "}"
        ""
    ]

let private zsh () =
    lines
        [
            "#compdef hybrid"
            "# Completion of hybrid in zsh, made by: hybrid completion zsh"
            ""
            for entry in table do
                if not entry.Keys.Value.IsEmpty then
                    yield! zshKeys entry
            "_hybrid() {"
            "    local context state state_descr line"
            "    typeset -A opt_args"
            "    _arguments -C '(- *)--help[what there is]' '(- *)--version[which version this is]' '1:command:->command' '*::argument:->argument'"
            "    case $state in"
            "    command)"
            "        local -a commands=("
            for entry in table do
                "            " + quoted $"{entry.Name}:{entry.Summary}"
            "        )"
            "        _describe command commands"
            "        ;;"
            "    argument)"
            "        case \"$words[1] $words[2]\" in"
            for entry in table do
                for word in (entry.Choices |> List.map _.Word) @ [ "" ] do
                    "        " + (if word = "" then $"\"{entry.Name} \"*" else $"\"{entry.Name} {word}\"") + ")"
                    yield! zshArguments entry word |> List.map (fun line -> "            " + line)
                    "            ;;"
            "        esac"
            "        ;;"
            "    esac"
            "}"
            ""
            "if [[ $funcstack[1] == _hybrid ]]; then _hybrid \"$@\"; else compdef _hybrid hybrid; fi"
        ]

// ---- fish ----

let private fishQuoted (text: string) = "'" + text.Replace("\\", "\\\\").Replace("'", "\\'") + "'"

let private fishDriver =
    [
        "# The words after hybrid, before the one that is completed."
        "function __hybrid_words"
        "    set -l words (commandline -opc)"
        "    set -e words[1]"
        "    string join ' ' -- $words"
        "end"
        ""
        "# Whether the line begins with some words."
        "function __hybrid_in"
        "    string match -q -- \"$argv *\" (__hybrid_words)' '"
        "end"
        ""
        "# Whether it ends with some words."
        "function __hybrid_after"
        "    string match -q -- \"* $argv\" ' '(__hybrid_words)"
        "end"
        ""
        "# Whether an option is the last one, with values after it."
        "function __hybrid_within"
        "    set -l options (string match -- '-*' (commandline -opc))"
        "    set -q options[1]; and test \"$options[-1]\" = \"$argv[1]\"; and not __hybrid_after $argv[1]"
        "end"
        ""
    ]

let private fishValue (entry: Entry) (flag: Flag) =
    if flag.Fields.IsEmpty then
        ""
    else
        match wanted flag with
        | Words words -> " -x -a " + fishQuoted (spaced words)
        | Paths [] -> " -r -F"
        | Paths words -> " -r -F -a " + fishQuoted (spaced words)
        | Folders -> " -x -a '(__fish_complete_directories)'"
        | Setting ->
            let keys = entry.Keys.Value |> List.filter (fun key -> key.Wanted <> "an object")
            " -x -a " + fishQuoted (spaced (keys |> List.map _.Name))
        | Anything -> " -x"

let private fishEntry (entry: Entry) =
    let name = entry.Name

    [
        "complete -c hybrid -n 'not __fish_seen_subcommand_from (__hybrid_commands)' -a "
        + name
        + " -d "
        + fishQuoted entry.Summary

        match positional entry |> Option.map (fun flag -> flag, wanted flag) with
        | Some(_, Words words) ->
            $"complete -c hybrid -n '__hybrid_in {name}; and __hybrid_after {name}' -a {fishQuoted (spaced words)}"
        | Some _ -> $"complete -c hybrid -n '__hybrid_in {name}' -F"
        | None -> ()

        for flag in options entry do
            let owners = entry.Choices |> List.filter (fun choice -> List.contains flag.Name (choice.Needs @ choice.Takes))

            let where =
                match owners with
                | [] -> $"__hybrid_in {name}"
                | owners -> owners |> List.map (fun choice -> $"__hybrid_in {name} {choice.Word}") |> String.concat "; or "

            $"complete -c hybrid -n '{where}' -l {flag.Name.Substring 2} -d {fishQuoted flag.Description}{fishValue entry flag}"

            if several flag then
                match wanted flag with
                | Words words ->
                    $"complete -c hybrid -n '__hybrid_in {name}; and __hybrid_within {flag.Name}' -a {fishQuoted (spaced words)}"
                | Paths _ -> $"complete -c hybrid -n '__hybrid_in {name}; and __hybrid_within {flag.Name}' -F"
                | _ -> ()

        for key in entry.Keys.Value do
            if not key.Choices.IsEmpty then
                $"complete -c hybrid -n '__hybrid_in {name}; and __hybrid_after --set {key.Name}' -a {fishQuoted (spaced key.Choices)}"
    ]

let private fish () =
    lines
        [
            "# Completion of hybrid in fish, made by: hybrid completion fish"
            ""
            "function __hybrid_commands"
            "    string split ' ' " + fishQuoted (spaced [ for entry in table -> entry.Name ])
            "end"
            ""
            yield! fishDriver
            "complete -c hybrid -f"
            "complete -c hybrid -l help -d 'what there is'"
            "complete -c hybrid -n 'not __fish_seen_subcommand_from (__hybrid_commands)' -l version -d 'which version this is'"
            for entry in table do
                yield! fishEntry entry
        ]

/// The script that makes a shell complete hybrid's command lines. Errors: InputException for a shell that there is none for.
let script (shell: string) : string =
    match shell with
    | "bash" -> bash ()
    | "zsh" -> zsh ()
    | "fish" -> fish ()
    | other -> raise (InputException $"""there is no completion for {other}; there is for {String.Join(", ", shells)}.""")
