/// tests/gpu-check.sh where there is no GPU, and what the driver of one says.
module Hybrid.Tests.GpuCheckTests

open System
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open Expecto
open Hybrid.Runner

/// Runs a program of the system, with nothing of a GPU or of a Python in its environment; skipped where it is absent.
let private run (program: string) (arguments: string list) : int * string * string =
    let start = ProcessStartInfo(program, RedirectStandardOutput = true, RedirectStandardError = true)

    for argument in arguments do
        start.ArgumentList.Add argument

    start.Environment["PYTHON"] <- "no-python-of-this-name"

    let running =
        try
            Process.Start start
        with :? ComponentModel.Win32Exception ->
            null

    match running with
    | null -> skiptest $"there is no {program} here"
    | running ->
        use running = running
        let errors = running.StandardError.ReadToEndAsync()
        let output = running.StandardOutput.ReadToEnd()
        running.WaitForExit()
        running.ExitCode, output, errors.Result

/// The script; skipped on a system that is not Linux.
let private script () : string =
    if not (OperatingSystem.IsLinux()) then
        skiptest "tests/gpu-check.sh is for Linux"

    Path.Combine(Repository.root, "tests", "gpu-check.sh")

let private check (arguments: string list) = run "bash" (script () :: arguments)

let private help =
    testCase "--help says what the check takes" (fun () ->
        let code, output, errors = check [ "--help" ]
        Expect.equal (code, errors) (0, "") "exit code, and nothing on stderr"

        for option in [ "--libtorch"; "--publish"; "--out"; "--size"; "--device"; "--quick" ] do
            Expect.stringContains output option "an option")

/// That the check gives up with 2 and one sentence, and leaves no table.
let private givesUp (wanted: string) (arguments: string list) =
    use folder = new Folder()
    let table = folder.At "table.md"
    let code, output, errors = check ([ "--out"; table ] @ arguments)
    Expect.equal (code, output) (2, "") errors
    Expect.stringStarts errors "gpu-check: " "who says it"
    Expect.stringContains errors wanted "what it says"
    Expect.equal (errors.Trim().Split('\n').Length) 1 $"one line: {errors}"
    Expect.isFalse (File.Exists table) "no table"

let private withoutGpu =
    testCase "without a GPU the check says so, and how to try it all the same" (fun () ->
        if File.Exists "/dev/nvidia0" then
            skiptest "there is a GPU here"

        givesUp "no GPU is in reach" []
        givesUp "--device cpu" [])

let private unfit =
    testCase "what the check cannot use is named" (fun () ->
        use folder = new Folder()
        givesUp "no libtorch" [ "--device"; "cpu" ]
        givesUp "holds no libtorch.so" [ "--device"; "cpu"; "--libtorch"; folder.At "." ]
        folder.Write("libtorch.so", "") |> ignore

        givesUp "holds no program hybrid" [ "--device"; "cpu"; "--libtorch"; folder.At "."; "--publish"; folder.At "." ]

        givesUp "--size is '2b'" [ "--size"; "2b" ]
        givesUp "--device is 'tpu'" [ "--device"; "tpu" ]
        givesUp "--fast is not an option" [ "--fast" ]
        givesUp "--libtorch needs a value" [ "--libtorch" ])

/// A driver that describes one GPU, and refuses calls in another order than the real one takes.
let private driver =
    """#include <stddef.h>
#include <string.h>
static int pushed, retained;
int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal == 0 ? 0 : 101; }
int cuDeviceGetName(char *name, int length, int device) { if (device != 7 || length < 12) return 1; strcpy(name, "NVIDIA Stub"); return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { retained++; *context = &retained; return device == 7 ? 0 : 1; }
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return 0; }
int cuCtxPushCurrent_v2(void *context) { pushed++; return context == &retained ? 0 : 201; }
int cuCtxPopCurrent_v2(void **context) { pushed--; *context = &retained; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total)
{ if (pushed != 1 || retained != 1) return 201; *free = 5368709120u; *total = 85899345920u; return 0; }
"""

let private memory =
    testCase "the GPU's name and memory come from its driver" (fun () ->
        use folder = new Folder()
        Expect.isNull (GpuMemory.Read(folder.At "no-driver.so")) "no driver"
        let library = folder.At "libcuda-stub.so"

        let code, _, errors = run "gcc" [ "-shared"; "-fPIC"; "-o"; library; folder.Write("driver.c", driver) ]

        Expect.equal code 0 errors

        // Twice: what is taken of the driver is given back.
        for _ in 1..2 do
            match GpuMemory.Read library with
            | null -> failtest "nothing was read"
            | gpu ->
                Expect.equal gpu.Name "NVIDIA Stub" "name"
                Expect.equal (gpu.Total, gpu.Free) (85899345920L, 5368709120L) "bytes"
                Expect.equal gpu.Used 80530636800L "what is held")

let private otherLibrary =
    testCase "a library that is no driver has no GPU" (fun () ->
        let libc =
            if OperatingSystem.IsLinux() then
                "libc.so.6"
            else
                skiptest "the C library has another name here"

        Expect.isTrue (NativeLibrary.TryLoad(libc, ref 0n)) "it loads"
        Expect.isNull (GpuMemory.Read libc) "nothing is read")

let tests = testList "GpuCheck" [ help; withoutGpu; unfit; memory; otherLibrary ]
