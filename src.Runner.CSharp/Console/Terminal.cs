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
            bool painted = Coloured(Environment.GetEnvironmentVariable) && Forced(Environment.GetEnvironmentVariable);
            Console.Error.WriteLine(painted ? $"\e[{(colour == Color.Red ? 31 : 33)}m{mark}\e[0m{text}" : mark + text);
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
        if (Console.IsErrorRedirected || !Moves(Environment.GetEnvironmentVariable))
        {
            return null;
        }

        AnsiConsoleSettings settings = new()
        {
            Out = new AnsiConsoleOutput(Console.Error),
            ColorSystem = Coloured(Environment.GetEnvironmentVariable) ? ColorSystemSupport.Detect : ColorSystemSupport.NoColors,
        };
        IAnsiConsole console = AnsiConsole.Create(settings);
        return console.Profile.Capabilities.Ansi ? console : null;
    }

    /// <summary>Whether a terminal is one that a live line can be drawn on: not a dumb one, nor one whose output a CI service keeps as a log.</summary>
    internal static bool Moves(Func<string, string?> variable) =>
        variable("TERM") is not ("dumb" or "") && !Says(variable("CI"));

    /// <summary>Whether a terminal gets colours: not where NO_COLOR says so, or CLICOLOR that it has none and nothing forces them.</summary>
    internal static bool Coloured(Func<string, string?> variable) =>
        variable("NO_COLOR") is null or "" && (variable("CLICOLOR") is not "0" || Forced(variable));

    /// <summary>Whether colours are wanted even where nothing is a terminal.</summary>
    internal static bool Forced(Func<string, string?> variable) =>
        Says(variable("FORCE_COLOR")) || Says(variable("CLICOLOR_FORCE"));

    private static bool Says(string? value) => value is not (null or "" or "0") && !value.Equals("false", StringComparison.OrdinalIgnoreCase);
}
