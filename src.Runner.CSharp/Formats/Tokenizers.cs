using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using Tokenizers.DotNet;

namespace Hybrid.Runner.Formats;

/// <summary>Text to ids and back. Safe for use by several threads.</summary>
public interface ITextTokenizer
{
    /// <summary>One more than the highest id, tokens that were added to the vocabulary included.</summary>
    int VocabularySize { get; }

    /// <summary>The id that begins a sequence, or null.</summary>
    int? BeginId { get; }

    /// <summary>The id that ends a sequence or document, or null.</summary>
    int? EndId { get; }

    /// <summary>
    /// The ids of a text. With <paramref name="special"/>, the marks that the tokenizer puts around a sequence are added. The
    /// name of a special token within the text becomes that token either way.
    /// </summary>
    int[] Encode(string text, bool special);

    /// <summary>The text of ids, special tokens left out. Errors: <see cref="InputException"/> for an id that no token has.</summary>
    string Decode(IReadOnlyList<int> ids);
}

/// <summary>A tokenizer.json of Hugging Face's tokenizers library.</summary>
/// <remarks>
/// The native library reads a path, always adds the marks of the file's post_processor, and truncates and pads as the file
/// says. So where the file asks for any of those, a copy without them is written to the temporary folder, loaded, and removed
/// at once; the marks are added here.
/// </remarks>
public sealed class HuggingFaceTokenizer : ITextTokenizer, IDisposable
{
    private const long MaximumLength = 1L << 28;
    private static readonly string[] BeginNames = ["<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "[CLS]"];
    private static readonly string[] EndNames = ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]"];

    private readonly Tokenizer tokenizer;
    private readonly TokenizerMarks marks;
    private readonly Dictionary<int, string> names;

    private HuggingFaceTokenizer(string path, byte[] bytes)
    {
        Path = path;
        Sha256 = Convert.ToHexStringLower(SHA256.HashData(bytes));
        JsonObject json = Parse(path, bytes);
        TokenizerParts.Check(path, json);
        Vocabulary vocabulary = new(path, json);
        names = vocabulary.Names;
        VocabularySize = names.Keys.Max() + 1;
        marks = TokenizerMarks.Of(path, json["post_processor"], names);
        BeginId = marks.Before is [int begin, ..] ? begin : vocabulary.IdOf(BeginNames);
        EndId = marks.After is [.., int end] ? end : vocabulary.IdOf(EndNames);

        // A post_processor of type ByteLevel adds nothing: it only moves the places that tokens have in the text.
        bool same = json["truncation"] is null && json["padding"] is null && marks.IsEmpty;
        tokenizer = same ? Load(path, path) : LoadCopy(path, json);
    }

    /// <summary>The file's path.</summary>
    public string Path { get; }

    /// <summary>SHA-256 of the file, in lower-case hexadecimal.</summary>
    public string Sha256 { get; }

    /// <inheritdoc/>
    public int VocabularySize { get; }

    /// <inheritdoc/>
    public int? BeginId { get; }

    /// <inheritdoc/>
    public int? EndId { get; }

    /// <summary>Opens a tokenizer.json, or a folder that has one. Errors: <see cref="InputException"/>.</summary>
    public static HuggingFaceTokenizer Open(string path)
    {
        string file = Directory.Exists(path) ? System.IO.Path.Combine(path, "tokenizer.json") : path;
        byte[] bytes;
        try
        {
            long length = new FileInfo(file).Length;
            bytes = length <= MaximumLength
                ? File.ReadAllBytes(file)
                : throw new InputException($"{file} has {length} bytes; a tokenizer.json has at most {MaximumLength}.");
        }
        catch (Exception e) when (FileErrors.Explain(e, file) is { } refusal)
        {
            throw refusal;
        }

        try
        {
            return new HuggingFaceTokenizer(file, bytes);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or ArgumentException)
        {
            // Text within JSON is decoded when it is looked at.
            throw new InputException($"{file} is not a tokenizer.json: {e.Message}", e);
        }
    }

    /// <summary>Ids and tokens, as the vocabulary writes them.</summary>
    public IReadOnlyDictionary<int, string> Tokens => names;

    /// <summary>The token of an id as the vocabulary writes it, or null for an id that no token has.</summary>
    public string? TokenOf(int id) => names.GetValueOrDefault(id);

