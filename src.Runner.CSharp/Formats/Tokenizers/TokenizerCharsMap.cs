using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Checks SentencePiece's precompiled table of replacements: the length of a double-array trie in bytes, its 32-bit units, and the
/// texts that its values point into, each ended by a zero byte. The native library follows the table without any check.
/// </summary>
internal static class TokenizerCharsMap
{
    private const int Block = 256;

    /// <summary>What is wrong with a table in Base64, or null.</summary>
    public static string? Fault(string base64)
    {
        byte[] bytes = new byte[(base64.Length / 4 * 3) + 3];
        if (base64.AsSpan().ContainsAny(" \t\r\n") || !Convert.TryFromBase64String(base64, bytes, out int length))
        {
            return "is not Base64";
        }

        ReadOnlySpan<byte> table = bytes.AsSpan(0, length);
        if (length < 4)
        {
            return $"has {length} bytes";
        }

        uint trieLength = BinaryPrimitives.ReadUInt32LittleEndian(table);
        if (trieLength > length - 4 || trieLength % (4 * Block) != 0 || trieLength == 0)
        {
            return $"says that its trie has {trieLength} bytes, of {length} in all";
        }

        ReadOnlySpan<byte> texts = table[(4 + (int)trieLength)..];
        return System.Text.Unicode.Utf8.IsValid(texts)
            ? Walk(MemoryMarshal.Cast<byte, uint>(table.Slice(4, (int)trieLength).ToArray()), texts)
            : "holds replacements that are not UTF-8";
    }

    /// <summary>Follows every path of the trie once.</summary>
    private static string? Walk(ReadOnlySpan<uint> units, ReadOnlySpan<byte> texts)
    {
        const string leaves = "has a trie that leads outside itself";
        HashSet<long> seen = [];
        Stack<long> open = new();
        open.Push(Offset(units[0]));
        while (open.TryPop(out long node))
        {
            // The units of a node's children lie within its block.
            if (node >= units.Length)
            {
                return leaves;
            }

            if (!seen.Add(node))
            {
                continue;
            }

            for (int label = 1; label < Block; label++)
            {
                long child = node ^ label;
                uint unit = units[(int)child];
                if ((unit & 0x8000_00FF) != label)
                {
                    continue;
                }

                long next = child ^ Offset(unit);
                open.Push(next);
                if ((unit & 0x100) == 0)
                {
                    continue;
                }

                if (next >= units.Length)
                {
                    return leaves;
                }

                long at = units[(int)next] & 0x7FFF_FFFF;
                if (at > texts.Length || (at < texts.Length && (texts[(int)at] & 0xC0) == 0x80))
                {
                    return "has a replacement that begins outside its texts";
                }
            }
        }

        return null;
    }

    private static long Offset(uint unit) => (long)(unit >> 10) << (int)((unit & 0x200) >> 6);
}
