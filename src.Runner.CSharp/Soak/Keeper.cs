using System.Diagnostics;
using System.Globalization;

namespace Hybrid.Runner.Soak;

/// <summary>
/// The process that looks after this one, named by an environment variable: when that ends, in whatever way, this one ends too, so that a
/// soak that is killed leaves nothing running behind.
/// </summary>
internal static class Keeper
{
    /// <summary>The environment variable with the keeper's process id.</summary>
    public const string Variable = "HYBRID_KEEPER";

    private static readonly TimeSpan pause = TimeSpan.FromMilliseconds(500);

    /// <summary>Begins to watch, where the variable names a process.</summary>
    public static void Watch()
    {
        if (OperatingSystem.IsWindows() || !int.TryParse(Environment.GetEnvironmentVariable(Variable), CultureInfo.InvariantCulture, out int keeper) || keeper <= 1)
        {
            return;
        }

        new Thread(() =>
        {
            // Signal 0 is not sent; the call only says whether it could be.
            while (Signals.Send(keeper, 0))
            {
                Thread.Sleep(pause);
            }

            Process.GetCurrentProcess().Kill();
        })
        { IsBackground = true, Name = "keeper" }.Start();
    }
}
