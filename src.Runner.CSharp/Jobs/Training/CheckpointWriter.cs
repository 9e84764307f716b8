using System.Diagnostics;
using System.Globalization;

namespace Hybrid.Runner;

/// <summary>
/// Writes one checkpoint at a time on a thread of its own while steps go on. One that cannot be written is tried again until it can, a
/// newer one takes its place, or there has been none for longer than the deadline, which <paramref name="setting"/> may name.
/// </summary>
internal sealed class CheckpointWriter(TimeSpan deadline, string setting) : IDisposable
{
    private static readonly TimeSpan firstWait = TimeSpan.FromSeconds(0.25), longestWait = TimeSpan.FromSeconds(15);

    private readonly Lock gate = new();
    private CancellationTokenSource superseded = new();
    private Task underWay = Task.CompletedTask;
    private (long Since, string Reason)? failing;

    /// <summary>
    /// Waits until nothing is being written, so that what was to be written may change; one that waits to be tried again is given up.
    /// Errors: those of the work that are not of the disk.
    /// </summary>
    public void Free()
    {
        superseded.Cancel();
        underWay.GetAwaiter().GetResult();
    }

    /// <summary>
    /// Begins to carry out some work that may fail because of the disk, and that is told when it is given up for newer work. With <paramref name="waits"/> it returns after it succeeded or,
    /// where it did not at once, while it is tried again.
    /// </summary>
    public void Begin(Action<CancellationToken> work, bool waits)
    {
        Free();
        superseded.Dispose();
        superseded = new();
        CancellationToken given = superseded.Token;
        using ManualResetEventSlim tried = new();
        Action first = waits ? tried.Set : () => { };
        underWay = Task.Factory.StartNew(() => Try(work, first, given), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        if (waits)
        {
            tried.Wait();
        }
    }

    /// <summary>Errors: InputException where no checkpoint could be written for longer than the deadline.</summary>
    public void Check()
    {
        if (underWay.IsFaulted)
        {
            underWay.GetAwaiter().GetResult();
        }

        lock (gate)
        {
            if (failing is { } found && Stopwatch.GetElapsedTime(found.Since) >= deadline)
            {
                throw new InputException(string.Create(
                    CultureInfo.InvariantCulture,
                    $"no checkpoint could be written for {deadline.TotalMinutes:0.##} minutes{setting}: {found.Reason} What was written before is whole; --resume auto goes on from the newest checkpoint."));
            }
        }
    }

    /// <summary>Waits until the work under way is done. Errors: those of <see cref="Check"/>.</summary>
    public void Finish()
    {
        while (!underWay.Wait(100))
        {
            Check();
        }
    }

    public void Dispose()
    {
        superseded.Cancel();
        try
        {
            underWay.Wait();
        }
        catch (AggregateException)
        {
            // Whoever asked has been told, or is leaving because of something else.
        }

        superseded.Dispose();
    }

    private void Try(Action<CancellationToken> work, Action tried, CancellationToken given)
    {
        try
        {
            for (TimeSpan wait = firstWait; !Succeeds(work, given); wait = wait * 2 < longestWait ? wait * 2 : longestWait)
            {
                tried();
                if (given.WaitHandle.WaitOne(wait))
                {
                    return;
                }
            }
        }
        finally
        {
            tried();
        }
    }

    private bool Succeeds(Action<CancellationToken> work, CancellationToken given)
    {
        try
        {
            work(given);
            lock (gate)
            {
                if (failing is not null)
                {
                    Terminal.Say("checkpoints are written again");
                }

                failing = null;
            }

            return true;
        }
        catch (OperationCanceledException) when (given.IsCancellationRequested)
        {
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or InputException)
        {
            lock (gate)
            {
                if (failing is null)
                {
                    Terminal.Warn($"a checkpoint cannot be written just now: {error.Message} The run goes on and tries again.");
                }

                failing = (failing?.Since ?? Stopwatch.GetTimestamp(), error.Message);
            }

            return false;
        }
    }
}
