using Hybrid.Api;
using Hybrid.Runner.Distribution;

namespace Hybrid.Runner;

/// <summary>Losses on held-out data that the processes of a run share.</summary>
internal static class SharedEvaluation
{
    private const int Numbers = 8;

    /// <summary>
    /// The losses over a whole source, the same on all processes, which must ask together. With <paramref name="whole"/> each goes over all
    /// sequences, where they gather the weights for each other; else each over its part.
    /// </summary>
    public static Evaluation Of(Model model, ISequenceSource source, ProcessGroup group, bool whole, Action<long, Metrics> report)
    {
        if (whole)
        {
            return Evaluation.Of(model, source, long.MaxValue, CancellationToken.None, report);
        }

        long from = source.Count * group.Rank / group.Size, to = source.Count * (group.Rank + 1) / group.Size;
        double[] numbers = new double[source.Count * Numbers];
        if (from < to)
        {
            Part part = new(source, from, to - from);
            List<SequenceLoss> own = Evaluation.Losses(model, part, long.MaxValue, model.Losses, CancellationToken.None, (done, metrics) => report(done * source.Count / part.Count, metrics));
            for (int i = 0; i < own.Count; i++)
            {
                Put(own[i], numbers.AsSpan((int)(from + i) * Numbers, Numbers));
            }
        }

        double[] all = group.Exchange.Sum(numbers);
        return Evaluation.Of([.. Enumerable.Range(0, (int)source.Count).Select(i => Get(all.AsSpan(i * Numbers, Numbers)))]);
    }

    private static void Put(SequenceLoss loss, Span<double> numbers)
    {
        double[] values = [loss.Text, loss.Image, loss.Structure, loss.TextCount, loss.ImageCount, loss.StructureCount, loss.ImageWithin, loss.TextWithin];
        values.CopyTo(numbers);
    }

    private static SequenceLoss Get(ReadOnlySpan<double> n) => new(n[0], n[1], n[2], (long)n[3], (long)n[4], (long)n[5], n[6], n[7]);

    /// <summary>Some of a source's sequences, one after the other.</summary>
    private sealed class Part(ISequenceSource source, long first, long count) : ISequenceSource
    {
        public long Count => count;

        public int Length => source.Length;

        public string Name => source.Name;

        public long[] Row(long place, long position) => source.Row(first + place, first + position);

        public void Dispose()
        {
            // The source is its owner's.
        }
    }
}
