/// Figures, tables and pages as values: what is to be shown, not how or where. Nothing here knows files, colours or HTML.
/// Numbers are finite or NaN; a NaN in a curve is a gap.
module Hybrid.Report

open System
open System.Collections.Generic
open System.Globalization

/// What is measured along an axis.
type Axis =
    {
        /// What it measures, with its unit
        Label: string
        /// Logarithmic, base 10.
        Log: bool
    }

/// A line through points, with an optional band around it.
type Curve =
    {
        /// In the legend
        Name: string
        /// Growing
        X: float[]
        /// As long as X; NaN leaves a gap
        Y: float[]
        /// Lower edge of the band, as long as X, or empty: no band.
        Lower: float[]
        /// Upper edge of the band, as long as X, or empty.
        Upper: float[]
        /// Drawn in dashes.
        Dashed: bool
        /// Which colour of the palette: the same series has the same colour in every figure.
        Series: int
        /// Weight of the exponential moving average that a reader sees first, the values faint behind it; NaN: shown as it is.
        Smoothing: float
        /// The values are logarithms, shown as their exponentials after smoothing: losses as perplexities.
        Exponential: bool
    }

/// A straight line across a panel, to compare with.
type Mark =
    {
        /// What stands there
        Label: string
        /// Where it crosses the axis
        Value: float
        /// At an x; otherwise at a y.
        Vertical: bool
    }

/// A value with its interval. Points with one label share a row; points with one name share a colour.
type Point =
    {
        /// Of its row
        Label: string
        /// In the legend
        Name: string
        /// The estimate
        Value: float
        /// Lower end of the interval; NaN: none
        Lower: float
        /// Upper end of the interval; NaN: none
        Upper: float
        /// Which colour of the palette
        Series: int
    }

/// One coordinate system of a figure: CurvePanel, PointPanel or HeatPanel.
type IPanel =
    /// Above it; may be empty
    abstract Title: string

/// Curves over a continuous x.
type CurvePanel =
    {
        /// Above it; may be empty
        Title: string
        /// The level axis
        X: Axis
        /// The upright axis
        Y: Axis
        /// Drawn in order, the last on top
        Curves: IReadOnlyList<Curve>
        /// Lines to compare with
        Marks: IReadOnlyList<Mark>
    }

    interface IPanel with
        member panel.Title = panel.Title

/// Values with intervals, one row for each label, from top to bottom. Marks are vertical, at a value.
type PointPanel =
    {
        /// Above it; may be empty
        Title: string
        /// The level axis
        Value: Axis
        /// Row by row, in the order of their labels
        Points: IReadOnlyList<Point>
        /// Lines to compare with
        Marks: IReadOnlyList<Mark>
    }

    interface IPanel with
        member panel.Title = panel.Title

/// A matrix in colours, the first row on top.
type HeatPanel =
    {
        /// Above it; may be empty
        Title: string
        /// What the columns are, and what the rows.
        ColumnLabel: string
        /// What the rows are.
        RowLabel: string
        /// Their names, from the left
        Columns: IReadOnlyList<string>
        /// Their names, from the top
        Rows: IReadOnlyList<string>
        /// What a value is.
        ValueLabel: string
        /// Row by row, as many as rows times columns; NaN is no value.
        Values: float[]
        /// Two colours that part at this value, as cosines do at 0; NaN: one scale from the least to the largest.
        Centre: float
    }

    interface IPanel with
        member panel.Title = panel.Title

/// A part of a page.
type IBlock = interface end

/// A heading and a paragraph under it (either may be empty).
type Text =
    {
        /// May be empty
        Heading: string
        /// A paragraph; may be empty
        Body: string
    }

    interface IBlock

/// Commands or output, letter by letter.
type Code =
    {
        /// With its line breaks
        Body: string
    }

    interface IBlock

/// Panels with one title, the paper's finding and ours.
type Figure =
    {
        /// Of its files: letters, digits and hyphens.
        Name: string
        /// Above the panels
        Title: string
        /// Where the paper shows it ("Fig. 3"), or empty.
        Source: string
        /// What the paper found.
        Paper: string
        /// What we found.
        Found: string
        /// Side by side, as far as there is room
        Panels: IReadOnlyList<IPanel>
    }

    interface IBlock

/// Rows of cells under a header; every row is as long as the header.
type Table =
    {
        /// Above it
        Title: string
        /// Where the paper shows it ("Table 2"), or empty.
        Source: string
        /// What the paper found.
        Paper: string
        /// What we found.
        Found: string
        /// Names of the columns
        Header: IReadOnlyList<string>
        /// Each as long as the header
        Rows: IReadOnlyList<IReadOnlyList<string>>
    }

    interface IBlock

