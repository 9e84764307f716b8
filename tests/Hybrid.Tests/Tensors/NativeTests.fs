/// The build's mend of libLibTorchSharp.so, read back by an ELF reader of its own, and the build's task on copies.
module Hybrid.Tests.NativeTests

open System
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open System.Text
open Expecto

let private library = "libLibTorchSharp.so"
let private version = "GLIBCXX_3.4.32"
let private weak = 2us

let private skipElsewhere () =
    if not (OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture = Architecture.X64) then
        skiptest $"{library} is mended on Linux x64 only; this is {RuntimeInformation.RuntimeIdentifier}"

/// The version requirements (.gnu.version_r) of a 64-bit little-endian ELF file: for each the file it is of, its name, its
/// flags, and the offset of the flags.
let private requirements (elf: byte[]) : (string * string * uint16 * int) list =
    let half (at: int) = BitConverter.ToUInt16(elf, at)
    let word (at: int) = int (BitConverter.ToUInt32(elf, at))
    let wide (at: int) = int (BitConverter.ToUInt64(elf, at))
    Expect.equal elf[..5] [| 0x7Fuy; byte 'E'; byte 'L'; byte 'F'; 2uy; 1uy |] "a 64-bit little-endian ELF file"
    let header index = wide 0x28 + index * int (half 0x3A)
    // Of a section header: its type, where the section lies, the section that it refers to, and its entries.
    let kind section = BitConverter.ToUInt32(elf, header section + 4)
    let place section = wide (header section + 0x18)
    let link section = word (header section + 0x28)
    let info section = word (header section + 0x2C)

    let text (at: int) = Encoding.ASCII.GetString(elf, at, Array.IndexOf(elf, 0uy, at) - at)

    [
        for section in 0 .. int (half 0x3C) - 1 do
            if kind section = 0x6ffffffeu then
                let strings = place (link section)
                let mutable need = place section

                for _ in 1 .. info section do
                    let mutable entry = need + word (need + 8)

                    for _ in 1 .. int (half (need + 2)) do
                        text (strings + word (need + 4)), text (strings + word (entry + 8)), half (entry + 4), entry + 4
                        entry <- entry + word (entry + 12)

                    need <- need + word (need + 12)
    ]

let private named (elf: byte[]) = requirements elf |> List.filter (fun (_, name, _, _) -> name = version)

/// The library as its package has it; skipped where the package folder is elsewhere.
let private original () : string =
    let folder =
        match Environment.GetEnvironmentVariable "NUGET_PACKAGES" with
        | null
        | "" -> Path.Combine(Environment.GetFolderPath Environment.SpecialFolder.UserProfile, ".nuget", "packages")
        | folder -> folder

    let path = Path.Combine(folder, "torchsharp", "0.107.0", "runtimes", "linux-x64", "native", library)

    if not (File.Exists path) then
        skiptest $"{path} is not here; set NUGET_PACKAGES to the package folder"

    path

let private targets = Path.Combine(Repository.root, "Directory.Build.targets")

/// Runs the build's task on each file in turn, as builds of their own would; the exit code and what was said.
let private mend (folder: Folder) (files: string list) : int * string =
    let steps =
        files
        |> List.map (fun file -> $"""    <WeakenGlibcxxRequirement File="{file}" Version="{version}" />""")
        |> String.concat "\n"

    let project =
        folder.Write(
            "mend.proj",
            $"""<Project>
  <Import Project="{targets}" />
  <Target Name="Mend">
{steps}
  </Target>
</Project>
"""
        )

    let code, output, errors =
        Running.begun "dotnet" [] [ "msbuild"; project; "-t:Mend"; "-nologo"; "-nodeReuse:false"; "-v:minimal" ]
        |> Running.ended

    code, output + errors

let private ours =
    testCase "the library beside the tests needs no newer libstdc++ than it uses" (fun () ->
        skipElsewhere ()
        let path = Path.Combine(AppContext.BaseDirectory, library)
        Expect.isTrue (File.Exists path) $"{path} is there"
        let elf = File.ReadAllBytes path

        Expect.exists
            (requirements elf)
            (fun (file, name, _, _) -> file = "libc.so.6" && name = "GLIBC_2.2.5")
            "the reader finds libc"

        for file, name, flags, _ in named elf do
            Expect.equal (flags &&& weak) weak $"{name} of {file} is weak")

let private weakened =
    testCase "the task makes one requirement weak, once, and changes nothing else" (fun () ->
        skipElsewhere ()
        let package = original ()
        let before = File.ReadAllBytes package
        use folder = new Folder()
        let copy, twice, link = folder.At "once.so", folder.At "twice.so", folder.At "cache.so"

        for path in [ copy; twice; link ] do
            File.WriteAllBytes(path, before)

        // An output that is a hard link into a cache: the cache stays as it was.
        let linked = folder.At "linked.so"
        use ln = Process.Start("ln", [ link; linked ])
        ln.WaitForExit()
        Expect.equal ln.ExitCode 0 "ln"

        let code, said = mend folder [ copy; twice; twice; linked ]
        Expect.equal code 0 said
        let expected = Array.copy before

        for _, _, flags, at in named before do
            Expect.equal (flags &&& weak) 0us "the package's own is strong"
            expected[at] <- expected[at] ||| byte weak

        Expect.isNonEmpty (named before) $"the package names {version}"
        Expect.isTrue (File.ReadAllBytes copy = expected) "one bit of each"
        Expect.isTrue (File.ReadAllBytes twice = expected) "a second time changes nothing"
        Expect.isTrue (File.ReadAllBytes linked = expected) "through a link"
        Expect.isTrue (File.ReadAllBytes link = before) "what it was linked to"
        Expect.isTrue (File.ReadAllBytes package = before) "the package"
        let names = Directory.GetFiles(folder.At ".") |> Array.map (Path.GetFileName >> string) |> Array.sort
        Expect.equal names [| "cache.so"; "linked.so"; "mend.proj"; "once.so"; "twice.so" |] "nothing is left aside")

let private foreign =
    testCase "a file that is no library fails the build and stays as it is" (fun () ->
        skipElsewhere ()
        use folder = new Folder()
        let text = folder.Write("text.so", "not a library")
        let code, said = mend folder [ text ]
        Expect.notEqual code 0 "exit code"
        Expect.stringContains said "is not a 64-bit little-endian ELF file" "what is said"
        Expect.stringContains said "text.so" "which file"
        Expect.equal (File.ReadAllText text) "not a library" "the file")

/// The core is for every platform: the only native library that it calls itself is torch's.
let private core =
    testCase "the core calls no native library but torch's" (fun () ->
        let anywhere =
            Reflection.BindingFlags.Static
            ||| Reflection.BindingFlags.Instance
            ||| Reflection.BindingFlags.Public
            ||| Reflection.BindingFlags.NonPublic
            ||| Reflection.BindingFlags.DeclaredOnly

        let called =
            [
                for kind in typeof<Hybrid.ModelConfig>.Assembly.GetTypes() do
                    for call in kind.GetMethods anywhere do
                        match call.GetCustomAttributes(typeof<DllImportAttribute>, false) |> Array.tryHead with
                        | Some(:? DllImportAttribute as found) -> found.Value
                        | _ -> ()
            ]

        Expect.equal (List.distinct called) [ "torch_cpu" ] "native libraries")

let tests = testList "Native" [ ours; weakened; foreign; core ]
