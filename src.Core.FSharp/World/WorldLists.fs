/// Lists of examples whose rule must be found from the examples themselves: translation into one of three invented languages,
/// the opposite, the kind of a thing, its colour. The same word has different partners under different rules.
namespace Hybrid

open Hybrid.WorldDraw
open Hybrid.WorldVocabulary

/// A rule and the pairs (word, partner) that follow it.
type ListRule =
    {
        /// What the report calls it
        Name: string
        /// Word and partner
        Pairs: (string * string)[]
    }

/// Rules between words, and lists of pairs that follow one.
module WorldLists =

    let private pairs (text: string) = text.Split ' ' |> Array.chunkBySize 2 |> Array.map (fun two -> two[0], two[1])

    let private opposites =
        pairs "hot cold day night big small old young fast slow up down open closed wet dry rich poor happy sad"

    /// The rules.
    let rules: ListRule[] =
        [|
            for i, language in Array.indexed languages do
                yield { Name = $"language {i + 1}"; Pairs = Array.zip translated language }

            yield { Name = "opposite"; Pairs = Array.append opposites (opposites |> Array.map (fun (a, b) -> b, a)) }

            yield
                {
                    Name = "kind"
                    Pairs =
                        pairs
                            "red colour blue colour green colour yellow colour one number two number three number four number dog animal cat animal bird animal horse animal grass plant tree plant rose plant ball thing hat thing cup thing book thing key thing boat thing"
                }

            yield
                {
                    Name = "colour"
                    Pairs =
                        pairs
                            "sun yellow sea blue grass green snow white tree green rose red coal black carrot orange plum purple pig pink bear brown coin yellow"
                }
        |]

    /// The ways of writing a list: what stands between a word and its partner, and what ends an example.
    let styles: struct (string * string)[] = [| struct ("=", ";"); struct (":", ",") |]

    /// Two examples that stand side by side, as a combination (see `WorldDraw.splitOf`).
    let combination (rule: ListRule) (first: string) (second: string) : string = $"{rule.Name} : {first} , {second}"

    /// The combinations of a list of words.
    let combinations (rule: ListRule) (words: string[]) : string[] =
        words |> Array.pairwise |> Array.map (fun (first, second) -> combination rule first second)

    /// The examples as text: "red = tavo ; two = kilo ;".
    let write (struct (joint, mark)) (examples: (string * string)[]) : string =
        examples |> Array.map (fun (word, partner) -> $"{word} {joint} {partner} {mark}") |> sentence

    /// A list of `count` examples of one rule, and its combinations.
    let list (count: int) (stream: Random.Stream) : struct (string * string[]) =
        let rule = pick "rule" rules stream
        let examples = sample "examples" count rule.Pairs stream
        struct (write (pick "style" styles stream) examples, combinations rule (Array.map fst examples))
