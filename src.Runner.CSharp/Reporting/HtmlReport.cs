using System.Globalization;
using System.Reflection;
using System.Text;
using static Hybrid.Report;

namespace Hybrid.Runner.Reporting;

/// <summary>What was written, and what could not be (a sentence each).</summary>
public sealed record WrittenReport(string Page, IReadOnlyList<string> Figures, IReadOnlyList<string> Notes);

/// <summary>Renders a page to one HTML file that needs nothing else: style, figures and pictures are in it.</summary>
public static class HtmlReport
{
    /// <summary>
    /// Writes the page, and each figure as NAME.svg, NAME.png and NAME-dark.png into a directory (null: none). Every file is written aside
    /// and moved, so that a reader never sees half of one.
    /// </summary>
    public static WrittenReport Write(Page page, string path, string? figures)
    {
        List<string> files = [], notes = [];
        if (figures is not null)
        {
            Directory.CreateDirectory(figures);
            foreach (Figure figure in page.Blocks.OfType<Figure>())
            {
                Put(Path.Combine(figures, figure.Name + ".svg"), Encoding.UTF8.GetBytes(FigureFile.Svg(figure)));
                foreach (var (suffix, theme) in new[] { ("", Theme.Light), ("-dark", Theme.Dark) })
                {
                    if (FigureFile.Png(figure, theme) is { } png)
                    {
                        Put(Path.Combine(figures, figure.Name + suffix + ".png"), png);
                    }
                    else if (notes.Count == 0)
                    {
                        notes.Add("This machine has no fonts: figures are written as SVG only. For PNG, install fonts (Debian: fonts-dejavu-core) and write the report again.");
                    }
                }
            }
        }

        if (Path.GetDirectoryName(Path.GetFullPath(path)) is { } directory)
        {
            Directory.CreateDirectory(directory);
        }

        Write(path, Encoding.UTF8.GetBytes(Render(page)));
        return new WrittenReport(path, files, notes);

        void Put(string file, byte[] content)
        {
            Write(file, content);
            files.Add(file);
        }

        static void Write(string file, byte[] content)
        {
            string aside = file + ".part";
            File.WriteAllBytes(aside, content);
            File.Move(aside, file, overwrite: true);
        }
    }

