using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Inputs as a shell would expand them, for shells that have not: braces with lists {a,b} and ranges {00000..00010}, and the
/// wildcards *, ?, [abc] and ** for any number of folders.
/// </summary>
internal static class PairInputs
{
    private const int Most = 1_000_000;

    /// <summary>The paths that an input stands for, in ordinal order within each wildcard. Errors: <see cref="InputException"/> where nothing matches.</summary>
    public static IEnumerable<string> Expand(string input)
    {
        if (input.IndexOfAny(['*', '?', '[', '{']) < 0 || Path.Exists(input))
        {
            return [input];
        }

        List<string> paths = [];
        foreach (string pattern in Braces(input))
        {
            if (pattern.IndexOfAny(['*', '?', '[']) < 0 || Path.Exists(pattern))
            {
                paths.Add(pattern);
                continue;
            }

            int before = paths.Count;
            paths.AddRange(Wildcards(pattern));
            if (paths.Count == before)
            {
                throw new InputException($"no file or folder matches {pattern}.");
            }
        }

        return paths;
    }

    /// <summary>Paths without img2dataset's NNNNN.parquet and NNNNN_stats.json where NNNNN.tar is among them: dir/* names all three.</summary>
    public static IEnumerable<string> WithoutCompanions(IReadOnlyCollection<string> paths)
    {
        HashSet<string> tars = [.. paths.Where(path => path.EndsWith(".tar", StringComparison.Ordinal)).Select(path => path[..^4])];
        bool IsCompanion(string path, string end) => path.EndsWith(end, StringComparison.Ordinal) && tars.Contains(path[..^end.Length]);
        return paths.Where(path => !IsCompanion(path, ".parquet") && !IsCompanion(path, "_stats.json"));
    }

    private static List<string> Braces(string pattern)
    {
        List<string> done = [], waiting = [pattern];
        while (waiting.Count > 0)
        {
            string next = waiting[^1];
            waiting.RemoveAt(waiting.Count - 1);
            if (Outer(next) is not var (open, close, parts))
            {
                done.Add(next);
                continue;
            }

            string before = next[..open], after = next[(close + 1)..];
            if ((long)done.Count + waiting.Count + parts.Count > Most)
            {
                throw new InputException($"{pattern} stands for more than {Most:N0} paths.");
            }

            // Last first: the stack gives them back in order.
            for (int i = parts.Count - 1; i >= 0; i--)
            {
                waiting.Add(before + parts[i] + after);
            }
        }

        return done;
    }

    /// <summary>The first braces that hold a list or a range, and what they stand for; their parts may hold braces again.</summary>
    private static (int Open, int Close, List<string> Parts)? Outer(string text)
    {
        for (int open = text.IndexOf('{'); open >= 0; open = text.IndexOf('{', open + 1))
        {
            List<string> parts = [];
            int depth = 1, start = open + 1;
            for (int i = open + 1; i < text.Length && depth > 0; i++)
            {
                depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
                if (depth == 0 || (depth == 1 && text[i] == ','))
                {
                    parts.Add(text[start..i]);
                    start = i + 1;
                }
            }

            parts = depth == 0 && parts.Count == 1 ? Numbers(parts[0]) : parts;
            if (depth == 0 && parts.Count > 0)
            {
                return (open, start - 1, parts);
            }
        }

        return null;
    }

    /// <summary>The numbers of a range, as wide as its ends are written; none where it is no range.</summary>
    private static List<string> Numbers(string inside)
    {
        if (Range(inside) is not var (first, last, width))
        {
            return [];
        }

        if (Math.Abs(last - first) >= Most)
        {
            throw new InputException($"{{{inside}}} stands for more than {Most:N0} paths.");
        }

        List<string> numbers = [];
        for (long number = first; ; number += Math.Sign(last - first))
        {
            numbers.Add(number.ToString("D" + width, CultureInfo.InvariantCulture));
            if (number == last)
            {
                return numbers;
            }
        }
    }

    private static (long First, long Last, int Width)? Range(string inside)
    {
        string[] ends = inside.Split("..");
        return ends.Length == 2 && long.TryParse(ends[0], NumberStyles.None, CultureInfo.InvariantCulture, out long first)
            && long.TryParse(ends[1], NumberStyles.None, CultureInfo.InvariantCulture, out long last)
            ? (first, last, Math.Max(ends[0].StartsWith('0') ? ends[0].Length : 1, ends[1].StartsWith('0') ? ends[1].Length : 1))
            : null;
    }

    private static List<string> Wildcards(string pattern)
    {
        string root = Path.GetPathRoot(pattern) ?? "";
        string[] segments = pattern[root.Length..].Split(['/', Path.DirectorySeparatorChar], StringSplitOptions.RemoveEmptyEntries);
        List<string> found = [];
        try
        {
            Match(root, segments, 0, found);
        }
        catch (Exception e) when (FileErrors.Explain(e, pattern) is { } refusal)
        {
            throw refusal;
        }

        return [.. found.Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal)];
    }

    private static void Match(string folder, string[] segments, int at, List<string> found)
    {
        if (at == segments.Length)
        {
            found.Add(folder);
            return;
        }

        string segment = segments[at], place = folder.Length == 0 ? "." : folder;
        if (segment == "**")
        {
            Match(folder, segments, at + 1, found);
            foreach (string inner in Directory.EnumerateDirectories(place).Where(inner => new DirectoryInfo(inner).LinkTarget is null && !Hidden(inner)))
            {
                Match(Path.Combine(folder, Path.GetFileName(inner)), segments, at, found);
            }
        }
        else if (segment.IndexOfAny(['*', '?', '[']) < 0)
        {
            string next = Path.Combine(folder, segment);
            if (at == segments.Length - 1 ? Path.Exists(next) : Directory.Exists(next))
            {
                Match(next, segments, at + 1, found);
            }
        }
        else
        {
            Regex names = Names(segment);
            bool last = at == segments.Length - 1;
            foreach (string entry in last ? Directory.EnumerateFileSystemEntries(place) : Directory.EnumerateDirectories(place))
            {
                string name = Path.GetFileName(entry);
                if (names.IsMatch(name) && (!Hidden(name) || segment[0] == '.'))
                {
                    Match(Path.Combine(folder, name), segments, at + 1, found);
                }
            }
        }
    }

    private static bool Hidden(string path) => Path.GetFileName(path).StartsWith('.');

    private static Regex Names(string segment)
    {
        StringBuilder regex = new("^");
        for (int i = 0; i < segment.Length; i++)
        {
            int close = segment[i] == '[' && i + 2 < segment.Length ? segment.IndexOf(']', i + 2) : -1;
            if (close > 0)
            {
                string set = segment[(i + 1)..close];
                bool not = set[0] is '!' or '^' && set.Length > 1;
                regex.Append(not ? "[^" : "[").Append((not ? set[1..] : set).Replace(@"\", @"\\").Replace("[", @"\[").Replace("^", @"\^")).Append(']');
                i = close;
            }
            else
            {
                regex.Append(segment[i] switch { '*' => ".*", '?' => ".", var c => Regex.Escape(c.ToString()) });
            }
        }

        try
        {
            return new Regex(regex.Append('$').ToString(), RegexOptions.Singleline | RegexOptions.CultureInvariant | RegexOptions.NonBacktracking);
        }
        catch (ArgumentException e)
        {
            throw new InputException($"\"{segment}\" is not a pattern of names: {e.Message}", e);
        }
    }
}
