/// World's scenes as data.
namespace Hybrid

open Hybrid.WorldDraw

/// What an object looks like.
[<RequireQualifiedAccess>]
type Outline =
    /// A disc
    | Circle
    /// With level sides
    | Square
    /// With its point up
    | Triangle
    /// A square on its corner
    | Diamond
    /// A disc with a hole
    | Ring
    /// Two bars, level and upright
    | Cross
    /// With five points
    | Star
    /// With its point down
    | Heart

/// What an object is filled with, and its bytes of red, green and blue.
[<RequireQualifiedAccess>]
type Colour =
    /// (215, 35, 40)
    | Red
    /// (245, 140, 25)
    | Orange
    /// (245, 220, 50)
    | Yellow
    /// (45, 150, 65)
    | Green
    /// (45, 90, 215)
    | Blue
    /// (130, 50, 170)
    | Purple
    /// (245, 140, 190)
    | Pink
    /// (120, 75, 40)
    | Brown
    /// (15, 15, 15)
    | Black
    /// (250, 250, 250)
    | White

/// How large an object is in a picture of 64 × 64 pixels, whose cells have 21.
[<RequireQualifiedAccess>]
type Size =
    /// About half a cell wide
    | Small
    /// Nearly a cell wide
    | Large
    /// Fills the picture; stands in the middle, alone or around one other object.
    | Huge

/// What is behind the objects, and its bytes of red, green and blue.
[<RequireQualifiedAccess>]
type Background =
    /// Plain (240, 240, 240)
    | White
    /// Plain (150, 150, 150)
    | Gray
    /// Plain (30, 30, 30)
    | Black
    /// Plain (225, 205, 160)
    | Sand
    /// Plain (25, 35, 85)
    | Night
    /// Sky above, grass below.
    | Meadow

/// One object: its cell of the 3×3 grid (column and row from the top left), and its centre's offset from the middle of the
/// cell in pixels.
type Thing =
    {
        /// Its outline
        Figure: Outline
        /// What it is filled with
        Colour: Colour
        /// Of its outline
        Size: Size
        /// 0 to 2, from the left
        Column: int
        /// 0 to 2, from the top
        Row: int
        /// Pixels to the right, and down
        Offset: struct (float * float)
    }

/// One to three objects that do not overlap, except that a huge one may hold another.
type Scene =
    {
        /// From the back to the front
        Things: Thing[]
        /// Behind all
        Background: Background
    }

/// How one object stands to another.
[<RequireQualifiedAccess>]
type Relation =
    /// The first is left of the second
    | LeftOf
    /// The first is right of the second
    | RightOf
    /// The first is above the second
    | Above
    /// The first is below the second
    | Below
    /// The first is within the second, which is huge
    | Inside
    /// The first, which is huge, holds the second
    | Around

