namespace Hybrid.Runner;

/// <summary>
/// From the words of the command line to an exit code: 0 done, 1 failed, 2 usage or configuration, 130 interrupted (or the code that a
/// run names for that).
/// </summary>
public static class Program
{
    private const int Done = 0, Failed = 1, Usage = 2, Interrupted = 130;

    /// <summary>Carries out a command line, and returns the exit code.</summary>
    public static int Main(string[] arguments)
    {
        if (Distribution.RankVariables.Launched || !Terminal.Moves(Environment.GetEnvironmentVariable))
        {
            // Launchers give processes a terminal of their own, and CI may: neither is to get the control characters that .NET writes to one.
            Environment.SetEnvironmentVariable("TERM", "dumb");
        }

        switch (CommandLine.parse(arguments))
        {
            case HelpOutcome help:
                Console.Out.WriteLine(help.Text);
                if (arguments.Length == 0 && Welcome.Runs(Directory.GetCurrentDirectory()) is { } runs)
                {
                    Console.Out.WriteLine("\n" + runs);
                }

                return Done;
            case UsageOutcome usage:
                Console.Error.WriteLine(usage.Text);
                return Usage;
            case RunOutcome run:
                return Run(run.Command);
            default:
                throw new InvalidOperationException("The command line came to nothing that is known here.");
        }
    }

    /// <summary>Carries out a command and says in a sentence what went wrong.</summary>
    internal static int Run(ICommand command)
    {
        Soak.Keeper.Watch();
        using Interruption interruption = new();
        try
        {
            return Jobs.Run(command, interruption.Token) ? Done : Failed;
        }
        catch (RunStoppedException stopped)
        {
            return stopped.ExitCode;
        }
        catch (OperationCanceledException) when (interruption.Token.IsCancellationRequested)
        {
            return Interrupted;
        }
        catch (ConfigurationException error)
        {
            Terminal.Fail(error.Message);
            return Usage;
        }
        catch (Exception error) when (error is InputException or ShapeException)
        {
            Terminal.Fail(error.Message);
            return Failed;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            Terminal.Fail($"a file could not be read or written: {error.Message}");
            return Failed;
        }
        catch (Exception error) when (error is OutOfMemoryException || IsFullDevice(error))
        {
            Terminal.Fail($"the memory of the device is full: {FirstLine(error.Message)} Take fewer sequences at a time (batch.microBatch), a smaller model, or another device ({TorchLibrary.DeviceVariable}).\n{Trace.Keep(error)}");
            return Failed;
        }
        catch (Exception error)
        {
            Terminal.Fail($"something went wrong inside the program ({error.GetType().Name}): {FirstLine(error.Message)}\n{Trace.Keep(error)}");
            return Failed;
        }
    }

    // What torch throws when a GPU has no memory left.
    private static bool IsFullDevice(Exception error) =>
        error is System.Runtime.InteropServices.ExternalException && error.Message.Contains("out of memory", StringComparison.OrdinalIgnoreCase);

    // torch puts a trace of its own behind the first line.
    private static string FirstLine(string message) => message.TrimStart().Split('\n', 2)[0].TrimEnd();
}
