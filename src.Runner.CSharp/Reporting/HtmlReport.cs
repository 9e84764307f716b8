using System.Text;
using static Hybrid.Report;

namespace Hybrid.Runner.Reporting;

/// <summary>A page that is served while its runs go on: how often it asks, and what it is built of.</summary>
/// <param name="Structure">Changes when the page must be loaded again.</param>
/// <param name="Status">The sentence under the title.</param>
internal sealed record LivePage(TimeSpan Every, string Structure, string Status);

/// <summary>Renders a page to one HTML file that needs nothing else: style, script, figures, numbers and pictures are in it.</summary>
internal static class HtmlReport
{
    /// <summary>
    /// The page as HTML. It can be read without its script; with it, curves are read out, smoothed and zoomed. A live page has no points of
    /// curves in it and asks its server for them.
    /// </summary>
    public static string Render(Page page, LivePage? live = null)
    {
        StringBuilder body = new();
        int points = live is null ? FigureData.PointsEach(Figures(page.Blocks)) : 0;
        HtmlBlocks blocks = new(body, points);
        blocks.Append(page.Blocks);

        StringBuilder html = new();
        html.Append("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        html.Append($"<meta http-equiv=\"Content-Security-Policy\" content=\"{Text(PageParts.Policy(live is not null))}\">\n");
        html.Append("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n");
        html.Append($"<title>{Text(page.Title)}</title>\n<style>\n{PageParts.Style}</style>\n</head>\n<body>\n<div class=\"page\">\n");
        html.Append($"<header><h1>{Text(page.Title)}</h1>");
        if (page.Subtitle.Length > 0)
        {
            html.Append($"<p class=\"subtitle\">{Text(page.Subtitle)}</p>");
        }

        if (live is not null)
        {
            html.Append($"<p id=\"live-status\" role=\"status\" data-state=\"on\">{Text(live.Status)}</p>");
        }

        html.Append("</header>\n");
        AppendContents(html, blocks.Contents);
        html.Append("<main>\n").Append(body).Append("</main>\n</div>\n");
        if (live is not null)
        {
            string data = FigureData.Write(json =>
            {
                json.WriteStartObject();
                json.WriteNumber("every", live.Every.TotalMilliseconds);
                json.WriteString("structure", live.Structure);
                json.WriteEndObject();
            });
            html.Append($"<script type=\"application/json\" id=\"live-data\">{data}</script>\n");
        }

        return html.Append($"<script>{PageParts.Script}</script>\n</body>\n</html>\n").ToString();
    }

    /// <summary>The figures among blocks, in folded ones too.</summary>
    internal static IEnumerable<Figure> Figures(IEnumerable<IBlock> blocks) =>
        blocks.SelectMany(block => block switch { Figure figure => [figure], Folded folded => Figures(folded.Blocks), _ => Enumerable.Empty<Figure>() });

    /// <summary>The contents: in sight beside a wide page, folded above a narrow one.</summary>
    private static void AppendContents(StringBuilder html, IReadOnlyList<ContentsEntry> entries)
    {
        if (entries.Count < 4)
        {
            return;
        }

        string list = string.Concat(entries.Select(entry => $"<li{(entry.Minor ? " class=\"minor\"" : "")}><a href=\"#{entry.Anchor}\">{Text(entry.Title)}</a></li>\n"));
        html.Append($"<nav class=\"contents\" aria-label=\"Contents\"><ol>\n{list}</ol>\n<details><summary>Contents</summary><ol>\n{list}</ol></details></nav>\n");
    }

    private static string Text(string text) => FigureFile.Escape(text);
}