    /// <summary>The page as HTML.</summary>
    public static string Render(Page page)
    {
        StringBuilder html = new();
        html.Append("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        html.Append("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n");
        html.Append($"<title>{Text(page.Title)}</title>\n<style>\n{Theme.Css(":root")}{Style()}</style>\n</head>\n<body>\n<main>\n");
        html.Append($"<header><h1>{Text(page.Title)}</h1>");
        if (page.Subtitle.Length > 0)
        {
            html.Append($"<p class=\"subtitle\">{Text(page.Subtitle)}</p>");
        }

        html.Append("</header>\n");
        int number = 0;
        foreach (IBlock block in page.Blocks)
        {
            Append(html, block, number++);
        }

        return html.Append("</main>\n</body>\n</html>\n").ToString();
    }

    private static void Append(StringBuilder html, IBlock block, int number)
    {
        switch (block)
        {
            case Hybrid.Report.Text text:
                html.Append(Heading(text.Heading));
                foreach (string paragraph in text.Body.Split("\n\n", StringSplitOptions.RemoveEmptyEntries))
                {
                    html.Append($"<p>{Text(paragraph)}</p>\n");
                }

                break;
            case Code code:
                html.Append($"<pre class=\"scroll\" tabindex=\"0\">{Text(code.Body)}</pre>\n");
                break;
            case KeyNumbers numbers:
                html.Append("<dl class=\"numbers\">");
                foreach (KeyNumber key in numbers.Numbers)
                {
                    html.Append($"<div><dt>{Text(key.Label)}</dt><dd><strong>{Text(key.Value)}</strong><small>{Text(key.Note)}</small></dd></div>");
                }

                html.Append("</dl>\n");
                break;
            case Claims claims:
                AppendClaims(html, claims);
                break;
            case Figure figure:
                AppendFigure(html, figure, number);
                break;
            case Table table:
                AppendTable(html, table);
                break;
            case PictureGrid grid:
                AppendPictures(html, grid);
                break;
            default:
                throw new ArgumentException($"A block of type {block.GetType().Name} cannot be rendered.");
        }
    }

    private static void AppendClaims(StringBuilder html, Claims claims)
    {
        html.Append("<section>").Append(Heading(claims.Title)).Append("<ul class=\"claims\">\n");
        foreach (Claim claim in claims.Claims)
        {
            var (style, sign) = claim.Verdict switch
            {
                Verdict.Holds => ("holds", "✓"),
                Verdict.DoesNotHold => ("fails", "✗"),
                _ => ("open", "?"),
            };
            html.Append($"<li class=\"{style}\"><div class=\"verdict\"><span aria-hidden=\"true\">{sign}</span> {verdict(claim.Verdict)}</div>");
            html.Append($"<div><p class=\"statement\">{Text(claim.Statement)} {Source(claim.Source)}</p><p class=\"evidence\">{Text(claim.Evidence)}</p></div></li>\n");
        }

        html.Append("</ul></section>\n");
    }

    private static void AppendFigure(StringBuilder html, Figure figure, int number)
    {
        bool lone = figure.Panels.Count == 1;
        html.Append($"<figure id=\"{Text(figure.Name)}\" class=\"card\"><figcaption><h3>{Text(figure.Title)} {Source(figure.Source)}</h3>");
        AppendFindings(html, figure.Paper, figure.Found);
        html.Append("</figcaption>");
        var legend = FigureFile.Legend(figure);
        if (legend.Count > 0)
        {
            html.Append("<ul class=\"legend\">");
            foreach (var (name, series, dashed) in legend)
            {
                html.Append($"<li><i class=\"{(dashed ? "dashed" : "solid")}\" style=\"color:{Theme.SeriesVariable(series)}\"></i>{Text(name)}</li>");
            }

            html.Append("</ul>");
        }

        html.Append($"<div class=\"panels{(lone ? " lone" : "")}\">");
        for (int i = 0; i < figure.Panels.Count; i++)
        {
            html.Append("<div>");
            html.Append(FigureFile.InlineSvg(figure.Panels[i], $"f{number}p{i}w", narrow: false, lone));
            html.Append(FigureFile.InlineSvg(figure.Panels[i], $"f{number}p{i}n", narrow: true, lone));
            html.Append("</div>");
        }

        html.Append("</div></figure>\n");
    }

    private static void AppendFindings(StringBuilder html, string paper, string found)
    {
        if (paper.Length > 0 || found.Length > 0)
        {
            html.Append("<dl class=\"findings\">");
            if (paper.Length > 0)
            {
                html.Append($"<div><dt>The paper</dt><dd>{Text(paper)}</dd></div>");
            }

            if (found.Length > 0)
            {
                html.Append($"<div class=\"ours\"><dt>This run</dt><dd>{Text(found)}</dd></div>");
            }

            html.Append("</dl>");
        }
    }

    private static void AppendTable(StringBuilder html, Table table)
    {
        // A column whose cells all begin like numbers is set to the right.
        bool[] numeric = [.. table.Header.Select((_, i) => table.Rows.Count > 0 && table.Rows.All(row => row[i].Length == 0 || char.IsDigit(row[i][0]) || "−-–+<".Contains(row[i][0])))];
        string Cells(IReadOnlyList<string> row, string element, string scope = "") =>
            string.Concat(row.Select((cell, i) => $"<{element}{scope}{(numeric[i] ? " class=\"number\"" : "")}>{Text(cell)}</{element}>"));

        html.Append("<section class=\"card\">");
        if (table.Title.Length > 0)
        {
            html.Append($"<h3>{Text(table.Title)} {Source(table.Source)}</h3>");
        }

        AppendFindings(html, table.Paper, table.Found);
        html.Append($"<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{Text(table.Title)}\"><table><thead><tr>{Cells(table.Header, "th", " scope=\"col\"")}</tr></thead><tbody>\n");
        foreach (IReadOnlyList<string> row in table.Rows)
        {
            html.Append($"<tr>{Cells(row, "td")}</tr>\n");
        }

        html.Append("</tbody></table></div></section>\n");
    }

    private static void AppendPictures(StringBuilder html, PictureGrid grid)
    {
        html.Append("<section class=\"card\">");
        if (grid.Title.Length > 0)
        {
            html.Append($"<h3>{Text(grid.Title)}</h3>");
        }

        if (grid.Note.Length > 0)
        {
            html.Append($"<p>{Text(grid.Note)}</p>");
        }

        html.Append(CultureInfo.InvariantCulture, $"<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{Text(grid.Title)}\"><div class=\"pictures\" style=\"--columns:{Math.Max(1, grid.Columns)}\">\n");
        foreach (Picture picture in grid.Pictures)
        {
            string data = Convert.ToBase64String(FigureFile.Png(picture));
            html.Append(CultureInfo.InvariantCulture, $"<figure><img alt=\"{Text(picture.Caption)}\" width=\"{picture.Width}\" height=\"{picture.Height}\" src=\"data:image/png;base64,{data}\"><figcaption>{Text(picture.Caption)}</figcaption></figure>\n");
        }

        html.Append("</div></div></section>\n");
    }

    private static string Heading(string heading) => heading.Length > 0 ? $"<h2>{Text(heading)}</h2>\n" : "";

    private static string Source(string source) => source.Length > 0 ? $"<span class=\"source\">{Text(source)}</span>" : "";

    private static string Text(string text) => FigureFile.Escape(text);

    private static string Style()
    {
        using Stream stream = Assembly.GetExecutingAssembly().GetManifestResourceStream("report.css")
            ?? throw new InvalidOperationException("The program was built without report.css.");
        using StreamReader reader = new(stream);
        return reader.ReadToEnd();
    }
}
