/// Rotary positions (Su et al. 2021) and the ways of slowing them down: pair i of the R rotating dimensions of a head turns by the
/// angle position · frequency_i. Angles are computed in double precision.
module Hybrid.Rotary

open System
open TorchSharp

/// The frequencies θ^(−2i/R) of the R/2 pairs, scaled as the model's description says, for a sequence of `length` positions; and
/// the factor of cosine and sine.
let frequencies (config: ModelConfig) (length: int64) : float[] * float =
    let width, theta = float config.RotaryWidth, config.RotaryBase
    let pairs = config.RotaryWidth / 2
    let plain (theta: float) = Array.init pairs (fun i -> theta ** (-2.0 * float i / width))

    match config.RotaryScaling with
    | NoScaling -> plain theta, 1.0
    | LinearScaling factor -> plain theta |> Array.map (fun f -> f / factor), 1.0
    | DynamicScaling factor ->
        let longer = float (max length (int64 config.Positions)) / float config.Positions
        plain (theta * (factor * longer - (factor - 1.0)) ** (width / (width - 2.0))), 1.0
    | Llama3Scaling s ->
        let original = float s.OriginalPositions

        let scaled (f: float) =
            let wavelength = 2.0 * Math.PI / f

            if wavelength > original / s.LowFrequencyFactor then
                f / s.Factor
            elif wavelength < original / s.HighFrequencyFactor then
                f
            else
                let smooth = (original / wavelength - s.LowFrequencyFactor) / (s.HighFrequencyFactor - s.LowFrequencyFactor)

                (1.0 - smooth) * f / s.Factor + smooth * f

        plain theta |> Array.map scaled, 1.0
    | YarnScaling s ->
        // The pair that turns `rotations` times over the original positions.
        let pair (rotations: float) =
            width * Math.Log(float s.OriginalPositions / (rotations * 2.0 * Math.PI)) / (2.0 * Math.Log theta)

        let whole (round: float -> float) (x: float) = if s.Truncate then round x else x
        let low = max 0.0 (whole Math.Floor (pair s.BetaFast))
        let high = min (width - 1.0) (whole Math.Ceiling (pair s.BetaSlow))
        let high = if high = low then low + 0.001 else high

        let scaled i (f: float) =
            let slowed = Math.Clamp((float i - low) / (high - low), 0.0, 1.0)
            f / s.Factor * slowed + f * (1.0 - slowed)

        plain theta |> Array.mapi scaled, s.AttentionFactor

/// Cosine and sine [T, 1, R] for positions [start, start + length), where the model has any. HeadRotary turns q and k of a head by
/// one angle, which cancels in q·k: it needs no tables, like NoPosition.
let tables
    (config: ModelConfig)
    (device: torch.Device)
    (elementType: torch.ScalarType)
    (start: int64)
    (length: int64)
    : Rotation option =
    let table (frequencies: float[]) (factor: float) (f: float -> float) =
        use scope = torch.NewDisposeScope()
        let width, pairs = config.RotaryWidth, config.RotaryWidth / 2

        let values =
            Array.init (int length * width) (fun k ->
                let position, c = k / width, k % width
                let i = if config.Position = Rotary then c % pairs else c / 2
                float32 (factor * f (float (start + int64 position) * frequencies[i])))

        let table = (Host.floats [ length; 1L; int64 width ] values).``to`` elementType
        (Host.onto device table).MoveToOuterDisposeScope()

    match config.Position with
    | HeadRotary
    | NoPosition
    | LearnedPosition -> None
    | Rotary
    | InterleavedRotary ->
        let frequencies, factor = frequencies config (start + length)
        Some { Cosine = table frequencies factor cos; Sine = table frequencies factor sin }

/// The tables of the first of their positions.
let first (positions: int64) (rotation: Rotation) : Rotation =
    let cut (table: torch.Tensor) = table.narrow (0, 0L, positions)
    { Cosine = cut rotation.Cosine; Sine = cut rotation.Sine }

/// The tables [length, 1, R] of sequences that begin with `prompt` positions read at once and grow one by one. They differ from `tables`
/// only where rotation depends on the length so far: each later position then turns as it does when it is the last.
let span
    (config: ModelConfig)
    (device: torch.Device)
    (elementType: torch.ScalarType)
    (prompt: int64)
    (length: int64)
    : Rotation option =
    match config.RotaryScaling with
    | DynamicScaling _ when length > int64 config.Positions ->
        let together = min length (max prompt (int64 config.Positions))

        let pieces =
            (0L, together) :: [ for position in together .. length - 1L -> position, 1L ]
            |> List.choose (fun (start, count) -> tables config device elementType start count)

        let join (table: Rotation -> torch.Tensor) = torch.cat ([| for piece in pieces -> table piece |], 0L)

        if pieces.IsEmpty then None else Some { Cosine = join _.Cosine; Sine = join _.Sine }
    | _ -> tables config device elementType 0L length

/// Rotates the first R dimensions of each head of x_BTHC: x · cos + partner(x) · sin, where the partner of (x₁, x₂) is (−x₂, x₁) over
/// halves or adjacent pairs. The others stay.
let turn (config: ModelConfig) (rotation: Rotation) (x_BTHC: torch.Tensor) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let width, pairs = int64 config.RotaryWidth, int64 (config.RotaryWidth / 2)
    let rest = int64 config.HeadWidth - width
    let x = if rest = 0L then x_BTHC else x_BTHC.narrow (-1, 0L, width)

    let partner =
        if config.Position = Rotary then
            torch.cat ([| x.narrow(-1, pairs, pairs).neg(); x.narrow (-1, 0L, pairs) |], -1L)
        else
            let both = x.unflatten (x.dim () - 1L, pairs, 2L)
            torch.stack([| both.select(-1, 1L).neg(); both.select (-1, 0L) |], -1L).flatten(-2L)

    let turned = x.mul(rotation.Cosine).plus(partner.mul rotation.Sine)

    if rest = 0L then
        turned.MoveToOuterDisposeScope()
    else
        torch.cat([| turned; x_BTHC.narrow (-1, width, rest) |], -1L).MoveToOuterDisposeScope()