/// Drawing scenes from a stream, and what is true of them.
module WorldScene =

    /// The figures and their words.
    let figures: (string * Outline)[] =
        [|
            "circle", Outline.Circle
            "square", Outline.Square
            "triangle", Outline.Triangle
            "diamond", Outline.Diamond
            "ring", Outline.Ring
            "cross", Outline.Cross
            "star", Outline.Star
            "heart", Outline.Heart
        |]

    /// The colours and their words.
    let colours: (string * Colour)[] =
        [|
            "red", Colour.Red
            "orange", Colour.Orange
            "yellow", Colour.Yellow
            "green", Colour.Green
            "blue", Colour.Blue
            "purple", Colour.Purple
            "pink", Colour.Pink
            "brown", Colour.Brown
            "black", Colour.Black
            "white", Colour.White
        |]

    /// The sizes and their words.
    let sizes: (string * Size)[] = [| "small", Size.Small; "large", Size.Large; "huge", Size.Huge |]

    /// The backgrounds.
    let backgrounds: Background[] =
        [|
            Background.White
            Background.Gray
            Background.Black
            Background.Sand
            Background.Night
            Background.Meadow
        |]

    /// The first word of a table that stands for a value.
    let wordOf (table: (string * 'T)[]) (value: 'T) : string = table |> Array.find (fun (_, v) -> v = value) |> fst

    /// Whether objects of a colour can be seen on a background.
    let visible (background: Background) (colour: Colour) : bool =
        match background, colour with
        | Background.White, Colour.White
        | Background.Black, Colour.Black
        | Background.Night, (Colour.Black | Colour.Blue)
        | Background.Meadow, Colour.Green -> false
        | _ -> true

    let private cells =
        [|
            for row in 0..2 do
                for column in 0..2 -> struct (column, row)
        |]

    let private offset (stream: Random.Stream) =
        let along name = 2.0 * Random.uniform (Random.named name stream) 0L - 1.0
        struct (along "x", along "y")

    let private thing stream background (taken: Colour option) figures size (struct (column, row)) =
        {
            Figure = pick "figure" figures stream
            Colour =
                until
                    (fun colour -> visible background colour && Some colour <> taken)
                    (pick "colour" (Array.map snd colours))
                    stream
            Size = size
            Column = column
            Row = row
            Offset = offset (Random.named "offset" stream)
        }

    /// Several objects in different cells; two are twins now and then, so that "two red circles" occurs.
    let private scattered count stream background =
        let anyFigure = Array.map snd figures

        let things =
            sample "cells" count cells stream
            |> Array.mapi (fun i cell ->
                let own = Random.numbered (int64 i) stream
                thing own background None anyFigure (pick "size" [| Size.Small; Size.Large |] own) cell)

        if count = 2 && happens "twins" 0.15 stream then
            [|
                things[0]
                { things[1] with Figure = things[0].Figure; Colour = things[0].Colour; Size = things[0].Size }
            |]
        else
            things

    let private nested stream background =
        let middle = struct (1, 1)
        let around = [| Outline.Circle; Outline.Square; Outline.Diamond; Outline.Ring |]

        let outer = thing (Random.named "outer" stream) background None around Size.Huge middle

        let inner =
            thing
                (Random.named "inner" stream)
                background
                (Some outer.Colour)
                (Array.map snd figures)
                (pick "size" [| Size.Small; Size.Large |] stream)
                middle

        [| outer; inner |]

    let private fillsThePicture stream background =
        [| thing stream background None (Array.map snd figures) Size.Huge (struct (1, 1)) |]

    /// Draws a scene.
    let scene (stream: Random.Stream) : Scene =
        let background = pick "background" (backgrounds) stream

        let things =
            weighted
                "kind"
                [| 0.25, scattered 1; 0.10, fillsThePicture; 0.15, nested; 0.30, scattered 2; 0.20, scattered 3 |]
                stream

        { Things = things stream background; Background = background }

    /// A set of coloured figures in a fixed order, as text.
    let compositionOf (things: (Colour * Outline)[]) : string =
        things
        |> Array.map (fun (colour, figure) -> wordOf colours colour + " " + wordOf figures figure)
        |> Array.sort
        |> String.concat " , "

    /// Which coloured figures a scene holds, in a fixed order: what decides the split of a scene. Every caption names them all,
    /// so a caption belongs to one split as well.
    let composition (scene: Scene) : string = scene.Things |> Array.map (fun t -> t.Colour, t.Figure) |> compositionOf

    /// Whether a relation holds between two objects.
    let holds (relation: Relation) (a: Thing) (b: Thing) : bool =
        match relation with
        | Relation.LeftOf -> a.Column < b.Column
        | Relation.RightOf -> a.Column > b.Column
        | Relation.Above -> a.Row < b.Row
        | Relation.Below -> a.Row > b.Row
        | Relation.Inside -> a.Size <> Size.Huge && b.Size = Size.Huge
        | Relation.Around -> a.Size = Size.Huge && b.Size <> Size.Huge
