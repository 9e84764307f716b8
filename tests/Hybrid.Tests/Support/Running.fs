/// What the tests of commands share: the program as a process, and refusals.
module Hybrid.Tests.Running

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open Expecto
open Hybrid

/// Runs the built program; its exit code, stdout and stderr.
let program (arguments: string list) : int * string * string =
    let start = ProcessStartInfo("dotnet", RedirectStandardOutput = true, RedirectStandardError = true)

    for argument in Path.Combine(AppContext.BaseDirectory, "hybrid.dll") :: arguments do
        start.ArgumentList.Add argument

    start.Environment["HYBRID_THREADS"] <- "1"

    match Process.Start start with
    | null -> failtest "the program did not start"
    | running ->
        use running = running
        let errors = running.StandardError.ReadToEndAsync()
        let output = running.StandardOutput.ReadToEnd()
        running.WaitForExit()
        running.ExitCode, output, errors.Result

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
