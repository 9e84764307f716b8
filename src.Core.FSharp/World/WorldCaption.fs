/// The grammar of World's captions, and the reader that checks a caption against a scene. Writer and reader share the tables of
/// phrases; the reader knows nothing of how a caption was made.
namespace Hybrid

open System
open Hybrid.WorldDraw
open Hybrid.WorldScene

/// What a caption says: objects (a size where it is mentioned), some of their cells, their relations, and the background.
type Reading =
    {
        /// Size (where it is said), colour and outline of each
        Mentions: (Size option * Colour * Outline)[]
        /// Of an object's index: column and row of its cell
        Places: (int * struct (int * int)) list
        /// Between two objects, by their indices
        Relations: (int * Relation * int) list
        /// The background, where it is said
        Backdrop: Background option
    }

/// Captions of scenes in many wordings, and reading them back.
module WorldCaption =

    /// The greatest number of words of a caption.
    let maximumWords: int = 24

    let private places =
        [|
            "in the top left corner", struct (0, 0)
            "at the top", struct (1, 0)
            "in the top right corner", struct (2, 0)
            "on the left", struct (0, 1)
            "in the center", struct (1, 1)
            "on the right", struct (2, 1)
            "in the bottom left corner", struct (0, 2)
            "at the bottom", struct (1, 2)
            "in the bottom right corner", struct (2, 2)
        |]

    let private relations =
        [|
            "to the left of", Relation.LeftOf
            "left of", Relation.LeftOf
            "to the right of", Relation.RightOf
            "right of", Relation.RightOf
            "above", Relation.Above
            "below", Relation.Below
            "under", Relation.Below
            "inside", Relation.Inside
            "around", Relation.Around
        |]

    let private backdrops =
        [|
            "on a white background", Background.White
            "on a gray background", Background.Gray
            "on a black background", Background.Black
            "on sand", Background.Sand
            "at night", Background.Night
            "over grass", Background.Meadow
            "over green grass", Background.Meadow
        |]

    let private openers = [| "there is"; "here is"; "a picture of"; "this picture shows"; "you can see" |]

    let private plural (word: string) = if word.EndsWith 's' then word + "es" else word + "s"

    /// A noun phrase with its indefinite article: "an orange circle".
    let withArticle (phrase: string) : string = withArticles ("a " + phrase)

    let private phrase (name: string) table value stream =
        pick name (table |> Array.filter (fun (_, v) -> v = value)) stream |> fst

    let private describe withSize (thing: Thing) =
        sentence
            [
                if withSize then
                    wordOf sizes thing.Size
                wordOf colours thing.Colour
                wordOf figures thing.Figure
            ]

    /// What can be said of the objects, in the order given; every wording names them all.
    let private wordings (stream: Random.Stream) (things: Thing[]) =
        let withSize = happens "size" 0.6 stream
        let a = things |> Array.map (describe withSize >> withArticle)

        let at i =
            let cell = struct (things[i].Column, things[i].Row)
            a[i] + " " + phrase $"place {i}" places cell stream

        let related =
            if things.Length < 2 then
                []
            else
                relations
                |> Array.filter (fun (_, r) -> holds r things[0] things[1])
                |> Array.map (fun (words, _) -> $"{a[0]} {words} {a[1]}")
                |> List.ofArray

        match things.Length with
        | 1 -> [ a[0]; at 0 ]
        | 2 when things |> Array.exists (fun t -> t.Size = Size.Huge) -> related
        | 2 when a[0] = a[1] ->
            [
                sentence
                    [
                        "two"
                        if withSize then
                            wordOf sizes things[0].Size
                        wordOf colours things[0].Colour
                        plural (wordOf figures things[0].Figure)
                    ]
            ]
        | 2 -> $"{a[0]} and {a[1]}" :: $"{at 0} and {at 1}" :: related
        | _ ->
            [
                $"{a[0]} , {a[1]} and {a[2]}"
                $"{at 0} , {a[1]} and {a[2]}"
                yield! related |> List.map (fun said -> $"{said} , and {a[2]}")
            ]

    /// A true caption of a scene, at most 24 words: one of several wordings, long or short. It always names every object.
    let caption (stream: Random.Stream) (scene: Scene) : string =
        let things = sample "order" scene.Things.Length scene.Things stream
        let core = pick "wording" (wordings stream things |> Array.ofList) stream
        let opener = if happens "opener" 0.4 stream then pick "opening" openers stream else ""
        let backdrop = phrase "backdrop" backdrops scene.Background stream

        let candidates =
            match pick "ending" [| 0; 0; 1; 1; 2 |] stream with
            | 0 -> [ [ opener; core ] ]
            | 1 -> [ [ opener; core; backdrop ]; [ core; backdrop ] ]
            | _ -> [ [ backdrop; ","; core ] ]

        candidates @ [ [ core ] ]
        |> List.map sentence
        |> List.find (fun said -> said.Split(' ').Length <= maximumWords)

    let private mentions =
        let described =
            [|
                for size in [| yield "", None; for word, size in sizes -> word, Some size |] do
                    for colour in colours do
                        for figure in figures -> size, colour, figure
            |]

        [|
            for (size, s), (colour, c), (figure, f) in described do
                yield withArticle (sentence [ size; colour; figure ]), [ (s, c, f) ]
                yield sentence [ "two"; size; colour; plural figure ], [ (s, c, f); (s, c, f) ]
        |]

    let private opening = openers |> Array.map (fun opener -> opener, ())
    let private joints = [| ",", (); "and", () |]

    /// The value of the phrase that a text begins with, and the rest of the text.
    let private (|Begins|_|) (table: (string * 'T)[]) (text: string) =
        table
        |> Array.tryPick (fun (phrase, value) ->
            if text = phrase then
                Some(value, "")
            elif text.StartsWith(phrase + " ", StringComparison.Ordinal) then
                Some(value, text[phrase.Length + 1 ..])
            else
                None)

    /// What a caption says; none when it is not a sentence of the grammar.
    let read (caption: string) : Reading option =
        let rec step (reading: Reading) (pending: Relation option) (text: string) =
            let last = reading.Mentions.Length - 1

            match text with
            | "" -> if pending.IsNone && last >= 0 then Some reading else None
            | Begins mentions (said, rest) ->
                let relations =
                    match pending with
                    | Some relation -> (last, relation, last + 1) :: reading.Relations
                    | None -> reading.Relations

                step
                    { reading with Mentions = Array.append reading.Mentions (Array.ofList said); Relations = relations }
                    None
                    rest
            | Begins backdrops (background, rest) -> step { reading with Backdrop = Some background } pending rest
            | Begins places (cell, rest) when last >= 0 ->
                step { reading with Places = (last, cell) :: reading.Places } pending rest
            | Begins relations (relation, rest) when last >= 0 -> step reading (Some relation) rest
            | Begins joints (_, rest) -> step reading pending rest
            | _ -> None

        let nothing = { Mentions = [||]; Places = []; Relations = []; Backdrop = None }

        match caption with
        | Begins opening (_, rest) -> step nothing None rest
        | _ -> step nothing None caption

    /// Whether everything that a caption says holds in a scene: its objects can be matched with different objects of the scene
    /// such that sizes, colours, figures, cells, relations and the background agree. False for what is no caption.
    let isTrue (caption: string) (scene: Scene) : bool =
        let rec arrangements (rest: int list) =
            match rest with
            | [] -> [ [] ]
            | _ ->
                [
                    for first in rest do
                        for others in arrangements (List.except [ first ] rest) -> first :: others
                ]

        match read caption with
        | None -> false
        | Some reading ->
            let agrees (order: int list) =
                let things = order |> List.map (fun i -> scene.Things[i]) |> Array.ofList

                Seq.zip reading.Mentions things
                |> Seq.forall (fun ((size, colour, figure), thing) ->
                    thing.Colour = colour && thing.Figure = figure && (size.IsNone || size = Some thing.Size))
                && reading.Places |> List.forall (fun (i, cell) -> cell = struct (things[i].Column, things[i].Row))
                && reading.Relations |> List.forall (fun (i, relation, j) -> holds relation things[i] things[j])

            reading.Mentions.Length <= scene.Things.Length
            && (reading.Backdrop.IsNone || reading.Backdrop = Some scene.Background)
            && arrangements [ 0 .. scene.Things.Length - 1 ] |> List.exists agrees

    /// The composition that a caption names (see `composition`); none when it is not a sentence of the grammar.
    let compositionRead (caption: string) : string option =
        read caption
        |> Option.map (fun reading -> reading.Mentions |> Array.map (fun (_, colour, figure) -> colour, figure) |> compositionOf)
