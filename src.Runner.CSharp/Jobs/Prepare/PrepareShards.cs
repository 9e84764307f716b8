using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// The shards of one source. A shard is finished when the next pair would not fit in it, and with it what the manifest knows of the
/// source; pictures are encoded in batches that begin anew with each shard. So a run that goes on after a stop makes the same bytes.
/// </summary>
internal sealed class PrepareShards : IDisposable
{
    private const long PixelsTogether = 1L << 20;
    private const int MostTogether = 64;

    private readonly PrepareFolder folder;
    private readonly PairSource source;
    private readonly PictureTokenizer images;
    private readonly int size;
    private readonly int most;
    private readonly bool strict;
    private readonly ShardWriter writer;
    private readonly List<Prepared> waiting = [];
    private SortedDictionary<DropReason, long> dropped = [];
    private long read;
    private long truncated;
    private int pairs;

    public PrepareShards(PrepareFolder folder, ShardInfo info, PairSource source, string prefix, PictureTokenizer images, PrepareCommand command)
    {
        (this.folder, this.source, this.images, size, most, strict) = (folder, source, images, info.ImageSize, command.PairsPerShard, command.Strict);
        read = folder.Last(source)?.Made?.Read ?? 0;
        writer = new ShardWriter(folder.Manifest, info, int.MaxValue, prefix, source.Path);
    }

    /// <summary>The pictures that are encoded together.</summary>
    public static int Together(int size) => (int)Math.Clamp(PixelsTogether / ((long)size * size), 1, MostTogether);

    /// <summary>Takes what comes next of the source. Errors: InputException for the first drop where the run is strict.</summary>
    public void Take(Prepared next)
    {
        int count = next.Captions.Count;
        if (count > 0 && pairs > 0 && pairs + count > most)
        {
            Finish(ended: false);
        }

        foreach (Drop drop in next.Drops)
        {
            if (strict && drop.Reason != DropReason.LongText)
            {
                throw new InputException($"{source.Path}: {(drop.Key.Length > 0 ? $"{FileErrors.Show(drop.Key)}: " : "")}{drop.Reason}{(drop.Detail.Length > 0 ? $": {drop.Detail.TrimEnd('.')}" : "")} (--strict).");
            }

            folder.Drop(source, drop);
            dropped[drop.Reason] = dropped.GetValueOrDefault(drop.Reason) + 1;
        }

        read++;
        truncated += next.Truncated;
        pairs += count;
        if (count > 0)
        {
            waiting.Add(next);
            if (waiting.Count == Together(size))
            {
                Encode();
            }
        }
    }

    /// <summary>Finishes the last shard, which is there even where the source has no pair.</summary>
    public void End() => Finish(ended: true);

    public void Dispose() => writer.Dispose();

    private void Finish(bool ended)
    {
        Encode();
        writer.Made = new ShardMaking(read, ended, truncated, dropped, folder.Flush());
        writer.Finish(evenEmpty: true);
        (dropped, truncated, pairs) = ([], 0, 0);
    }

    private void Encode()
    {
        if (waiting.Count == 0)
        {
            return;
        }

        int[][] codes = images.Encode([.. waiting.Select(picture => picture.Pixels!)], size, size);
        for (int i = 0; i < codes.Length; i++)
        {
            foreach (int[] caption in waiting[i].Captions)
            {
                writer.Add(caption, codes[i]);
            }
        }

        waiting.Clear();
    }
}
