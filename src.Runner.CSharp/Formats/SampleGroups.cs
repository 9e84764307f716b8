using System.Text;
using System.Text.Json;

namespace Hybrid.Runner.Formats;

/// <summary>Puts the files of one sample together: neighbours with the same key, as webdataset does.</summary>
internal static class SampleGroups
{
    private static readonly UTF8Encoding Utf8 = new(false, throwOnInvalidBytes: true);

    public static bool IsPicture(string extension) => extension is "jpg" or "jpeg" or "png" or "webp";

    public static bool IsWanted(string name)
    {
        string extension = WebDataset.Split(name).Extension;
        return extension is "txt" or "caption" or "json" || IsPicture(extension);
    }

    public static IEnumerable<PicturePair> Pairs(string source, IEnumerable<(string Name, byte[] Bytes)> members, DropCounts drops)
    {
        HashSet<string> seen = new(StringComparer.Ordinal);
        Sample? sample = null;
        foreach ((string name, byte[] bytes) in members)
        {
            (string key, string extension) = WebDataset.Split(name);
            if (sample?.Key != key)
            {
                if (sample?.Finish(source, seen, drops) is { } pair)
                {
                    yield return pair;
                }

                sample = new Sample(key);
            }

            sample.Add(extension, bytes, source, drops);
        }

        if (sample?.Finish(source, seen, drops) is { } last)
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

    /// <summary>The captions of a JSON object: "caption" first, then those of "captions"; empty ones are left out.</summary>
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

    private static void Collect(JsonElement value, List<string> captions)
    {
        if (value.ValueKind == JsonValueKind.Array)
        {
            foreach (JsonElement item in value.EnumerateArray().Where(item => item.ValueKind == JsonValueKind.String))
            {
                Collect(item, captions);
            }
        }
        else if (value.ValueKind == JsonValueKind.String && value.GetString()?.Trim() is { Length: > 0 } caption && !captions.Contains(caption))
        {
            captions.Add(caption);
        }
    }

    private sealed class Sample(string key)
    {
        private byte[]? picture;
        private byte[]? text;
        private byte[]? json;

        public string Key => key;

        public void Add(string extension, byte[] bytes, string source, DropCounts drops)
        {
            ref byte[]? place = ref picture;
            if (extension is "txt" or "caption")
            {
                place = ref text;
            }
            else if (extension == "json")
            {
                place = ref json;
            }

            if (place is null)
            {
                place = bytes;
            }
            else
            {
                drops.Add(DropReason.DuplicateKey, $"{source}: {FileErrors.Show(key)}.{extension}");
            }
        }

        public PicturePair? Finish(string source, HashSet<string> seen, DropCounts drops)
        {
            DropReason? reason = null;
            List<string> captions = [];
            if (!seen.Add(key))
            {
                reason = DropReason.DuplicateKey;
            }
            else if (picture is not { Length: > 0 })
            {
                reason = DropReason.MissingPicture;
            }
            else
            {
                reason = FindCaptions(captions);
            }

            if (reason is { } why)
            {
                drops.Add(why, $"{source}: {FileErrors.Show(key)}");
                return null;
            }

            return new PicturePair(key, picture!, captions);
        }

        private DropReason? FindCaptions(List<string> captions)
        {
            DropReason reason = DropReason.MissingCaption;
            if (text is not null)
            {
                if (Decode(text) is not { } decoded)
                {
                    reason = DropReason.BadUtf8;
                }
                else if (decoded.Trim() is { Length: > 0 } caption)
                {
                    captions.Add(caption);
                }
            }

            if (json is not null)
            {
                try
                {
                    using JsonDocument document = JsonDocument.Parse(json);
                    if (document.RootElement.ValueKind == JsonValueKind.Object)
                    {
                        captions.AddRange(Captions(document.RootElement, "caption", "captions").Where(caption => !captions.Contains(caption)));
                    }
                }
                catch (Exception e) when (e is JsonException or InvalidOperationException)
                {
                    // A broken record beside a good caption takes nothing away.
                    reason = reason != DropReason.MissingCaption ? reason : Decode(json) is null ? DropReason.BadUtf8 : DropReason.BadRecord;
                }
            }

            return captions.Count > 0 ? null : reason;
        }
    }
}
