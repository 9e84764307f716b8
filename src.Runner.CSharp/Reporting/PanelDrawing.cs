using ScottPlot;
using ScottPlot.TickGenerators;
using static Hybrid.Report;
using IPanel = Hybrid.Report.IPanel;
using Range = System.Range;

namespace Hybrid.Runner.Reporting;

/// <summary>A piece of text in a drawing. Anchor: start, middle or end of the text at X; Y is its baseline.</summary>
internal sealed record Label(double X, double Y, string Text, string Anchor, double Size, string Role, bool Upwards = false, bool Bold = false, bool OnPlot = false);

/// <summary>A picture of cells in a drawing, a pixel for each, drawn without blurring.</summary>
/// <param name="Data">Whether it holds the values, and not their scale.</param>
internal sealed record Cells(double X, double Y, double Width, double Height, byte[] Png, bool Data);

/// <summary>A drawing's parts: the plot without its texts in a theme's colours, the texts, and pictures of cells under them.</summary>
internal sealed record PanelParts(Plot Plot, IReadOnlyList<Label> Labels, IReadOnlyList<Cells> Cells);

/// <summary>
/// A panel laid out for a size: ScottPlot draws grid, curves and points; the texts are kept apart, because a machine without
/// fonts could not draw them: in SVG the browser's own font shows them, in PNG a font that is there.
/// </summary>
internal sealed partial class PanelDrawing
{
    private const double TickSize = 12;
    private const double LabelSize = 12.5;

    private readonly IPanel panel;

    public PanelDrawing(IPanel panel, int width, int height)
    {
        (this.panel, Width, Height) = (panel, width, height);
    }

    public int Width { get; }

    public int Height { get; }

    /// <summary>Points of a curve that are drawn, about.</summary>
    public int Points { get; init; } = 400;

    /// <summary>A width that a text of this size takes in common sans-serif fonts.</summary>
    public static double Estimate(string text, double size) => text.Length * size * 0.56;

    /// <summary>The panel in a theme's colours.</summary>
    public PanelParts Draw(Theme theme) => panel switch
    {
        HeatPanel heat => Draw(heat, theme),
        CurvePanel curves => Draw(curves, theme),
        PointPanel points => Draw(points, theme),
        _ => throw new ArgumentException($"A panel of type {panel.GetType().Name} cannot be drawn."),
    };

    private PanelParts Draw(CurvePanel curves, Theme theme)
    {
        Curve[] thinned = [.. curves.Curves.Select(curve => ReportCurves.thin(Points, ReportCurves.shown(curve)))];
        Curve[] faint = [.. curves.Curves.SelectMany(curve => Microsoft.FSharp.Core.OptionModule.ToArray(ReportCurves.behind(curve))).Select(curve => ReportCurves.thin(Points, curve))];
        Scale x = Scale.Over(
            thinned.Concat(faint).SelectMany(c => c.X).Concat(curves.Marks.Where(m => m.Vertical).Select(m => m.Value)),
            curves.X.Log, Width / 85, tight: true);
        Scale y = Scale.Over(
            thinned.Concat(faint.Select(Inner)).SelectMany(c => c.Y.Concat(c.Lower).Concat(c.Upper)).Concat(curves.Marks.Where(m => !m.Vertical).Select(m => m.Value)),
            curves.Y.Log, Height / 50, tight: false);

        double tickWidth = y.Ticks.Select(tick => Estimate(tick.Label, TickSize)).DefaultIfEmpty(0).Max();
        PixelPadding padding = new((float)(tickWidth + 34), 16, 46, curves.Title.Length > 0 ? 30 : 12);
        Plot plot = Empty(theme, x, y, padding, gridX: false);

        foreach (Curve curve in faint)
        {
            foreach (Range run in Runs(curve, x, y).Where(run => run.End.Value - run.Start.Value > 1))
            {
                double[] xs = [.. curve.X[run].Select(x.At)], ys = [.. curve.Y[run].Select(y.At)];
                var line = plot.Add.ScatterLine(xs, ys, Theme.Colour(theme.Series(curve.Series)).WithAlpha(0.25));
                line.LineWidth = 1;
            }
        }

        foreach (Curve curve in thinned)
        {
            Color colour = Theme.Colour(theme.Series(curve.Series));
            foreach (Range run in Runs(curve, x, y))
            {
                double[] xs = [.. curve.X[run].Select(x.At)];
                if (curve.Lower.Length > 0 && xs.Length > 1)
                {
                    var band = plot.Add.FillY(xs, [.. curve.Lower[run].Select(y.At)], [.. curve.Upper[run].Select(y.At)]);
                    band.FillColor = colour.WithAlpha(0.18);
                    band.LineWidth = 0;
                    band.MarkerSize = 0;
                }

                double[] ys = [.. curve.Y[run].Select(y.At)];
                if (xs.Length == 1)
                {
                    plot.Add.Marker(xs[0], ys[0], MarkerShape.FilledCircle, 6, colour);
                    continue;
                }

                var line = plot.Add.ScatterLine(xs, ys, colour);
                line.LineWidth = 2;
                (line.LineColor, line.LinePattern) = curve.Dashed ? theme.Dashed(curve.Series) : (colour, LinePattern.Solid);
            }
        }

        List<Label> labels = Texts(curves.Title, curves.X.Label, curves.Y.Label, x, y, padding);
        var (dotColour, dots) = theme.Dotted();
        foreach (Mark mark in curves.Marks)
        {
            if (mark.Vertical)
            {
                plot.Add.VerticalLine(x.At(mark.Value), 1.2f, dotColour, dots);
                double at = PixelX(x, mark.Value, padding);
                bool left = at > Width * 0.6;
                labels.Add(new(at + (left ? -5 : 5), padding.Top + 14, mark.Label, left ? "end" : "start", TickSize, "muted", OnPlot: true));
            }
            else
            {
                plot.Add.HorizontalLine(y.At(mark.Value), 1.2f, dotColour, dots);
                double at = PixelY(y, mark.Value, padding);
                bool low = at > Height / 2.0 && at + 18 < Height - padding.Bottom;
                labels.Add(new(Width - padding.Right - 5, at + (low ? 14 : -5), mark.Label, "end", TickSize, "muted", OnPlot: true));
            }
        }

        return new(plot, labels, []);
    }

