using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>Opening whatever holds tokens: shards of pairs, ready sequences as .npy, open_lm's tars, or directories of these.</summary>
internal static class TokenData
{
    /// <summary>The sequences of some paths, one after the other. Errors: InputException.</summary>
    public static ISequenceSource Open(IReadOnlyList<string> paths, Vocabulary vocabulary, PairComposer composer)
    {
        List<ISequenceSource> parts = [];
        try
        {
            foreach (string path in paths)
            {
                parts.AddRange(OpenOne(path, vocabulary, composer));
            }

            return parts.Count == 1 ? parts[0] : new JoinedSequences(parts);
        }
        catch
        {
            parts.ForEach(part => part.Dispose());
            throw;
        }
    }

    private static IEnumerable<ISequenceSource> OpenOne(string path, Vocabulary vocabulary, PairComposer composer)
    {
        if (Directory.Exists(path))
        {
            if (ShardSequences.IsShards(path))
            {
                return [new ShardSequences(path, vocabulary, composer)];
            }

            string[] files = [.. Directory.EnumerateFiles(path).Where(file => file.EndsWith(".npy", StringComparison.Ordinal) || file.EndsWith(".tar", StringComparison.Ordinal)).Order(StringComparer.Ordinal)];
            return files.Length > 0
                ? files.Select(file => (ISequenceSource)OpenFile(file, vocabulary)).ToArray()
                : throw new InputException($"{path} holds no tokens: no shards with their manifest.jsonl, no .npy and no .tar files.");
        }

        return File.Exists(path)
            ? [OpenFile(path, vocabulary)]
            : throw new InputException($"there are no tokens at {path}.");
    }

    private static FileSequences OpenFile(string path, Vocabulary vocabulary) => Path.GetExtension(path).ToLowerInvariant() is ".npy" or ".tar"
        ? new FileSequences(path, vocabulary)
        : throw new InputException($"{path} is no kind of token file that is known here: .npy with [N, L] integers, an open_lm .tar, or a directory of shards.");
}
