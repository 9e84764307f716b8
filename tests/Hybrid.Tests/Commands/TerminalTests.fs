/// What terminals, pipes and logs get: narrow ones, ones without colour, and none.
module Hybrid.Tests.TerminalTests

open System
open System.Diagnostics
open System.IO
open System.Text.RegularExpressions
open System.Threading
open Expecto
open Spectre.Console
open Hybrid.Runner
open Hybrid.Tests.RunSupport

/// Variables of an environment that has these only.
let private variables (set: (string * string) list) : Func<string, string | null> =
    let known = Map set
    Func<string, string | null>(fun name -> known |> Map.tryFind name |> Option.toObj)

/// A terminal of a width that keeps what is written on it.
type private Screen(width: int, colours: bool) =
    let writer = new StringWriter()

    let console =
        AnsiConsole.Create(
            AnsiConsoleSettings(
                Ansi = AnsiSupport.Yes,
                Interactive = InteractionSupport.Yes,
                ColorSystem = (if colours then ColorSystemSupport.Standard else ColorSystemSupport.NoColors),
                Out = AnsiConsoleOutput writer
            )
        )

    do
        console.Profile.Width <- width
        // Whatever the variables of this process say.
        console.Profile.Capabilities.ColorSystem <- if colours then ColorSystem.Standard else ColorSystem.NoColors

    member _.Console = console
    member _.Text = writer.ToString()

let private escapes = Regex "\x1b\\[[0-9;?]*[A-Za-z]"
let private colour = Regex "\x1b\\[([0-9;]*;)?(3[0-8]|9[0-7])(;[0-9;]*)?m"

/// What stands on lines of a terminal's output, without what moves the cursor or colours.
let private drawn (text: string) : string list =
    escapes.Replace(text, "").Split([| '\r'; '\n' |])
    |> Array.map _.TrimEnd()
    |> Array.filter ((<>) "")
    |> List.ofArray

/// Draws a stage on a screen for a moment.
let private draw (width: int) (colours: bool) : string =
    let screen = Screen(width, colours)

    using (new Progress(screen.Console, TextWriter.Null, TimeProvider.System)) (fun progress ->
        use stage = progress.Stage("train", 200L)

        stage.Report(
            20L,
            Metrics(
                Loss = 3.25,
                Text = 2.5,
                Image = 3.5,
                Structure = 0.01,
                Tokens = 50_000L,
                Share = 0.33,
                Memory = 1_800_000_000L
            )
        )

        Thread.Sleep 500)

    screen.Text

/// A command line in a shell on a pseudo terminal of a width; what the terminal got.
let private onTerminal (columns: int) (line: string) (folder: Folder) : string =
    let start = ProcessStartInfo("script", RedirectStandardOutput = true, RedirectStandardInput = true)
    start.ArgumentList.Add "-qec"
    start.ArgumentList.Add $"stty cols {columns} rows 24; {line}"
    start.ArgumentList.Add "/dev/null"
    start.WorkingDirectory <- folder.At "."

    for name in [ "CI"; "NO_COLOR"; "CLICOLOR"; "FORCE_COLOR"; "CLICOLOR_FORCE" ] do
        start.Environment.Remove name |> ignore

    start.Environment["TERM"] <- "xterm-256color"
    start.Environment["HYBRID_THREADS"] <- "1"

    match Process.Start start with
    | null -> failtest "script did not start"
    | running ->
        use running = running
        running.StandardInput.Close()
        let output = running.StandardOutput.ReadToEnd()
        running.WaitForExit()
        output

let private hybrid = $"""dotnet '{Path.Combine(AppContext.BaseDirectory, "hybrid.dll")}'"""

let private hasScript =
    OperatingSystem.IsLinux() && [ "/usr/bin/script"; "/bin/script" ] |> List.exists File.Exists

