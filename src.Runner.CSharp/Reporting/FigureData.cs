using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Unicode;
using static Hybrid.Report;
using IPanel = Hybrid.Report.IPanel;

namespace Hybrid.Runner.Reporting;

/// <summary>
/// The numbers of a figure as JSON for the page's script. Numbers keep six digits, curves so many points as the eye can use; nothing in
/// the text can end the element that it stands in.
/// </summary>
internal static class FigureData
{
    private const int MostPoints = 2000, FewestPoints = 100, MostOnPage = 300_000;

    // The default of the encoder of web pages: < > & ' " and what is not text are written as \uXXXX.
    private static readonly JsonWriterOptions options = new() { Encoder = JavaScriptEncoder.Create(UnicodeRanges.All) };

    /// <summary>How many points of each curve a page of figures holds, so that the page stays small with many curves.</summary>
    public static int PointsEach(IEnumerable<Figure> figures)
    {
        int curves = figures.SelectMany(figure => figure.Panels).OfType<CurvePanel>().Sum(panel => panel.Curves.Count);
        return Math.Clamp(MostOnPage / Math.Max(1, curves), FewestPoints, MostPoints);
    }

    /// <summary>The object of a figure; curves have at most so many points (0: none).</summary>
    public static string Text(Figure figure, int points) => Write(json => Figure(json, figure, curve => Reduce(curve, points)));

    /// <summary>Text made by writing to a writer whose result may stand in a page.</summary>
    public static string Write(Action<Utf8JsonWriter> write)
    {
        using MemoryStream stream = new();
        using (Utf8JsonWriter json = new(stream, options))
        {
            write(json);
        }

        return Encoding.UTF8.GetString(stream.ToArray());
    }

    /// <summary>A figure with every point of its curves.</summary>
    public static void Whole(Utf8JsonWriter json, Figure figure) => Figure(json, figure, curve => (curve, 1));

    private static (Curve, int) Reduce(Curve curve, int points)
    {
        if (points == 0)
        {
            return (new Curve(curve.Name, [], [], [], [], curve.Dashed, curve.Series, curve.Smoothing, curve.Exponential), 1);
        }

        if (double.IsNaN(curve.Smoothing))
        {
            return (ReportCurves.thin(points, curve), 1);
        }

        var (condensed, each) = ReportCurves.condense(points, curve);
        return (condensed, each);
    }

    private static void Figure(Utf8JsonWriter json, Figure figure, Func<Curve, (Curve, int)> reduce)
    {
        json.WriteStartObject();
        json.WriteStartArray("panels");
        foreach (IPanel panel in figure.Panels)
        {
            json.WriteStartObject();
            switch (panel)
            {
                case CurvePanel curves:
                    json.WriteString("kind", "curves");
                    json.WriteString("title", curves.Title);
                    Axis(json, "x", curves.X);
                    Axis(json, "y", curves.Y);
                    Marks(json, curves.Marks);
                    json.WriteStartArray("curves");
                    foreach (Curve curve in curves.Curves)
                    {
                        var (reduced, each) = reduce(curve);
                        Curve(json, reduced, each);
                    }

                    json.WriteEndArray();
                    break;
                case PointPanel points:
                    json.WriteString("kind", "points");
                    json.WriteString("title", points.Title);
                    Axis(json, "value", points.Value);
                    Marks(json, points.Marks);
                    Points(json, points);
                    break;
                case HeatPanel heat:
                    json.WriteString("kind", "heat");
                    json.WriteString("label", heat.ValueLabel);
                    json.WriteString("rowLabel", heat.RowLabel);
                    json.WriteString("columnLabel", heat.ColumnLabel);
                    Texts(json, "rows", heat.Rows);
                    Texts(json, "columns", heat.Columns);
                    Numbers(json, "values", heat.Values);
                    break;
                default:
                    throw new ArgumentException($"A panel of type {panel.GetType().Name} cannot be rendered.");
            }

            json.WriteEndObject();
        }

        json.WriteEndArray();
        json.WriteEndObject();
    }

