using System.Text;

namespace Hybrid.Runner.Reporting;

/// <summary>Names for the parts of a page, each given once: letters, digits and hyphens.</summary>
internal sealed class Anchors
{
    private readonly HashSet<string> given = new(StringComparer.OrdinalIgnoreCase);

    /// <summary>A name like a title that no other part has.</summary>
    public string Of(string title)
    {
        string slug = Slug(title);
        string name = slug;
        for (int i = 2; !given.Add(name); i++)
        {
            name = $"{slug}-{i}";
        }

        return name;
    }

    private static string Slug(string title)
    {
        StringBuilder slug = new();
        foreach (char letter in title.ToLowerInvariant())
        {
            if (letter is (>= 'a' and <= 'z') or (>= '0' and <= '9'))
            {
                slug.Append(letter);
            }
            else if (slug.Length > 0 && slug[^1] != '-')
            {
                slug.Append('-');
            }

            if (slug.Length >= 60)
            {
                break;
            }
        }

        string made = slug.ToString().Trim('-');
        return made.Length > 0 ? made : "part";
    }
}
