using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using static Hybrid.Report;

namespace Hybrid.Runner.Reporting;

/// <summary>Writes a page as Markdown, its figures, pictures and numbers as links to files beside it.</summary>
/// <param name="pictures">The files of a grid's pictures, relative to the page.</param>
/// <param name="drawing">The file of a figure's drawing.</param>
/// <param name="numbers">The file of a figure's, table's or claims' numbers.</param>
internal sealed partial class MarkdownReport(
    Func<PictureGrid, IReadOnlyList<string>> pictures, Func<Figure, string> drawing, Func<IBlock, string> numbers)
{
    private readonly StringBuilder text = new();

    public string Render(Page page)
    {
        text.Clear();
        text.Append($"# {Escape(page.Title)}\n\n");
        Paragraph(page.Subtitle);
        foreach (IBlock block in page.Blocks)
        {
            Append(block);
        }

        return text.ToString().TrimEnd() + "\n";
    }

    private void Append(IBlock block)
    {
        switch (block)
        {
            case Hybrid.Report.Text words:
                Heading(2, words.Heading, "");
                foreach (string paragraph in words.Body.Split("\n\n", StringSplitOptions.RemoveEmptyEntries))
                {
                    Paragraph(paragraph);
                }

                break;
            case Code code:
                string fence = new('`', Math.Max(3, Ticks().Matches(code.Body).Select(run => run.Length).DefaultIfEmpty(0).Max() + 1));
                text.Append($"{fence}\n{code.Body.TrimEnd()}\n{fence}\n\n");
                break;
            case KeyNumbers keys:
                Rows(["", "", ""], keys.Numbers.Select(key => (string[])[Escape(key.Label), $"**{Escape(key.Value)}**", Escape(key.Note)]));
                break;
            case Claims claims:
                Heading(2, claims.Title, "");
                foreach (Claim claim in claims.Claims)
                {
                    string source = claim.Source.Length > 0 ? $" ({Escape(claim.Source)})" : "";
                    text.Append($"- **{verdict(claim.Verdict)}**: {Escape(claim.Statement)}{source}  \n  {Escape(claim.Evidence)}\n");
                }

                text.Append('\n');
                Numbers(claims);
                break;
            case Figure figure:
                Heading(3, figure.Title, figure.Source);
                Findings(figure.Paper, figure.Found);
                text.Append($"![{Escape(figure.Title)}]({drawing(figure)})\n\n");
                Numbers(figure);
                break;
            case Table table:
                Heading(3, table.Title, table.Source);
                Findings(table.Paper, table.Found);
                Rows([.. table.Header.Select(Escape)], table.Rows.Select(row => (string[])[.. row.Select(Escape)]));
                Numbers(table);
                break;
            case PictureGrid grid:
                Heading(3, grid.Title, "");
                Paragraph(grid.Note);
                IReadOnlyList<string> files = pictures(grid);
                int columns = Math.Max(1, grid.Columns);
                Rows(
                    [.. Enumerable.Repeat("", columns)],
                    grid.Pictures.Select((picture, i) => $"![]({files[i]})<br>{Escape(picture.Caption)}").Chunk(columns)
                        .Select(row => (string[])[.. row, .. Enumerable.Repeat("", columns - row.Length)]));
                break;
            case Links links:
                Heading(2, links.Heading, "");
                text.Append(string.Concat(links.Links.Select(link => $"- [{Escape(link.Label)}]({link.Target})\n"))).Append('\n');
                break;
            case Folded folded:
                text.Append($"<details><summary>{Escape(folded.Summary)}</summary>\n\n");
                foreach (IBlock inner in folded.Blocks)
                {
                    Append(inner);
                }

                text.Append("</details>\n\n");
                break;
            default:
                throw new ArgumentException($"A block of type {block.GetType().Name} cannot be written.");
        }
    }

    private void Heading(int level, string title, string source)
    {
        if (title.Length > 0)
        {
            text.Append(CultureInfo.InvariantCulture, $"{new string('#', level)} {Escape(title)}{(source.Length > 0 ? $" ({Escape(source)})" : "")}\n\n");
        }
    }

    private void Paragraph(string words)
    {
        if (words.Length > 0)
        {
            text.Append(Escape(words)).Append("\n\n");
        }
    }

    private void Findings(string paper, string found)
    {
        Finding("The paper", paper);
        Finding("This run", found);
    }

    private void Finding(string who, string words)
    {
        if (words.Length > 0)
        {
            text.Append($"*{who}:* {Escape(words)}\n\n");
        }
    }

    private void Numbers(IBlock block) => text.Append($"[Numbers]({numbers(block)})\n\n");

    private void Rows(IReadOnlyList<string> header, IEnumerable<IReadOnlyList<string>> rows)
    {
        void Line(IEnumerable<string> cells) => text.Append($"| {string.Join(" | ", cells)} |\n");
        Line(header);
        Line(header.Select(_ => "---"));
        foreach (IReadOnlyList<string> row in rows)
        {
            Line(row);
        }

        text.Append('\n');
    }

    /// <summary>A text in one line without meaning for Markdown or HTML.</summary>
    private static string Escape(string words) => Special().Replace(Lines().Replace(words, " "), found => found.Value switch
    {
        "<" => "&lt;",
        ">" => "&gt;",
        "&" => "&amp;",
        _ => "\\" + found.Value,
    });

    [GeneratedRegex(@"[\\`*_\[\]|<>&#~$]")]
    private static partial Regex Special();

    [GeneratedRegex(@"\s*[\r\n]+\s*")]
    private static partial Regex Lines();

    [GeneratedRegex("`+")]
    private static partial Regex Ticks();
}