    /// <inheritdoc/>
    public int[] Encode(string text, bool special)
    {
        try
        {
            int[] ids = text.Length == 0 ? [] : Array.ConvertAll(tokenizer.Encode(text), id => (int)id);
            return special && !marks.IsEmpty ? [.. marks.Before, .. ids, .. marks.After] : ids;
        }
        catch (TokenizerException e)
        {
            throw new InputException($"{Path} cannot encode \"{FileErrors.Show(text)}\": {e.Message}", e);
        }
    }

    /// <inheritdoc/>
    public string Decode(IReadOnlyList<int> ids)
    {
        uint[] known = new uint[ids.Count];
        for (int i = 0; i < known.Length; i++)
        {
            known[i] = names.ContainsKey(ids[i])
                ? (uint)ids[i]
                : throw new InputException($"{Path} has no token {ids[i]} (number {i} of the ids); its ids go from 0 to {VocabularySize - 1}.");
        }

        try
        {
            return known.Length == 0 ? "" : tokenizer.Decode(known);
        }
        catch (TokenizerException e)
        {
            throw new InputException($"{Path} cannot decode the ids: {e.Message}", e);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => tokenizer.Dispose();

    private static JsonObject Parse(string path, byte[] bytes)
    {
        JsonDocumentOptions options = new() { MaxDepth = 64, AllowDuplicateProperties = false };
        return JsonNode.Parse(bytes, documentOptions: options) as JsonObject
            ?? throw new InputException($"{path} is not a tokenizer.json: it is no JSON object.");
    }

    private static string? Text(JsonNode? node) => node is JsonValue value && value.TryGetValue(out string? text) ? text : null;

    private static Tokenizer LoadCopy(string path, JsonObject json)
    {
        json["truncation"] = null;
        json["padding"] = null;
        json["post_processor"] = null;
        string folder = Directory.CreateTempSubdirectory("hybrid-tokenizer-").FullName;
        try
        {
            string copy = System.IO.Path.Combine(folder, "tokenizer.json");
            File.WriteAllText(copy, json.ToJsonString());
            return Load(path, copy);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static Tokenizer Load(string path, string from)
    {
        try
        {
            return new Tokenizer(from);
        }
        catch (TokenizerException e)
        {
            throw new InputException($"{path} is not a tokenizer.json that the tokenizers library reads: {e.Message}", e);
        }
        catch (DllNotFoundException e)
        {
            throw new InputException(
                $"{path} cannot be used: the native tokenizers library has no build for this system in the program's folder ({e.Message}).", e);
        }
    }

    /// <summary>The ids and names of all tokens.</summary>
    private sealed class Vocabulary
    {
        private readonly Dictionary<string, int> ids = new(StringComparer.Ordinal);

        public Vocabulary(string path, JsonObject json)
        {
            switch ((json["model"] as JsonObject)?["vocab"])
            {
                case JsonObject table:
                    foreach ((string name, JsonNode? id) in table)
                    {
                        Add(path, name, id);
                    }

                    break;
                case JsonArray list:
                    for (int id = 0; id < list.Count; id++)
                    {
                        string name = list[id] is JsonArray { Count: 2 } piece ? Text(piece[0]) ?? "" : "";
                        ids.TryAdd(name, id);
                        Names.TryAdd(id, name);
                    }

                    break;
                default:
                    throw new InputException($"{path} is not a tokenizer.json: model.vocab is missing.");
            }

            foreach (JsonNode? token in json["added_tokens"] as JsonArray ?? [])
            {
                if (token is not JsonObject added || Text(added["content"]) is not { } name)
                {
                    throw new InputException($"{path}: an entry of added_tokens has no content.");
                }

                Add(path, name, added["id"]);
            }

            if (Names.Count == 0)
            {
                throw new InputException($"{path} has no tokens.");
            }
        }

        public Dictionary<int, string> Names { get; } = [];

        /// <summary>The id of the first of several names that the vocabulary has.</summary>
        public int? IdOf(string[] usual)
        {
            foreach (string name in usual)
            {
                if (ids.TryGetValue(name, out int id))
                {
                    return id;
                }
            }

            return null;
        }

        private void Add(string path, string name, JsonNode? node)
        {
            const int most = 1 << 24;
            if (node is not JsonValue value || !value.TryGetValue(out int id) || id is < 0 or >= most)
            {
                throw new InputException($"{path}: the token \"{FileErrors.Show(name)}\" has no id from 0 to {most - 1}.");
            }

            ids[name] = id;
            Names[id] = name;
        }
    }
}
