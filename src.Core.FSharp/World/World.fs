/// World, the embedded default data: an infinite, seeded source of captioned pictures and of text, in two splits that cannot
/// overlap. Item `index` of a split is a function of the seed, the split and the index alone.
module Hybrid.World

open Hybrid.WorldDraw

let private streamOf (kind: string) (seed: int64) (split: Split) (index: int64) =
    let half =
        match split with
        | Split.Train -> "train"
        | Split.HeldOut -> "held out"

    Random.ofSeed seed |> Random.named "world" |> Random.named kind |> Random.named half |> Random.numbered index

/// A captioned scene. The composition of a scene decides its split, and each of its captions names the composition: no scene
/// and no caption of one split occurs in the other.
let scene (seed: int64) (split: Split) (index: int64) : struct (string * Scene) =
    let stream = streamOf "pair" seed split index

    let scene =
        stream
        |> Random.named "scene"
        |> until (fun scene -> splitOf (WorldScene.composition scene) = split) WorldScene.scene

    struct (WorldCaption.caption (Random.named "caption" stream) scene, scene)

/// A caption (at most 24 words) and its picture (64 · 64 · 3 bytes, see `WorldPicture.render`).
let pair (seed: int64) (split: Split) (index: int64) : string * byte[] =
    let struct (caption, scene) = scene seed split index
    caption, WorldPicture.render scene

/// Three captions of the scene that `scene` gives, with full stops between them: at most 74 words.
let longCaption (seed: int64) (split: Split) (index: int64) : string =
    let struct (own, scene) = scene seed split index
    let stream = streamOf "pair" seed split index |> Random.named "more captions"
    let more i = WorldCaption.caption (Random.numbered i stream) scene
    String.concat " . " [ own; more 1L; more 2L ]

/// A document of the text corpus, at most 80 words (see `WorldText.document`).
let document (seed: int64) (split: Split) (index: int64) : string =
    streamOf "document" seed split index |> WorldText.document split
