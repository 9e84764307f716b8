/// Damaged inputs by the thousand: mutations that know a little of each format, and what a reader may do with them.
module Hybrid.Tests.FuzzSupport

open System
open System.Buffers.Binary
open System.Diagnostics
open System.IO
open System.Text
open System.Text.Json
open System.Text.Json.Nodes
open System.Threading
open Expecto
open Hybrid
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

/// Numbers that are at, or beyond, the edge of what formats count with.
let private extremes =
    [
        0L
        1L
        -1L
        -2L
        127L
        128L
        255L
        256L
        32767L
        65535L
        65536L
        int64 Int32.MaxValue
        int64 Int32.MinValue
        int64 UInt32.MaxValue
        1L <<< 32
        Int64.MaxValue
        Int64.MinValue
        0x1000_0000_0000_0000L
    ]

let private numerals =
    [
        "0"
        "-1"
        "-0"
        "1e308"
        "1e999"
        "1e-999"
        "NaN"
        "2147483647"
        "2147483648"
        "4294967296"
        "9223372036854775807"
        "9223372036854775808"
        "99999999999999999999999999"
        "0.5"
        "01"
        "1.0"
    ]

let private words =
    [
        "null"
        "true"
        "{}"
        "[]"
        "\"\""
        "[null]"
        "{\"a\":{}}"
        "\"\\ud800\""
        "\"\\u0000\""
        "\"é\""
        ","
        ":"
        "}"
        "]"
        "\""
        "\\"
        "\n"
        "\000"
        "\255"
        " "
    ]

let private latin (text: string) = Encoding.Latin1.GetBytes text

/// A place in some bytes; half of them within the first and last 256, where formats keep what they say of themselves.
let private place (c: Chooser) (length: int) : int =
    match c.Int(0, 3) with
    | 0 -> c.Int(0, max 0 (min 256 length - 1))
    | 1 -> max 0 (length - 1 - c.Int(0, 255))
    | _ -> c.Int(0, max 0 (length - 1))

let private spliced (bytes: byte[]) (start: int) (stop: int) (inserted: byte[]) : byte[] =
    Array.concat [ bytes[.. start - 1]; inserted; bytes[stop..] ]

/// The runs of characters of a kind: the first of each and the one after its last.
let private runs (belongs: byte -> bool) (bytes: byte[]) : (int * int)[] =
    [|
        let mutable start = -1

        for i in 0 .. bytes.Length do
            let inside = i < bytes.Length && belongs bytes[i]

            if inside && start < 0 then
                start <- i
            elif not inside && start >= 0 then
                yield start, i
                start <- -1
    |]

let private isDigit (b: byte) = b >= '0'B && b <= '9'B
let private isWord (b: byte) = isDigit b || (b ||| 32uy) >= 'a'B && (b ||| 32uy) <= 'z'B || b = '_'B || b = '.'B

/// A number field of 1, 2, 4 or 8 bytes set to an extreme, or moved a little.
let private field (c: Chooser) (bytes: byte[]) : byte[] =
    let width = c.Of [ 1; 2; 4; 8 ]

    if bytes.Length < width then
        bytes
    else
        let at = min (place c bytes.Length) (bytes.Length - width)
        let at = if c.Bool() then at / width * width else at
        let copy = Array.copy bytes
        let span = copy.AsSpan(at, width)
        let big = c.Bool()
        let padded = Array.zeroCreate<byte> 8

        if big then span.CopyTo(padded.AsSpan(8 - width)) else span.CopyTo(padded.AsSpan())

        let old =
            if big then
                BinaryPrimitives.ReadInt64BigEndian padded
            else
                BinaryPrimitives.ReadInt64LittleEndian padded

        let value =
            match c.Int(0, 3) with
            | 0 -> old + int64 (c.Int(-3, 3))
            | 1 -> int64 bytes.Length + int64 (c.Int(-9, 9))
            | 2 -> old * int64 (c.Of [ 2; 3; 256; 65536 ])
            | _ -> c.Of extremes

        if big then
            BinaryPrimitives.WriteInt64BigEndian(padded, value)
            padded.AsSpan(8 - width).CopyTo span
        else
            BinaryPrimitives.WriteInt64LittleEndian(padded, value)
            padded.AsSpan(0, width).CopyTo span

        copy

let private replacedRun (c: Chooser) (belongs: byte -> bool) (replacement: byte[]) (bytes: byte[]) : byte[] =
    match runs belongs bytes with
    | [||] -> bytes
    | found ->
        let start, stop = found[c.Int(0, found.Length - 1)]
        spliced bytes start stop replacement

