using System.Runtime.InteropServices;

namespace Hybrid.Runner;

/// <summary>
/// Ctrl-C, SIGTERM and SIGUSR1 as a token: the first asks the job to save and stop, another Ctrl-C or SIGTERM ends the process at once.
/// After SIGUSR1, by which schedulers announce that they will end the process, a first SIGTERM may still follow.
/// </summary>
internal sealed class Interruption : IDisposable
{
    private readonly CancellationTokenSource source = new();
    private readonly PosixSignalRegistration interrupt;
    private readonly PosixSignalRegistration terminate;
    private readonly PosixSignalRegistration? announced;
    private int asked;

    public Interruption()
    {
        interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Receive);
        terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Receive);
        announced = UserSignal is { } signal ? PosixSignalRegistration.Create(signal, Announce) : null;
    }

    public CancellationToken Token => source.Token;

    public void Dispose()
    {
        interrupt.Dispose();
        terminate.Dispose();
        announced?.Dispose();
        source.Dispose();
    }

    // .NET has no name for SIGUSR1 and takes the system's own number.
    private static PosixSignal? UserSignal => OperatingSystem.IsLinux() ? (PosixSignal)10 : OperatingSystem.IsMacOS() ? (PosixSignal)30 : null;

    private void Receive(PosixSignalContext context)
    {
        if (Interlocked.Increment(ref asked) > 1)
        {
            return;
        }

        context.Cancel = true;
        Stop();
    }

    private void Announce(PosixSignalContext context)
    {
        context.Cancel = true;
        Stop();
    }

    private void Stop()
    {
        if (!source.IsCancellationRequested)
        {
            Terminal.Say("stopping: what there is will be saved; once more to stop without saving");
            source.Cancel();
        }
    }
}
