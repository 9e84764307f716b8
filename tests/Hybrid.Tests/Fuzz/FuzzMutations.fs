/// Ways to damage an input that know a little of what inputs are made of.
module Hybrid.Tests.FuzzMutations

open System
open System.Buffers.Binary
open System.Text
open System.Text.Json
open System.Text.Json.Nodes
open Hybrid.Tests.Generate

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

/// Bytes with one thing changed; `others` are inputs to take pieces of.
let mutateOnce (c: Chooser) (others: byte[] list) (bytes: byte[]) : byte[] =
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
let mutateJson (c: Chooser) (bytes: byte[]) : byte[] =
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
