using System.Globalization;
using System.Net;
using System.Text;
using System.Text.RegularExpressions;
using ScottPlot;
using SkiaSharp;
using static Hybrid.Report;
using IPanel = Hybrid.Report.IPanel;

namespace Hybrid.Runner.Reporting;

/// <summary>Figures as SVG, for the page and for files, and as PNG.</summary>
internal static partial class FigureFile
{
    private const int PanelWidth = 480;
    private const int PanelHeight = 330;
    private const int LoneWidth = 760;
    private const int LoneHeight = 400;
    private const int NarrowWidth = 350;
    private const int NarrowHeight = 290;
    private const int Edge = 16;
    private const string FontFamily = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', 'DejaVu Sans', sans-serif";

    /// <summary>Fonts to draw PNG texts with, best first; else the first that there is.</summary>
    private static readonly string[] preferredFonts = ["Inter", "Noto Sans", "Liberation Sans", "DejaVu Sans", "Arial", "Helvetica"];

    /// <summary>One panel as an element for an HTML page, in CSS variables. Ids begin with <paramref name="id"/>.</summary>
    public static string InlineSvg(IPanel panel, string id, bool narrow, bool lone)
    {
        var (width, height) = Size(panel, narrow, lone);
        return $"<svg class=\"{(narrow ? "narrow" : "wide")}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{Escape(describe(panel))}\">"
            + Body(new PanelDrawing(panel, width, height) { Points = width / 2 }, id) + "</svg>";
    }

