using ScottPlot;

namespace Hybrid.Runner.Reporting;

/// <summary>
/// What is drawn in which colour. The first series' colours are those of Okabe and Ito, told apart with every kind of colour vision; three more
/// differ in lightness too.
/// </summary>
internal sealed class Theme
{
    private static readonly string[] seriesOnLight = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B6B6B", "#8C510A", "#762A83", "#B2182B"];
    private static readonly string[] seriesOnDark = ["#56B4E9", "#E69F00", "#1FB58F", "#CC79A7", "#E8743B", "#F0E442", "#A9A9A9", "#C9A26B", "#B9A3E3", "#FF8A8A"];

    private const string DottedPlace = "#0A1B05";
    private readonly string[] series;

    private Theme(string ink, string muted, string grid, string paper, string[] series)
    {
        (Ink, Muted, Grid, Paper, this.series) = (ink, muted, grid, paper, series);
    }

    public static Theme Light { get; } = new("#1B1F24", "#5B636E", "#E3E6EA", "#FFFFFF", seriesOnLight);

    public static Theme Dark { get; } = new("#E8EAED", "#A3ABB6", "#343A43", "#1B1F25", seriesOnDark);

    /// <summary>Colours that stand for CSS variables: <see cref="ToVariables"/> puts the variables in their place.</summary>
    public static Theme Variables { get; } = new("#0A1B01", "#0A1B02", "#0A1B03", "#0A1B04", [.. Enumerable.Range(0, seriesOnLight.Length).Select(i => $"#0A1C{i:00}")]);

    public string Ink { get; }

    public string Muted { get; }

    public string Grid { get; }

    public string Paper { get; }

    public string Series(int index) => series[Place(index)];

    /// <summary>
    /// How a line of a series is drawn broken: its colour and pattern. Skia would write every dash of an SVG as a shape of its own; there a
    /// colour stands for the broken line, and <see cref="ToVariables"/> makes it one.
    /// </summary>
    public (Color Colour, LinePattern Pattern) Dashed(int index) =>
        this == Variables ? (Colour(DashedPlace(Place(index))), LinePattern.Solid) : (Colour(Series(index)), LinePattern.DenselyDashed);

    /// <summary>How a mark is drawn: dotted.</summary>
    public (Color Colour, LinePattern Pattern) Dotted() =>
        this == Variables ? (Colour(DottedPlace), LinePattern.Solid) : (Colour(Muted), LinePattern.Dotted);

    public static Color Colour(string hex) => Color.FromHex(hex);

    /// <summary>The number of the CSS variable of a series: --s0, --s1, …</summary>
    public static string SeriesVariable(int index) => $"var(--s{Place(index)})";

    // Series beyond the palette begin it again.
    private static int Place(int index) => ((index % seriesOnLight.Length) + seriesOnLight.Length) % seriesOnLight.Length;

    private static string DashedPlace(int series) => $"#0A1D{series:00}";

    /// <summary>An SVG drawn in <see cref="Variables"/> with CSS variables as its colours.</summary>
    public static string ToVariables(string svg)
    {
        svg = svg.Replace(Variables.Ink, "var(--ink)").Replace(Variables.Muted, "var(--muted)")
            .Replace(Variables.Grid, "var(--grid)").Replace(Variables.Paper, "var(--paper)");
        svg = svg.Replace($"stroke=\"{DottedPlace}\"", "stroke=\"var(--muted)\" stroke-dasharray=\"2 4\"");
        for (int i = 0; i < seriesOnLight.Length; i++)
        {
            svg = svg.Replace($"stroke=\"{DashedPlace(i)}\"", $"stroke=\"var(--s{i})\" stroke-dasharray=\"6 4\"");
            svg = svg.Replace(Variables.Series(i), $"var(--s{i})");
        }

        return svg;
    }

    /// <summary>The CSS that gives the variables their values, in light and in dark surroundings.</summary>
    public static string Css(string selector)
    {
        static string Values(Theme theme) =>
            $"--ink:{theme.Ink};--muted:{theme.Muted};--grid:{theme.Grid};--paper:{theme.Paper};"
            + string.Concat(theme.series.Select((colour, i) => $"--s{i}:{colour};"));

        return $"{selector}{{{Values(Light)}}}\n@media (prefers-color-scheme: dark){{{selector}{{{Values(Dark)}}}}}\n";
    }
}
