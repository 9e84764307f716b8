/// Short stories about who has what and where; the last word of each follows from what came before.
module Hybrid.WorldStories

open Hybrid.WorldDraw
open Hybrid.WorldVocabulary

let private objects = "ball hat cup book key boat lamp coat spoon drum bag pen bell".Split ' '

let private places = "garden kitchen park school shop barn market station".Split ' '

/// What a capital letter of a plot stands for: two people, two things, two places, two colours, all different.
let private roles = [| 'A', 'B', characters; 'O', 'U', objects; 'P', 'Q', places; 'C', 'D', colours |]

/// The stories; the last word but the full stop has been named before.
let private plots =
    [|
        "A has a C O . B has a D U . A goes to the P . A gives the O to B . now the O is with B ."
        "A has a C O . B has a D U . they meet in the P . B gives the U to A . now the U is with A ."
        "A has a O . B has a U . A gives the O to B . now A has no O but B has the U and the O ."
        "A goes to the P with a C O . B goes to the Q with a D U . the O is in the P ."
        "A goes to the P with a C O . B goes to the Q with a D U . the U is in the Q ."
        "A is in the P . B is in the Q . then A goes to the Q and meets B there . now A and B are in the Q ."
        "A and B are in the P . then B goes to the Q . A is still in the P ."
        "A and B are in the P . then B goes to the Q . now B is in the Q ."
        "A has a C O . B has a D U . they meet in the P . the O of A is C ."
        "A has a C O . B has a D U . they meet in the P . the U of B is D ."
        "A looks for the O . it is not in the P . it is in the Q . A finds the O in the Q ."
        "A puts a C O in the P . B puts a D U in the Q . in the P there is the O ."
        "A puts a C O in the P . B puts a D U in the Q . in the Q there is the U ."
        "A wants the O but B wants the U . they go to the P . B takes the U and A takes the O ."
    |]

/// A story: the text up to its last word, that word, and the words of the same sort that could stand there, those of the story
/// first. `Combination` names everybody and everything in it.
type Story = { Opening: string; Last: string; Rivals: string[]; Combination: string }

/// Draws a story.
let story (stream: Random.Stream) : Story =
    let plot = (pick "plot" plots stream).Split ' '

    let cast =
        [
            for one, two, sort in roles do
                let drawn = sample (string one) sort.Length sort stream
                yield string one, (drawn[0], drawn)
                yield string two, (drawn[1], drawn)
        ]
        |> Map.ofList

    let say word =
        match cast.TryFind word with
        | Some(chosen, _) -> chosen
        | None -> word

    let answer = plot[plot.Length - 2]

    {
        Opening = plot[.. plot.Length - 3] |> Array.map say |> sentence |> withArticles
        Last = say answer
        Rivals = snd cast[answer] |> Array.except [ say answer ]
        Combination =
            cast
            |> Map.toSeq
            |> Seq.filter (fun (role, _) -> Array.contains role plot)
            |> Seq.map (fun (_, (chosen, _)) -> chosen)
            |> String.concat " "
    }

/// A story as text.
let tell (story: Story) : string = $"{story.Opening} {story.Last} ."
