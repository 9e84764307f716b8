using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Api;

namespace Hybrid.Runner.Formats;

/// <summary>
/// The files that Hugging Face's libraries want of a tokenizer, and the tokenizer of an extended vocabulary: every row of the table that
/// has an id gets a token.
/// </summary>
/// <remarks>
/// The tokenizers library does not take the ids of added tokens from the file: a token that the model's vocabulary has keeps that
/// one's id, the others are numbered on from the last. So rows between the tokenizer's last id and the marks get tokens as well.
/// </remarks>
internal static class TokenizerFiles
{
    private const string Config = "tokenizer_config.json", SpecialMap = "special_tokens_map.json";
    private static readonly string[] ConfigOfIds = ["added_tokens_decoder"];

    /// <summary>
    /// Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into a folder, from a tokenizer.json and what stands beside
    /// it. Returns notes for the person who asked; a tokenizer that cannot be extended is left out, and a note says why.
    /// </summary>
    /// <param name="source">The tokenizer.json.</param>
    /// <param name="vocabulary">The layout of the model's table.</param>
    /// <param name="positions">The positions the model was made for.</param>
    /// <param name="folder">Where the files go.</param>
    public static IReadOnlyList<string> Write(string source, Vocabulary vocabulary, int positions, string folder)
    {
        string path = Path.Combine(folder, Checkpoint.Tokenizer);
        string[] marks = [.. VocabularyModule.marks];
        if (vocabulary.ImageCodes == 0 || IsExtended(source, vocabulary, ref marks))
        {
            File.WriteAllBytes(path, File.ReadAllBytes(source));
        }
        else if (Extend(source, vocabulary, path, out marks) is { } refusal)
        {
            File.Delete(path);
            return [refusal];
        }

        using HuggingFaceTokenizer tokenizer = HuggingFaceTokenizer.Open(source);
        WriteConfigs(source, tokenizer, vocabulary.ImageCodes > 0 ? marks : null, positions, folder);
        return [];
    }

    /// <summary>The token of each id from the first row after the tokenizer's own on.</summary>
    private static IEnumerable<(int Id, string Token)> Added(Vocabulary vocabulary, int first, string[] marks)
    {
        for (int id = first; id < vocabulary.TextRows; id++)
        {
            yield return (id, $"<unused_{id}>");
        }

        for (int mark = 0; mark < marks.Length; mark++)
        {
            yield return (vocabulary.Doc + mark, marks[mark]);
        }

        for (int code = 0; code < vocabulary.ImageCodes; code++)
        {
            yield return (vocabulary.FirstCode + code, Code(code));
        }
    }

    /// <summary>Whether a tokenizer is that of the extended table already, as an earlier conversion wrote it; then its marks.</summary>
    private static bool IsExtended(string source, Vocabulary vocabulary, ref string[] marks)
    {
        using HuggingFaceTokenizer tokenizer = HuggingFaceTokenizer.Open(source);
        bool extended = tokenizer.VocabularySize == vocabulary.Rows
            && Enumerable.Range(0, vocabulary.ImageCodes).All(code => tokenizer.TokenOf(vocabulary.FirstCode + code) == Code(code))
            && Enumerable.Range(0, marks.Length).All(mark => tokenizer.TokenOf(vocabulary.Doc + mark) is not null);
        if (extended)
        {
            marks = [.. Enumerable.Range(vocabulary.Doc, marks.Length).Select(id => tokenizer.TokenOf(id)!)];
        }

        return extended;
    }

    private static string Code(int code) => $"<image_code_{code}>";

    /// <summary>Writes the extended tokenizer and reads it back; a sentence where it cannot be.</summary>
    private static string? Extend(string source, Vocabulary vocabulary, string path, out string[] marks)
    {
        using HuggingFaceTokenizer before = HuggingFaceTokenizer.Open(source);
        HashSet<string> taken = [.. before.Tokens.Select(token => token.Value)];

        // A mark that is a token of the text already would become that one.
        marks = [.. VocabularyModule.marks.Select((mark, i) => taken.Contains(mark) ? $"{mark[..^1]}_{vocabulary.Doc + i}>" : mark)];
        if (before.VocabularySize > vocabulary.TextRows)
        {
            return $"the tokenizer {source} has ids up to {before.VocabularySize - 1}, beyond the {vocabulary.TextRows} text rows of the table; it is left out.";
        }

        (int Id, string Token)[] added = [.. Added(vocabulary, before.VocabularySize, marks)];
        if (added.FirstOrDefault(token => taken.Contains(token.Token)).Token is { } known)
        {
            return $"the tokenizer {source} has a token {known} already, which is the name of a row that was added; it is left out.";
        }

        JsonObject json = JsonNode.Parse(File.ReadAllBytes(source))!.AsObject();
        JsonArray tokens = json["added_tokens"] as JsonArray ?? [];
        json["added_tokens"] = tokens;
        foreach ((int id, string token) in added)
        {
            tokens.Add(new JsonObject
            {
                ["id"] = id,
                ["content"] = token,
                ["single_word"] = false,
                ["lstrip"] = false,
                ["rstrip"] = false,
                ["normalized"] = false,
                ["special"] = true,
            });
        }

        File.WriteAllText(path, json.ToJsonString(Indented));
        using HuggingFaceTokenizer after = HuggingFaceTokenizer.Open(path);
        foreach ((int id, string token) in added)
        {
            if (after.Encode(token, special: false) is not [var given] || given != id)
            {
                return $"the tokenizers library does not give {token} the id {id} in the extended {source}, because that vocabulary has holes; it is left out.";
            }
        }

        return null;
    }

    private static void WriteConfigs(string source, HuggingFaceTokenizer tokenizer, string[]? marks, int positions, string folder)
    {
        string beside = Path.GetDirectoryName(Path.GetFullPath(source))!;
        JsonObject? config = Beside(beside, Config), special = Beside(beside, SpecialMap);
        if (config is null)
        {
            config = new() { ["tokenizer_class"] = "PreTrainedTokenizerFast", ["model_max_length"] = positions, ["clean_up_tokenization_spaces"] = false };
            Put("bos_token", tokenizer.BeginId);
            Put("eos_token", tokenizer.EndId);
        }

        special ??= new(config.Where(pair => pair.Key is "bos_token" or "eos_token" or "unk_token" or "pad_token").Select(pair => KeyValuePair.Create(pair.Key, pair.Value?.DeepClone())));
        if (marks is not null)
        {
            foreach (string key in ConfigOfIds)
            {
                // It repeats tokenizer.json's added tokens, without the new ones.
                config.Remove(key);
            }

            config["pad_token"] = marks[^1];
            special["pad_token"] = marks[^1];
        }

        File.WriteAllText(Path.Combine(folder, Config), config.ToJsonString(Indented));
        File.WriteAllText(Path.Combine(folder, SpecialMap), special.ToJsonString(Indented));

        void Put(string key, int? id)
        {
            if (id is { } known && tokenizer.TokenOf(known) is { } token)
            {
                config[key] = token;
            }
        }
    }

    private static JsonObject? Beside(string folder, string name)
    {
        string path = Path.Combine(folder, name);
        try
        {
            return File.Exists(path) ? JsonNode.Parse(File.ReadAllBytes(path)) as JsonObject : null;
        }
        catch (JsonException error)
        {
            throw new InputException($"{path} is not valid JSON: {error.Message}", error);
        }
    }

    private static JsonSerializerOptions Indented { get; } = new() { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
}
