/// Damaged inputs by the thousand, and what a reader may do with them.
module Hybrid.Tests.FuzzSupport

open System
open System.Diagnostics
open System.IO
open System.Threading
open Expecto
open Hybrid
open Hybrid.Tests.FuzzMutations
open Hybrid.Tests.Generate

/// A reader and what it reads.
type Target =
    {
        Name: string
        /// The name of the file in its folder.
        File: string
        /// Files that stand in the same folder.
        Beside: (string * byte[]) list
        /// Valid inputs: whole files, or parts that `Wrap` makes files of.
        Seeds: Lazy<byte[] list>
        /// Whether the seeds are JSON, whose values and keys are damaged as such too.
        IsJson: bool
        /// Whether the reader leaves out what it cannot use instead of refusing the whole.
        Tolerant: bool
        /// Makes a file of a mutated part: lengths and checksums are put right, so that the damage gets behind them.
        Wrap: byte[] -> byte[]
        /// Reads the file at a path; the bytes of tensors or pixels that it handed out.
        Read: string -> int64
        /// What a file of `length` bytes may hand out.
        Most: int64 -> int64
    }

/// What became of some inputs.
type Tally =
    {
        Target: string
        Inputs: int
        Accepted: int
        Slowest: TimeSpan
        /// The most bytes allocated on the heap, beyond what is handed out, for each byte of a file of at least 64 KiB.
        Heaviest: float
        Elapsed: TimeSpan
        Failures: string list
    }

/// What an input may take.
let private timeLimit = TimeSpan.FromSeconds 20.0

let private heapLimit (length: int64) = 1_000_000L + 300L * length

/// The input number `index` of a target.
let input (target: Target) (index: int64) : byte[] =
    let c = Chooser(index * 1_000_003L + int64 target.Name.Length)
    let seeds = target.Seeds.Value
    let mutable bytes = c.Of seeds

    if target.IsJson && c.Int(0, 2) > 0 then
        bytes <- mutateJson c bytes

    if not target.IsJson || c.Int(0, 2) = 0 then
        for _ in 1 .. c.Of [ 1; 1; 2; 4 ] do
            bytes <- mutateOnce c seeds bytes

    target.Wrap bytes

/// Why an input was not treated as it must be, if so: it must be read or refused with a sentence, within bounds.
let private verdict (target: Target) (path: string) (length: int64) : string option * string option * int64 =
    let before = GC.GetAllocatedBytesForCurrentThread()

    let failure, given, refusal =
        try
            let given = target.Read path
            None, given, None
        with
        | :? InputException as refusal -> None, 0L, Some refusal.Message
        | error -> Some $"{error.GetType().Name}: {error.Message}\n{error.StackTrace}", 0L, None

    let allocated = GC.GetAllocatedBytesForCurrentThread() - before - given

    let failure =
        match failure with
        | Some _ -> failure
        | None when given > target.Most length -> Some $"{given} bytes were handed out for {length}"
        | None when allocated > heapLimit length -> Some $"{allocated} bytes were allocated for {length}"
        | None -> None

    failure, refusal, allocated

/// Gives a target's reader one input, not wrapped: why it was not treated as it must be, if so, and the sentence of its refusal.
let once (target: Target) (bytes: byte[]) : string option * string =
    use folder = new Folder()

    for name, beside in target.Beside do
        File.WriteAllBytes(folder.At name, beside)

    File.WriteAllBytes(folder.At target.File, bytes)
    let failure, refusal, _ = verdict target (folder.At target.File) bytes.LongLength
    failure, defaultArg refusal ""

/// Gives a target's reader the inputs from `first` on. A reader that hangs fails the test, and its input is kept.
let attack (target: Target) (first: int64) (count: int) : Tally =
    let folder = Directory.CreateTempSubdirectory("hybrid-fuzz-").FullName
    let path = Path.Combine(folder, target.File)
    let kept = Path.Combine(Path.GetTempPath(), "hybrid-fuzz-kept")

    let keep (index: int64) (bytes: byte[]) =
        Directory.CreateDirectory kept |> ignore
        let copy = Path.Combine(kept, $"{target.Name.Replace(' ', '-')}-{index}-{target.File}")
        File.WriteAllBytes(copy, bytes)
        copy

    for name, bytes in target.Beside do
        File.WriteAllBytes(Path.Combine(folder, name), bytes)

    let clock = Stopwatch.StartNew()
    let mutable current = -1L
    let mutable begun = 0L
    let mutable accepted = 0
    let mutable slowest = TimeSpan.Zero
    let mutable heaviest = 0.0
    let failures = ResizeArray<string>()

    let work () =
        for index in first .. first + int64 count - 1L do
            if failures.Count < 10 then
                let bytes = input target index
                File.WriteAllBytes(path, bytes)
                Volatile.Write(&begun, clock.ElapsedMilliseconds)
                Volatile.Write(&current, index)
                let start = Stopwatch.GetTimestamp()
                let failure, refusal, allocated = verdict target path bytes.LongLength
                let took = Stopwatch.GetElapsedTime start
                Volatile.Write(&current, -1L)

                if refusal.IsNone && failure.IsNone then
                    accepted <- accepted + 1

                slowest <- max slowest took

                if bytes.Length >= 65536 then
                    heaviest <- max heaviest (float allocated / float bytes.Length)

                match failure with
                | Some reason -> failures.Add $"input {index} (kept as {keep index bytes}): {reason}"
                | None -> ()

    // A thread of its own, so that a hang can be told from work; a small stack, so that deep recursion shows.
    let worker = Thread(work, 1 <<< 20, IsBackground = true)
    worker.Start()
    let mutable hung = false

    while not hung && not (worker.Join 100) do
        let index = Volatile.Read &current

        if index >= 0L && float (clock.ElapsedMilliseconds - Volatile.Read &begun) > timeLimit.TotalMilliseconds then
            hung <- true
            failures.Add $"input {index} (kept as {keep index (input target index)}): no end after {timeLimit.TotalSeconds} s"

    if not hung then
        Directory.Delete(folder, true)

    {
        Target = target.Name
        Inputs = count
        Accepted = accepted
        Slowest = slowest
        Heaviest = heaviest
        Elapsed = clock.Elapsed
        Failures = List.ofSeq failures
    }

/// How many inputs all targets get together: the number in HYBRID_FUZZ, or a share that fits into every run of the tests.
let inputs: int =
    match Environment.GetEnvironmentVariable "HYBRID_FUZZ" with
    | null
    | "" -> 10_000
    | text -> int text
