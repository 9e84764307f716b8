using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Hybrid.Runner.Formats;

/// <summary>What a file must be: its length and, where it is known, its SHA-256 in lower-case hexadecimal.</summary>
internal sealed record FileMark(long Length, string? Sha256)
{
    /// <summary>The mark of a file that is there. Errors: those of reading it.</summary>
    public static FileMark Of(string path)
    {
        using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, 1 << 20);
        return new(stream.Length, Convert.ToHexStringLower(SHA256.HashData(stream)));
    }

    /// <summary>The mark that a list of files gives. Errors: KeyNotFoundException, InvalidOperationException and FormatException where it is none.</summary>
    public static FileMark Read(JsonElement value) => value.ValueKind == JsonValueKind.Number
        ? new(value.GetInt64(), null) // earlier versions wrote the length alone
        : new(value.GetProperty("length").GetInt64(), value.GetProperty("sha256").GetString());

    /// <summary>What <see cref="Read"/> reads.</summary>
    public JsonObject ToJson() => new() { ["length"] = Length, ["sha256"] = Sha256 };

    /// <summary>Writes a new file into a folder that is there, flushes it to the disk, and returns its mark, made of what was handed over.</summary>
    public static FileMark Write(string path, Action<TensorBytes> write)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using FileStream stream = new(path, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 16);
        long length = 0;
        write(bytes =>
        {
            stream.Write(bytes);
            hash.AppendData(bytes);
            length += bytes.Length;
        });
        stream.Flush(flushToDisk: true);
        return new(length, Convert.ToHexStringLower(hash.GetHashAndReset()));
    }
}