    private PanelParts Draw(PointPanel points, Theme theme)
    {
        string[] rows = [.. points.Points.Select(point => point.Label).Distinct()];
        string[] names = [.. points.Points.Select(point => point.Name).Distinct()];
        Scale x = Scale.Over(
            points.Points.SelectMany(p => new[] { p.Value, p.Lower, p.Upper }).Concat(points.Marks.Select(m => m.Value)),
            points.Value.Log, Width / 95, tight: false);
        Scale y = new(-rows.Length + 0.5, 0.5, false, []);

        // Row labels take at most two fifths of the width and are broken over lines beyond it.
        double column = Math.Min(Width * 0.4, rows.Select(row => Estimate(row, LabelSize)).DefaultIfEmpty(0).Max() + 4);
        bool marked = points.Marks.Count > 0;
        PixelPadding padding = new((float)(column + 12), 16, 46, (points.Title.Length > 0 ? 30 : 12) + (marked ? 16 : 0));
        Plot plot = Empty(theme, x, y, padding, gridX: true);

        var (dotColour, dots) = theme.Dotted();
        foreach (Mark mark in points.Marks)
        {
            plot.Add.VerticalLine(x.At(mark.Value), 1.2f, dotColour, dots);
        }

        MarkerShape[] shapes = [MarkerShape.FilledCircle, MarkerShape.FilledSquare, MarkerShape.FilledDiamond, MarkerShape.FilledTriangleUp];
        foreach (Point point in points.Points)
        {
            int which = Array.IndexOf(names, point.Name);
            double dodge = names.Length > 1 ? 0.5 * ((double)which / (names.Length - 1) - 0.5) : 0;
            double row = -Array.IndexOf(rows, point.Label) - dodge;
            Color colour = Theme.Colour(theme.Series(point.Series));
            double at = x.At(point.Value), low = x.At(point.Lower), high = x.At(point.Upper);
            if (double.IsFinite(low) && double.IsFinite(high) && high > low)
            {
                var line = plot.Add.Line(low, row, high, row);
                line.LineColor = colour;
                line.LineWidth = 2;
                line.MarkerSize = 0;
            }

            if (double.IsFinite(at))
            {
                plot.Add.Marker(at, row, shapes[which % shapes.Length], 9, colour);
            }
        }

        List<Label> labels = Texts(points.Title, points.Value.Label, "", x, y, padding);
        for (int i = 0; i < rows.Length; i++)
        {
            List<string> lines = Break(rows[i], column);
            double middle = PixelY(y, -i, padding);
            for (int j = 0; j < lines.Count; j++)
            {
                labels.Add(new(padding.Left - 10, middle + 4 + 15 * (j - (lines.Count - 1) / 2.0), lines[j], "end", LabelSize, "ink"));
            }
        }

        foreach (Mark mark in points.Marks)
        {
            double half = Math.Min(Estimate(mark.Label, TickSize), Width - 4) / 2;
            double at = Math.Clamp(PixelX(x, mark.Value, padding), half + 2, Width - half - 2);
            labels.Add(new(at, padding.Top - 5, mark.Label, "middle", TickSize, "muted"));
        }

        return new(plot, labels, []);
    }

