/// Command lines as tests give them, and what becomes of them.
module Hybrid.Tests.CommandLineRunning

open System
open Expecto
open Hybrid

let parse (line: string list) = CommandLine.parse (Array.ofList line)

let run (line: string list) : ICommand =
    match parse line with
    | :? RunOutcome as outcome -> outcome.Command
    | :? UsageOutcome as outcome -> failtest $"hybrid {line} was refused: {outcome.Text}"
    | _ -> failtest $"hybrid {line} gave help"

let usage (line: string list) : string =
    match parse line with
    | :? UsageOutcome as outcome -> outcome.Text
    | outcome -> failtest $"hybrid {line} gave {outcome.GetType().Name}"

let help (line: string list) : string =
    match parse line with
    | :? HelpOutcome as outcome -> outcome.Text
    | outcome -> failtest $"hybrid {line} gave {outcome.GetType().Name}"

/// Checks a field of the command that a line gives.
let gives<'command when 'command: not null> (line: string list) (check: 'command -> bool) =
    match box (run line) with
    | :? 'command as command -> Expect.isTrue (check command) $"{line} gave {command}"
    | command -> failtest $"{line} gave a {command.GetType().Name}"