    /// <summary>The whole figure with title and legend as an SVG file that follows the reader's light or dark setting.</summary>
    public static string Svg(Figure figure)
    {
        var (width, height, labels, swatches, panels) = Layout(figure);
        StringBuilder svg = new();
        svg.Append(CultureInfo.InvariantCulture, $"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
        svg.Append($"<title>{Escape(figure.Title)}</title>\n<desc>{Escape(string.Join(" ", figure.Panels.Select(describe)))}</desc>\n");
        svg.Append($"<style>{Theme.Css("svg")}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"var(--paper)\"/>\n");
        foreach (Swatch swatch in swatches)
        {
            string dash = swatch.Dashed ? " stroke-dasharray=\"5 3\"" : "";
            svg.Append(CultureInfo.InvariantCulture, $"<line x1=\"{swatch.X:0.#}\" y1=\"{swatch.Y:0.#}\" x2=\"{swatch.X + 20:0.#}\" y2=\"{swatch.Y:0.#}\" stroke=\"{Theme.SeriesVariable(swatch.Series)}\" stroke-width=\"3\"{dash}/>\n");
        }

        AppendTexts(svg, labels);
        foreach (var (panel, x, y, panelWidth, panelHeight, index) in panels)
        {
            svg.Append(CultureInfo.InvariantCulture, $"<g transform=\"translate({x} {y})\">{Body(new PanelDrawing(panel, panelWidth, panelHeight), $"p{index}")}</g>\n");
        }

        return svg.Append("</svg>\n").ToString();
    }

    /// <summary>The whole figure as PNG at twice its size, or null where the machine has no font to write with.</summary>
    public static byte[]? Png(Figure figure, Theme theme)
    {
        if (Typeface() is not { } family)
        {
            return null;
        }

        const float zoom = 2;
        var (width, height, labels, swatches, panels) = Layout(figure);
        using SKSurface surface = SKSurface.Create(new SKImageInfo((int)(width * zoom), (int)(height * zoom)));
        SKCanvas canvas = surface.Canvas;
        canvas.Clear(SKColor.Parse(theme.Paper));
        canvas.Scale(zoom);
        using SKPathEffect dash = SKPathEffect.CreateDash([5, 3], 0);
        foreach (Swatch swatch in swatches)
        {
            using SKPaint paint = new() { Color = SKColor.Parse(theme.Series(swatch.Series)), StrokeWidth = 3, IsStroke = true, IsAntialias = true };
            paint.PathEffect = swatch.Dashed ? dash : null;
            canvas.DrawLine((float)swatch.X, (float)swatch.Y, (float)swatch.X + 20, (float)swatch.Y, paint);
        }

        DrawTexts(canvas, labels, theme, family);
        foreach (var (panel, x, y, panelWidth, panelHeight, _) in panels)
        {
            PanelParts drawing = new PanelDrawing(panel, panelWidth, panelHeight).Draw(theme);
            Plot plot = drawing.Plot;
            // ScottPlot clears the whole canvas that it is given: each plot has one of its own.
            using SKSurface own = SKSurface.Create(new SKImageInfo((int)(panelWidth * zoom), (int)(panelHeight * zoom)));
            own.Canvas.Scale(zoom);
            plot.Render(own.Canvas, new ScottPlot.PixelRect(0, panelWidth, panelHeight, 0));
            plot.Dispose();
            using SKImage drawn = own.Snapshot();
            canvas.DrawImage(drawn, new SKRect(x, y, x + panelWidth, y + panelHeight), new SKSamplingOptions(SKFilterMode.Nearest));
            canvas.Save();
            canvas.Translate(x, y);
            DrawCells(canvas, drawing.Cells);
            DrawTexts(canvas, drawing.Labels, theme, family);
            canvas.Restore();
        }

        using SKImage image = surface.Snapshot();
        using SKData data = image.Encode(SKEncodedImageFormat.Png, 100);
        return data.ToArray();
    }

    /// <summary>A picture as PNG.</summary>
    public static byte[] Png(Picture picture) => Formats.Pictures.EncodePng(new(picture.Width, picture.Height, picture.Rgb));

    /// <summary>The names in a figure's legend, each with its colour, in the order in which they first appear.</summary>
    public static IReadOnlyList<(string Name, int Series, bool Dashed)> Legend(Figure figure)
    {
        var names = figure.Panels.SelectMany(panel => panel switch
        {
            CurvePanel curves => curves.Curves.Select(curve => (curve.Name, curve.Series, curve.Dashed)),
            PointPanel points => points.Points.Where(point => point.Name != point.Label).Select(point => (point.Name, point.Series, Dashed: false)),
            _ => [],
        });
        return [.. names.Where(entry => entry.Name.Length > 0).DistinctBy(entry => entry.Name)];
    }

    public static string Escape(string text) => WebUtility.HtmlEncode(text);

    private static (int Width, int Height) Size(IPanel panel, bool narrow, bool lone)
    {
        var (width, height) = narrow ? (NarrowWidth, NarrowHeight) : lone ? (LoneWidth, LoneHeight) : (PanelWidth, PanelHeight);
        if (panel is PointPanel points)
        {
            // A row of points needs about the height of two lines of text.
            int rows = points.Points.Select(point => point.Label).Distinct().Count();
            height = 46 + 30 + 16 + Math.Max(2, rows) * (points.Points.Count > rows ? 44 : 36);
        }

        if (panel is HeatPanel heat)
        {
            // A row needs the height of a line of text; many rows share a picture's height.
            height = 46 + 46 + Math.Clamp(heat.Rows.Count * 24, 96, narrow ? 260 : 400);
        }

        return (width, height);
    }

    private sealed record Swatch(double X, double Y, int Series, bool Dashed);

    /// <summary>Where title, legend and panels stand in a figure's own file.</summary>
    private static (int Width, int Height, List<Label> Labels, List<Swatch> Swatches, List<(IPanel Panel, int X, int Y, int Width, int Height, int Index)> Panels) Layout(Figure figure)
    {
        bool lone = figure.Panels.Count == 1;
        int columns = Math.Min(2, figure.Panels.Count);
        int width = Edge * 2 + (lone ? LoneWidth : PanelWidth * columns);
        List<Label> labels = [new(Edge, 28, figure.Title, "start", 16, "ink", Bold: true)];
        List<Swatch> swatches = [];
        double x = Edge, y = 52;
        foreach (var (name, series, dashed) in Legend(figure))
        {
            double needed = 28 + PanelDrawing.Estimate(name, 13) + 20;
            if (x > Edge && x + needed > width - Edge)
            {
                (x, y) = (Edge, y + 20);
            }

            swatches.Add(new(x, y - 4, series, dashed));
            labels.Add(new(x + 27, y, name, "start", 13, "ink"));
            x += needed;
        }

        int top = (int)y + (swatches.Count > 0 ? 14 : -8);
        List<(IPanel, int, int, int, int, int)> panels = [];
        for (int row = 0; row < figure.Panels.Count; row += columns)
        {
            var sizes = figure.Panels.Skip(row).Take(columns).Select(panel => (Panel: panel, Size: Size(panel, narrow: false, lone))).ToList();
            for (int i = 0; i < sizes.Count; i++)
            {
                panels.Add((sizes[i].Panel, Edge + i * PanelWidth, top, sizes[i].Size.Width, sizes[i].Size.Height, row + i));
            }

            top += sizes.Max(size => size.Size.Height) + 12;
        }

        return (width, top, labels, swatches, panels);
    }

    private static string Body(PanelDrawing panel, string id)
    {
        var (plot, labels, cells) = panel.Draw(Theme.Variables);
        string drawn = plot.GetSvgXml(panel.Width, panel.Height);
        plot.Dispose();
        int start = drawn.IndexOf('>', drawn.IndexOf("<svg", StringComparison.Ordinal)) + 1;
        drawn = drawn[start..drawn.LastIndexOf("</svg>", StringComparison.Ordinal)];
        // Skia numbers its ids through the life of the process; a page has one space of ids and is the same every time.
        Dictionary<string, int> clips = [];
        drawn = ClipIds().Replace(drawn, found =>
        {
            clips.TryAdd(found.Value, clips.Count);
            return $"{id}-clip{clips[found.Value]}";
        });
        drawn = Space().Replace(drawn, "");
        StringBuilder svg = new(Theme.ToVariables(drawn));
        foreach (Cells part in cells)
        {
            svg.Append(CultureInfo.InvariantCulture, $"<image class=\"{(part.Data ? "cells" : "scale")}\" x=\"{part.X:0.#}\" y=\"{part.Y:0.#}\" width=\"{part.Width:0.#}\" height=\"{part.Height:0.#}\" preserveAspectRatio=\"none\" style=\"image-rendering:{(part.Data ? "pixelated" : "auto")}\" href=\"data:image/png;base64,{Convert.ToBase64String(part.Png)}\"/>\n");
        }

        AppendTexts(svg, labels);
        return svg.ToString();
    }

    private static void AppendTexts(StringBuilder svg, IEnumerable<Label> labels)
    {
        foreach (Label label in labels)
        {
            string turn = label.Upwards ? string.Create(CultureInfo.InvariantCulture, $" transform=\"rotate(-90 {label.X:0.#} {label.Y:0.#})\"") : "";
            string weight = label.Bold ? " font-weight=\"600\"" : "";
            svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{label.X:0.#}\" y=\"{label.Y:0.#}\" text-anchor=\"{label.Anchor}\" font-size=\"{label.Size}\" font-family=\"{FontFamily}\"{weight} fill=\"{Fill(label.Role)}\"{Halo(label)}{turn}>{Escape(label.Text)}</text>\n");
        }
    }

    /// <summary>White and black stand on colours that are the same on every paper.</summary>
    private static string Fill(string role) => role switch { "white" => "#FFF", "black" => "#111", _ => $"var(--{role})" };

    /// <summary>A rim in the background's colour keeps a text readable on a curve.</summary>
    private static string Halo(Label label) => label.OnPlot ? " paint-order=\"stroke\" stroke=\"var(--paper)\" stroke-width=\"4\" stroke-linejoin=\"round\"" : "";

    private static void DrawTexts(SKCanvas canvas, IEnumerable<Label> labels, Theme theme, string family)
    {
        foreach (Label label in labels)
        {
            using SKTypeface face = SKTypeface.FromFamilyName(family, label.Bold ? SKFontStyle.Bold : SKFontStyle.Normal);
            using SKFont font = new(face, (float)label.Size) { Edging = SKFontEdging.Antialias, Subpixel = true };
            using SKPaint paint = new() { Color = SKColor.Parse(label.Role switch { "muted" => theme.Muted, "white" => "#FFFFFF", "black" => "#111111", _ => theme.Ink }), IsAntialias = true };
            SKTextAlign align = label.Anchor switch { "start" => SKTextAlign.Left, "end" => SKTextAlign.Right, _ => SKTextAlign.Center };
            canvas.Save();
            canvas.Translate((float)label.X, (float)label.Y);
            if (label.Upwards)
            {
                canvas.RotateDegrees(-90);
            }

            if (label.OnPlot)
            {
                using SKPaint halo = new() { Color = SKColor.Parse(theme.Paper), IsStroke = true, StrokeWidth = 4, StrokeJoin = SKStrokeJoin.Round, IsAntialias = true };
                canvas.DrawText(label.Text, 0, 0, align, font, halo);
            }

            canvas.DrawText(label.Text, 0, 0, align, font, paint);
            canvas.Restore();
        }
    }

    private static void DrawCells(SKCanvas canvas, IEnumerable<Cells> cells)
    {
        foreach (Cells part in cells)
        {
            using SKImage image = SKImage.FromEncodedData(part.Png);
            SKRect place = new((float)part.X, (float)part.Y, (float)(part.X + part.Width), (float)(part.Y + part.Height));
            canvas.DrawImage(image, place, new SKSamplingOptions(part.Data ? SKFilterMode.Nearest : SKFilterMode.Linear));
        }
    }

    /// <summary>A font family that can write, if there is one: without fonts Skia lists a nameless family with no glyphs.</summary>
    private static string? Typeface()
    {
        string[] families = [.. SKFontManager.Default.FontFamilies];
        return preferredFonts.Where(families.Contains).Concat(families).FirstOrDefault(family =>
        {
            using SKTypeface? face = SKTypeface.FromFamilyName(family);
            return face is not null && face.ContainsGlyphs("aZ09−");
        });
    }

    [GeneratedRegex(@"\bcl_[0-9a-fA-F]+\b")]
    private static partial Regex ClipIds();

    [GeneratedRegex(@"(?<=>)\s+(?=<)")]
    private static partial Regex Space();
}
