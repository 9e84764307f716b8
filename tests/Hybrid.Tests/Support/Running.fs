/// What the tests of commands share: the program as a process, and refusals.
module Hybrid.Tests.Running

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open Expecto
open Hybrid

/// Starts a program; `environment` is set beside what this process has.
let begun (file: string) (environment: (string * string) list) (arguments: string list) : Process =
    let start = ProcessStartInfo(file, arguments, RedirectStandardOutput = true, RedirectStandardError = true)

    for name, value in environment do
        start.Environment[name] <- value

    match Process.Start start with
    | null -> failtest $"{file} did not start"
    | running -> running

/// Starts the built program.
let started (environment: (string * string) list) (arguments: string list) : Process =
    begun "dotnet" (("HYBRID_THREADS", "1") :: environment) (Path.Combine(AppContext.BaseDirectory, "hybrid.dll") :: arguments)

/// The exit code, stdout and stderr of a process, once it has ended.
let ended (running: Process) : int * string * string =
    use running = running
    let errors = running.StandardError.ReadToEndAsync()
    let output = running.StandardOutput.ReadToEnd()
    running.WaitForExit()
    running.ExitCode, output, errors.Result

/// Runs the built program; its exit code, stdout and stderr.
let program (arguments: string list) : int * string * string = ended (started [] arguments)

/// A JSON text's root.
let parsed (output: string) : JsonElement =
    use document = JsonDocument.Parse output
    document.RootElement.Clone()

/// The one JSON object that a command gives with --json.
let result (arguments: string list) : JsonElement =
    let code, output, errors = program (arguments @ [ "--json" ])
    Expect.equal code 0 errors
    parsed output

/// That some work ends in a refusal whose sentence has these parts.
let fails (wanted: string list) (work: unit -> unit) : unit =
    try
        work ()
        failtest "it went through"
    with :? InputException as error ->
        for part in wanted do
            Expect.stringContains error.Message part "the sentence"
