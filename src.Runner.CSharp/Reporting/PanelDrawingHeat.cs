using ScottPlot;
using static Hybrid.Report;

namespace Hybrid.Runner.Reporting;

/// <summary>Matrices in colours, with a scale beside them and, where there is room, the values in the cells.</summary>
internal sealed partial class PanelDrawing
{
    private const int ScaleWidth = 12;

    private PanelParts Draw(HeatPanel heat, Theme theme)
    {
        HeatColours colours = new(heat);
        int rows = heat.Rows.Count, columns = heat.Columns.Count;
        double column = Math.Min(Width * 0.32, heat.Rows.Select(row => Estimate(row, TickSize)).DefaultIfEmpty(0).Max() + 4);
        Scale scale = Scale.Over([colours.Low, colours.High], log: false, 4, tight: true);
        double scaleTexts = scale.Ticks.Select(tick => Estimate(tick.Label, TickSize)).DefaultIfEmpty(0).Max() + 6;
        PixelPadding padding = new((float)(column + 34), (float)(ScaleWidth + scaleTexts + 16), 46, heat.Title.Length > 0 ? 46 : 28);
        double plotWidth = Width - padding.Left - padding.Right, plotHeight = Height - padding.Top - padding.Bottom;
        double cellWidth = plotWidth / columns, cellHeight = plotHeight / rows;
        Plot plot = Empty(theme, new Scale(0, columns, false, []), new Scale(0, rows, false, []), padding, gridX: true);

        List<Label> labels = Texts(heat.Title, heat.ColumnLabel, heat.RowLabel, new Scale(0, 1, false, []), new Scale(0, 1, false, []), padding);
        int step = Stride((heat.Columns.Max(name => Estimate(name, TickSize)) + 10) / cellWidth);
        for (int i = 0; i < columns; i += step)
        {
            labels.Add(new(padding.Left + (i + 0.5) * cellWidth, Height - padding.Bottom + 18, heat.Columns[i], "middle", TickSize, "muted"));
        }

        int stride = Stride(15 / cellHeight);
        string[] names = Shorten(heat.Rows, column);
        for (int i = 0; i < rows; i += stride)
        {
            labels.Add(new(padding.Left - 8, padding.Top + (i + 0.5) * cellHeight + 4, names[i], "end", TickSize, "muted"));
        }

        string[] values = [.. heat.Values.Select(value => number(2, value))];
        if (cellHeight >= 15 && values.All(text => Estimate(text, 11) + 6 <= cellWidth))
        {
            for (int i = 0; i < values.Length; i++)
            {
                if (double.IsFinite(heat.Values[i]))
                {
                    labels.Add(new(
                        padding.Left + (i % columns + 0.5) * cellWidth, padding.Top + (i / columns + 0.5) * cellHeight + 4,
                        values[i], "middle", 11, colours.IsDark(heat.Values[i]) ? "white" : "black"));
                }
            }
        }

        double scaleLeft = Width - padding.Right + 12;
        foreach (var (position, text) in scale.Ticks)
        {
            double at = padding.Top + (colours.High - position) / (colours.High - colours.Low) * plotHeight;
            labels.Add(new(scaleLeft + ScaleWidth + 5, at + 4, text, "start", TickSize, "muted"));
        }

        labels.Add(new(Width - 4, padding.Top - 10, heat.ValueLabel, "end", TickSize, "muted"));
        return new(plot, labels,
            [
                new(padding.Left, padding.Top, plotWidth, plotHeight, colours.Cells(heat), Data: true),
                new(scaleLeft, padding.Top, ScaleWidth, plotHeight, colours.Scale(), Data: false),
            ]);
    }

    /// <summary>The least of 1, 2, 5, 10, 20, … that is not below a number.</summary>
    private static int Stride(double least)
    {
        double power = Math.Pow(10, Math.Floor(Math.Log10(Math.Max(1, least))));
        return (int)new[] { 1, 2, 5, 10 }.Select(factor => factor * power).First(step => step >= least - 1e-9);
    }

    /// <summary>
    /// Names that each take at most a width: what all of them end or begin with, up to a point or a space, gives way first, because names of
    /// tensors differ in their middle.
    /// </summary>
    private static string[] Shorten(IReadOnlyList<string> names, double width)
    {
        int fit = Math.Max(4, (int)(width / (TickSize * 0.56)));
        string[] shown = [.. names];
        if (shown.Length > 1 && shown.Any(name => name.Length > fit))
        {
            int end = Common(shown.Select(name => new string([.. name.Reverse()])));
            shown = end > 1 ? [.. shown.Select(name => name[..^end] + "…")] : shown;
        }

        if (shown.Length > 1 && shown.Any(name => name.Length > fit))
        {
            int start = Common(shown);
            shown = start > 1 ? [.. shown.Select(name => "…" + name[start..])] : shown;
        }

        return [.. shown.Select(name => name.Length <= fit ? name : name[..((fit - 1) / 2)] + "…" + name[^(fit - 1 - (fit - 1) / 2)..])];
    }

    /// <summary>How many characters texts begin with together, up to a point, a slash or a space.</summary>
    private static int Common(IEnumerable<string> texts)
    {
        string[] all = [.. texts];
        int same = 0, whole = 0;
        while (all.All(text => same < text.Length && text[same] == all[0][same]))
        {
            same++;
            whole = all[0][same - 1] is '.' or '/' or ' ' ? same : whole;
        }

        return whole;
    }
}
