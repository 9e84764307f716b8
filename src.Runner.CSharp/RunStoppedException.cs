namespace Hybrid.Runner;

/// <summary>A run that was asked to stop and has saved; its process ends with an exit code of the run's choice, so that a scheduler may queue it again.</summary>
public sealed class RunStoppedException(int exitCode, CancellationToken stop) : OperationCanceledException(stop)
{
    /// <summary>Names the exit code for runs that were interrupted, before what their configuration says.</summary>
    public const string Variable = "HYBRID_REQUEUE_EXIT";

    /// <summary>The exit code of the process.</summary>
    public int ExitCode => exitCode;

    /// <summary>The exit code that the environment names, or the one given. Errors: ConfigurationException where it names none.</summary>
    public static int CodeOr(int given) => Environment.GetEnvironmentVariable(Variable) switch
    {
        null or "" => given,
        var text => int.TryParse(text, out int code) && code is >= 1 and <= 255
            ? code
            : throw new ConfigurationException($"{Variable} is \"{text}\"; it must be an exit code from 1 to 255."),
    };
}
