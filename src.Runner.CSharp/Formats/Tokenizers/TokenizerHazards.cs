using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using static Hybrid.Runner.Formats.TokenizerJson;

namespace Hybrid.Runner.Formats;

/// <summary>Values of a tokenizer.json of the right types on which the native library ends the process, while it reads or encodes.</summary>
internal static class TokenizerHazards
{
    private static readonly string[] Cleaning = ["BertNormalizer", "Strip", "Nmt", "Precompiled"];

    /// <summary>Errors: <see cref="InputException"/>.</summary>
    public static void Check(string path, JsonObject json)
    {
        foreach (string key in new[] { "normalizer", "pre_tokenizer", "decoder" })
        {
            CheckValues(path, key, json[key]);
        }

        CheckNormalizer(path, json["normalizer"]);
        CheckAdded(path, json);
    }

    /// <summary>Decodes every text and number once: the library fails on half characters and on numbers that are too large.</summary>
    private static void CheckValues(string path, string key, JsonNode? part)
    {
        IEnumerable<JsonNode?> children = part switch
        {
            JsonObject table => table.Select(pair => pair.Value),
            JsonArray list => list,
            _ => [],
        };
        foreach (JsonNode? child in children)
        {
            CheckValues(path, key, child);
        }

        if (part is JsonValue value)
        {
            switch (value.GetValueKind())
            {
                case JsonValueKind.String:
                    _ = value.GetValue<string>();
                    break;
                case JsonValueKind.Number when !(value.TryGetValue(out double number) && double.IsFinite(number)):
                    throw new InputException($"{path}: its {key} has a number that is too large.");
            }
        }
    }

    private static void CheckNormalizer(string path, JsonNode? part)
    {
        foreach (JsonNode? child in (part as JsonObject)?["normalizers"] as JsonArray ?? [])
        {
            CheckNormalizer(path, child);
        }

        switch (Text((part as JsonObject)?["type"]))
        {
            case "Prepend" when Text(part!["prepend"]) is "":
                throw new InputException($"{path}: its normalizer prepends the empty text, on which the tokenizers library fails.");
            case "Replace" when part!["pattern"] is JsonObject pattern && MatchesNothing(pattern):
                throw new InputException($"{path}: its normalizer replaces a pattern that matches the empty text, on which the tokenizers library fails.");
        }
    }

    /// <summary>Whether a pattern has a match of no length; a regular expression that is none here is left to the library.</summary>
    private static bool MatchesNothing(JsonObject pattern)
    {
        if (Text(pattern["String"]) is { } plain)
        {
            return plain.Length == 0;
        }

        try
        {
            return Text(pattern["Regex"]) is { } expression && new[] { "", "a", " ", "1" }.Any(sample =>
                Regex.Matches(sample, expression, RegexOptions.None, TimeSpan.FromSeconds(1)).Any(match => match.Length == 0));
        }
        catch (Exception e) when (e is ArgumentException or RegexMatchTimeoutException)
        {
            return false;
        }
    }

    /// <summary>An added token that the normalizer makes empty would be found everywhere, within characters too.</summary>
    private static void CheckAdded(string path, JsonObject json)
    {
        if (json["normalizer"]?.ToJsonString() is not { } normalizer || !Cleaning.Any(normalizer.Contains))
        {
            return;
        }

        foreach (JsonObject token in (json["added_tokens"] as JsonArray ?? []).OfType<JsonObject>())
        {
            if (token["normalized"] is JsonValue flag && flag.TryGetValue(out bool normalized) && normalized
                && Text(token["content"]) is { } text && text.EnumerateRunes().All(IsCleaned))
            {
                throw new InputException($"{path}: its normalizer may leave nothing of the added token \"{FileErrors.Show(text)}\", on which the tokenizers library fails.");
            }
        }
    }

    private static bool IsCleaned(Rune rune) => rune == Rune.ReplacementChar || Rune.GetUnicodeCategory(rune) is UnicodeCategory.Control
        or UnicodeCategory.Format or UnicodeCategory.SpaceSeparator or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator
        or UnicodeCategory.NonSpacingMark or UnicodeCategory.PrivateUse or UnicodeCategory.OtherNotAssigned;
}
