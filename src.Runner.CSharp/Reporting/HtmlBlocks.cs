using System.Globalization;
using System.Text;
using static Hybrid.Report;

namespace Hybrid.Runner.Reporting;

/// <summary>A line of a page's contents.</summary>
/// <param name="Minor">Whether it belongs to a part before it.</param>
internal sealed record ContentsEntry(string Anchor, string Title, bool Minor);

/// <summary>Writes the blocks of a page as HTML and notes its contents.</summary>
/// <param name="points">How many points of each curve the page holds for its script.</param>
internal sealed class HtmlBlocks(StringBuilder html, int points)
{
    private readonly Anchors anchors = new();
    private readonly List<ContentsEntry> contents = [];
    private int figures, depth;

    public IReadOnlyList<ContentsEntry> Contents => contents;

    public void Append(IEnumerable<IBlock> blocks)
    {
        foreach (IBlock block in blocks)
        {
            Append(block);
        }
    }

    private void Append(IBlock block)
    {
        switch (block)
        {
            case Hybrid.Report.Text text:
                AppendHeading(text.Heading);
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
                AppendClaims(claims);
                break;
            case Figure figure:
                AppendFigure(figure);
                break;
            case Table table:
                AppendTable(table);
                break;
            case PictureGrid grid:
                AppendPictures(grid);
                break;
            case Links links:
                AppendHeading(links.Heading);
                html.Append($"<ul>{string.Concat(links.Links.Select(link => $"<li><a href=\"{Text(link.Target)}\">{Text(link.Label)}</a></li>"))}</ul>\n");
                break;
            case Folded folded:
                html.Append($"<details class=\"card\"><summary>{Text(folded.Summary)}</summary>\n");
                depth++;
                Append(folded.Blocks);
                depth--;
                html.Append("</details>\n");
                break;
            default:
                throw new ArgumentException($"A block of type {block.GetType().Name} cannot be rendered.");
        }
    }

    private void AppendHeading(string heading)
    {
        if (heading.Length > 0)
        {
            html.Append($"<h2 id=\"{Entry(heading, minor: false)}\">{Text(heading)}</h2>\n");
        }
    }

    /// <summary>The anchor of a part, which is put into the contents unless it is folded away.</summary>
    private string Entry(string title, bool minor, string? name = null)
    {
        string anchor = anchors.Of(name ?? title);
        if (depth == 0 && title.Length > 0)
        {
            contents.Add(new(anchor, title, minor && contents.Any(entry => !entry.Minor)));
        }

        return anchor;
    }

    private void AppendClaims(Claims claims)
    {
        html.Append("<section>");
        AppendHeading(claims.Title);
        html.Append("<ul class=\"claims\">\n");
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

    private void AppendFigure(Figure figure)
    {
        bool lone = figure.Panels.Count == 1;
        int number = figures++;
        html.Append($"<figure id=\"{Entry(figure.Title, minor: true, figure.Name)}\" class=\"card\"><figcaption><h3>{Text(figure.Title)} {Source(figure.Source)}</h3>");
        AppendFindings(figure.Paper, figure.Found);
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

        html.Append($"</div><script type=\"application/json\" class=\"data\">{FigureData.Text(figure, points)}</script></figure>\n");
    }

    private void AppendFindings(string paper, string found)
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

    private void AppendTable(Table table)
    {
        // A column whose cells all begin like numbers is set to the right.
        bool[] numeric = [.. table.Header.Select((_, i) => table.Rows.Count > 0 && table.Rows.All(row => row[i].Length == 0 || char.IsDigit(row[i][0]) || "−-–+<".Contains(row[i][0])))];
        string Cells(IReadOnlyList<string> row, string element, string scope = "") =>
            string.Concat(row.Select((cell, i) => $"<{element}{scope}{(numeric[i] ? " class=\"number\"" : "")}>{Text(cell)}</{element}>"));

        html.Append($"<section id=\"{Entry(table.Title, minor: true)}\" class=\"card\">");
        AppendTitle(table.Title, table.Source);
        AppendFindings(table.Paper, table.Found);
        html.Append($"<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{Text(table.Title)}\"><table><thead><tr>{Cells(table.Header, "th", " scope=\"col\"")}</tr></thead><tbody>\n");
        foreach (IReadOnlyList<string> row in table.Rows)
        {
            html.Append($"<tr>{Cells(row, "td")}</tr>\n");
        }

        html.Append("</tbody></table></div></section>\n");
    }

    private void AppendPictures(PictureGrid grid)
    {
        html.Append($"<section id=\"{Entry(grid.Title, minor: true)}\" class=\"card\">");
        AppendTitle(grid.Title, "");
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

    private void AppendTitle(string title, string source)
    {
        if (title.Length > 0)
        {
            html.Append($"<h3>{Text(title)} {Source(source)}</h3>");
        }
    }

    private static string Source(string source) => source.Length > 0 ? $"<span class=\"source\">{Text(source)}</span>" : "";

    private static string Text(string text) => FigureFile.Escape(text);
}
