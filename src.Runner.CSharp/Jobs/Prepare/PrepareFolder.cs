using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// The folder that a preparation fills: what it was begun with (prepare.json), what was dropped (dropped.jsonl), and the manifest. One
/// process at a time. A line of the manifest is what makes a shard count: what stands there beyond is of a call that was stopped, and goes.
/// </summary>
internal sealed class PrepareFolder : IDisposable
{
    public const string Description = "prepare.json", Dropped = "dropped.jsonl";
    private const string LockName = ".prepare.lock";
    private readonly string path;
    private readonly bool wasThere;
    private readonly FileStream guard;
    private FileStream? dropped;

    private PrepareFolder(string path, bool wasThere, FileStream guard) => (this.path, this.wasThere, this.guard) = (path, wasThere, guard);

    public ShardManifest Manifest { get; private set; } = null!;

    /// <summary>
    /// Makes the folder, or opens the one to go on with. Errors: InputException where it holds something else, was begun with something
    /// else, or is being filled.
    /// </summary>
    /// <param name="path">The folder.</param>
    /// <param name="settings">Everything that the shards depend on beside the sources.</param>
    /// <param name="sources">The sources.</param>
    public static PrepareFolder Open(string path, JsonObject settings, IReadOnlyList<PairSource> sources)
    {
        bool there = Directory.Exists(path), begun = File.Exists(Path.Combine(path, Description));

        // A call that was killed at once may have left its lock and the beginning of a file.
        bool Remains(string name) => name == LockName || (name[0] == '.' && name.EndsWith(AtomicFile.Unfinished, StringComparison.Ordinal));
        if (!begun && there && Directory.EnumerateFileSystemEntries(path).Any(entry => !Remains(Path.GetFileName(entry))))
        {
            throw new InputException($"{path} is not empty and holds no shards of this command; choose another --out.");
        }

        Directory.CreateDirectory(path);
        PrepareFolder folder = new(path, there, Files.Alone(Path.Combine(path, LockName), $"another call is filling {path}; wait for it, or choose another --out."));
        try
        {
            folder.Begin(settings, sources, begun);
            return folder;
        }
        catch
        {
            folder.Dispose();
            throw;
        }
    }

    /// <summary>Writes a file that stands beside the shards, unless it is there.</summary>
    public void Beside(string name, Action<string> write)
    {
        string file = Path.Combine(path, name);
        if (!File.Exists(file))
        {
            write(file);
        }
    }

    /// <summary>The last line of the manifest for a source, or null.</summary>
    public ShardEntry? Last(PairSource source) => Manifest.Entries.LastOrDefault(entry => entry.Source == source.Path);

    /// <summary>Writes down what was dropped; it counts once the manifest's next line is there.</summary>
    public void Drop(PairSource source, Drop drop)
    {
        dropped ??= new FileStream(Path.Combine(path, Dropped), FileMode.OpenOrCreate, FileAccess.Write, FileShare.Read) { Position = Committed() };
        JsonObject line = new() { ["source"] = source.Path, ["key"] = Cut(drop.Key), ["reason"] = drop.Reason.ToString() };
        if (drop.Detail.Length > 0)
        {
            line["detail"] = Cut(drop.Detail);
        }

        dropped.Write(JsonSerializer.SerializeToUtf8Bytes(line, Json.Options));
        dropped.WriteByte((byte)'\n');
    }

    /// <summary>Flushes what was dropped to the disk; the length of the list.</summary>
    public long Flush()
    {
        dropped?.Flush(flushToDisk: true);
        return dropped?.Position ?? Committed();
    }

    /// <summary>The first line of what was dropped for each reason: the reason, and the source, key and detail.</summary>
    public IEnumerable<(DropReason Reason, string Where)> Examples()
    {
        string file = Path.Combine(path, Dropped);
        HashSet<DropReason> seen = [];
        foreach (string text in File.Exists(file) ? File.ReadLines(file) : [])
        {
            using JsonDocument line = JsonDocument.Parse(text);
            string Field(string name) => line.RootElement.TryGetProperty(name, out JsonElement value) ? value.GetString() ?? "" : "";
            if (Enum.TryParse(Field("reason"), out DropReason reason) && seen.Add(reason))
            {
                string where = string.Join(": ", new[] { Field("source"), FileErrors.Show(Field("key")), Field("detail") }.Where(part => part.Length > 0));
                yield return (reason, where);
            }
        }
    }

