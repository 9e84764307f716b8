namespace Hybrid.Runner;

internal sealed class ShardSequences(string path, Vocabulary v, PairComposer c) : ISequenceSource
{
    public static bool IsShards(string path) => File.Exists(Path.Combine(path, "manifest.jsonl"));
    public long Count => v.Rows + c.Length(0, 0);
    public int Length => 0;
    public string Name => path;
    public long[] Row(long place, long position) => throw new NotSupportedException();
    public void Dispose() { }
}
