/// Short stories about who has what and where; the last word of each follows from what came before.
module Hybrid.WorldStories

open Hybrid.WorldDraw
open Hybrid.WorldVocabulary

/// What a capital letter of a plot stands for: two people, two things, two places, two colours, all different.
let private roles = [| "A", "B", characters; "O", "U", objects; "P", "Q", places; "C", "D", colours |]

/// What happens, and what can be concluded from it; the last word of each conclusion has been named before.
type private Plot = { Setting: string; Conclusions: string[] }

// The first three name one thing, one place and one colour; the others take keeping two of a sort apart.
let private plots =
    [|
        {
            Setting = "A goes to the P and finds a C O ."
            Conclusions = [| "A is in the P ."; "A keeps the O ."; "now the O is with A ."; "the colour of the O is C ." |]
        }
        {
            Setting = "B is in the P with A . A gives a C O to B ."
            Conclusions = [| "they are still in the P ."; "now B keeps the O ."; "the colour of the O is C ." |]
        }
        {
            Setting = "A looks for the O . they say it is in the P ."
            Conclusions = [| "A finds the O in the P ."; "then A takes the O ." |]
        }
        {
            Setting = "A looks for the O . it is not in the P . it is in the Q ."
            Conclusions = [| "A finds the O in the Q ." |]
        }
        {
            Setting = "A has a C O . B has a D U ."
            Conclusions =
                [|
                    "the O is with A ."
                    "the U is with B ."
                    "the colour of the O is C ."
                    "the colour of the U is D ."
                    "A keeps the C O ."
                    "B keeps the D U ."
                |]
        }
        {
            Setting = "A goes to the P with a C O . B goes to the Q with a D U ."
            Conclusions =
                [|
                    "A is in the P ."
                    "B is in the Q ."
                    "the O is in the P ."
                    "the U is in the Q ."
                    "the colour of the O is C ."
                    "the colour of the U is D ."
                |]
        }
        {
            Setting = "A has a C O . B has a D U . A gives the O to B and takes the U ."
            Conclusions = [| "now the O is with B ."; "now the U is with A ."; "now B has the C O ."; "now A has the D U ." |]
        }
        {
            Setting = "A is in the P . B is in the Q . then A goes to the Q and B goes to the P ."
            Conclusions = [| "now A is in the Q ."; "now B is in the P ." |]
        }
        {
            Setting = "A and B are in the P . then B goes to the Q ."
            Conclusions = [| "A is still in the P ."; "now B is in the Q ." |]
        }
    |]

/// A story: the text up to its last word, that word, and the words of the same sort that could stand there, the other one of the
/// story first. `Combination` names everybody and everything in it.
type Story =
    {
        /// The text up to its last word
        Opening: string
        /// That word
        Last: string
        /// Words that could stand there
        Rivals: string[]
        /// Everybody and everything in it
        Combination: string
    }

/// Draws a story with one to three conclusions.
let story (stream: Random.Stream) : Story =
    let plot = pick "plot" plots stream

    let conclusions = sample "conclusions" (between "how many" 1 3 stream) plot.Conclusions stream

    let words = (sentence [ plot.Setting; yield! conclusions ]).Split ' '

    let cast =
        [
            for one, two, sort in roles do
                let drawn = sample one sort.Length sort stream
                yield one, (drawn[0], drawn)
                yield two, (drawn[1], drawn)
        ]
        |> Map.ofList

    let say word =
        match cast.TryFind word with
        | Some(chosen, _) -> chosen
        | None -> word

    let last = words[words.Length - 2]

    {
        Opening = words[.. words.Length - 3] |> Array.map say |> sentence |> withArticles
        Last = say last
        Rivals = snd cast[last] |> Array.except [ say last ]
        Combination = words |> Array.filter cast.ContainsKey |> Array.distinct |> Array.sort |> Array.map say |> sentence
    }

/// A story as text.
let tell (story: Story) : string = $"{story.Opening} {story.Last} ."
