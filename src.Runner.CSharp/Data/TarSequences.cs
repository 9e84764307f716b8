using System.Formats.Tar;
using System.Globalization;
using System.IO.Compression;
using System.Text.Json;

namespace Hybrid.Runner;

/// <summary>
/// The sequences of an open_lm shard: a webdataset tar whose members are lists of token ids as .txt, .json or .json.gz.
/// As open_lm reads them: what is no number is token 0 (its end of text), and negative ids count from the end of the table.
/// </summary>
internal sealed class TarSequences : ISequenceSource
{
    private const int LargestMember = 1 << 26;

    private readonly FileStream file;
    private readonly List<(string Name, long Offset, int Length)> members = [];
    private readonly int rows;

    /// <summary>Opens a shard for a table of <paramref name="rows"/> text rows. Errors: InputException.</summary>
    public TarSequences(string path, int rows)
    {
        (Name, this.rows) = (path, rows);
        file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read);
        try
        {
            using (TarReader reader = new(file, leaveOpen: true))
            {
                while (reader.GetNextEntry() is { } entry)
                {
                    if (entry.EntryType is TarEntryType.RegularFile or TarEntryType.V7RegularFile && Holds(entry.Name))
                    {
                        if (entry.Length > LargestMember)
                        {
                            throw new InputException($"{path}: {entry.Name} has {entry.Length} bytes, more than a sequence can have.");
                        }

                        members.Add((entry.Name, entry.DataOffset, (int)entry.Length));
                    }
                }
            }

            Length = members.Count == 0
                ? throw new InputException($"{path} holds no token sequences (.txt, .json or .json.gz members).")
                : Read(0).Length;
        }
        catch (Exception error) when (error is InvalidDataException or EndOfStreamException or FormatException)
        {
            file.Dispose();
            throw new InputException($"{path} is not a whole tar file: {error.Message}", error);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    public long Count => members.Count;

    public int Length { get; }

    public string Name { get; }

    public long[] Row(long place, long position)
    {
        long[] tokens = Read((int)place);
        return tokens.Length == Length
            ? tokens
            : throw new InputException($"{Name}: {members[(int)place].Name} holds {tokens.Length} tokens, the first member {Length}; they must be equally many.");
    }

    public void Dispose() => file.Dispose();

    private static bool Holds(string name) =>
        name.EndsWith(".txt", StringComparison.Ordinal) || name.EndsWith(".json", StringComparison.Ordinal) || name.EndsWith(".json.gz", StringComparison.Ordinal);

    private long[] Read(int place)
    {
        var (name, offset, length) = members[place];
        byte[] bytes = new byte[length];
        int read = RandomAccess.Read(file.SafeFileHandle, bytes, offset);
        if (read < length)
        {
            throw new InputException($"{Name}: {name} ends after {read} of {length} bytes; the file is cut off.");
        }

        try
        {
            return name.EndsWith(".txt", StringComparison.Ordinal) ? Literal(System.Text.Encoding.UTF8.GetString(bytes)) : List(name, bytes);
        }
        catch (Exception error) when (error is JsonException or FormatException or InvalidDataException)
        {
            throw new InputException($"{Name}: {name} is not a list of token ids: {error.Message}", error);
        }
    }

    private long[] List(string name, byte[] bytes)
    {
        using Stream plain = name.EndsWith(".gz", StringComparison.Ordinal)
            ? new GZipStream(new MemoryStream(bytes), CompressionMode.Decompress)
            : new MemoryStream(bytes);
        using JsonDocument document = JsonDocument.Parse(plain);
        return document.RootElement.ValueKind != JsonValueKind.Array
            ? throw new FormatException("it must be a JSON array")
            : [.. document.RootElement.EnumerateArray().Select(item => item.ValueKind == JsonValueKind.Number ? Token(item.GetInt64()) : 0)];
    }

    /// <summary>A list as Python prints it: whole numbers and quoted strings between commas and brackets.</summary>
    private long[] Literal(string text)
    {
        ReadOnlySpan<char> rest = text.AsSpan().Trim();
        if (rest.Length < 2 || rest[0] != '[' || rest[^1] != ']')
        {
            throw new FormatException("it must stand between [ and ]");
        }

        List<long> tokens = [];
        rest = rest[1..^1];
        foreach (Range range in rest.Split(','))
        {
            ReadOnlySpan<char> word = rest[range].Trim();
            if (word.Length == 0)
            {
                continue;
            }

            bool quoted = word.Length >= 2 && word[0] is '\'' or '"' && word[^1] == word[0];
            tokens.Add(quoted ? 0 : Token(long.Parse(word, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture)));
        }

        return [.. tokens];
    }

    private long Token(long id) => id >= 0 ? id : (id % rows + rows) % rows;
}