    private static void Curve(Utf8JsonWriter json, Curve curve, int each)
    {
        json.WriteStartObject();
        json.WriteString("name", curve.Name);
        json.WriteNumber("series", curve.Series);
        if (curve.Dashed)
        {
            json.WriteBoolean("dashed", true);
        }

        if (!double.IsNaN(curve.Smoothing))
        {
            json.WriteNumber("beta", curve.Smoothing);
            json.WriteNumber("each", each);
        }

        if (curve.Exponential)
        {
            json.WriteBoolean("exp", true);
        }

        if (Progression(curve.X) is { } step)
        {
            json.WriteStartObject("x");
            json.WriteNumber("from", curve.X[0]);
            json.WriteNumber("step", step);
            json.WriteNumber("count", curve.X.Length);
            json.WriteEndObject();
        }
        else
        {
            Numbers(json, "x", curve.X, digits: 12);
        }

        Numbers(json, "y", curve.Y);
        if (curve.Lower.Length > 0)
        {
            Numbers(json, "lower", curve.Lower);
            Numbers(json, "upper", curve.Upper);
        }

        json.WriteEndObject();
    }

    /// <summary>The step of values that are evenly apart, as steps of training are; null where they are not.</summary>
    private static double? Progression(double[] x)
    {
        if (x.Length < 3)
        {
            return null;
        }

        double step = (x[^1] - x[0]) / (x.Length - 1);
        for (int i = 0; i < x.Length; i++)
        {
            if (!(Math.Abs(x[0] + i * step - x[i]) <= 1e-9 * Math.Max(1, Math.Abs(x[i]))))
            {
                return null;
            }
        }

        return step;
    }

    private static void Points(Utf8JsonWriter json, PointPanel panel)
    {
        json.WriteStartArray("points");
        foreach (Point point in panel.Points)
        {
            json.WriteStartObject();
            json.WriteString("label", point.Label);
            json.WriteString("name", point.Name);
            json.WriteNumber("series", point.Series);
            Number(json, "value", point.Value);
            Number(json, "lower", point.Lower);
            Number(json, "upper", point.Upper);
            json.WriteEndObject();
        }

        json.WriteEndArray();
    }

    private static void Axis(Utf8JsonWriter json, string name, Axis axis)
    {
        json.WriteStartObject(name);
        json.WriteString("label", axis.Label);
        json.WriteBoolean("log", axis.Log);
        json.WriteEndObject();
    }

    private static void Marks(Utf8JsonWriter json, IReadOnlyList<Mark> marks)
    {
        json.WriteStartArray("marks");
        foreach (Mark mark in marks.Where(mark => double.IsFinite(mark.Value)))
        {
            json.WriteStartObject();
            json.WriteString("label", mark.Label);
            json.WriteNumber("value", mark.Value);
            json.WriteBoolean("vertical", mark.Vertical);
            json.WriteEndObject();
        }

        json.WriteEndArray();
    }

    private static void Texts(Utf8JsonWriter json, string name, IEnumerable<string> texts)
    {
        json.WriteStartArray(name);
        foreach (string text in texts)
        {
            json.WriteStringValue(text);
        }

        json.WriteEndArray();
    }

    private static void Number(Utf8JsonWriter json, string name, double value)
    {
        json.WritePropertyName(name);
        Value(json, value, 6);
    }

    private static void Numbers(Utf8JsonWriter json, string name, IEnumerable<double> values, int digits = 6)
    {
        json.WriteStartArray(name);
        foreach (double value in values)
        {
            Value(json, value, digits);
        }

        json.WriteEndArray();
    }

    private static void Value(Utf8JsonWriter json, double value, int digits)
    {
        if (double.IsFinite(value))
        {
            json.WriteRawValue(value.ToString("G" + digits, CultureInfo.InvariantCulture), skipInputValidation: true);
        }
        else
        {
            json.WriteNullValue();
        }
    }
}