/// What the numbers say about a claim.
type Verdict =
    /// The numbers say so
    | Holds = 0
    /// The numbers say the contrary
    | DoesNotHold = 1
    /// The interval leaves both open
    | Undecided = 2

/// A claim of the paper and what became of it here.
type Claim =
    {
        /// "Fig. 3".
        Source: string
        /// As a sentence
        Statement: string
        /// What became of it
        Verdict: Verdict
        /// The numbers with their intervals.
        Evidence: string
    }

/// Claims in a list.
type Claims =
    {
        /// Above the list
        Title: string
        /// In the order of the list
        Claims: IReadOnlyList<Claim>
    }

    interface IBlock

/// A picture: height × width × 3 bytes, row by row, red green blue.
type Picture =
    {
        /// Under it
        Caption: string
        /// height · width · 3 bytes
        Rgb: byte[]
        /// In pixels
        Width: int
        /// In pixels
        Height: int
    }

/// Pictures in rows of `Columns`, each with its caption.
type PictureGrid =
    {
        /// Above all
        Title: string
        /// Under the title; may be empty
        Note: string
        /// Pictures of a row
        Columns: int
        /// Row by row
        Pictures: IReadOnlyList<Picture>
    }

    interface IBlock

/// A number that sums something up.
type KeyNumber =
    {
        /// What it counts
        Label: string
        /// With its unit, as it is read
        Value: string
        /// Below it; may be empty
        Note: string
    }

/// Key numbers side by side.
type KeyNumbers =
    {
        /// From the left
        Numbers: IReadOnlyList<KeyNumber>
    }

    interface IBlock

/// A text that leads somewhere: an address relative to the page, segments escaped.
type Link =
    {
        /// What is read
        Label: string
        /// The address
        Target: string
    }

/// Links in a list under a heading (which may be empty).
type Links =
    {
        /// Above the list
        Heading: string
        /// In the order of the list
        Links: IReadOnlyList<Link>
    }

    interface IBlock

/// Blocks that are folded away under a summary until they are asked for.
type Folded =
    {
        /// The line that opens them
        Summary: string
        /// In order
        Blocks: IReadOnlyList<IBlock>
    }

    interface IBlock

/// A whole report.
type Page =
    {
        /// Of the page, and above all
        Title: string
        /// Under the title
        Subtitle: string
        /// From the top
        Blocks: IReadOnlyList<IBlock>
    }

// ---- building ----

let private require (condition: bool) (message: string) =
    if not condition then
        raise (ArgumentException message)

/// A linear axis.
let axis (label: string) : Axis = { Label = label; Log = false }

/// A logarithmic axis.
let logAxis (label: string) : Axis = { Label = label; Log = true }

/// A curve without a band. Errors: ArgumentException unless x and y are equally long.
let curve (name: string) (series: int) (x: float[]) (y: float[]) : Curve =
    require (x.Length = y.Length) $"The curve '{name}' has {x.Length} x and {y.Length} y."

    {
        Name = name
        X = x
        Y = y
        Lower = [||]
        Upper = [||]
        Dashed = false
        Series = series
        Smoothing = nan
        Exponential = false
    }

/// The curve with a band from lower to upper. Errors: ArgumentException unless both are as long as the curve.
let withBand (lower: float[]) (upper: float[]) (curve: Curve) : Curve =
    require
        (lower.Length = curve.X.Length && upper.Length = curve.X.Length)
        $"The band of '{curve.Name}' has {lower.Length} and {upper.Length} values for {curve.X.Length} points."

    { curve with Lower = lower; Upper = upper }

/// The curve as a dashed line.
let dashed (curve: Curve) : Curve = { curve with Dashed = true }

/// The curve as values of single steps, to be seen smoothed by an exponential moving average of this weight and by others that a
/// reader chooses. Errors: ArgumentException unless the weight is in [0, 1), or where the curve has a band.
let smoothable (weight: float) (curve: Curve) : Curve =
    require (weight >= 0.0 && weight < 1.0) $"The smoothing of '{curve.Name}' is {weight}; it must be in [0, 1)."
    require (curve.Lower.Length = 0) $"The curve '{curve.Name}' has a band, which cannot be smoothed."
    { curve with Smoothing = weight }

/// The curve of logarithms, shown as their exponentials.
let exponential (curve: Curve) : Curve = { curve with Exponential = true }

/// A line across at a y.
let level (label: string) (value: float) : Mark = { Label = label; Value = value; Vertical = false }

/// A line upwards at an x.
let moment (label: string) (value: float) : Mark = { Label = label; Value = value; Vertical = true }

