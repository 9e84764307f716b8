using System.Text;
using System.Text.Json;

namespace Hybrid.Runner.Formats;

/// <summary>Puts the files of one sample together: neighbours with the same key, as webdataset does.</summary>
internal static class SampleGroups
{
    /// <summary>The most bytes of a caption's file, and of a record's.</summary>
    public const long MostText = 1L << 20, MostRecord = 1L << 24;

    private static readonly string[] Extensions = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];
    private static readonly UTF8Encoding Utf8 = new(false, throwOnInvalidBytes: true);

    /// <summary>The extensions of pictures' files.</summary>
    public static IReadOnlyList<string> PictureExtensions => Extensions;

    public static bool IsPicture(string extension) => Extensions.Contains(Plain(extension));

    /// <summary>The most bytes of a file of this name that are wanted; negative where none are.</summary>
    public static long Most(string name)
    {
        string extension = Plain(WebDataset.Split(name).Extension);
        return extension is "txt" or "caption" ? MostText : extension == "json" ? MostRecord : IsPicture(extension) ? EncodedPicture.MostBytes : -1;
    }

    /// <summary>The samples of a tar.</summary>
    public static IEnumerable<PairEvent> OfTar(string path, PairReading reading)
    {
        string? broken = null;
        IEnumerable<SampleFile> files = TarMembers.Read(path, Most, reason => broken = reason, reading)
            .Where(member => member.Kind != TarKind.Link || Most(member.Name) >= 0)
            .Select(member => member.Kind switch
            {
                TarKind.Link => new SampleFile(member.Name, null, new Drop(DropReason.UnsafePath, member.Name, "it is a link")),
                TarKind.TooLarge => new SampleFile(member.Name, null, new Drop(DropReason.TooLarge, member.Name, $"{member.Length:N0} bytes")),
                _ => new SampleFile(member.Name, new EncodedPicture(member.Bytes), null),
            });
        foreach (PairEvent next in Group(files))
        {
            yield return next;
        }

        if (broken is not null)
        {
            yield return PairEvent.Dropped(DropReason.TruncatedTar, "", broken);
        }
    }

    /// <summary>The samples of files in the order of their keys.</summary>
    public static IEnumerable<PairEvent> Group(IEnumerable<SampleFile> files)
    {
        HashSet<string> seen = new(StringComparer.Ordinal);
        Sample? sample = null;
        foreach (SampleFile file in files)
        {
            (string key, string extension) = WebDataset.Split(file.Name.StartsWith("./", StringComparison.Ordinal) ? file.Name[2..] : file.Name);
            if (sample is null || sample.Key != key)
            {
                foreach (PairEvent done in sample?.Finish(seen) ?? [])
                {
                    yield return done;
                }

                sample = new Sample(key);
            }

            sample.Add(extension, file);
        }

        foreach (PairEvent last in sample?.Finish(seen) ?? [])
        {
            yield return last;
        }
    }

    /// <summary>A text that is UTF-8, or null.</summary>
    public static string? Decode(ReadOnlySpan<byte> bytes)
    {
        try
        {
            ReadOnlySpan<byte> mark = [0xEF, 0xBB, 0xBF];
            return Utf8.GetString(bytes.StartsWith(mark) ? bytes[3..] : bytes);
        }
        catch (DecoderFallbackException)
        {
            return null;
        }
    }

    /// <summary>The captions under some keys of a JSON object, in the keys' order; empty and repeated ones are left out.</summary>
    public static List<string> Captions(JsonElement record, params string[] keys)
    {
        List<string> captions = [];
        foreach (string key in keys)
        {
            if (record.TryGetProperty(key, out JsonElement value))
            {
                Collect(value, captions);
            }
        }

        return captions;
    }

    private static string Plain(string extension) => extension.EndsWith(".gz", StringComparison.Ordinal) ? extension[..^3] : extension;

    private static void Collect(JsonElement value, List<string> captions)
    {
        if (value.ValueKind == JsonValueKind.Array)
        {
            foreach (JsonElement item in value.EnumerateArray().Where(item => item.ValueKind is JsonValueKind.String or JsonValueKind.Object))
            {
                Collect(item, captions);
            }
        }
        else if (value.ValueKind == JsonValueKind.Object)
        {
            // Karpathy's and other lists of sentences: { "raw": … }.
            captions.AddRange(Captions(value, "raw", "caption").Where(caption => !captions.Contains(caption)));
        }
        else if (value.ValueKind == JsonValueKind.String && value.GetString()?.Trim() is { Length: > 0 } caption && !captions.Contains(caption))
        {
            captions.Add(caption);
        }
    }

    /// <summary>A file of a sample, or why it cannot be used.</summary>
    public readonly record struct SampleFile(string Name, EncodedPicture? Content, Drop? Drop);

    private sealed class Sample(string key)
    {
        private readonly List<Drop> drops = [];
        private EncodedPicture? picture;
        private EncodedPicture? text;
        private EncodedPicture? json;
        private bool packedPicture;
        private bool packedText;
        private bool packedJson;

        public string Key => key;

        public void Add(string extension, SampleFile file)
        {
            string plain = Plain(extension);
            if (file.Drop is { } drop)
            {
                drops.Add(drop with { Key = $"{key}.{extension}" });
                return;
            }

            bool isText = plain is "txt" or "caption", isJson = plain == "json";
            ref EncodedPicture? place = ref isText ? ref text : ref isJson ? ref json : ref picture;
            ref bool packed = ref isText ? ref packedText : ref isJson ? ref packedJson : ref packedPicture;
            if (place is null)
            {
                (place, packed) = (file.Content, plain != extension);
            }
            else
            {
                drops.Add(new Drop(DropReason.DuplicateKey, $"{key}.{extension}", "a second file of its kind"));
            }
        }

        public IEnumerable<PairEvent> Finish(HashSet<string> seen)
        {
            // A file that was dropped and is missed is said once: as what it was dropped for.
            PairEvent own = Pair(seen);
            bool said = own.Drop is { Reason: DropReason.MissingPicture or DropReason.MissingCaption } && drops.Count > 0;
            return said ? drops.Select(drop => new PairEvent(null, drop)) : drops.Select(drop => new PairEvent(null, drop)).Append(own);
        }

        private PairEvent Pair(HashSet<string> seen)
        {
            if (!PicturePaths.IsSafe(key) && key.Length > 0)
            {
                return PairEvent.Dropped(DropReason.UnsafePath, key, "the name leads out of its source");
            }

            if (!seen.Add(key))
            {
                return PairEvent.Dropped(DropReason.DuplicateKey, key);
            }

            if (picture is null)
            {
                return PairEvent.Dropped(DropReason.MissingPicture, key);
            }

            List<string> captions = [];
            try
            {
                if (FindCaptions(captions) is { } drop)
                {
                    return new PairEvent(null, drop);
                }

                if (packedPicture)
                {
                    picture = new EncodedPicture(Unpacking.Inflate(picture.Read(), EncodedPicture.MostBytes));
                }
            }
            catch (DropException e)
            {
                return PairEvent.Dropped(e.Reason, key, e.Message);
            }

            return new PairEvent(new PicturePair(key, picture, captions), null);
        }

        private Drop? FindCaptions(List<string> captions)
        {
            Drop drop = new(DropReason.MissingCaption, key);
            if (text is not null)
            {
                if (Read(text, packedText, MostText, ref drop) is not { } bytes)
                {
                    // The reason is in the drop.
                }
                else if (Decode(bytes) is not { } decoded)
                {
                    drop = new Drop(DropReason.BadUtf8, key);
                }
                else if (decoded.Trim() is { Length: > 0 } caption)
                {
                    captions.Add(caption);
                }
            }

            if (json is not null && Read(json, packedJson, MostRecord, ref drop) is { } record)
            {
                try
                {
                    using JsonDocument document = JsonDocument.Parse(WithoutMark(record));
                    if (document.RootElement.ValueKind == JsonValueKind.Object)
                    {
                        captions.AddRange(Captions(document.RootElement, "caption", "captions").Where(caption => !captions.Contains(caption)));
                    }
                }
                catch (Exception e) when (e is JsonException or InvalidOperationException)
                {
                    // A broken record beside a good caption takes nothing away.
                    drop = drop.Reason != DropReason.MissingCaption ? drop
                        : Decode(record) is null ? new Drop(DropReason.BadUtf8, key)
                        : new Drop(DropReason.BadRecord, key, e.Message);
                }
            }

            return captions.Count > 0 ? null : drop;
        }

        private byte[]? Read(EncodedPicture file, bool packed, long most, ref Drop drop)
        {
            try
            {
                byte[] bytes = file.Read();
                return packed ? Unpacking.Inflate(bytes, most) : bytes;
            }
            catch (DropException e)
            {
                // An empty or unreadable file of a caption is no caption.
                drop = new Drop(e.Reason == DropReason.MissingPicture ? DropReason.MissingCaption : e.Reason, key, e.Message);
                return null;
            }
        }

        private static ReadOnlyMemory<byte> WithoutMark(byte[] bytes) => bytes.AsSpan().StartsWith("\uFEFF"u8) ? bytes.AsMemory(3) : bytes;
    }
}
