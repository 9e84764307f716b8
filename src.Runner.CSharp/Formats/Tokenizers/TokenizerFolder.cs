using System.Text;
using System.Text.Json.Nodes;
using static Hybrid.Runner.Formats.TokenizerJson;

namespace Hybrid.Runner.Formats;

/// <summary>What a path to a text tokenizer stands for: a tokenizer.json, or what older models have in its place.</summary>
internal static class TokenizerFolder
{
    private const long MaximumLength = 1L << 28;
    private const string Whole = "tokenizer.json", Words = "vocab.json", Merges = "merges.txt", Added = "added_tokens.json", Special = "special_tokens_map.json";

    /// <summary>
    /// The path and the bytes of a tokenizer.json: the file itself, that of a folder, or one made of a folder's vocab.json and merges.txt,
    /// whose path is then the folder's vocab.json. Errors: <see cref="InputException"/>.
    /// </summary>
    public static (string Path, byte[] Bytes) Read(string path)
    {
        if (!Directory.Exists(path))
        {
            return Path.GetFileName(path) is Words or Merges && Path.GetDirectoryName(Path.GetFullPath(path)) is { } folder && File.Exists(Path.Combine(folder, Words))
                ? ByteLevel(folder)
                : (path, Sound(path, Bytes(path)));
        }

        string file = Path.Combine(path, Whole);
        if (File.Exists(file))
        {
            return (file, Bytes(file));
        }

        if (File.Exists(Path.Combine(path, Words)) && File.Exists(Path.Combine(path, Merges)))
        {
            return ByteLevel(path);
        }

        string? other = new[] { "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt" }.FirstOrDefault(name => File.Exists(Path.Combine(path, name)));
        throw new InputException(other is null
            ? $"{path} has neither {Whole} nor {Words} with {Merges}."
            : $"{path} has {other} but no {Whole}. {HowTo(path)}");
    }

    private static string HowTo(string folder) =>
        $"Make one with Python: from transformers import AutoTokenizer; AutoTokenizer.from_pretrained(\"{folder}\", use_fast=True).save_pretrained(\"{folder}\")";

    /// <summary>A file of SentencePiece is no JSON: it begins with the field of its first piece.</summary>
    private static byte[] Sound(string path, byte[] bytes) => bytes is [0x0A, < 0x20 and not (0x09 or 0x0A or 0x0D), 0x0A, ..] || path.EndsWith(".model", StringComparison.OrdinalIgnoreCase)
        ? throw new InputException($"{path} is a model of SentencePiece, not a {Whole}. {HowTo(Path.GetDirectoryName(path) is { Length: > 0 } folder ? folder : ".")}")
        : bytes;

    private static byte[] Bytes(string path)
    {
        try
        {
            long length = new FileInfo(path).Length;
            return length <= MaximumLength
                ? File.ReadAllBytes(path)
                : throw new InputException($"{path} has {length} bytes; a {Whole} has at most {MaximumLength}.");
        }
        catch (Exception e) when (FileErrors.Explain(e, path) is { } refusal)
        {
            throw refusal;
        }
    }

    /// <summary>A byte-level BPE as GPT-2 uses it, of its vocabulary and its merges.</summary>
    private static (string Path, byte[] Bytes) ByteLevel(string folder)
    {
        string wordsPath = Path.Combine(folder, Words), mergesPath = Path.Combine(folder, Merges);
        JsonObject words = Parse(wordsPath, Bytes(wordsPath));
        JsonArray merges = [];
        int number = 0;
        foreach (string line in Strict(mergesPath, Bytes(mergesPath)).Split('\n').Select(line => line.TrimEnd('\r')))
        {
            number++;
            if (line.Length == 0 || (number == 1 && line.StartsWith("#version", StringComparison.Ordinal)))
            {
                continue;
            }

            string[] pair = line.Split(' ');
            merges.Add(pair.Length == 2
                ? new JsonArray(pair[0], pair[1])
                : throw new InputException($"{mergesPath}, line {number}: a merge is two tokens with a space between them."));
        }

        if (words.ContainsKey("a</w>") || !words.ContainsKey("Ġ"))
        {
            throw new InputException($"{wordsPath} is not the vocabulary of a byte-level BPE such as GPT-2's, in which Ġ stands for a space. {HowTo(folder)}");
        }

        JsonObject level() => new() { ["type"] = "ByteLevel", ["add_prefix_space"] = false, ["trim_offsets"] = true, ["use_regex"] = true };
        return (wordsPath, Encoding.UTF8.GetBytes(new JsonObject
        {
            ["version"] = "1.0",
            ["truncation"] = null,
            ["padding"] = null,
            ["added_tokens"] = AddedTokens(folder, words),
            ["normalizer"] = null,
            ["pre_tokenizer"] = level(),
            ["post_processor"] = null,
            ["decoder"] = level(),
            ["model"] = new JsonObject { ["type"] = "BPE", ["vocab"] = words.DeepClone(), ["merges"] = merges },
        }.ToJsonString()));
    }

    /// <summary>Tokens that added_tokens.json, special_tokens_map.json and GPT-2's habit name, in the order of their ids.</summary>
    private static JsonArray AddedTokens(string folder, JsonObject words)
    {
        Dictionary<string, (JsonNode? Id, bool Special)> found = new(StringComparer.Ordinal);
        string added = Path.Combine(folder, Added), special = Path.Combine(folder, Special);
        foreach ((string name, JsonNode? id) in File.Exists(added) ? Parse(added, Bytes(added)) : [])
        {
            found[name] = (id?.DeepClone(), false);
        }

        IEnumerable<string?> named = File.Exists(special)
            ? Parse(special, Bytes(special)).SelectMany(IEnumerable<JsonNode?> (pair) => pair.Value as IEnumerable<JsonNode?> ?? [pair.Value])
                .Select(token => Text(token) ?? Text((token as JsonObject)?["content"]))
            : [];
        foreach (string name in named.Append("<|endoftext|>").OfType<string>())
        {
            if (found.TryGetValue(name, out (JsonNode? Id, bool Special) token) || words.ContainsKey(name))
            {
                found[name] = (token.Id ?? words[name]?.DeepClone(), true);
            }
        }

        return
        [
            .. found.OrderBy(token => token.Value.Id is JsonValue value && value.TryGetValue(out int id) ? id : int.MaxValue).Select(token => new JsonObject
            {
                ["id"] = token.Value.Id,
                ["content"] = token.Key,
                ["single_word"] = false,
                ["lstrip"] = false,
                ["rstrip"] = false,
                ["normalized"] = false,
                ["special"] = token.Value.Special,
            }),
        ];
    }

    private static string Strict(string path, byte[] bytes) =>
        SampleGroups.Decode(bytes) ?? throw new InputException($"{path} is not UTF-8.");
}
