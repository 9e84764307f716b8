/// NCCL's C interface as it is called, by a stand-in that writes down what it is given. No GPU is needed.
module Hybrid.Tests.NcclTests

open System
open System.Diagnostics
open System.Runtime.InteropServices
open Expecto
open Hybrid
open Hybrid.Runner.Distribution

/// The functions that are used, with the types of nccl.h; each writes a line.
let private source =
    """#include <stdio.h>
#include <string.h>
#include <stddef.h>
typedef struct { char internal[128]; } ncclUniqueId;
static char text[65536];
static size_t used;
static int made;
#define SAY(...) used += snprintf(text + used, sizeof text - used, __VA_ARGS__)
const char *said(void) { return text; }
void forget(void) { used = 0; text[0] = 0; }
const char *ncclGetErrorString(int code) { return code == 3 ? "internal error - please report" : "none"; }
int ncclGetUniqueId(ncclUniqueId *id) { for (int i = 0; i < 128; i++) id->internal[i] = (char)(i ^ 0x5a); return 0; }
int ncclCommInitRank(void **comm, int n, ncclUniqueId id, int rank)
{ for (int i = 0; i < 128; i++) if (id.internal[i] != (char)(i ^ 0x5a)) return 4; *comm = &made; SAY("init %d of %d\n", rank, n); return 0; }
int ncclCommDestroy(void *comm) { SAY("destroy %d\n", comm == &made); return 0; }
int ncclAllReduce(const char *s, char *r, size_t n, int t, int op, void *c, void *stream)
{ SAY("all-reduce %zu %zu %zu %d %d %zu\n", (size_t)s, (size_t)r, n, t, op, (size_t)stream); return n == 13 ? 3 : 0; }
int ncclReduceScatter(const char *s, char *r, size_t n, int t, int op, void *c, void *stream)
{ SAY("reduce-scatter %zu %zu %zu %d %d %zu\n", (size_t)s, (size_t)r, n, t, op, (size_t)stream); return 0; }
int ncclAllGather(const char *s, char *r, size_t n, int t, void *c, void *stream)
{ SAY("all-gather %zu %zu %zu %d %zu\n", (size_t)s, (size_t)r, n, t, (size_t)stream); return 0; }
int ncclBroadcast(const char *s, char *r, size_t n, int t, int root, void *c, void *stream)
{ SAY("broadcast %zu %zu %zu %d %d %zu\n", (size_t)s, (size_t)r, n, t, root, (size_t)stream); return 0; }
int ncclReduce(const char *s, char *r, size_t n, int t, int op, int root, void *c, void *stream)
{ SAY("reduce %zu %zu %zu %d %d %d %zu\n", (size_t)s, (size_t)r, n, t, op, root, (size_t)stream); return 0; }
int ncclGroupStart(void) { SAY("group\n"); return 0; }
int ncclGroupEnd(void) { SAY("end\n"); return 0; }
"""

type private Said = delegate of unit -> nativeint
type private Forget = delegate of unit -> unit

let private library (folder: Folder) : string =
    let path = folder.At "libnccl-stub.so"

    let start =
        ProcessStartInfo("gcc", [ "-shared"; "-fPIC"; "-o"; path; folder.Write("nccl.c", source) ], RedirectStandardError = true)

    let compiler =
        try
            Process.Start start
        with :? ComponentModel.Win32Exception ->
            skiptest "there is no C compiler here"

    match compiler with
    | null -> skiptest "there is no C compiler here"
    | running ->
        use running = running
        let errors = running.StandardError.ReadToEnd()
        running.WaitForExit()
        Expect.equal running.ExitCode 0 errors
        path

let private calls =
    testCase "calls reach NCCL with its types, in place, by slices of one length or each slice by itself" (fun () ->
        use folder = new Folder()
        let path = library folder
        Environment.SetEnvironmentVariable(Nccl.LibraryVariable, path)

        try
            let handle = NativeLibrary.Load path
            let said = Marshal.GetDelegateForFunctionPointer<Said>(NativeLibrary.GetExport(handle, "said"))
            let forget = Marshal.GetDelegateForFunctionPointer<Forget>(NativeLibrary.GetExport(handle, "forget"))

            let nccl = Nccl.Load()
            let id = NcclCollective.NewId nccl
            Expect.equal id (Array.init 128 (fun i -> byte (i ^^^ 0x5a))) "the id"
            let order = Collections.Generic.List<string>()

            let lane () =
                { new IGpuLane with
                    member _.Stream = 77n
                    member _.Enter() = order.Add "enter"
                    member _.Leave() = order.Add "leave"
                    member _.Await() = order.Add "await"
                    member _.Synchronise() = order.Add "synchronise"
                    member _.Dispose() = order.Add "dispose"
                }

            let lines (work: ICollective -> unit) : string list =
                let collective = new NcclCollective(nccl, id, 1, 2, lane ()) :> ICollective
                forget.Invoke()
                work collective

                let text = Marshal.PtrToStringUTF8(said.Invoke()) |> Option.ofObj |> Option.defaultValue ""
                collective.Dispose()
                List.ofArray (text.Split('\n', StringSplitOptions.RemoveEmptyEntries))

            let one = 4096n

            Expect.equal
                (lines (fun c -> c.AllReduce(one, 10L, ElementType.BFloat16)))
                [ "all-reduce 4096 4096 10 9 0 77" ]
                "bf16"

            Expect.equal
                (lines (fun c -> c.AllReduce(one, 10L, ElementType.Float64)))
                [ "all-reduce 4096 4096 10 8 0 77" ]
                "fp64"

            // Two slices of 64: the second begins 256 bytes on.
            Expect.equal
                (lines (fun c ->
                    c.ReduceScatter(one, 128L, ElementType.Float32)
                    c.AllGather(one, 128L, ElementType.Float32)))
                [ "reduce-scatter 4096 4352 64 7 0 77"; "all-gather 4352 4096 64 7 77" ]
                "even"

            Expect.equal
                (lines (fun c ->
                    c.ReduceScatter(one, 100L, ElementType.Float32)
                    c.AllGather(one, 100L, ElementType.Float32)))
                [
                    "group"
                    "reduce 4096 4096 64 7 0 0 77"
                    "reduce 4352 4352 36 7 0 1 77"
                    "end"
                    "group"
                    "broadcast 4096 4096 64 7 0 77"
                    "broadcast 4352 4352 36 7 1 77"
                    "end"
                ]
                "uneven"

            Running.fails [ "ncclAllReduce failed: internal error" ] (fun () ->
                lines (fun c -> c.AllReduce(one, 13L, ElementType.Float32)) |> ignore)

            order.Clear()

            lines (fun c ->
                c.AllReduce(one, 10L, ElementType.Float32)
                c.Await())
            |> ignore

            Expect.equal (List.ofSeq order) [ "enter"; "leave"; "await"; "synchronise"; "dispose" ] "beside what computes"
        finally
            Environment.SetEnvironmentVariable(Nccl.LibraryVariable, null))

let private absent =
    testCase "without NCCL the sentence says how to come to it" (fun () ->
        Environment.SetEnvironmentVariable(Nccl.LibraryVariable, "/no/such/libnccl.so")

        try
            Running.fails [ "/no/such/libnccl.so"; "libnccl2" ] (fun () -> Nccl.Load() |> ignore)
        finally
            Environment.SetEnvironmentVariable(Nccl.LibraryVariable, null))

let tests = testSequenced (testList "Nccl" [ calls; absent ])
