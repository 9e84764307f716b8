/// Completion scripts: that shells take them, and what bash completes by them.
module Hybrid.Tests.CompletionTests

open System
open System.Diagnostics
open System.IO
open Expecto
open Hybrid

/// Runs a program on some words, with a text on its stdin; its exit code and what it said. None where it is not installed.
let private shell (name: string) (arguments: string list) (input: string) : (int * string * string) option =
    let start =
        ProcessStartInfo(name, RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true)

    for argument in arguments do
        start.ArgumentList.Add argument

    try
        match Process.Start start with
        | null -> None
        | running ->
            use running = running
            let output, errors = running.StandardOutput.ReadToEndAsync(), running.StandardError.ReadToEndAsync()
            running.StandardInput.Write input
            running.StandardInput.Close()
            running.WaitForExit()
            Some(running.ExitCode, output.Result, errors.Result)
    with :? ComponentModel.Win32Exception ->
        None

let private installed (name: string) (found: 'a option) : 'a =
    match found with
    | Some found -> found
    | None -> skiptest $"{name} is not installed"

/// What bash would offer after each of some lines, of which the last word is the one to be completed.
let private offered (lines: string list list) : string list list =
    let quoted (word: string) = "'" + word + "'"

    let asked =
        [
            for line in lines do
                let words = "hybrid" :: line |> List.map quoted |> String.concat " "
                $"COMP_WORDS=({words}); COMP_CWORD={line.Length}; wants=; _hybrid; echo \"${{COMPREPLY[*]}} $wants\""
        ]
        |> String.concat "\n"

    // Outside of a completion compopt is an error: what it is asked for is shown instead.
    let script = Completion.script "bash" + "\ncompopt() { wants+=\"<$2>\"; }\n" + asked

    let code, output, errors = shell "bash" [ "--norc" ] script |> installed "bash"
    Expect.equal (code, errors) (0, "") "bash"

    [
        for line in output.TrimEnd('\n').Split '\n' -> line.Split(' ', StringSplitOptions.RemoveEmptyEntries) |> List.ofArray
    ]

let private completes (line: string list) : string list = offered [ line ] |> List.head

let tests =
    testList
        "Completion"
        [
            for name in Completion.shells do
                testCase $"{name} takes its script" (fun () ->
                    let code, _, errors = shell name [ "-n" ] (Completion.script name) |> installed name
                    Expect.equal (code, errors) (0, "") name)

                testCase $"the script of {name} has every command and option" (fun () ->
                    let text = Completion.script name

                    for command, options in CommandOptions.frozen do
                        for option in options do
                            let word = (option.Split ' ')[0]

                            if word.StartsWith "--" then
                                Expect.stringContains
                                    text
                                    (if name = "fish" then word.TrimStart '-' else word)
                                    $"{command} {option}")

            testCase "commands are completed" (fun () ->
                Expect.equal (completes [ "" ]) (List.ofSeq CommandLine.commands @ [ "--help"; "--version" ]) "all"
                Expect.equal (completes [ "com" ]) [ "complete"; "completion" ] "those that begin so"
                Expect.equal (completes [ "help"; "tr" ]) [ "train" ] "after help")

            testCase "each command completes its options" (fun () ->
                let options (command: string) = CommandOptions.frozen |> List.find (fun (name, _) -> name = command) |> snd
                let commands = List.ofSeq CommandLine.commands

                for command, found in List.zip commands (offered [ for command in commands -> [ command; "--" ] ]) do
                    let flags = [ for option in options command -> (option.Split ' ')[0] ] |> List.filter _.StartsWith("--")
                    Expect.equal found (flags @ [ "--help" ]) command)

            testCase "values, words, paths and keys are completed" (fun () ->
                let cases =
                    [
                        [ "study"; "--preset"; "" ], [ "smoke"; "tiny"; "paper" ]
                        [ "study"; "--preset"; "="; "t" ], [ "tiny" ]
                        [ "study"; "--preset"; "=" ], [ "smoke"; "tiny"; "paper" ]
                        [ "study"; "--out"; "" ], [ "<dirnames>" ]
                        [ "train"; "--config"; "" ], [ "<default>" ]
                        [ "train"; "--resume"; "" ], [ "auto"; "must"; "<default>" ]
                        [ "train"; "--set"; "optimizer.l" ], [ "optimizer.learningRate" ]
                        [ "train"; "--set"; "schedule.kind"; "" ], [ "cosine"; "constant" ]
                        [ "train"; "--set"; "seed"; "" ], []
                        [ "image"; "" ], [ "encode"; "decode"; "reconstruct"; "train" ]
                        [ "image"; "train"; "--set"; "codebook.mover"; "" ], [ "ema"; "gradient" ]
                        [ "image"; "train"; "--tok" ], []
                        [ "image"; "encode"; "--tok" ], [ "--tokenizer"; "--tokenizer-config" ]
                        [ "image"; "train"; "--input"; "a"; "b" ], [ "<default>" ]
                        [ "fid"; "--measures"; "fid"; "" ], [ "fid"; "kid"; "neighbours" ]
                        [ "align"; "--betas"; "0.9"; "" ], []
                        [ "completion"; "" ], [ "bash"; "zsh"; "fish" ]
                        [ "inspect"; "a" ], [ "<default>" ]
                        [ "report"; "a"; "b" ], [ "<default>" ]
                        [ "train"; "--config"; "c"; "--co" ], []
                        [ "train"; "--set"; "a"; "1"; "--se" ], [ "--set" ]
                    ]

                for (line, wanted), found in List.zip cases (offered (List.map fst cases)) do
                    Expect.equal found wanted $"hybrid {line}")

            testCase "zsh offers the same" (fun () ->
                // zsh completes in a terminal only: that its functions are there is all that can be asked without.
                let code, output, errors =
                    shell
                        "zsh"
                        [ "-f" ]
                        ("autoload -U compinit; compinit -D -u\n"
                         + Completion.script "zsh"
                         + "\nwhence -w _hybrid; print $_comps[hybrid]\n")
                    |> installed "zsh"

                Expect.equal (code, output, errors) (0, "_hybrid: function\n_hybrid\n", "") "zsh")

            testCase "fish offers the same" (fun () ->
                let cases =
                    [
                        "hybrid com", [ "complete"; "completion" ]
                        "hybrid study --preset ", [ "smoke"; "tiny"; "paper" ]
                        "hybrid train --set optimizer.l", [ "optimizer.learningRate" ]
                        "hybrid train --set schedule.kind ", [ "cosine"; "constant" ]
                        "hybrid image train --tok", []
                        "hybrid image encode --tok", [ "--tokenizer"; "--tokenizer-config" ]
                        "hybrid image ", [ "encode"; "decode"; "reconstruct"; "train" ]
                    ]

                use folder = new Folder()
                let empty = folder.At "."

                for line, wanted in cases do
                    // In an empty folder, where no file can be offered.
                    let script = $"cd {empty}\n" + Completion.script "fish" + $"\ncomplete -C '{line}'\n"
                    let code, output, errors = shell "fish" [ "--no-config" ] script |> installed "fish"
                    Expect.equal (code, errors) (0, "") line
                    let found = [ for word in output.Split('\n', StringSplitOptions.RemoveEmptyEntries) -> (word.Split '\t')[0] ]
                    Expect.equal (List.sort found) (List.sort wanted) line)
        ]
