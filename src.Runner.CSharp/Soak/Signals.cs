using System.Runtime.InteropServices;

namespace Hybrid.Runner.Soak;

/// <summary>Signals to other processes, which .NET has no call for beyond SIGKILL. Their numbers are those of Linux and macOS.</summary>
internal static partial class Signals
{
    public const int Interrupt = 2, Kill = 9, Terminate = 15;

    /// <summary>SIGSTOP, which the two systems number differently.</summary>
    public static int Stop => OperatingSystem.IsMacOS() ? 17 : 19;

    /// <summary>Sends a signal; false where there is no such process.</summary>
    public static bool Send(int process, int signal) => SendSignal(process, signal) == 0;

    /// <summary>
    /// Lets the processes that are started from now on take SIGINT, which a shell has the jobs ignore that it runs in the background.
    /// </summary>
    public static void LetInterrupt()
    {
        const string mask = "SigIgn:";
        if (OperatingSystem.IsLinux() && File.ReadLines("/proc/self/status").FirstOrDefault(line => line.StartsWith(mask, StringComparison.Ordinal)) is { } line
            && (Convert.ToUInt64(line[mask.Length..].Trim(), 16) >> (Interrupt - 1) & 1) == 1)
        {
            _ = Dispose(Interrupt, 0);
        }
    }

    [LibraryImport("libc", EntryPoint = "signal")]
    private static partial nint Dispose(int signal, nint handler);

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int SendSignal(int process, int signal);
}
