/// What was meant by a word that is not known.
namespace Hybrid

open System

/// Text helpers for messages.
module Suggest =

    /// The number of edits between two words whatever their case: a character put in, left out or replaced, or two neighbours
    /// swapped (optimal string alignment).
    let distance (a: string) (b: string) : int =
        let same (i: int) (j: int) = Char.ToLowerInvariant a[i] = Char.ToLowerInvariant b[j]
        let mutable beforePrevious: int[] = [||]
        let mutable previous = Array.init (b.Length + 1) id

        for i = 1 to a.Length do
            let current = Array.zeroCreate (b.Length + 1)
            current[0] <- i

            for j = 1 to b.Length do
                let substitution = if same (i - 1) (j - 1) then 0 else 1
                current[j] <- min (min (current[j - 1] + 1) (previous[j] + 1)) (previous[j - 1] + substitution)

                if i > 1 && j > 1 && same (i - 1) (j - 2) && same (i - 2) (j - 1) then
                    current[j] <- min current[j] (beforePrevious[j - 2] + 1)

            beforePrevious <- previous
            previous <- current

        previous[b.Length]

    /// Whether a candidate begins with a word, whatever their case.
    let private begins (word: string) (candidate: string) = candidate.StartsWith(word, StringComparison.OrdinalIgnoreCase)

    /// The only candidate that begins with a word, else the one nearest to it, if that is near enough to be what was meant.
    let nearest (candidates: string seq) (word: string) : string option =
        let limit (candidate: string) = max 1 (max word.Length candidate.Length / 3)

        let near =
            candidates
            // Words of very different lengths are far apart; comparing them would take as long as their lengths multiplied.
            |> Seq.filter (fun candidate -> abs (word.Length - candidate.Length) <= limit candidate)
            |> Seq.map (fun candidate -> distance word candidate, candidate)
            |> Seq.filter (fun (edits, candidate) -> edits <= limit candidate)
            |> Seq.sort
            |> Seq.tryHead
            |> Option.map snd

        match candidates |> Seq.filter (begins word) |> Seq.truncate 2 |> List.ofSeq with
        | [ only ] when word.Length > 1 -> Some only
        | _ -> near

    /// The dotted names that a dotted name may have been meant for, likeliest first: those that it begins; a sibling with a key like
    /// its last one; names that end in the same key, or in one like it.
    let dotted (names: string seq) (name: string) : string list =
        let key (name: string) = name.Substring(name.LastIndexOf '.' + 1)
        let parent (name: string) = name.Substring(0, name.LastIndexOf '.' + 1)
        let alike (a: string) (b: string) = a.Equals(b, StringComparison.OrdinalIgnoreCase)
        let names = Seq.distinct names |> List.ofSeq
        let ending (last: string) = names |> List.filter (fun other -> alike (key other) last)

        match names |> List.filter (fun other -> name.Length > 1 && begins name other) with
        // Nobody misspells a key at such length, and comparing takes as long as the lengths multiplied.
        | [] when name.Length > 256 -> []
        | [] ->
            let siblings = names |> List.filter (fun other -> alike (parent other) (parent name))

            match nearest (List.map key siblings) (key name) with
            | Some sibling -> [ (List.find (fun other -> key other = sibling) siblings) ]
            | None ->
                match ending (key name), nearest (List.map key names) (key name) with
                | [], Some like -> ending like
                | same, _ -> same
                |> List.sortBy (distance name)
        | begun -> begun
