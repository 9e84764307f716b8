using System.Threading.Channels;
using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>
/// The batches of a run, composed ahead of their use on another thread. Which sequences a step sees is a function of the step
/// alone, so a run that is resumed sees the same ones.
/// </summary>
internal sealed class BatchFeed : IDisposable
{
    private const int Ahead = 4;

    private readonly CancellationTokenSource stopping = new();
    private readonly Channel<Batch[]> channel = Channel.CreateBounded<Batch[]>(Ahead);
    private readonly Task producer;

    /// <summary>Begins at a step, which sees the sequences at positions step · sequences and on.</summary>
    public BatchFeed(ISequenceSource source, TrainPlan plan, Trainer trainer, long firstStep, long lastStep)
    {
        producer = Task.Run(async () =>
        {
            try
            {
                for (long step = firstStep; step < lastStep; step++)
                {
                    Batch[] batches = Compose(source, plan, trainer, step);
                    try
                    {
                        await channel.Writer.WriteAsync(batches, stopping.Token).ConfigureAwait(false);
                    }
                    catch
                    {
                        Release(batches);
                        throw;
                    }
                }

                channel.Writer.Complete();
            }
            catch (Exception error)
            {
                channel.Writer.Complete(error);
            }
        });
    }

    /// <summary>The micro-batches of the next step. Errors: those of the source.</summary>
    public Batch[] Next()
    {
        try
        {
            ValueTask<Batch[]> next = channel.Reader.ReadAsync(stopping.Token);
            return next.IsCompleted ? next.GetAwaiter().GetResult() : next.AsTask().GetAwaiter().GetResult();
        }
        catch (ChannelClosedException closed) when (closed.InnerException is { } error)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(error);
            throw;
        }
    }

    /// <summary>The places of the sequences that a step sees.</summary>
    public static long[] Places(ISequenceSource source, TrainPlan plan, long step)
    {
        int sequences = plan.Config.Sequences;
        long[] places = new long[sequences];
        for (int i = 0; i < sequences; i++)
        {
            places[i] = Hybrid.Api.Compose.Place(source.Count, plan.Config.Seed, plan.Shuffled, step * sequences + i);
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
        while (channel.Reader.TryRead(out Batch[]? left))
        {
            Release(left);
        }

        stopping.Dispose();
    }

    private static Batch[] Compose(ISequenceSource source, TrainPlan plan, Trainer trainer, long step)
    {
        long first = step * plan.Config.Sequences;
        long[][] rows = [.. Places(source, plan, step).Select((place, i) => source.Row(place, first + i))];
        return [.. rows.Chunk(plan.Config.MicroBatch).Select(trainer.Batch)];
    }
}