/// A matrix in colours, its values row by row. Errors: ArgumentException unless there are rows · columns values, at least one.
let heat
    (title: string)
    (valueLabel: string)
    (rowLabel: string)
    (rows: IReadOnlyList<string>)
    (columnLabel: string)
    (columns: IReadOnlyList<string>)
    (values: float[])
    : HeatPanel =
    require
        (values.Length > 0 && values.Length = rows.Count * columns.Count)
        $"The matrix '{title}' has {values.Length} values for {rows.Count} rows and {columns.Count} columns."

    {
        Title = title
        ColumnLabel = columnLabel
        RowLabel = rowLabel
        Columns = columns
        Rows = rows
        ValueLabel = valueLabel
        Values = values
        Centre = nan
    }

/// The matrix in two colours that part at a value.
let centred (value: float) (panel: HeatPanel) : HeatPanel = { panel with Centre = value }

/// A link. Errors: ArgumentException unless the target is relative: no scheme, no host, no root.
let link (label: string) (target: string) : Link =
    require
        (target <> "" && not (target.StartsWith '/' || target.Contains '\\' || target.Contains ':'))
        $"The target '{target}' of the link '{label}' is not relative."

    { Label = label; Target = target }

/// A table. Errors: ArgumentException unless every row is as long as the header.
let table (title: string) (header: IReadOnlyList<string>) (rows: IReadOnlyList<IReadOnlyList<string>>) : Table =
    rows
    |> Seq.iteri (fun i row ->
        require (row.Count = header.Count) $"Row {i} of '{title}' has {row.Count} cells; the header has {header.Count}.")

    { Title = title; Source = ""; Paper = ""; Found = ""; Header = header; Rows = rows }

/// A picture. Errors: ArgumentException unless there are width · height · 3 bytes.
let picture (caption: string) (width: int) (height: int) (rgb: byte[]) : Picture =
    require
        (width > 0 && height > 0 && rgb.Length = width * height * 3)
        $"The picture '{caption}' has {rgb.Length} bytes; {width}×{height} pixels of RGB need {width * height * 3}."

    { Caption = caption; Rgb = rgb; Width = width; Height = height }

// ---- saying ----

/// A number as people read it: about `digits` significant digits, thousands apart, no exponent between 0.0001 and 10^9.
let number (digits: int) (value: float) : string =
    let size = abs value

    if Double.IsNaN value then
        "–"
    elif value = 0.0 then
        "0"
    elif not (Double.IsFinite value) || size < 1e-4 || size >= 1e9 then
        value.ToString($"G{digits}", CultureInfo.InvariantCulture)
    else
        let decimals = max 0 (digits - 1 - int (floor (log10 size)))
        value.ToString($"N{decimals}", CultureInfo.InvariantCulture).Replace("-", "−")

/// A value with its interval: 1.234 [1.201, 1.267]. The decimals follow from the interval's width.
let interval (value: float) (lower: float) (upper: float) : string =
    let width = upper - lower

    let decimals =
        if Double.IsFinite width && width > 0.0 then
            Math.Clamp(1 - int (floor (log10 width)), 0, 6)
        else
            3

    let show (x: float) =
        if Double.IsFinite x then
            x.ToString($"N{decimals}", CultureInfo.InvariantCulture).Replace("-", "−")
        else
            number 3 x

    $"{show value} [{show lower}, {show upper}]"

/// The word of a verdict.
let verdict (verdict: Verdict) : string =
    match verdict with
    | Verdict.Holds -> "holds"
    | Verdict.DoesNotHold -> "does not hold"
    | _ -> "undecided"

/// A panel in words, for someone who does not see it.
let describe (panel: IPanel) : string =
    let finite (values: float[]) = values |> Array.filter Double.IsFinite
    let shown (curve: Curve) = if curve.Exponential then Array.map exp curve.Y else curve.Y

    match panel with
    | :? CurvePanel as panel ->
        let line (curve: Curve) =
            match finite (shown curve) with
            | [||] -> $"{curve.Name}: no values"
            | values -> $"{curve.Name} from {number 3 values[0]} to {number 3 (Array.last values)}"

        let curves = String.Join("; ", panel.Curves |> Seq.map line)
        $"{panel.Y.Label} against {panel.X.Label}. {curves}."
    | :? PointPanel as panel ->
        let line (point: Point) =
            let name =
                if point.Name = "" || point.Name = point.Label then
                    point.Label
                else
                    $"{point.Label}, {point.Name}"

            $"{name}: {interval point.Value point.Lower point.Upper}"

        let points = String.Join("; ", panel.Points |> Seq.map line)
        $"{panel.Value.Label}. {points}."
    | :? HeatPanel as panel ->
        let size =
            $"{panel.ValueLabel} by {panel.RowLabel} ({panel.Rows.Count}) and {panel.ColumnLabel} ({panel.Columns.Count})"

        match finite panel.Values with
        | [||] -> $"{size}: no values."
        | values -> $"{size}, from {number 3 (Array.min values)} to {number 3 (Array.max values)}."
    | panel -> panel.Title
