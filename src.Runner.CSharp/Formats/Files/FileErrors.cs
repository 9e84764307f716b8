namespace Hybrid.Runner.Formats;

/// <summary>Turns what the operating system says about a file into a sentence for the person who named it.</summary>
internal static class FileErrors
{
    /// <summary>The refusal for an exception of opening or reading a file; null for any other exception.</summary>
    public static InputException? Explain(Exception error, string path) => error switch
    {
        FileNotFoundException or DirectoryNotFoundException => new($"{path} does not exist.", error),
        // Opening a directory as a file is said to be denied.
        UnauthorizedAccessException when Directory.Exists(path) => new($"{path} is a directory; a file is wanted.", error),
        UnauthorizedAccessException => new($"{path} may not be read: {error.Message}", error),
        IOException or NotSupportedException => new($"{path} cannot be read: {error.Message}", error),
        ArgumentException when error is not ArgumentOutOfRangeException => new($"\"{path}\" is not a path: {error.Message}", error),
        _ => null,
    };

    /// <summary>Names one after the other, at most a dozen and then how many more.</summary>
    public static string List(IReadOnlyCollection<string> names)
    {
        const int most = 12;
        string shown = string.Join(", ", names.Take(most));
        return names.Count > most ? $"{shown} and {names.Count - most} more" : shown;
    }

    /// <summary>Text from a file made fit to stand in a message: short, control characters shown as dots.</summary>
    public static string Show(string text)
    {
        const int most = 80;
        string shown = text.Length > most ? text[..most] + "…" : text;
        return string.Create(shown.Length, shown, static (span, source) =>
        {
            for (int i = 0; i < span.Length; i++)
            {
                span[i] = char.IsControl(source[i]) || char.IsSurrogate(source[i]) ? '.' : source[i];
            }
        });
    }
}
