using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Hybrid.Runner.Formats;

/// <summary>A line of a manifest: one shard.</summary>
/// <param name="File">The shard's file name, in the manifest's folder.</param>
/// <param name="Count">The number of pairs.</param>
/// <param name="Sha256">SHA-256 of the file, in lower-case hexadecimal.</param>
/// <param name="Source">What the shard was made of, or null.</param>
/// <param name="Made">How far its source was read for it, or null.</param>
internal sealed record ShardEntry(string File, long Count, string Sha256, string? Source = null, ShardMaking? Made = null);

/// <summary>How far a source was read when a shard of it was finished: where to go on.</summary>
/// <param name="Read">Pairs and drops of the source up to the shard's end.</param>
/// <param name="Ended">Whether the source ends there.</param>
/// <param name="Truncated">Captions of the shard that lost their ends.</param>
/// <param name="Dropped">What was dropped since the source's last shard, by reason.</param>
/// <param name="DroppedBytes">The length of the folder's list of what was dropped, up to there.</param>
internal sealed record ShardMaking(long Read, bool Ended, long Truncated, IReadOnlyDictionary<DropReason, long> Dropped, long DroppedBytes);

/// <summary>
/// manifest.jsonl: the shards of a folder, one JSON object a line, with the keys file, count, sha256, and open_lm's shard
/// and num_sequences for the same things. Safe for use by several threads.
/// </summary>
internal sealed class ShardManifest
{
    /// <summary>The manifest's file name.</summary>
    public const string FileName = "manifest.jsonl";

    private readonly Lock gate = new();
    private readonly List<ShardEntry> entries = [];

    private ShardManifest(string folder) => Folder = folder;

    /// <summary>The folder.</summary>
    public string Folder { get; }

    /// <summary>The manifest's path.</summary>
    public string Path => System.IO.Path.Combine(Folder, FileName);

    /// <summary>The shards so far, in order.</summary>
    public IReadOnlyList<ShardEntry> Entries
    {
        get
        {
            lock (gate)
            {
                return [.. entries];
            }
        }
    }

    /// <summary>
    /// The manifest of a new folder, or of one that is to be continued. Errors: <see cref="InputException"/> when the folder has
    /// shards already and <paramref name="resume"/> is false.
    /// </summary>
    public static ShardManifest Create(string folder, bool resume = false)
    {
        ShardManifest manifest = new(folder);
        if (System.IO.File.Exists(manifest.Path))
        {
            manifest = resume ? Read(folder) : throw new InputException($"{folder} has shards already; resume, or choose another folder.");
        }

        Directory.CreateDirectory(folder);
        return manifest;
    }

    /// <summary>Reads the manifest of a folder. Errors: <see cref="InputException"/>.</summary>
    public static ShardManifest Read(string folder)
    {
        ShardManifest manifest = new(folder);
        byte[] bytes = Files.Bytes(manifest.Path);
        int number = 0;
        foreach (Range range in bytes.AsSpan().Split((byte)'\n'))
        {
            number++;
            if (!bytes.AsSpan(range).Trim(" \r\t"u8).IsEmpty)
            {
                manifest.entries.Add(Parse(manifest.Path, number, bytes.AsMemory(range)));
            }
        }

        return manifest.entries.DistinctBy(entry => entry.File).Count() == manifest.entries.Count
            ? manifest
            : throw new InputException($"{manifest.Path} lists a shard twice.");
    }

    /// <summary>Adds a shard that stands in the folder; the manifest on the disk has it when this returns.</summary>
    public void Add(ShardEntry entry)
    {
        lock (gate)
        {
            entries.Add(entry);
            StringBuilder text = new();
            foreach (ShardEntry shard in entries)
            {
                JsonObject line = new()
                {
                    ["file"] = shard.File,
                    ["shard"] = System.IO.Path.GetFileNameWithoutExtension(shard.File),
                    ["count"] = shard.Count,
                    ["num_sequences"] = shard.Count,
                    ["sha256"] = shard.Sha256,
                };
                if (shard.Source is not null)
                {
                    line["source"] = shard.Source;
                }

                if (shard.Made is { } made)
                {
                    line["read"] = made.Read;
                    line["ended"] = made.Ended;
                    line["truncated"] = made.Truncated;
                    line["dropped"] = new JsonObject(made.Dropped.OrderBy(drop => drop.Key)
                        .Select(drop => KeyValuePair.Create(drop.Key.ToString(), (JsonNode?)JsonValue.Create(drop.Value))));
                    line["dropped_bytes"] = made.DroppedBytes;
                }

                text.Append(line.ToJsonString()).Append('\n');
            }

            AtomicFile.WriteText(Path, text.ToString());
        }
    }

    private static ShardEntry Parse(string path, int number, ReadOnlyMemory<byte> line)
    {
        InputException Wrong(string what, Exception? inner = null) => new($"{path}, line {number}: {what}.", inner);
        try
        {
            using JsonDocument document = JsonDocument.Parse(line);
            JsonElement entry = document.RootElement;
            string? Text(string key) => entry.TryGetProperty(key, out JsonElement value) ? value.GetString() : null;
            string file = Text("file") ?? throw Wrong("the key file is missing");
            if (file.Length == 0 || file is "." or ".." || file.AsSpan().IndexOfAny("/\\\0") >= 0)
            {
                throw Wrong($"\"{FileErrors.Show(file)}\" is not the name of a file in the same folder");
            }

            return entry.TryGetProperty("count", out JsonElement number64) && number64.TryGetInt64(out long count) && count >= 0
                ? new ShardEntry(file, count, Text("sha256") ?? throw Wrong("the key sha256 is missing"), Text("source"), Making(entry, Wrong))
                : throw Wrong("the key count is missing or is not a whole number from 0");
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw Wrong($"it is not a JSON object of a shard: {e.Message}", e);
        }
    }

    private static ShardMaking? Making(JsonElement entry, Func<string, Exception?, InputException> wrong)
    {
        if (!entry.TryGetProperty("dropped", out JsonElement counts))
        {
            return null;
        }

        long Number(string key) => entry.TryGetProperty(key, out JsonElement value) && value.TryGetInt64(out long number) && number >= 0
            ? number
            : throw wrong($"the key {key} is missing or is not a whole number from 0", null);
        SortedDictionary<DropReason, long> dropped = [];
        foreach (JsonProperty count in counts.EnumerateObject())
        {
            dropped[Enum.TryParse(count.Name, out DropReason reason) ? reason : throw wrong($"\"{FileErrors.Show(count.Name)}\" is no reason to drop something", null)] =
                count.Value.TryGetInt64(out long number) && number >= 0 ? number : throw wrong($"dropped.{count.Name} is not a whole number from 0", null);
        }

        return new ShardMaking(
            Number("read"), entry.TryGetProperty("ended", out JsonElement ended) && ended.ValueKind == JsonValueKind.True, Number("truncated"), dropped, Number("dropped_bytes"));
    }
}
