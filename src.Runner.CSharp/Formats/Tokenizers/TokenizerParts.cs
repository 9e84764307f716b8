using System.Text;
using System.Text.Json.Nodes;
using static Hybrid.Runner.Formats.TokenizerJson;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Checks the parts of a tokenizer.json before the native library sees them: it ends the whole process where it meets a part that
/// it does not know, and where some values are not what it expects.
/// </summary>
internal static class TokenizerParts
{
    private static readonly (string Key, string Children, string[] Types)[] Parts =
    [
        ("normalizer", "normalizers",
            ["Sequence", "BertNormalizer", "Strip", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "Precompiled", "Replace", "Prepend", "ByteLevel"]),
        ("pre_tokenizer", "pretokenizers",
            ["Sequence", "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Metaspace", "Whitespace", "Split", "Punctuation", "WhitespaceSplit", "Digits", "UnicodeScripts", "FixedLength"]),
        ("post_processor", "processors", ["Sequence", "RobertaProcessing", "BertProcessing", "ByteLevel", "TemplateProcessing"]),
        ("decoder", "decoders",
            ["Sequence", "BPEDecoder", "ByteLevel", "WordPiece", "Metaspace", "CTC", "Replace", "Fuse", "Strip", "ByteFallback"]),
    ];

    /// <summary>Errors: <see cref="InputException"/> naming the part.</summary>
    public static void Check(string path, JsonObject json)
    {
        foreach ((string key, string children, string[] types) in Parts)
        {
            Check(path, key, children, types, json[key], 0);
        }

        TokenizerHazards.Check(path, json);
        if (json["model"] is JsonObject model)
        {
            CheckMerges(path, model);
        }
    }

    /// <summary>Whether a text is searched for a regular expression that the file gives.</summary>
    public static bool HasPattern(JsonNode? node) => node switch
    {
        JsonObject part => part.Any(pair => (pair.Key == "Regex" && pair.Value is JsonValue) || (pair.Key is not ("vocab" or "merges") && HasPattern(pair.Value))),
        JsonArray several => several.Any(HasPattern),
        _ => false,
    };

    private static void Check(string path, string key, string children, string[] types, JsonNode? part, int depth)
    {
        if (part is null && depth == 0)
        {
            return;
        }

        string? type = Text((part as JsonObject)?["type"]);
        if (type is null || !types.Contains(type))
        {
            throw new InputException($"{path}: its {key} has the type {(type is null ? "(none)" : FileErrors.Show(type))}, which is not one of {string.Join(", ", types)}.");
        }

        CheckValues(path, key, type, part!.AsObject());
        if (type != "Sequence")
        {
            return;
        }

        if (part[children] is not JsonArray several)
        {
            throw new InputException($"{path}: the sequence in its {key} has no list of {children}.");
        }

        foreach (JsonNode? child in several)
        {
            Check(path, key, children, types, child, depth + 1);
        }
    }

    private static void CheckValues(string path, string key, string type, JsonObject part)
    {
        bool Whole(string name, out long number)
        {
            number = 0;
            return part[name] is JsonValue value && value.TryGetValue(out number);
        }

        switch (key, type)
        {
            case ("normalizer", "Precompiled"):
                string? fault = Text(part["precompiled_charsmap"]) is { } table ? TokenizerCharsMap.Fault(table) : "is missing";
                if (fault is not null)
                {
                    throw new InputException($"{path}: the precompiled_charsmap of its normalizer {fault}.");
                }

                break;
            case ("pre_tokenizer", "FixedLength") when part.ContainsKey("length") && !(Whole("length", out long length) && length is >= 1 and <= int.MaxValue):
                throw new InputException($"{path}: the length of its pre_tokenizer FixedLength is not a whole number from 1.");
            case ("decoder", "Strip") when !(Whole("stop", out long stop) && stop == 0):
                throw new InputException($"{path}: the decoder Strip takes characters from the end of tokens (stop), which the tokenizers library cannot do for tokens that are shorter; set it to 0.");
        }
    }

    /// <summary>The library cuts the prefix off the right part of every merge without looking whether it has one.</summary>
    private static void CheckMerges(string path, JsonObject model)
    {
        int prefix = Encoding.UTF8.GetByteCount(Text(model["continuing_subword_prefix"]) ?? "");
        if (prefix == 0 || model["merges"] is not JsonArray merges)
        {
            return;
        }

        for (int i = 0; i < merges.Count; i++)
        {
            string? right = merges[i] is JsonArray { Count: 2 } pair ? Text(pair[1]) : Text(merges[i])?.Split(' ').LastOrDefault();
            byte[] bytes = Encoding.UTF8.GetBytes(right ?? "");
            if (right is not null && (bytes.Length < prefix || (bytes.Length > prefix && (bytes[prefix] & 0xC0) == 0x80)))
            {
                throw new InputException($"{path}: the right part \"{FileErrors.Show(right)}\" of merge {i} does not begin with the continuing_subword_prefix.");
            }
        }
    }
}
