using System.Runtime.ExceptionServices;
using System.Threading.Channels;
using Hybrid.Api;
using Hybrid.Runner.Distribution;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// The batches of a run, composed ahead of their use on other threads, several steps at once. Which sequences a step sees is a function
/// of the step alone, so a run that is resumed sees the same ones. A few steps are in memory, however long the run.
/// </summary>
internal sealed class BatchFeed : IDisposable
{
    private const int Ahead = 4;

    private readonly int rank, size;

    private readonly CancellationTokenSource stopping = new();
    private readonly SemaphoreSlim free;
    private readonly Channel<Task<Batch[]>> steps;
    private readonly Task producer;

    /// <summary>Begins at a step, which sees the sequences at positions step · sequences and on; its batches are on a device.</summary>
    /// <param name="source">Where sequences come from.</param>
    /// <param name="plan">The order, the size of steps, what becomes of padding.</param>
    /// <param name="microBatch">Sequences of a micro-batch.</param>
    /// <param name="device">Where batches are wanted.</param>
    /// <param name="firstStep">The step to begin with.</param>
    /// <param name="lastStep">The step before which to end.</param>
    /// <param name="threads">How many steps are composed at once; 0 leaves it to the machine.</param>
    /// <param name="group">The processes that share each step: of its sequences each takes those between two of its even borders, so that all
    /// of them are seen once, whatever the number of processes; null for one alone.</param>
    /// <param name="passedOver">Sequences that the run left out: so much further on are the positions of every step.</param>
    public BatchFeed(ISequenceSource source, TrainPlan plan, int microBatch, torch.Device device, long firstStep, long lastStep, int threads = 0, long passedOver = 0, ProcessGroup? group = null)
    {
        (rank, size) = (group?.Rank ?? 0, group?.Size ?? 1);
        Threads = threads > 0 ? threads : Math.Clamp(Environment.ProcessorCount / 2, 1, Ahead);
        free = new(Threads);
        steps = Channel.CreateBounded<Task<Batch[]>>(Math.Max(Ahead, Threads));
        producer = Task.Run(async () =>
        {
            try
            {
                for (long step = firstStep; step < lastStep; step++)
                {
                    await free.WaitAsync(stopping.Token).ConfigureAwait(false);
                    Task<Batch[]> work = Begin(source, plan, microBatch, device, step, passedOver);
                    try
                    {
                        await steps.Writer.WriteAsync(work, stopping.Token).ConfigureAwait(false);
                    }
                    catch
                    {
                        await Drop(work).ConfigureAwait(false);
                        throw;
                    }
                }

                steps.Writer.Complete();
            }
            catch (Exception error)
            {
                steps.Writer.Complete(error);
            }
        });
    }

    /// <summary>How many steps are composed at once.</summary>
    public int Threads { get; }

    /// <summary>The micro-batches of the next step. Errors: those of the source.</summary>
    public Batch[] Next()
    {
        try
        {
            ValueTask<Task<Batch[]>> next = steps.Reader.ReadAsync(stopping.Token);
            return (next.IsCompleted ? next.GetAwaiter().GetResult() : next.AsTask().GetAwaiter().GetResult()).GetAwaiter().GetResult();
        }
        catch (ChannelClosedException closed) when (closed.InnerException is { } error)
        {
            ExceptionDispatchInfo.Throw(error);
            throw;
        }
    }

    /// <summary>The places of the sequences that a step sees.</summary>
    public static long[] Places(ISequenceSource source, TrainPlan plan, long step, long passedOver = 0)
    {
        int sequences = plan.Config.Sequences;
        long[] places = new long[sequences];
        for (int i = 0; i < sequences; i++)
        {
            places[i] = Hybrid.Api.Compose.Place(source.Count, plan.Config.Seed, plan.Shuffled, step * sequences + passedOver + i);
        }

        return places;
    }

    public static void Release(Batch[] batches)
    {
        foreach (Batch batch in batches)
        {
            Sequence.release(batch);
        }
    }

    public void Dispose()
    {
        stopping.Cancel();
        producer.GetAwaiter().GetResult();
        while (steps.Reader.TryRead(out Task<Batch[]>? left))
        {
            Drop(left).GetAwaiter().GetResult();
        }

        free.Dispose();
        stopping.Dispose();
    }

    private Task<Batch[]> Begin(ISequenceSource source, TrainPlan plan, int microBatch, torch.Device device, long step, long passedOver) => Task.Run(() =>
    {
        try
        {
            return Compose(source, plan, microBatch, device, step, passedOver);
        }
        finally
        {
            free.Release();
        }
    });

    private static async Task Drop(Task<Batch[]> work)
    {
        try
        {
            Release(await work.ConfigureAwait(false));
        }
        catch (Exception)
        {
            // Nobody asked for this step, so nobody is told that it cannot be composed.
        }
    }

    private Batch[] Compose(ISequenceSource source, TrainPlan plan, int microBatch, torch.Device device, long step, long passedOver)
    {
        long first = step * plan.Config.Sequences + passedOver;
        long[] places = Places(source, plan, step, passedOver);
        int from = (int)((long)places.Length * rank / size), to = (int)((long)places.Length * (rank + 1) / size);
        long[][] rows = new long[to - from][];
        for (int i = from; i < to; i++)
        {
            rows[i - from] = source.Row(places[i], first + i);
        }

        return Hybrid.Api.Compose.MicroBatches(plan.Config, microBatch, device, rows);
    }
}
