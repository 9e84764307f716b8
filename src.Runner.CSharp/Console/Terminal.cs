using Spectre.Console;

namespace Hybrid.Runner;

/// <summary>What a person reads while the program runs. All of it goes to stderr: stdout belongs to results.</summary>
internal static class Terminal
{
    /// <summary>The terminal on stderr, or null where stderr is a file, a pipe or a terminal that cannot move its cursor.</summary>
    internal static IAnsiConsole? Live { get; } = Open();

    /// <summary>Whether another process of the run speaks for this one: only failures are said then.</summary>
    public static bool Quiet { get; set; }

    /// <summary>Whether another process says what failed, too.</summary>
    public static bool Silent { get; set; }

    /// <summary>A line.</summary>
    public static void Say(string text)
    {
        if (Quiet)
        {
            return;
        }

        if (Live is { } console)
        {
            console.Write(new Text(Padded(text, 0, console)));
        }
        else
        {
            Console.Error.WriteLine(text);
        }
    }

    /// <summary>A line that begins with "warning:".</summary>
    public static void Warn(string text)
    {
        if (!Quiet)
        {
            Marked("warning: ", Color.Yellow, text);
        }
    }

    /// <summary>A line that begins with "error:".</summary>
    public static void Fail(string text)
    {
        if (!Silent)
        {
            Marked("error: ", Color.Red, text);
        }
    }

    private static void Marked(string mark, Color colour, string text)
    {
        if (Live is { } console)
        {
            console.Write(new Paragraph().Append(mark, new Style(colour)).Append(Padded(text, mark.Length, console)));
        }
        else
        {
            Console.Error.WriteLine(mark + text);
        }
    }

    /// <summary>Lines filled up with spaces: they are written over a live line that may be longer.</summary>
    private static string Padded(string text, int before, IAnsiConsole console)
    {
        IEnumerable<string> lines = text.Split('\n').Select((line, i) => line.PadRight(console.Profile.Width - 1 - (i == 0 ? before : 0)) + "\n");
        return string.Concat(lines);
    }

    private static IAnsiConsole? Open()
    {
        if (Console.IsErrorRedirected || Environment.GetEnvironmentVariable("TERM") is "dumb" or "")
        {
            return null;
        }

        // Spectre leaves colours out by itself where NO_COLOR is set.
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(Console.Error) });
        return console.Profile.Capabilities.Ansi ? console : null;
    }
}
