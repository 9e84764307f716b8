using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using Tokenizers.DotNet;
using static Hybrid.Runner.Formats.TokenizerJson;

namespace Hybrid.Runner.Formats;

/// <summary>Text to ids and back, by a tokenizer.json of Hugging Face's tokenizers library. Safe for use by several threads.</summary>
/// <remarks>
/// The native library reads a path, always adds the marks of the file's post_processor, and truncates and pads as the file
/// says; with a dropout it splits at random. So where the file asks for any of those, a copy without them is written to the temporary
/// folder, loaded, and removed at once; the marks are added here. It always leaves special tokens out of a text, so texts with them
/// are made by a second copy in which no token is special.
/// </remarks>
public sealed class HuggingFaceTokenizer : IDisposable
{
    // The library's regular expressions give up after ten million steps back, which ends the process.
    private const int MostInARow = 4_000_000;
    private static readonly string[] BeginNames = ["<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "[CLS]"];
    private static readonly string[] EndNames = ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]"];

    private readonly Tokenizer tokenizer;
    private readonly Lazy<Tokenizer> plain;
    private readonly TokenizerMarks marks;
    private readonly Dictionary<int, string> names;
    private readonly bool matchesPatterns;

    private HuggingFaceTokenizer(string path, byte[] bytes)
    {
        Path = path;
        Content = bytes;
        Sha256 = Convert.ToHexStringLower(SHA256.HashData(bytes));
        JsonObject json = Parse(path, bytes);
        TokenizerParts.Check(path, json);
        TokenizerVocabulary vocabulary = new(path, json);
        names = vocabulary.Names;
        VocabularySize = names.Keys.Max() + 1;
        marks = TokenizerMarks.Of(path, json["post_processor"], names);
        BeginId = marks.Before is [int begin, ..] ? begin : vocabulary.IdOf(BeginNames);
        EndId = marks.After is [.., int end] ? end : vocabulary.IdOf(EndNames);
        Warning = vocabulary.Moved;
        matchesPatterns = TokenizerParts.HasPattern(json);
        Strip(json);
        tokenizer = Load(path, json);
        plain = new(() => Load(path, WithoutSpecial(Strip(Parse(path, bytes)))));
    }

    /// <summary>The path of the file, or of the vocab.json that it was made of.</summary>
    public string Path { get; }

    /// <summary>The bytes of the tokenizer.json.</summary>
    public ReadOnlyMemory<byte> Content { get; }

    /// <summary>SHA-256 of the tokenizer.json, in lower-case hexadecimal.</summary>
    public string Sha256 { get; }

    /// <summary>One more than the highest id, tokens that were added to the vocabulary included.</summary>
    public int VocabularySize { get; }

    /// <summary>The id that begins a sequence, or null.</summary>
    public int? BeginId { get; }

    /// <summary>The id that ends a sequence or document, or null.</summary>
    public int? EndId { get; }

    /// <summary>What a person should know of the file, or null.</summary>
    public string? Warning { get; }

    /// <summary>
    /// Opens a tokenizer.json, a folder that has one, or a folder with GPT-2's vocab.json and merges.txt. Errors:
    /// <see cref="InputException"/>.
    /// </summary>
    public static HuggingFaceTokenizer Open(string path)
    {
        (string file, byte[] bytes) = TokenizerFolder.Read(path);
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

    /// <summary>
    /// The ids of a text. With <paramref name="special"/>, the marks that the tokenizer puts around a sequence are added. The
    /// name of a special token within the text becomes that token either way. Errors: <see cref="InputException"/>.
    /// </summary>
    public int[] Encode(string text, bool special)
    {
        if (matchesPatterns && LongestRun(text) is > MostInARow and int run)
        {
            throw new InputException($"{Path} cannot encode a text in which {run} characters with, or without, white space stand in a row; {MostInARow} are the most.");
        }

        try
        {
            int[] ids = text.Length == 0 ? [] : Array.ConvertAll(tokenizer.Encode(text), id => (int)id);
            return special && !marks.IsEmpty ? [.. marks.Before, .. ids, .. marks.After] : ids;
        }
        catch (TokenizerException e)
        {
            string reason = Unpaired(text) is { } place ? $"character {place} is half of a surrogate pair" : e.Message;
            throw new InputException($"{Path} cannot encode \"{FileErrors.Show(text)}\": {reason}.", e);
        }
    }

    /// <summary>
    /// The text of ids, special tokens left out unless <paramref name="special"/> asks for their names. Errors:
    /// <see cref="InputException"/> for an id that no token has.
    /// </summary>
    public string Decode(IReadOnlyList<int> ids, bool special = false)
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
            return known.Length == 0 ? "" : (special ? plain.Value : tokenizer).Decode(known);
        }
        catch (TokenizerException e)
        {
            throw new InputException($"{Path} cannot decode the ids: {e.Message}", e);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        tokenizer.Dispose();
        if (plain.IsValueCreated)
        {
            plain.Value.Dispose();
        }
    }

    private static int LongestRun(string text)
    {
        int longest = 0, run = 0;
        bool blank = false;
        foreach (char c in text.Length > MostInARow ? text : "")
        {
            run = char.IsWhiteSpace(c) == blank ? run + 1 : 1;
            blank = char.IsWhiteSpace(c);
            longest = Math.Max(longest, run);
        }

        return longest;
    }

    /// <summary>The place of a surrogate without its other half, or null.</summary>
    private static int? Unpaired(string text)
    {
        for (int i = 0; i < text.Length; i++)
        {
            if (char.IsSurrogate(text[i]))
            {
                if (i + 1 == text.Length || !char.IsSurrogatePair(text[i], text[i + 1]))
                {
                    return i;
                }

                i++;
            }
        }

        return null;
    }

    /// <summary>Takes out what is done here or must not be done; whether anything was there is not asked.</summary>
    private static JsonObject Strip(JsonObject json)
    {
        json["truncation"] = null;
        json["padding"] = null;
        json["post_processor"] = null;
        if (json["model"] is JsonObject model && model["dropout"] is not null)
        {
            model["dropout"] = null;
        }

        return json;
    }

    private static JsonObject WithoutSpecial(JsonObject json)
    {
        foreach (JsonNode? token in json["added_tokens"] as JsonArray ?? [])
        {
            token!["special"] = false;
        }

        return json;
    }

    private static Tokenizer Load(string path, JsonObject json)
    {
        string folder = Directory.CreateTempSubdirectory("hybrid-tokenizer-").FullName;
        try
        {
            string copy = System.IO.Path.Combine(folder, "tokenizer.json");
            File.WriteAllText(copy, json.ToJsonString());
            return new Tokenizer(copy);
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
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