let tests =
    testList
        "Terminal"
        [
            testCase "which terminals are drawn on" (fun () ->
                for set, wanted in
                    [
                        [ "TERM", "xterm" ], true
                        [], true
                        [ "TERM", "dumb" ], false
                        [ "TERM", "" ], false
                        [ "TERM", "xterm"; "CI", "true" ], false
                        [ "TERM", "xterm"; "CI", "1" ], false
                        [ "TERM", "xterm"; "CI", "false" ], true
                        [ "TERM", "xterm"; "CI", "" ], true
                    ] do
                    Expect.equal (Terminal.Moves(variables set)) wanted $"{set}")

            testCase "which terminals are coloured" (fun () ->
                for set, wanted in
                    [
                        [], true
                        [ "NO_COLOR", "1" ], false
                        [ "NO_COLOR", "" ], true
                        [ "CLICOLOR", "0" ], false
                        [ "CLICOLOR", "1" ], true
                        [ "CLICOLOR", "0"; "CLICOLOR_FORCE", "1" ], true
                        [ "CLICOLOR", "0"; "CLICOLOR_FORCE", "0" ], false
                        [ "NO_COLOR", "1"; "FORCE_COLOR", "1" ], false
                    ] do
                    Expect.equal (Terminal.Coloured(variables set)) wanted $"{set}"

                Expect.isTrue (Terminal.Forced(variables [ "FORCE_COLOR", "1" ])) "forced"
                Expect.isFalse (Terminal.Forced(variables [ "FORCE_COLOR", "0" ])) "not forced")

            testCase "no line is as wide as the terminal, and the loss and the per cent are there" (fun () ->
                for width in [ 30; 40; 60; 80; 120; 200 ] do
                    let lines = drawn (draw width true)
                    Expect.isNonEmpty lines $"{width} columns"

                    for line in lines |> List.filter (fun line -> line.StartsWith "train  ") do
                        Expect.isLessThan line.Length width line

                        for part in [ " 10 %"; "loss 3.250" ] do
                            Expect.stringContains line part $"{width} columns")

            testCase "a terminal without colours gets none" (fun () ->
                Expect.isTrue (colour.IsMatch(draw 200 true)) "colours"
                Expect.isFalse (colour.IsMatch(draw 200 false)) "none")

            testCase "a terminal, a log of CI and a pipe each get what suits them" (fun () ->
                if not hasScript then
                    skiptest "script (util-linux) is not there"

                use folder = new Folder()
                prepare folder ", \"seed\": 3" |> ignore
                let train = $"{hybrid} train --config run-config.json --out"

                let seen =
                    onTerminal
                        40
                        $"{train} a > a.txt; echo END; CI=true {train} b; echo END; {train} c 2> c.txt; echo END; {hybrid} --help | head -1; {hybrid} train --out 2>&1 | head -1"
                        folder

                match seen.Split "END" with
                | [| live; log; redirected; pipe |] ->
                    // stdout is a file, stderr the terminal: its width is what counts.
                    Expect.stringContains live "\x1b[" "a live line"
                    Expect.stringContains (File.ReadAllText(folder.At "a.txt")) "last step" "the result"

                    for line in drawn live do
                        if line.StartsWith "train  " then
                            Expect.isLessThan line.Length 40 line

                    Expect.isFalse (log.Contains '\x1b') "no control codes in a log"
                    Expect.isFalse (log.Replace("\r\n", "").Contains '\r') "no carriage returns but the terminal's own"
                    Expect.stringContains log "train: 12 steps" "plain lines"
                    Expect.stringContains redirected "last step" "the result on the terminal"
                    let errors = File.ReadAllText(folder.At "c.txt")
                    Expect.isFalse (errors.Contains '\x1b') "no control codes in a file"
                    Expect.stringContains errors "train: done in" "plain lines"
                    Expect.stringContains pipe "hybrid 0" "the first line of the help"
                    Expect.stringContains pipe "--out needs DIR" "the first line of what is wrong"
                    Expect.isFalse (pipe.Contains "Unhandled") "nothing breaks where a pipe ends early"
                | parts -> failtest $"not four parts but {parts.Length}: {seen}")
        ]
