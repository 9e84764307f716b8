using System.Collections.Concurrent;
using System.Runtime.ExceptionServices;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>What came of a pair or a drop of a source.</summary>
/// <param name="Pixels">The picture at its final size, or null where there is none to keep.</param>
/// <param name="Captions">The ids of each caption that is kept; empty where the picture is not.</param>
/// <param name="Truncated">How many of them lost their ends.</param>
/// <param name="Drops">What was dropped.</param>
internal sealed record Prepared(byte[]? Pixels, IReadOnlyList<int[]> Captions, int Truncated, IReadOnlyList<Drop> Drops);

/// <summary>
/// A source read ahead of its use: one thread reads, several decode and tokenize, and what they make is given in the source's order,
/// so that it does not depend on their number.
/// </summary>
internal sealed class PrepareAhead : IDisposable
{
    private const long MostHeld = 1L << 28;

    private readonly BlockingCollection<Task<Prepared>> queue;
    private readonly CancellationTokenSource stopping;
    private readonly TaskScheduler workers;
    private readonly Func<PairEvent, Prepared> prepare;
    private readonly Task reader;
    private readonly Lock gate = new();
    private readonly ManualResetEventSlim room = new(true);
    private long held;
    private ExceptionDispatchInfo? failure;

    /// <summary>Begins to read.</summary>
    /// <param name="events">What the source says, from where the reading goes on.</param>
    /// <param name="prepare">What is made of it; called by several threads.</param>
    /// <param name="threads">How many.</param>
    /// <param name="ahead">How many pairs may wait.</param>
    /// <param name="stop">Ends the reading.</param>
    public PrepareAhead(IEnumerable<PairEvent> events, Func<PairEvent, Prepared> prepare, int threads, int ahead, CancellationToken stop)
    {
        this.prepare = prepare;
        queue = new BlockingCollection<Task<Prepared>>(ahead + threads);
        stopping = CancellationTokenSource.CreateLinkedTokenSource(stop);
        workers = new ConcurrentExclusiveSchedulerPair(TaskScheduler.Default, threads).ConcurrentScheduler;
        reader = Task.Factory.StartNew(() => Read(events), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    /// <summary>What was made, in order. Errors: those of the source.</summary>
    public IEnumerable<Prepared> Results()
    {
        foreach (Task<Prepared> task in queue.GetConsumingEnumerable(stopping.Token))
        {
            yield return task.GetAwaiter().GetResult();
        }

        // A reading that was stopped looks like one that came to its end.
        stopping.Token.ThrowIfCancellationRequested();
        failure?.Throw();
    }

    public void Dispose()
    {
        stopping.Cancel();
        reader.GetAwaiter().GetResult();
        while (queue.TryTake(out Task<Prepared>? left))
        {
            // Errors of work that nobody waits for are of no use any more.
            ((IAsyncResult)left).AsyncWaitHandle.WaitOne();
            _ = left.Exception;
        }

        queue.Dispose();
        stopping.Dispose();
        room.Dispose();
    }

    private void Read(IEnumerable<PairEvent> events)
    {
        try
        {
            foreach (PairEvent next in events)
            {
                room.Wait(stopping.Token);
                long bytes = next.Pair?.Image.Held ?? 0;
                Hold(bytes);
                queue.Add(
                    next.Pair is null
                        ? Task.FromResult(prepare(next))
                        : Task.Factory.StartNew(() => Work(next, bytes), CancellationToken.None, TaskCreationOptions.None, workers),
                    stopping.Token);
            }
        }
        catch (OperationCanceledException) when (stopping.IsCancellationRequested)
        {
        }
        catch (Exception error)
        {
            failure = ExceptionDispatchInfo.Capture(error);
        }

        queue.CompleteAdding();
    }

    private Prepared Work(PairEvent next, long bytes)
    {
        try
        {
            return stopping.IsCancellationRequested ? new Prepared(null, [], 0, []) : prepare(next);
        }
        finally
        {
            Hold(-bytes);
        }
    }

    /// <summary>Encoded pictures that wait in memory; beyond a limit the reading waits too.</summary>
    private void Hold(long bytes)
    {
        lock (gate)
        {
            held += bytes;
            if (held > MostHeld)
            {
                room.Reset();
            }
            else
            {
                room.Set();
            }
        }
    }
}
