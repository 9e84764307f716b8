using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Hybrid.Api;

namespace Hybrid.Runner.Alignment;

/// <summary>Which pairs train and which are held out.</summary>
internal sealed record AlignmentSplit(int[] Train, int[] HeldOut)
{
    /// <summary>
    /// Holds <paramref name="count"/> pictures out, drawn by the seed, each with its first caption. Their other captions train neither:
    /// a picture that is there more than once is never on both sides. Errors: ConfigurationException where too few pictures remain.
    /// </summary>
    public static AlignmentSplit Of(ITokenPairs pairs, int count, long seed)
    {
        if (count == 0)
        {
            return new([.. Enumerable.Range(0, pairs.Count)], []);
        }

        ulong[] hashes = [.. Enumerable.Range(0, pairs.Count).Select(i => Hash(pairs.Pair(i).Codes))];
        IReadOnlySet<ulong> chosen = AlignmentTables.HeldOut(hashes, count, seed);
        HashSet<ulong> seen = [];
        int[] heldOut = [.. Enumerable.Range(0, pairs.Count).Where(i => chosen.Contains(hashes[i]) && seen.Add(hashes[i]))];
        int[] train = [.. Enumerable.Range(0, pairs.Count).Where(i => !chosen.Contains(hashes[i]))];
        return heldOut.Length == count && train.Length > 1
            ? new(train, heldOut)
            : throw new ConfigurationException($"--held-out: asks for {count} pictures, but {pairs.Name} holds {hashes.Distinct().Count()} different ones, and two pairs at least must be left to train on.");
    }

    private static ulong Hash(int[] codes)
    {
        Span<byte> digest = stackalloc byte[32];
        System.Security.Cryptography.SHA256.HashData(MemoryMarshal.AsBytes<int>(codes), digest);
        return BinaryPrimitives.ReadUInt64LittleEndian(digest);
    }
}
