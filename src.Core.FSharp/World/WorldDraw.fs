/// What World's modules share: the two splits, decided by content, and draws from named streams.
namespace Hybrid

open System

/// The two halves of World. What decides the half of an item is its content, so the halves cannot overlap.
[<RequireQualifiedAccess>]
type Split =
    /// What training may see
    | Train
    /// What is kept for measuring
    | HeldOut

/// Draws from finite choices, each from its own named child stream, and the split of what was drawn.
module WorldDraw =

    /// One combination in this many is held out.
    let heldOutOneIn: int = 10

    let private splitStream = Random.ofSeed 0L |> Random.named "split"

    /// The split of a combination of things (two examples of a list that stand side by side, the objects of a scene): a hash of
    /// its name, the same for every seed.
    let splitOf (combination: string) : Split =
        if Random.below heldOutOneIn (Random.named combination splitStream) 0L = 0 then
            Split.HeldOut
        else
            Split.Train

    /// The split of something made of several combinations: held out as soon as one of them is. What is in the train split
    /// therefore contains no held-out combination at all.
    let splitOfAll (combinations: string seq) : Split =
        if combinations |> Seq.exists (fun c -> splitOf c = Split.HeldOut) then
            Split.HeldOut
        else
            Split.Train

    /// The first of a stream's drawings that satisfies a condition. Some drawing must be able to.
    let until (accepted: 'T -> bool) (make: Random.Stream -> 'T) (stream: Random.Stream) : 'T =
        Seq.initInfinite (fun attempt -> make (Random.numbered (int64 attempt) stream)) |> Seq.find accepted

    /// One of the choices, all equally likely.
    let pick (name: string) (choices: 'T[]) (stream: Random.Stream) : 'T =
        choices[Random.below choices.Length (Random.named name stream) 0L]

    /// One of the choices, each as likely as its weight says.
    let weighted (name: string) (choices: (float * 'T)[]) (stream: Random.Stream) : 'T =
        let target = Random.uniform (Random.named name stream) 0L * Array.sumBy fst choices

        let reached = choices |> Array.scan (fun sum (weight, _) -> sum + weight) 0.0 |> Array.tail

        choices[min (choices.Length - 1) (reached |> Seq.takeWhile (fun sum -> sum <= target) |> Seq.length)] |> snd

    /// True with the given probability.
    let happens (name: string) (probability: float) (stream: Random.Stream) : bool =
        Random.uniform (Random.named name stream) 0L < probability

    /// An integer in [lowest, highest].
    let between (name: string) (lowest: int) (highest: int) (stream: Random.Stream) : int =
        lowest + Random.below (highest - lowest + 1) (Random.named name stream) 0L

    /// `count` different ones of the choices in random order; all of them when there are fewer.
    let sample (name: string) (count: int) (choices: 'T[]) (stream: Random.Stream) : 'T[] =
        let keys = Random.named name stream

        Array.init choices.Length (fun i -> struct (Random.bits keys (int64 i), i))
        |> Array.sort
        |> Array.truncate count
        |> Array.map (fun (struct (_, i)) -> choices[i])

    /// The parts that are not empty, with single spaces between them.
    let sentence (parts: string seq) : string = String.Join(" ", parts |> Seq.filter (fun part -> part <> ""))

    /// A text with "an" for "a" before vowels.
    let withArticles (text: string) : string =
        let words = text.Split ' '

        words
        |> Array.mapi (fun i word ->
            if word = "a" && i + 1 < words.Length && "aeiou".Contains words[i + 1].[0] then
                "an"
            else
                word)
        |> sentence
