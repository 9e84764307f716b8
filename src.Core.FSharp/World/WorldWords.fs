/// A picture tokenizer that is tied to words: every code stands for a word of World's captions. A scene becomes 8 rows of 4 cells, and
/// each cell two codes: the word of its colour and the word of what is there. It is the opposite of a learned codebook, whose codes
/// stand for nothing that has a name, and so a control of the paper's explanation (section 5: image tokens lack the meaning of text).
module Hybrid.WorldWords

/// Rows of cells, cells of a row, and codes of a picture.
let rows, columns, codes = 8, 4, 64

let private ground = "background"

/// The word of each code.
let words: string[] =
    Array.concat
        [
            Array.map fst WorldScene.colours
            [| "gray"; "sand"; "night"; "grass" |]
            Array.map fst WorldScene.figures
            [| ground |]
        ]

/// The id of each code's word in World's vocabulary.
let ids: int[] = Array.map WorldVocabulary.id words

let private codeOf =
    let numbers = words |> Array.mapi (fun code word -> word, code) |> Map
    fun word -> numbers[word]

let private groundWord (background: Background) (y: float) =
    match background with
    | Background.White -> "white"
    | Background.Gray -> "gray"
    | Background.Black -> "black"
    | Background.Sand -> "sand"
    | Background.Night -> "night"
    | Background.Meadow -> if y < float WorldPicture.horizon then "blue" else "grass"

/// The 64 codes of a scene, cell by cell from the top left: colour, then figure or ground.
let encode (scene: Scene) : int[] =
    let height, width = float WorldPicture.side / float rows, float WorldPicture.side / float columns

    [|
        for row in 0 .. rows - 1 do
            for column in 0 .. columns - 1 do
                let x, y = (float column + 0.5) * width, (float row + 0.5) * height

                match WorldPicture.thingAt scene x y with
                | Some thing ->
                    codeOf (WorldScene.wordOf WorldScene.colours thing.Colour)
                    codeOf (WorldScene.wordOf WorldScene.figures thing.Figure)
                | None ->
                    codeOf (groundWord scene.Background y)
                    codeOf ground
    |]

let private bytesOf =
    let first (struct (first, _)) = first
    let second (struct (_, second)) = second

    let grounds =
        [
            "gray", first (WorldPicture.paper Background.Gray)
            "sand", first (WorldPicture.paper Background.Sand)
            "night", first (WorldPicture.paper Background.Night)
            "grass", second (WorldPicture.paper Background.Meadow)
        ]

    let colours = [ for word, colour in WorldScene.colours -> word, WorldPicture.ink colour ]
    Map(colours @ grounds)

/// The picture that 64 codes stand for, 64 · 64 · 3 bytes: each cell in its colour, darker in a frame where something stands in it.
/// A cell whose codes name no colour is gray. Errors: InputException unless there are 64 codes of the codebook.
let decode (given: int[]) : byte[] =
    if given.Length <> codes || given |> Array.exists (fun code -> code < 0 || code >= words.Length) then
        raise (InputException $"a picture in words has {codes} codes from 0 to {words.Length - 1}.")

    let side = WorldPicture.side
    let height, width = side / rows, side / columns
    let pixels = Array.zeroCreate<byte>(side * side * 3)

    for y in 0 .. side - 1 do
        for x in 0 .. side - 1 do
            let cell = 2 * ((y / height) * columns + x / width)

            let struct (red, green, blue) =
                bytesOf |> Map.tryFind words[given[cell]] |> Option.defaultValue (struct (128, 128, 128))

            let edge = y % height = 0 || x % width = 0
            let shade = if edge && words[given[cell + 1]] <> ground then 0.8 else 1.0
            let at = 3 * (y * side + x)

            [| red; green; blue |]
            |> Array.iteri (fun channel value -> pixels[at + channel] <- byte (float value * shade))

    pixels

/// Pictures told in sentences like those of World's text, each code a word: image tokens that are language in all but their ids, and so the
/// case in which language pre-training must help if it can help at all.
module Told =

    /// The word of each code: all of World's.
    let words: string[] = WorldVocabulary.words

    /// Codes of a picture.
    let codes: int = 64

    let private name (thing: Thing) =
        WorldScene.wordOf WorldScene.colours thing.Colour + " " + WorldScene.wordOf WorldScene.figures thing.Figure

    /// A relation, its words, and those of the way back.
    let internal turns: (struct (Relation * string * string))[] =
        [|
            struct (Relation.LeftOf, "to the left of", "to the right of")
            struct (Relation.RightOf, "to the right of", "to the left of")
            struct (Relation.Above, "above", "below")
            struct (Relation.Below, "below", "above")
            struct (Relation.Inside, "inside", "around")
            struct (Relation.Around, "around", "inside")
        |]

    let private sentences (scene: Scene) =
        let between (one: Thing) (other: Thing) =
            [
                for struct (relation, there, back) in turns do
                    if WorldScene.holds relation one other then
                        $"if the {name one} is {there} the {name other} , then the {name other} is {back} the {name one} ."
            ]

        [
            for thing in scene.Things do
                let colour = WorldScene.wordOf WorldScene.colours thing.Colour
                let figure = WorldScene.wordOf WorldScene.figures thing.Figure
                $"the shape is a {figure} and its colour is {colour} ."

            for i, one in Array.indexed scene.Things do
                for j, other in Array.indexed scene.Things do
                    if i <> j then
                        yield! between one other
        ]

    /// The 64 codes of a scene: what is in it and how that stands to each other, again from the start where there is nothing more to say.
    let encode (scene: Scene) : int[] =
        let told = sentences scene |> List.toArray |> Array.collect WorldVocabulary.encode
        Array.init codes (fun i -> told[i % told.Length])