let private mutateOnce (c: Chooser) (others: byte[] list) (bytes: byte[]) : byte[] =
    let length = bytes.Length

    match c.Int(0, 15) with
    | _ when length = 0 -> c.Of others
    | 0 -> bytes[.. c.Int(0, length) - 1]
    | 1
    | 2 ->
        let copy = Array.copy bytes

        for _ in 0 .. c.Int(0, 7) do
            let at = place c length
            copy[at] <- copy[at] ^^^ (1uy <<< c.Int(0, 7))

        copy
    | 3 ->
        let copy = Array.copy bytes

        for _ in 0 .. c.Int(0, 3) do
            copy[place c length] <- byte (c.Int(0, 255))

        copy
    | 4
    | 5 -> field c bytes
    | 6 ->
        // A block filled with one value.
        let start = place c length
        let stop = min length (start + c.Of [ 1; 4; 8; 64; 512; 4096 ])
        spliced bytes start stop (Array.create (stop - start) (c.Of [ 0uy; 0xFFuy; 0x80uy; byte (c.Int(0, 255)) ]))
    | 7 ->
        // A block doubled, here or somewhere else.
        let start = place c length
        let stop = min length (start + c.Int(1, c.Of [ 8; 64; 512; 4096 ]))
        let at = if c.Bool() then start else place c length
        spliced bytes at at bytes[start .. stop - 1]
    | 8 ->
        let start = place c length
        spliced bytes start (min length (start + c.Int(1, c.Of [ 4; 64; 512 ]))) [||]
    | 9 ->
        // The head of one and the tail of another.
        let other = c.Of others
        let cut = c.Int(0, length)
        let from = if c.Bool() then min cut other.Length else c.Int(0, other.Length)
        Array.append bytes[.. cut - 1] other[from..]
    | 10
    | 11 -> replacedRun c isDigit (latin (c.Of numerals)) bytes
    | 12 ->
        let word = latin (c.Of words)

        if c.Bool() then
            replacedRun c isWord word bytes
        else
            let at = place c length
            spliced bytes at at word
    | 13 ->
        // One name or value of the input in the place of another.
        match runs isWord bytes with
        | [||] -> bytes
        | found ->
            let a, b = found[c.Int(0, found.Length - 1)]
            let start, stop = found[c.Int(0, found.Length - 1)]
            spliced bytes start stop bytes[a .. b - 1]
    | 14 ->
        let depth = c.Of [ 8; 70; 300; 3000 ]
        let opening, closing = c.Of [ "[", "]"; "{\"a\":", "}"; "(", "t"; "]", "a"; "(", ""; "}", "s"; "[[", "]" ]
        let at = place c length
        let closed = if c.Bool() then String.replicate depth closing else ""
        spliced bytes at at (latin (String.replicate depth opening + closed))
    | _ ->
        // Two blocks change places.
        let size = c.Int(1, min length (c.Of [ 1; 8; 64; 512 ]))
        let a, b = c.Int(0, length - size), c.Int(0, length - size)
        let copy = Array.copy bytes
        Array.blit bytes a copy b size
        Array.blit bytes b copy a size
        copy

/// Every node below one, with what takes its place away and what puts another there.
let rec private places (node: JsonNode) : (JsonNode | null -> unit) list =
    match node with
    | :? JsonObject as object ->
        [
            for key in object |> Seq.map _.Key |> Seq.toList do
                yield fun value -> object[key] <- value

                match object[key] with
                | null -> ()
                | child -> yield! places child
        ]
    | :? JsonArray as list ->
        [
            for i in 0 .. list.Count - 1 do
                yield fun value -> list[i] <- value

                match list[i] with
                | null -> ()
                | child -> yield! places child
        ]
    | _ -> []

let rec private objects (node: JsonNode | null) : JsonObject list =
    match node with
    | :? JsonObject as object -> object :: (object |> Seq.map _.Value |> Seq.toList |> List.collect objects)
    | :? JsonArray as list -> list |> Seq.toList |> List.collect objects
    | _ -> []

/// JSON with a value or a key of it changed; well-formed still.
let private mutateJson (c: Chooser) (bytes: byte[]) : byte[] =
    let text (value: string) : JsonNode | null = JsonValue.Create value
    let number (value: float) : JsonNode | null = JsonValue.Create value

    try
        match JsonNode.Parse(ReadOnlySpan bytes) with
        | null -> bytes
        | root ->
            let set = places root

            for _ in 1 .. c.Of [ 1; 1; 2; 3 ] do
                if c.Int(0, 2) > 0 && not set.IsEmpty then
                    let value: JsonNode | null =
                        match c.Int(0, 8) with
                        | 0 -> null
                        | 1 ->
                            text (
                                c.Of
                                    [
                                        ""
                                        " "
                                        "a"
                                        "é"
                                        "\000"
                                        "☃\U0001F600"
                                        String('x', 3000)
                                        "../a"
                                        "("
                                        "a*"
                                        "$"
                                        "(?=a)"
                                        "b|"
                                    ]
                            )
                        | 2 -> number (c.Of [ 0.0; -1.0; 0.5; 1e308; -1e308; 1e-320; 3e9; 2e19 ])
                        | 3 -> JsonValue.Create(c.Of extremes)
                        | 4 -> JsonValue.Create(c.Bool())
                        | 5 -> JsonArray()
                        | 6 -> JsonObject()
                        | 7 -> JsonNode.Parse(root.ToJsonString())
                        | _ -> JsonValue.Create(c.Int(0, 300))

                    (c.Of set) value
                else
                    match objects root with
                    | [] -> ()
                    | all ->
                        let object = c.Of all

                        if object.Count > 0 && c.Bool() then
                            object.RemoveAt(c.Int(0, object.Count - 1))
                        else
                            object[c.Of [ ""; "type"; "a"; String('k', 2000) ]] <- text "a"

            Encoding.UTF8.GetBytes(root.ToJsonString())
    with
    | :? JsonException
    | :? InvalidOperationException
    | :? ArgumentException -> bytes

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
    | "" -> 20_000
    | text -> int text
