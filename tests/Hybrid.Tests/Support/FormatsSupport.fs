/// What the tests of file formats share: temporary folders and damaged copies of valid files.
module Hybrid.Tests.FormatsSupport

open System
open System.IO
open Expecto
open FsCheck
open Hybrid
open TorchSharp

/// Runs a test in a new folder that is removed afterwards.
let inFolder (test: string -> unit) : unit =
    use folder = new Folder()
    test (folder.At "")

/// A damaged copy of some bytes: cut, flipped, overwritten with extremes, with a piece doubled or taken out.
let damage (seed: int) (original: byte[]) : byte[] =
    let stream = Random.ofSeed (int64 seed) |> Random.named "damage"
    let below position count = Random.below (max 1 count) stream (int64 position)
    let bytes = Array.copy original

    // Half of all damage falls into the first and last 256 bytes, where formats keep what they say of themselves.
    let place position =
        match below (position + 100) 4 with
        | 0 -> below position (min 256 bytes.Length)
        | 1 -> bytes.Length - 1 - below position (min 256 bytes.Length)
        | _ -> below position bytes.Length

    match below 0 7 with
    | 0 -> bytes[.. below 1 bytes.Length - 1]
    | 1 ->
        for i in 0 .. below 2 4 do
            bytes[place (10 + i)] <- byte (below (20 + i) 256)

        bytes
    | 2 ->
        let start = place 1

        for i in start .. min (bytes.Length - 1) (start + below 2 9) do
            bytes[i] <- (if below 3 2 = 0 then 0xFFuy else 0uy)

        bytes
    | 3 ->
        let start = place 1
        let stop = min bytes.Length (start + below 2 64)
        Array.concat [ bytes[.. stop - 1]; bytes[start..] ]
    | 4 ->
        let start = place 1
        let stop = min bytes.Length (start + below 2 64)
        Array.concat [ bytes[.. start - 1]; bytes[stop..] ]
    | 5 ->
        // A digit of a text becomes another: sizes and counts that lie.
        let digits =
            [|
                for i in 0 .. bytes.Length - 1 do
                    if bytes[i] >= byte '0' && bytes[i] <= byte '9' then
                        i
            |]

        for i in 0 .. below 2 3 do
            if digits.Length > 0 then
                bytes[digits[below (10 + i) digits.Length]] <- byte '0' + byte (below (20 + i) 10)

        bytes
    | _ ->
        let a = place 1
        bytes[a] <- bytes[a] ^^^ (1uy <<< below 2 8)
        bytes

/// The property that reading any damaged copy of a valid file either succeeds or ends with an InputException, and allocates
/// no more than a small multiple of the file's length.
let damagedFilesAreRefused (name: string) (extension: string) (original: unit -> byte[]) (read: string -> unit) : Test =
    let valid = lazy original ()
    let config = { FsCheckConfig.defaultConfig with maxTest = 400 }

    testPropertyWithConfig config name (fun (seed: int) ->
        inFolder (fun folder ->
            let path = Path.Combine(folder, "damaged" + extension)
            let bytes = damage seed valid.Value
            File.WriteAllBytes(path, bytes)
            let before = GC.GetAllocatedBytesForCurrentThread()

            try
                read path
            with :? InputException as refusal ->
                Expect.stringContains refusal.Message "damaged" "the refusal names the file"

            let allocated = GC.GetAllocatedBytesForCurrentThread() - before
            Expect.isLessThan allocated (1_000_000L + 200L * int64 valid.Value.Length) "memory allocated while reading"))

/// The refusal's message that an action ends with.
let refusal: (unit -> unit) -> string = Generate.refused "the file"

/// Reads every tensor of a file once.
let loadAll (file: Runner.Formats.ITensorFile) : unit =
    for name in file.Entries.Keys do
        use tensor = file.Load name
        Expect.equal tensor.shape file.Entries[name].Shape "shape"

/// A tensor of a seed, of any type that files hold.
let tensorOf (kind: torch.ScalarType) (shape: int64 list) (seed: int) : torch.Tensor =
    let stream = Random.ofSeed (int64 seed)
    let count = List.fold (*) 1L shape
    let values = Array.init (int count) (fun i -> float32 (Random.below 251 stream (int64 i)) - 125.0f)

    let values =
        match kind with
        | torch.ScalarType.Byte -> Array.map abs values
        | torch.ScalarType.Bool -> Array.map (fun v -> if v > 0.0f then 1.0f else 0.0f) values
        | _ -> values

    use flat = torch.tensor values
    use shaped = flat.reshape (List.toArray shape)
    shaped.``to`` kind
