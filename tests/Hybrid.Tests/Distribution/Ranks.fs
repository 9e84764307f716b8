/// The program as several processes that Open MPI starts.
module Hybrid.Tests.Ranks

open System
open System.Diagnostics
open System.IO
open Expecto
open Hybrid
open Hybrid.Runner.Distribution

/// Open MPI's launcher; skips the test where there is none, or no library beside it.
let private launcher () : string =
    let paths =
        (Option.ofObj (Environment.GetEnvironmentVariable "PATH") |> Option.defaultValue "").Split Path.PathSeparator

    match paths |> Array.map (fun folder -> Path.Combine(folder, "mpirun")) |> Array.tryFind File.Exists with
    | None -> skiptest "mpirun is not on this machine (Debian and Ubuntu: apt-get install openmpi-bin)"
    | Some mpirun ->
        try
            OpenMpi.Load() |> ignore
            mpirun
        with :? InputException as error ->
            skiptest error.Message

/// The words that start the program as `count` processes, with settings of mpirun.
let private words (count: int) (settings: string list) (arguments: string list) : string list =
    [ "-np"; string count; "--bind-to"; "none"; "--oversubscribe" ]
    @ settings
    @ [ "dotnet"; Path.Combine(AppContext.BaseDirectory, "hybrid.dll") ]
    @ arguments

/// Starts the program as `count` processes.
let start (count: int) (settings: string list) (arguments: string list) : Process =
    let info =
        ProcessStartInfo(launcher (), RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true)

    for word in words count settings arguments do
        info.ArgumentList.Add word

    for name, value in
        [
            "HYBRID_THREADS", "1"
            "OMP_NUM_THREADS", "1"
            // Tests may run as root, in a container.
            "OMPI_ALLOW_RUN_AS_ROOT", "1"
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"
        ] do
        info.Environment[name] <- value

    match Process.Start info with
    | null -> failtest "mpirun did not start"
    | running -> running

/// Its exit code, stdout and stderr. Fails where it does not end within a time.
let ended (within: float) (running: Process) : int * string * string =
    use running = running
    let output, errors = running.StandardOutput.ReadToEndAsync(), running.StandardError.ReadToEndAsync()

    if not (running.WaitForExit(TimeSpan.FromSeconds within)) then
        running.Kill true
        failtest $"it did not end within {within} s: {errors.Result}"

    running.ExitCode, output.Result, errors.Result

/// Runs it to its end, which has to be a good one; its stdout.
let run (count: int) (arguments: string list) : string =
    let code, output, errors = ended 120.0 (start count [] arguments)
    Expect.equal code 0 errors
    output

/// Runs it as two hosts, a network namespace each (tests/two-hosts.sh); its exit code, stdout and stderr.
let onTwoHosts (arguments: string list) : int * string * string =
    launcher () |> ignore

    let script = Path.Combine(Repository.root, "tests", "two-hosts.sh")

    script :: "dotnet" :: Path.Combine(AppContext.BaseDirectory, "hybrid.dll") :: arguments
    |> Running.begun "bash" [ "HYBRID_THREADS", "1"; "OMP_NUM_THREADS", "1" ]
    |> ended 120.0

/// The processes of the program that work with a path, by their numbers.
let processesOf (path: string) : int list =
    [
        for folder in Directory.EnumerateDirectories "/proc" do
            match Int32.TryParse(Path.GetFileName folder) with
            | true, id ->
                let line =
                    try
                        File.ReadAllText(Path.Combine(folder, "cmdline"))
                    with _ ->
                        ""

                if line.Contains "hybrid.dll" && line.Contains path && not (line.Contains "mpirun") then
                    id
            | _ -> ()
    ]
