using System.Globalization;
using System.Text;
using static Hybrid.Report;
using IPanel = Hybrid.Report.IPanel;

namespace Hybrid.Runner.Reporting;

/// <summary>
/// Figures and tables as comma-separated values (RFC 4180): lines end in CR LF, a cell with a comma, a quote or a line end stands in
/// quotes. Numbers are written so that they read back as they are, with a point; what is no number is empty.
/// </summary>
internal static class CsvFiles
{
    /// <summary>
    /// The numbers of a figure in long form, a line each: figure, panel, curve, x, y, lower, upper. In a panel of points x is the row's label,
    /// in a matrix curve is the row and x the column. Values of single steps are not smoothed.
    /// </summary>
    public static string Text(Figure figure)
    {
        StringBuilder csv = new();
        Line(csv, ["figure", "panel", "curve", "x", "y", "lower", "upper"]);
        for (int i = 0; i < figure.Panels.Count; i++)
        {
            IPanel panel = figure.Panels[i];
            string name = panel.Title.Length > 0 ? panel.Title : (i + 1).ToString(CultureInfo.InvariantCulture);
            foreach (var (curve, x, y, lower, upper) in Values(panel))
            {
                Line(csv, [figure.Name, name, curve, x, Number(y), Number(lower), Number(upper)]);
            }
        }

        return csv.ToString();
    }

    /// <summary>A table's header and rows.</summary>
    public static string Text(Table table)
    {
        StringBuilder csv = new();
        Line(csv, table.Header);
        foreach (IReadOnlyList<string> row in table.Rows)
        {
            Line(csv, row);
        }

        return csv.ToString();
    }

    /// <summary>Claims with their verdicts.</summary>
    public static string Text(Claims claims)
    {
        StringBuilder csv = new();
        Line(csv, ["source", "statement", "verdict", "evidence"]);
        foreach (Claim claim in claims.Claims)
        {
            Line(csv, [claim.Source, claim.Statement, verdict(claim.Verdict), claim.Evidence]);
        }

        return csv.ToString();
    }

    private static IEnumerable<(string Curve, string X, double Y, double Lower, double Upper)> Values(IPanel panel)
    {
        switch (panel)
        {
            case CurvePanel curves:
                foreach (Curve curve in curves.Curves)
                {
                    double Form(double value) => curve.Exponential ? Math.Exp(value) : value;
                    for (int i = 0; i < curve.X.Length; i++)
                    {
                        bool band = curve.Lower.Length > 0;
                        yield return (curve.Name, Number(curve.X[i]), Form(curve.Y[i]), band ? Form(curve.Lower[i]) : double.NaN, band ? Form(curve.Upper[i]) : double.NaN);
                    }
                }

                break;
            case PointPanel points:
                foreach (Point point in points.Points)
                {
                    yield return (point.Name, point.Label, point.Value, point.Lower, point.Upper);
                }

                break;
            case HeatPanel heat:
                for (int i = 0; i < heat.Values.Length; i++)
                {
                    yield return (heat.Rows[i / heat.Columns.Count], heat.Columns[i % heat.Columns.Count], heat.Values[i], double.NaN, double.NaN);
                }

                break;
            default:
                throw new ArgumentException($"A panel of type {panel.GetType().Name} cannot be written.");
        }
    }

    private static string Number(double value) => double.IsFinite(value) ? value.ToString("R", CultureInfo.InvariantCulture) : "";

    private static void Line(StringBuilder csv, IReadOnlyList<string> cells)
    {
        for (int i = 0; i < cells.Count; i++)
        {
            string cell = cells[i];
            csv.Append(i > 0 ? "," : "");
            csv.Append(cell.AsSpan().IndexOfAny(",\"\r\n") >= 0 ? $"\"{cell.Replace("\"", "\"\"")}\"" : cell);
        }

        csv.Append("\r\n");
    }
}
