/// From the words of a command line to values.
module internal Hybrid.ArgumentValues

open System
open System.Collections.Generic
open System.Globalization

/// Argu takes a value that is spelled like an option for one. A text of that kind goes through it behind this character.
let literal = "\001"

/// A value of free text as it was given.
let unprotect (text: string) : string = if text.StartsWith literal then text.Substring 1 else text

let readOnly (values: 'T list) = values :> IReadOnlyList<'T>

let splitIds (text: string) = text.Split([| ' '; ','; '\t'; '\n'; '\r' |], StringSplitOptions.RemoveEmptyEntries)

/// Bytes of a text such as 5GB, 500MB or 1GiB; none where it is no such text or the number is not at least 1.
let parseBytes (text: string) : int64 option =
    let units =
        [
            "GiB", 1L <<< 30
            "MiB", 1L <<< 20
            "KiB", 1L <<< 10
            "GB", 1_000_000_000L
            "MB", 1_000_000L
            "KB", 1_000L
            "B", 1L
            "", 1L
        ]

    let name, factor = units |> List.find (fun (name, _) -> text.EndsWith(name, StringComparison.OrdinalIgnoreCase))

    match
        Int64.TryParse(text.Substring(0, text.Length - name.Length).TrimEnd(), NumberStyles.None, CultureInfo.InvariantCulture)
    with
    | true, count when count >= 1L && count <= Int64.MaxValue / factor -> Some(count * factor)
    | _ -> None

/// Token ids of a text that `splitIds` takes apart.
let ids (text: string) : IReadOnlyList<int> =
    splitIds text
    |> Array.map (fun id -> Int32.Parse(id, CultureInfo.InvariantCulture))
    |> Array.toList
    |> readOnly

let idsOrNull (text: string option) : IReadOnlyList<int> | null =
    match text with
    | Some text -> ids text
    | None -> null
