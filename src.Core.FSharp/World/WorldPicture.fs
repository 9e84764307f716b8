/// Pictures of World's scenes, anti-aliased: the coverage of a pixel follows from the signed distance of its centre to the
/// outline of a figure. Only additions, multiplications, divisions and square roots, so the bytes are the same everywhere.
module Hybrid.WorldPicture

open System

/// Width and height of a picture in pixels.
let side: int = 64

/// Distance between the centres of neighbouring cells of the grid, in pixels.
let private pitch = 20.0

/// Height of the horizon of a meadow, in pixels from the top.
let horizon: int = 40

let private radius (size: Size) =
    match size with
    | Size.Small -> 5.5
    | Size.Large -> 9.5
    | Size.Huge -> 25.0

/// The bytes of a colour: red, green and blue.
let ink (colour: Colour) : struct (int * int * int) =
    match colour with
    | Colour.Red -> struct (215, 35, 40)
    | Colour.Orange -> struct (245, 140, 25)
    | Colour.Yellow -> struct (245, 220, 50)
    | Colour.Green -> struct (45, 150, 65)
    | Colour.Blue -> struct (45, 90, 215)
    | Colour.Purple -> struct (130, 50, 170)
    | Colour.Pink -> struct (245, 140, 190)
    | Colour.Brown -> struct (120, 75, 40)
    | Colour.Black -> struct (15, 15, 15)
    | Colour.White -> struct (250, 250, 250)

/// Colour of a background above and below the horizon.
let paper (background: Background) : struct (struct (int * int * int) * struct (int * int * int)) =
    let plain colour = struct (colour, colour)

    match background with
    | Background.White -> plain (struct (240, 240, 240))
    | Background.Gray -> plain (struct (150, 150, 150))
    | Background.Black -> plain (struct (30, 30, 30))
    | Background.Sand -> plain (struct (225, 205, 160))
    | Background.Night -> plain (struct (25, 35, 85))
    | Background.Meadow -> struct (struct (165, 205, 240), struct (125, 180, 100))

let inline private length (x: float) (y: float) = sqrt (x * x + y * y)
let inline private clamp low high (x: float) = Math.Min(high, Math.Max(low, x))

/// Distance to the segment from the origin to (bx, by).
let inline private segment bx by x y =
    let h = clamp 0.0 1.0 ((x * bx + y * by) / (bx * bx + by * by))
    length (x - h * bx) (y - h * by)

let private box halfWidth halfHeight x y =
    let dx = abs x - halfWidth
    let dy = abs y - halfHeight
    length (max dx 0.0) (max dy 0.0) + min (max dx dy) 0.0

/// Five-pointed star: fold the plane twice along the mirror lines of the star, then measure to one edge.
let private star r x y =
    // cosine and sine of 36°
    let c36, s36 = 0.8090169943749475, 0.5877852522924731
    let x = abs x

    let fold nx ny struct (x, y) =
        let beyond = 2.0 * max (x * nx + y * ny) 0.0
        struct (x - beyond * nx, y - beyond * ny)

    let struct (x, y) = struct (x, y) |> fold c36 -s36 |> fold -c36 -s36
    let x = abs x
    let y = y - r
    // From the tip to the notch between two points; 0.45 is the inner radius as a share of the outer one.
    let ex = 0.45 * s36 * r
    let ey = (0.45 * c36 - 1.0) * r
    let outside = if y * ex - x * ey > 0.0 then 1.0 else -1.0
    outside * segment ex ey x y

let private heart r x y =
    // The unit heart stands on its point (0, 0) and is about 1.1 high; scale it to the radius and centre it.
    let scale = 1.75 * r
    let x = abs x / scale
    let y = y / scale + 0.55
    let squared x y = x * x + y * y

    if x + y > 1.0 then
        scale * (length (x - 0.25) (y - 0.75) - 0.35355339059327373)
    else
        let m = 0.5 * max (x + y) 0.0
        scale * sqrt (min (squared x (y - 1.0)) (squared (x - m) (y - m))) * (if x > y then 1.0 else -1.0)

/// Signed distance to the outline of a figure of a radius around the origin, negative inside; y points up.
let private distance (figure: Outline) (r: float) (x: float) (y: float) : float =
    match figure with
    | Outline.Circle -> length x y - r
    | Outline.Ring -> abs (length x y - 0.78 * r) - 0.22 * r
    | Outline.Square -> box (0.85 * r) (0.85 * r) x y
    | Outline.Diamond -> (abs x + abs y - r * 1.1) * 0.7071067811865476
    | Outline.Cross -> min (box r (0.33 * r) x y) (box (0.33 * r) r x y)
    | Outline.Triangle -> max (-y - 0.6 * r) (0.8660254037844386 * abs x + 0.5 * y - 0.55 * r)
    | Outline.Star -> star (1.1 * r) x y
    | Outline.Heart -> heart r x y

/// The centre of an object in pixels from the top left.
let private centre (thing: Thing) : struct (float * float) =
    let struct (dx, dy) = thing.Offset
    let half = float side / 2.0
    struct (half + pitch * float (thing.Column - 1) + dx, half + pitch * float (thing.Row - 1) + dy)

/// The object that is seen at a point (pixels from the top left), if any.
let thingAt (scene: Scene) (x: float) (y: float) : Thing option =
    scene.Things
    |> Array.sortBy (fun thing -> radius thing.Size)
    |> Array.tryFind (fun thing ->
        let struct (centreX, centreY) = centre thing
        distance thing.Figure (radius thing.Size) (x - centreX) (centreY - y) < 0.0)

let private paint (pixels: byte[]) (thing: Thing) =
    let r = radius thing.Size
    let struct (centreX, centreY) = centre thing
    let struct (red, green, blue) = ink thing.Colour
    let reach = 1.3 * r + 1.0
    let first centre = max 0 (int (floor (centre - reach)))
    let last centre = min (side - 1) (int (ceil (centre + reach)))

    for row = first centreY to last centreY do
        for column = first centreX to last centreX do
            let d = distance thing.Figure r (float column + 0.5 - centreX) (centreY - float row - 0.5)

            if d < 0.5 then
                let coverage = clamp 0.0 1.0 (0.5 - d)
                let at = 3 * (row * side + column)

                let blend channel (value: int) =
                    let under = float pixels[at + channel]
                    pixels[at + channel] <- byte (under + coverage * (float value - under) + 0.5)

                blend 0 red
                blend 1 green
                blend 2 blue

/// The picture of a scene: 64 · 64 · 3 bytes, rows from the top, red, green and blue of each pixel side by side.
let render (scene: Scene) : byte[] =
    let pixels = Array.zeroCreate<byte>(side * side * 3)
    let struct (above, below) = paper scene.Background

    for row = 0 to side - 1 do
        let struct (red, green, blue) = if row < horizon then above else below

        for column = 0 to side - 1 do
            let at = 3 * (row * side + column)
            pixels[at] <- byte red
            pixels[at + 1] <- byte green
            pixels[at + 2] <- byte blue

    // A huge object lies under the one it holds, in whichever order they are listed.
    for thing in scene.Things |> Array.sortByDescending (fun t -> radius t.Size) do
        paint pixels thing

    pixels
