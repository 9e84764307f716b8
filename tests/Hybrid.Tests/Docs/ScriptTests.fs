/// The scripts and the F# of composing.md, as a reader runs them: each ends as it says, and leaves no tensor.
module Hybrid.Tests.ScriptTests

open System
open System.Diagnostics
open System.IO
open System.Text.RegularExpressions
open Expecto
open Hybrid.Tests.DocsTests

/// The last line that each script must print; one that is not listed must print something.
let private endings =
    Map
        [
            "model.fsx", "^loss \d\.\d+ nats a target$"
            "block.fsx", "^loss \d\.\d+ at the start, 0\.\d+ after 30 steps; the widest gate 0\.\d+$"
            "loss.fsx", "^step 59: total 0\."
            "extension.fsx", "^trained: ([\d,]+) of \\1 old logits have the same bits$"
            "arms.fsx", ": \d+ runs, 2 claims of its own$"
            "open-lm.fsx", "^token \d+: \d"
            "twins.fsx", "^the curves are in .*twins\.png$"
            "differentiate.fsx", "^loss .*; curvature along g "
            "composing.md", "^\d+ gradients at "
        ]

/// The runner's Release output: what the scripts refer to.
let private built =
    let output = Path.Combine(root, "src.Runner.CSharp", "bin", "Release", "net10.0")

    let native =
        if OperatingSystem.IsWindows() then "torch_cpu.dll"
        elif OperatingSystem.IsMacOS() then "libtorch_cpu.dylib"
        else "libtorch_cpu.so"

    [ "Hybrid.Core.dll"; "TorchSharp.dll"; native ]
    |> List.forall (fun file -> File.Exists(Path.Combine(output, file)))

/// What a script printed, and how many tensors it left.
type private Ran = { Lines: string list; Left: int }

/// Loads scripts one after the other in one F# Interactive, whose start takes longer than most of them.
let private interactive (folder: Folder) (scripts: string list) : Map<string, Ran> * string =
    let start =
        ProcessStartInfo(
            "dotnet",
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = root
        )

    for argument in [ "fsi"; "--quiet" ] do
        start.ArgumentList.Add argument

    // What they write to the temporary folder goes with this one.
    for name, value in [ "HYBRID_THREADS", "1"; "OMP_NUM_THREADS", "1"; "TMPDIR", folder.At ""; "TEMP", folder.At "" ] do
        start.Environment[name] <- value

    match Process.Start start with
    | null -> failtest "dotnet fsi did not start"
    | running ->
        use running = running
        let errors = running.StandardError.ReadToEndAsync()
        let output = running.StandardOutput.ReadToEndAsync()

        for script in scripts do
            running.StandardInput.WriteLine $"#load @\"{script}\";;"
            running.StandardInput.WriteLine "printfn \"\\n=== %d\" TorchSharp.torch.Tensor.TotalCount;;"

        running.StandardInput.Close()

        if not (running.WaitForExit(TimeSpan.FromSeconds 240.0)) then
            running.Kill(entireProcessTree = true)
            failtest "the scripts did not end within 240 s"

        let parts = Regex.Split(output.Result, "\n=== (\d+)\r?\n")

        let ran =
            [
                for i, script in List.indexed scripts do
                    if 2 * i + 1 < parts.Length then
                        let lines = parts[2 * i].Split('\n', StringSplitOptions.RemoveEmptyEntries) |> Array.map _.Trim()
                        string (Path.GetFileName script), { Lines = List.ofArray lines; Left = int parts[2 * i + 1] }
            ]

        Map ran, errors.Result

let private found =
    Directory.GetFiles(Path.Combine(root, "docs", "scripts"), "*.fsx") |> Array.sort |> Array.toList

/// The F# of composing.md as one script.
let private composing (folder: Folder) : string =
    let page = Path.Combine(root, "docs", "composing.md")
    let blocks = Regex.Matches(File.ReadAllText page, "```fsharp\n(.*?)```", RegexOptions.Singleline)
    let text = String.Join("\n", [ for block in blocks -> block.Groups[1].Value ])
    folder.Write("composing.md.fsx", text.Replace("#r \"../", $"#r @\"{root}/"))

let tests =
    testList
        "Scripts"
        [
            testCase "every script with a known ending is there" (fun () ->
                for ending in endings do
                    if ending.Key <> "composing.md" then
                        Expect.contains (found |> List.map (Path.GetFileName >> string)) ending.Key "docs/scripts")

            testCase "scripts begin with what they refer to, and with nothing else by path" (fun () ->
                for script in found do
                    let code = lines script |> List.filter (fun line -> Regex.IsMatch(line, "^#\w"))
                    let wanted = "^#r \"\.\./\.\./src\.Runner\.CSharp/bin/Release/net10\.0/[\w.]+\.dll\"$"
                    none (nameOf script) (code |> List.filter (fun line -> not (Regex.IsMatch(line, wanted)))))

            testCase "the F# of the README stands in a script" (fun () ->
                let text = File.ReadAllText(Path.Combine(root, "README.md"))
                let blocks = Regex.Matches(text, "```fsharp\n(.*?)```", RegexOptions.Singleline)
                Expect.isNonEmpty blocks "F# in the README"

                for block in blocks do
                    let here = found |> List.exists (fun script -> (File.ReadAllText script).Contains block.Groups[1].Value)
                    Expect.isTrue here $"a script has {block.Groups[1].Value}")

            testCase "scripts run, and leave no tensor" (fun () ->
                if not built then
                    skiptest "the runner has no Release build with libtorch: dotnet build src.Runner.CSharp -c Release"

                use folder = new Folder()
                let page = composing folder
                let ran, errors = interactive folder (found @ [ page ])

                for script in found @ [ page ] do
                    let name = string (Path.GetFileName script)
                    let key = name.Replace(".md.fsx", ".md")

                    match ran |> Map.tryFind name with
                    | None -> failtest $"{name} was not run; F# Interactive said {errors}"
                    | Some result ->
                        let last = List.tryLast result.Lines |> Option.defaultValue ""
                        let wanted = endings |> Map.tryFind key |> Option.defaultValue "\S"
                        Expect.isMatch last wanted $"the last line of {name}; F# Interactive said {errors}"
                        Expect.equal result.Left 0 $"tensors that {name} leaves"

                Expect.equal (errors.Trim()) "" "what F# Interactive said")
        ]
