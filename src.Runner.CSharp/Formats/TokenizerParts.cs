using System.Text.Json.Nodes;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Checks the parts of a tokenizer.json by their types before the native library sees them: it ends the whole process where it
/// meets a part that it does not know.
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
    }

    private static void Check(string path, string key, string children, string[] types, JsonNode? part, int depth)
    {
        if (part is null && depth == 0)
        {
            return;
        }

        string? type = (part as JsonObject)?["type"] is JsonValue value && value.TryGetValue(out string? text) ? text : null;
        if (type is null || !types.Contains(type))
        {
            throw new InputException($"{path}: its {key} has the type {(type is null ? "(none)" : FileErrors.Show(type))}, which is not one of {string.Join(", ", types)}.");
        }

        if (type != "Sequence")
        {
            return;
        }

        if (part![children] is not JsonArray several)
        {
            throw new InputException($"{path}: the sequence in its {key} has no list of {children}.");
        }

        foreach (JsonNode? child in several)
        {
            Check(path, key, children, types, child, depth + 1);
        }
    }
}