    /// <summary>Plots with a fixed layout and no text of their own.</summary>
    private static Plot Empty(Theme theme, Scale x, Scale y, PixelPadding padding, bool gridX)
    {
        Plot plot = new();
        plot.FigureBackground.Color = Colors.Transparent;
        plot.DataBackground.Color = Colors.Transparent;
        plot.Layout.Fixed(padding);
        plot.Axes.SetLimits(x.Low, x.High, y.Low, y.High);
        plot.Axes.Bottom.TickGenerator = new NumericManual([.. x.Ticks.Select(tick => new Tick(tick.Position, ""))]);
        plot.Axes.Left.TickGenerator = new NumericManual([.. y.Ticks.Select(tick => new Tick(tick.Position, ""))]);
        foreach (IAxis axis in plot.Axes.GetAxes())
        {
            axis.FrameLineStyle.IsVisible = axis == plot.Axes.Bottom;
            axis.FrameLineStyle.Color = Theme.Colour(theme.Muted);
            axis.MajorTickStyle.Color = Theme.Colour(theme.Muted);
            axis.MajorTickStyle.Length = axis == plot.Axes.Bottom ? 4 : 0;
            axis.MinorTickStyle.Length = 0;
            axis.TickLabelStyle.IsVisible = false;
        }

        plot.Grid.XAxisStyle.MajorLineStyle.Color = Theme.Colour(theme.Grid);
        plot.Grid.YAxisStyle.MajorLineStyle.Color = Theme.Colour(theme.Grid);
        plot.Grid.XAxisStyle.IsVisible = gridX;
        plot.Grid.YAxisStyle.IsVisible = !gridX;
        plot.HideLegend();
        return plot;
    }

    private List<Label> Texts(string title, string xLabel, string yLabel, Scale x, Scale y, PixelPadding padding)
    {
        List<Label> labels = [];
        double right = double.NegativeInfinity;
        foreach (var (position, text) in x.Ticks)
        {
            double at = padding.Left + (position - x.Low) / (x.High - x.Low) * (Width - padding.Left - padding.Right);
            double half = Estimate(text, TickSize) / 2;
            // A label that would touch the one before it is left out; its tick stays.
            if (at - half > right + 6)
            {
                labels.Add(new(at, Height - padding.Bottom + 18, text, "middle", TickSize, "muted"));
                right = at + half;
            }
        }

        foreach (var (position, text) in y.Ticks)
        {
            double at = padding.Top + (y.High - position) / (y.High - y.Low) * (Height - padding.Top - padding.Bottom);
            labels.Add(new(padding.Left - 8, at + 4, text, "end", TickSize, "muted"));
        }

        labels.Add(new((padding.Left + Width - padding.Right) / 2, Height - 8, xLabel, "middle", LabelSize, "ink"));
        if (yLabel.Length > 0)
        {
            labels.Add(new(14, (padding.Top + Height - padding.Bottom) / 2, yLabel, "middle", LabelSize, "ink", Upwards: true));
        }

        if (title.Length > 0)
        {
            // A long title begins further to the left.
            labels.Add(new(Math.Clamp(Width - Estimate(title, 14.5) - 4, 0, padding.Left), 17, title, "start", 13.5, "ink", Bold: true));
        }

        return labels;
    }

    private double PixelX(Scale x, double value, PixelPadding padding) =>
        padding.Left + (x.At(value) - x.Low) / (x.High - x.Low) * (Width - padding.Left - padding.Right);

    private double PixelY(Scale y, double value, PixelPadding padding) =>
        padding.Top + (y.High - y.At(value)) / (y.High - y.Low) * (Height - padding.Top - padding.Bottom);

    /// <summary>The curve without its outermost values (1 %), which would make everything else flat where they are shown faintly only.</summary>
    private static Curve Inner(Curve curve)
    {
        double[] sorted = [.. curve.Y.Where(double.IsFinite).Order()];
        int cut = sorted.Length / 100;
        double[] inner = sorted[cut..^cut];
        return Hybrid.Report.curve(curve.Name, curve.Series, inner, inner);
    }

    /// <summary>The stretches of a curve without a gap.</summary>
    private static IEnumerable<Range> Runs(Curve curve, Scale x, Scale y)
    {
        bool Drawable(int i) =>
            double.IsFinite(x.At(curve.X[i])) && double.IsFinite(y.At(curve.Y[i]))
            && (curve.Lower.Length == 0 || (double.IsFinite(y.At(curve.Lower[i])) && double.IsFinite(y.At(curve.Upper[i]))));

        int start = 0;
        for (int i = 0; i <= curve.X.Length; i++)
        {
            if (i == curve.X.Length || !Drawable(i))
            {
                if (i > start)
                {
                    yield return start..i;
                }

                start = i + 1;
            }
        }
    }

    private static List<string> Break(string text, double width)
    {
        List<string> lines = [];
        foreach (string word in text.Split(' '))
        {
            if (lines.Count > 0 && Estimate(lines[^1] + " " + word, LabelSize) <= width)
            {
                lines[^1] += " " + word;
            }
            else
            {
                lines.Add(word);
            }
        }

        return lines;
    }
}
