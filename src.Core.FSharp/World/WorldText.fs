/// World's text corpus: documents of facts, of lists, of stories, and of plain sentences that share their words with captions.
module Hybrid.WorldText

open Hybrid.WorldDraw
open Hybrid.WorldScene

/// The greatest number of words of a document.
let maximumWords: int = 80

/// A document, and the combinations in it that decide its split.
type private Draft = { Text: string; Combinations: string[] }

let private draft (sentences: string[]) =
    {
        Text = sentence sentences
        Combinations = sentences |> Array.pairwise |> Array.map (fun (first, second) -> first + " " + second)
    }

let private facts count stream = draft (WorldFacts.statements count stream)

let private list count stream =
    let struct (text, combinations) = WorldLists.list count stream
    { Text = text; Combinations = combinations }

let private stories count stream =
    let told = Array.init count (fun i -> WorldStories.story (Random.numbered (int64 i) stream))

    {
        Text = told |> Array.map WorldStories.tell |> sentence
        Combinations = told |> Array.map _.Combination
    }

let private nature = WorldLists.rules |> Array.find (fun rule -> rule.Name = "colour") |> _.Pairs

let private opposites = WorldLists.rules |> Array.find (fun rule -> rule.Name = "opposite") |> _.Pairs

let private outlines =
    [|
        "a square has four sides ."
        "a diamond has four sides ."
        "a triangle has three sides ."
        "a star has five points ."
        "a cross has four arms ."
        "a ring has a hole ."
        "a circle is round ."
        "a ring is round ."
        "a heart has two round sides ."
    |]

/// One plain sentence: about a figure, a colour, an opposite, a drawing, or where two figures stand.
let private plain (stream: Random.Stream) =
    let word name table = pick name (Array.map fst table) stream
    let figure, colour, size = word "figure" figures, word "colour" colours, word "size" sizes

    match weighted "sentence" [| 1.0, 0; 1.0, 1; 1.0, 2; 1.5, 3; 0.5, 4; 0.5, 5; 1.5, 6 |] stream with
    | 0 -> pick "outline" outlines stream
    | 1 ->
        let thing, shade = pick "nature" nature stream
        pick "words" [| $"the {thing} is {shade} ."; $"what colour is the {thing} ? {shade} ." |] stream
    | 2 ->
        let one, other = pick "opposite" opposites stream
        $"{one} is the opposite of {other} ."
    | 3 ->
        let character = pick "character" WorldVocabulary.characters stream
        let drawing = WorldCaption.withArticle $"{size} {colour} {figure}"
        pick "verb" [| $"{character} draws {drawing} ."; $"{character} paints {drawing} on paper ." |] stream
    | 4 -> $"the shape is a {figure} and its colour is {colour} ."
    | 5 -> $"a large {figure} is bigger than a small {figure} ."
    | _ ->
        let one = $"{colour} {figure}"
        let other = word "other colour" colours + " " + word "other figure" figures
        let struct (_, there, back) = pick "turn" WorldWords.Told.turns stream
        $"if the {one} is {there} the {other} , then the {other} is {back} the {one} ."

let private plainSentences count stream = Array.init count (fun i -> plain (Random.numbered (int64 i) stream)) |> draft

/// The kinds of documents: how often, the least and the greatest number of parts, and how one is drawn.
let private mixture =
    [| 0.35, (5, 9, facts); 0.20, (4, 12, list); 0.35, (1, 3, stories); 0.10, (3, 5, plainSentences) |]

/// A document of a split, at most 80 words. A document of the train split holds no held-out combination, and one of the
/// held-out split holds at least one: two statements side by side, two examples of a list side by side, the cast of a story.
/// Its kind and the number of its parts are drawn first, so that they are distributed alike in both splits.
let document (split: Split) (stream: Random.Stream) : string =
    let lowest, highest, draw = weighted "kind" mixture stream
    let parts = between "parts" lowest highest stream

    let fits draft = splitOfAll draft.Combinations = split && draft.Text.Split(' ').Length <= maximumWords

    (until fits (draw parts) stream).Text
