using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>The list of the pictures that `generate` made: a line of JSON for each, file, caption, cfg, seed and codes.</summary>
internal static class GeneratedPictures
{
    /// <summary>The file's name within the directory.</summary>
    public const string ListName = "pictures.jsonl";

    /// <summary>
    /// The files that a directory's list names. Errors: InputException where a line is damaged, a name leads out of the directory, or
    /// pictures of several strengths of guidance are mixed.
    /// </summary>
    public static string[] Files(string folder)
    {
        string path = Path.Combine(folder, ListName);
        List<string> files = [];
        SortedSet<double> strengths = [];
        int line = 0;
        foreach (string text in Hybrid.Runner.Files.Text(path, "the list of pictures").Split('\n'))
        {
            line++;
            if (string.IsNullOrWhiteSpace(text))
            {
                continue;
            }

            (string? file, double strength) = Entry(text);
            if (file is null || !PicturePaths.IsSafe(file))
            {
                throw new InputException($"{path}, line {line}: it names no picture within the directory; each line is an object with \"file\".");
            }

            files.Add(Path.Combine(folder, file));
            strengths.Add(strength);
        }

        return strengths.Count > 1
            ? throw new InputException(
                $"{folder} holds pictures of the strengths {string.Join(", ", strengths.Select(Text))} of guidance, which are not one set; name the folder of one, such as {Path.Combine(folder, Folder(strengths.Max))}.")
            : files.Count > 0 ? [.. files]
            : throw new InputException($"{path} names no pictures.");
    }

    /// <summary>The folder of one strength of guidance among several.</summary>
    public static string Folder(double strength) => "cfg-" + Text(strength);

    /// <summary>A strength as text.</summary>
    public static string Text(double strength) => strength.ToString(CultureInfo.InvariantCulture);

    private static (string? File, double Strength) Entry(string text)
    {
        try
        {
            return JsonNode.Parse(text) is JsonObject entry && entry["file"] is JsonValue file && file.TryGetValue(out string? name)
                ? (name, entry["cfg"] is JsonValue cfg && cfg.TryGetValue(out double strength) ? strength : 1.0)
                : (null, 1.0);
        }
        catch (JsonException)
        {
            return (null, 1.0);
        }
    }
}
