module Hybrid.Tests.WorldSceneTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.Generate

let private scenes seed split count = Array.init count (fun i -> World.scene seed split (int64 i))

let private captions =
    testList
        "captions"
        [
            testCase "are true of their scenes, short, and name the composition"
            <| fun () ->
                for struct (caption, scene) in Array.append (scenes 11L Split.Train 2000) (scenes 11L Split.HeldOut 2000) do
                    Expect.isTrue (WorldCaption.isTrue caption scene) $"{caption} of {scene}"
                    Expect.isLessThanOrEqual (caption.Split ' ').Length WorldCaption.maximumWords caption
                    Expect.equal (WorldCaption.compositionRead caption) (Some(WorldScene.composition scene)) caption

            testCase "a scene has several captions"
            <| fun () ->
                for struct (_, scene) in scenes 12L Split.Train 50 do
                    let different =
                        [ for i in 0L .. 99L -> WorldCaption.caption (Random.ofSeed i) scene ] |> List.distinct |> List.length

                    Expect.isGreaterThan different 5 $"captions of {scene}"

            testCase "the reader refuses what is false"
            <| fun () ->
                let thing figure colour size column row =
                    {
                        Figure = figure
                        Colour = colour
                        Size = size
                        Column = column
                        Row = row
                        Offset = struct (0.0, 0.0)
                    }

                let scene =
                    {
                        Things =
                            [| thing Outline.Circle Colour.Red Size.Small 0 0; thing Outline.Square Colour.Blue Size.Large 2 1 |]
                        Background = Background.Sand
                    }

                for caption in
                    [
                        "a red circle"
                        "there is a small red circle to the left of a large blue square on sand"
                        "a red circle in the top left corner and a blue square on the right"
                        "a large blue square below a small red circle"
                        "on sand , a blue square and a red circle"
                    ] do
                    Expect.isTrue (WorldCaption.isTrue caption scene) caption

                for caption in
                    [
                        "a large red circle"
                        "a blue circle"
                        "two red circles"
                        "a red circle and a red circle"
                        "a red circle to the right of a blue square"
                        "a red circle inside a blue square"
                        "a red circle in the center"
                        "a red circle on the left and a blue square on the right"
                        "a red circle at night"
                        "a red circle , a blue square and a green star"
                        "a red circle to the left of"
                        "circle red a"
                        ""
                    ] do
                    Expect.isFalse (WorldCaption.isTrue caption scene) caption

            testCase "captions of other scenes are mostly false"
            <| fun () ->
                let drawn = scenes 13L Split.Train 200

                let true' =
                    Seq.allPairs drawn drawn
                    |> Seq.filter (fun (struct (_, a), struct (_, b)) -> WorldScene.composition a <> WorldScene.composition b)
                    |> Seq.averageBy (fun (struct (caption, _), struct (_, scene)) ->
                        if WorldCaption.isTrue caption scene then 1.0 else 0.0)

                Expect.isLessThan true' 0.05 "share of true captions"
        ]

let private pictures =
    testList
        "pictures"
        [
            testCase "of different scenes differ, and have three bytes per pixel"
            <| fun () ->
                let drawn = scenes 17L Split.Train 500 |> Array.map (fun (struct (_, scene)) -> scene)
                let rendered = drawn |> Array.map WorldPicture.render
                Expect.allEqual (rendered |> Array.map Array.length) (64 * 64 * 3) "sizes"

                Expect.equal
                    (rendered |> Array.map Convert.ToHexString |> Array.distinct |> Array.length)
                    (drawn |> Array.distinct |> Array.length)
                    "different pictures"

            testCase "show each object in its cell and leave the others alone"
            <| fun () ->
                for figure in WorldScene.figures |> Array.map snd do
                    for column in 0..2 do
                        for row in 0..2 do
                            let thing =
                                {
                                    Figure = figure
                                    Colour = Colour.Red
                                    Size = Size.Large
                                    Column = column
                                    Row = row
                                    Offset = struct (1.0, -1.0)
                                }

                            let empty = WorldPicture.render { Things = [||]; Background = Background.Gray }
                            let drawn = WorldPicture.render { Things = [| thing |]; Background = Background.Gray }

                            let changed =
                                [
                                    for y in 0..63 do
                                        for x in 0..63 do
                                            if
                                                drawn[3 * (64 * y + x) .. 3 * (64 * y + x) + 2]
                                                <> empty[3 * (64 * y + x) .. 3 * (64 * y + x) + 2]
                                            then
                                                struct (x, y)
                                ]

                            Expect.isGreaterThan changed.Length 80 $"{figure} is seen"

                            for struct (x, y) in changed do
                                Expect.isLessThan (abs (x - 32 - 20 * (column - 1))) 13 $"{figure} stays in column {column}"
                                Expect.isLessThan (abs (y - 32 - 20 * (row - 1))) 13 $"{figure} stays in row {row}"

            testCase "have the object's colour where the object is, and soft edges"
            <| fun () ->
                let thing =
                    {
                        Figure = Outline.Circle
                        Colour = Colour.Red
                        Size = Size.Huge
                        Column = 1
                        Row = 1
                        Offset = struct (0.0, 0.0)
                    }

                let picture = WorldPicture.render { Things = [| thing |]; Background = Background.White }
                let pixel x y = picture[3 * (64 * y + x) .. 3 * (64 * y + x) + 2]
                Expect.equal (pixel 32 32) [| 215uy; 35uy; 40uy |] "the middle"
                Expect.equal (pixel 0 0) [| 240uy; 240uy; 240uy |] "the corner"

                let shades = [ for x in 0..63 -> picture[3 * (64 * 20 + x) + 1] ] |> List.distinct |> List.length
                Expect.isGreaterThan shades 2 "a row through the edge has shades between"

            testCase "a huge object lies under the one inside it"
            <| fun () ->
                let thing colour size =
                    {
                        Figure = Outline.Circle
                        Colour = colour
                        Size = size
                        Column = 1
                        Row = 1
                        Offset = struct (0.0, 0.0)
                    }

                let things = [| thing Colour.Red Size.Small; thing Colour.Blue Size.Huge |]
                let picture order = WorldPicture.render { Things = order; Background = Background.White }
                Expect.equal (picture things) (picture (Array.rev things)) "the order of the list does not matter"
                let drawn = picture things
                Expect.equal drawn[3 * (64 * 32 + 32)] 215uy "the small one is seen"
        ]