    /// <summary>Takes back a folder in which nothing was made, so that a call with a better input is not refused.</summary>
    public void Abandon()
    {
        dropped?.Dispose();
        string[] beside = [Checkpoint.Tokenizer, ImageTokenizers.FileName, Description, Dropped, ShardManifest.FileName];
        foreach (string name in beside.Concat(Manifest.Entries.Select(entry => entry.File)))
        {
            File.Delete(Path.Combine(path, name));
        }

        guard.Dispose();
        if (!wasThere && !Files.Occupied(path))
        {
            Directory.Delete(path);
        }
    }

    public void Dispose()
    {
        dropped?.Dispose();
        guard.Dispose();
    }

    private static string Cut(string text) => text.Length > 500 ? text[..500] + "…" : text;

    private long Committed() => Manifest.Entries.Count > 0 ? Manifest.Entries[^1].Made?.DroppedBytes ?? 0 : 0;

    private void Begin(JsonObject settings, IReadOnlyList<PairSource> sources, bool begun)
    {
        JsonObject wanted = new() { ["settings"] = settings, ["sources"] = new JsonArray([.. sources.Select(Describe)]) };
        string description = Path.Combine(path, Description);
        if (begun)
        {
            Agree(Files.Text(description, "the description of the shards"), wanted);
        }
        else
        {
            AtomicFile.WriteText(description, wanted.ToJsonString(Json.Options) + "\n");
        }

        Manifest = ShardManifest.Create(path, resume: true);
        AtomicFile.RemoveUnfinished(path);
        HashSet<string> whole = [.. Manifest.Entries.Select(entry => entry.File)];
        foreach (string file in Directory.EnumerateFiles(path))
        {
            string name = Path.GetFileName(file);
            bool ours = name.StartsWith("shard-", StringComparison.Ordinal) || name.StartsWith("sequences-", StringComparison.Ordinal);
            if (ours && !whole.Contains(name))
            {
                File.Delete(file);
            }
        }

        string list = Path.Combine(path, Dropped);
        if (File.Exists(list))
        {
            long length = new FileInfo(list).Length;
            if (length < Committed())
            {
                throw new InputException($"{list} has {length:N0} bytes and the manifest speaks of {Committed():N0}: it was changed. Choose another --out.");
            }

            using FileStream stream = new(list, FileMode.Open, FileAccess.Write);
            stream.SetLength(Committed());
            stream.Dispose();
            if (Committed() == 0)
            {
                File.Delete(list);
            }
        }
    }

    private static JsonNode Describe(PairSource source)
    {
        (long bytes, DateTime changed) = source.Stamp();
        return new JsonObject { ["path"] = source.Path, ["bytes"] = bytes, ["changed"] = changed.ToString("O") };
    }

    /// <summary>Says in a sentence what is not as it was when the folder was begun.</summary>
    private void Agree(string text, JsonObject wanted)
    {
        InputException Other(string what) => new($"{path} holds shards {what}; choose another --out.");
        JsonObject found;
        try
        {
            found = JsonNode.Parse(text) as JsonObject ?? [];
        }
        catch (JsonException e)
        {
            throw new InputException($"{Path.Combine(path, Description)} is damaged: {e.Message}", e);
        }

        foreach ((string key, JsonNode? value) in wanted["settings"]!.AsObject())
        {
            JsonNode? before = (found["settings"] as JsonObject)?[key];
            if (!JsonNode.DeepEquals(before, value))
            {
                throw Other($"of another {key}: {before?.ToJsonString(Json.Options) ?? "none"}, and now {value?.ToJsonString(Json.Options) ?? "none"} is asked for");
            }
        }

        JsonNode[] now = [.. wanted["sources"]!.AsArray().OfType<JsonNode>()], then = [.. (found["sources"] as JsonArray ?? []).OfType<JsonNode>()];
        string Name(JsonNode source) => (source as JsonObject)?["path"]?.ToString() ?? "";
        HashSet<string> here = [.. now.Select(Name)], known = [.. then.Select(Name)];
        if (then.FirstOrDefault(source => !here.Contains(Name(source))) is { } missing)
        {
            throw Other($"of other inputs: {Name(missing)} is missing");
        }

        if (now.FirstOrDefault(source => !known.Contains(Name(source))) is { } added)
        {
            throw Other($"of other inputs: {Name(added)} is new");
        }

        foreach ((JsonNode before, JsonNode after) in then.Zip(now))
        {
            if (Name(before) != Name(after))
            {
                throw Other($"of the same inputs in another order: {Name(after)} in the place of {Name(before)}");
            }

            if (!JsonNode.DeepEquals(before, after))
            {
                throw Other($"of {Name(after)} as it was: {before["bytes"]} bytes of {before["changed"]}. It has {after["bytes"]} bytes of {after["changed"]} now");
            }
        }
    }
}
