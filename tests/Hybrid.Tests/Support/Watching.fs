/// The memory of the program while it works, as the system counts it.
module Hybrid.Tests.Watching

open System
open System.IO
open System.Threading
open Expecto
open Hybrid.Tests.Running

/// What /proc says of a process, in bytes: the peak of its resident memory, and its own pages time after time.
type Watched = { Peak: int64; Own: int64 list }

/// Runs the program on a thread and watches its memory while `interesting`.
let watch (interesting: unit -> bool) (arguments: string list) : Watched =
    if not (File.Exists "/proc/self/status") then
        skiptest "this system does not tell the memory of a process"

    use running =
        arguments
        |> started
            [
                // The heap of the runtime itself should be the same whatever the machine.
                "DOTNET_gcServer", "0"
                "DOTNET_GCgen0size", "0x400000"
                // Methods that are compiled again once they are known better take a few megabytes, at a time of their own.
                "DOTNET_TieredPGO", "0"
            ]

    let errors = running.StandardError.ReadToEndAsync()
    let output = running.StandardOutput.ReadToEndAsync()
    let mutable peak, own = 0L, []

    let bytes (line: string) = 1024L * int64 (line |> Seq.filter Char.IsAsciiDigit |> Seq.toArray |> String)

    while not running.HasExited do
        try
            for line in File.ReadLines $"/proc/{running.Id}/status" do
                if line.StartsWith "VmHWM:" then
                    peak <- max peak (bytes line)
                elif line.StartsWith "RssAnon:" && interesting () then
                    own <- bytes line :: own
        with :? IOException ->
            ()

        Thread.Sleep 5

    Expect.equal running.ExitCode 0 (errors.Result + output.Result)
    { Peak = peak; Own = List.rev own }