let private words =
    testList
        "codes that stand for words"
        [
            property "a scene is 64 codes of the codebook, and its colours and figures are those of the caption" (fun seed ->
                let struct (caption, scene) = World.scene 3L Split.Train (int64 seed &&& 0xFFFFL)
                let codes = WorldWords.encode scene
                Expect.hasLength codes WorldWords.codes "codes"
                let said = codes |> Array.map (fun code -> WorldWords.words[code]) |> Set
                let grounds = set [ "background"; "gray"; "sand"; "night"; "grass"; "white"; "black"; "blue" ]
                let named = caption.Split ' ' |> Set

                for word in said - grounds do
                    let known = named.Contains word || named.Contains(word + "s") || named.Contains(word + "es")
                    Expect.isTrue known $"'{word}' in «{caption}»"

                Expect.hasLength (WorldWords.decode codes) (64 * 64 * 3) "and can be drawn")

            property "most cells of the picture have the colour that their code names" (fun seed ->
                let struct (_, scene) = World.scene 3L Split.HeldOut (int64 seed &&& 0xFFFFL)
                let real, drawn = WorldPicture.render scene, WorldWords.decode (WorldWords.encode scene)

                // The sky of a meadow is of a lighter blue than blue things.
                let compared = if scene.Background = Background.Meadow then [ 5..7 ] else [ 0..7 ]

                let alike =
                    [
                        for row in compared do
                            for column in 0..3 do
                                let at = 3 * (64 * (8 * row + 4) + 16 * column + 8)
                                [ 0..2 ] |> List.forall (fun c -> abs (int real[at + c] - int drawn[at + c]) < 60)
                    ]

                let share = float (alike |> List.filter id |> List.length) / float alike.Length
                Expect.isGreaterThan share 0.7 "share of cells")

            property "a scene told in sentences says only what is true of it" (fun seed ->
                let struct (_, scene) = World.scene 3L Split.Train (int64 seed &&& 0xFFFFL)
                let codes = WorldWords.Told.encode scene
                Expect.hasLength codes WorldWords.Told.codes "codes"
                let text = WorldVocabulary.decode codes
                let whole = text.Split(" .", StringSplitOptions.TrimEntries)

                for sentence in whole[.. whole.Length - 2] do
                    let about =
                        scene.Things
                        |> Array.map (fun t ->
                            WorldScene.wordOf WorldScene.colours t.Colour, WorldScene.wordOf WorldScene.figures t.Figure)

                    let shape =
                        about
                        |> Array.exists (fun (colour, figure) ->
                            sentence = $"the shape is a {figure} and its colour is {colour}")

                    let related =
                        about |> Array.exists (fun (colour, figure) -> sentence.StartsWith $"if the {colour} {figure} is ")
                        && about |> Array.exists (fun (colour, figure) -> sentence.Contains $", then the {colour} {figure} is ")

                    Expect.isTrue (shape || related) sentence)

            testCase "every code has a word with an id, and no two the same" (fun () ->
                Expect.equal (Array.distinct WorldWords.words) WorldWords.words "words"
                Expect.all WorldWords.ids (fun id -> id > 0) "ids"
                Expect.throwsT<InputException> (fun () -> WorldWords.decode [| 1 |] |> ignore) "too few codes"
                Expect.throwsT<InputException> (fun () -> WorldWords.decode (Array.create 64 99) |> ignore) "no such code")

            property "the long caption is three captions of the scene, all of them true" (fun seed ->
                let index = int64 seed &&& 0xFFFFL
                let struct (own, scene) = World.scene 3L Split.Train index
                let parts = (World.longCaption 3L Split.Train index).Split " . "
                Expect.equal parts[0] own "its own first"
                Expect.hasLength parts 3 "three"
                Expect.all parts (fun caption -> WorldCaption.isTrue caption scene) "true")
        ]

let tests = testList "World scenes" [ captions; pictures; words ]
