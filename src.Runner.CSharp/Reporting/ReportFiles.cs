using System.Globalization;
using System.Text;
using Hybrid.Runner.Formats;
using static Hybrid.Report;

namespace Hybrid.Runner.Reporting;

/// <summary>What was written, and what could not be (a sentence each).</summary>
internal sealed record WrittenReport(string Page, string Markdown, IReadOnlyList<string> Figures, IReadOnlyList<string> Data, IReadOnlyList<string> Notes);

/// <summary>A report on disk, each file written aside and renamed, so that a reader never sees half of one.</summary>
internal static class ReportFiles
{
    /// <summary>
    /// Writes a page: the HTML file, the same as Markdown beside it, and beside them <c>figures/</c> (each figure as NAME.svg, NAME.png and
    /// NAME-dark.png, each picture as PNG) and <c>data/</c> (the numbers of each figure and table as CSV).
    /// </summary>
    public static WrittenReport Write(Page page, string path)
    {
        string directory = Path.GetDirectoryName(Path.GetFullPath(path))!;
        string markdown = Path.ChangeExtension(path, ".md");
        List<string> figures = [], data = [], notes = [];
        Anchors names = new();
        Dictionary<IBlock, string> drawings = new(ReferenceEqualityComparer.Instance), numbers = new(ReferenceEqualityComparer.Instance);
        Dictionary<IBlock, IReadOnlyList<string>> pictures = new(ReferenceEqualityComparer.Instance);
        foreach (IBlock block in Flat(page.Blocks))
        {
            switch (block)
            {
                case Figure figure:
                    string name = names.Of(figure.Name);
                    Draw(figure, name);
                    Numbers(figure, name, CsvFiles.Text(figure));
                    break;
                case Table table:
                    Numbers(table, names.Of(table.Title.Length > 0 ? table.Title : "table"), CsvFiles.Text(table));
                    break;
                case Claims claims:
                    Numbers(claims, names.Of(claims.Title.Length > 0 ? claims.Title : "claims"), CsvFiles.Text(claims));
                    break;
                case PictureGrid grid:
                    string stem = names.Of(grid.Title.Length > 0 ? grid.Title : "pictures");
                    pictures[grid] = [.. grid.Pictures.Select((picture, i) => Put(figures, "figures", string.Create(CultureInfo.InvariantCulture, $"{stem}-{i + 1:000}.png"), FigureFile.Png(picture)))];
                    break;
            }
        }

        MarkdownReport text = new(grid => pictures[grid], figure => drawings[figure], block => numbers[block]);
        AtomicFile.WriteText(markdown, text.Render(page));
        AtomicFile.WriteText(path, HtmlReport.Render(page));
        return new(path, markdown, figures, data, notes);

        void Draw(Figure figure, string name)
        {
            drawings[figure] = Put(figures, "figures", name + ".svg", Encoding.UTF8.GetBytes(FigureFile.Svg(figure)));
            foreach (var (suffix, theme) in new[] { ("-dark", Theme.Dark), ("", Theme.Light) })
            {
                if (FigureFile.Png(figure, theme) is { } png)
                {
                    drawings[figure] = Put(figures, "figures", name + suffix + ".png", png);
                }
                else if (notes.Count == 0)
                {
                    notes.Add("This machine has no fonts: figures are written as SVG only. For PNG, install fonts (Debian: fonts-dejavu-core) and write the report again.");
                }
            }
        }

        void Numbers(IBlock block, string name, string csv) => numbers[block] = Put(data, "data", name + ".csv", Encoding.UTF8.GetBytes(csv));

        // The address that the page names the file by.
        string Put(List<string> files, string folder, string file, byte[] content)
        {
            string full = Path.Combine(directory, folder, file);
            AtomicFile.WriteBytes(full, content);
            files.Add(full);
            return $"{folder}/{file}";
        }
    }

    private static IEnumerable<IBlock> Flat(IEnumerable<IBlock> blocks) =>
        blocks.SelectMany(block => block is Folded folded ? Flat(folded.Blocks) : [block]);
}
