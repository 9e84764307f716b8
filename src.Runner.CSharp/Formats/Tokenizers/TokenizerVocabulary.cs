using System.Text.Json.Nodes;
using static Hybrid.Runner.Formats.TokenizerJson;

namespace Hybrid.Runner.Formats;

/// <summary>The ids and names of all tokens of a tokenizer.json, as the tokenizers library gives them out.</summary>
internal sealed class TokenizerVocabulary
{
    private const int Most = 1 << 24;
    private readonly Dictionary<string, int> ids = new(StringComparer.Ordinal);

    /// <summary>Reads model.vocab and added_tokens. Errors: <see cref="InputException"/>.</summary>
    public TokenizerVocabulary(string path, JsonObject json)
    {
        switch ((json["model"] as JsonObject)?["vocab"])
        {
            case JsonObject table:
                foreach ((string name, JsonNode? node) in table)
                {
                    int id = Id(path, name, node);
                    ids[name] = id;
                    Names[id] = name;
                }

                AddAdded(path, json, table.Count);
                break;
            case JsonArray list:
                for (int id = 0; id < list.Count; id++)
                {
                    string name = list[id] is JsonArray { Count: 2 } piece ? Text(piece[0]) ?? "" : "";
                    ids[name] = id;
                    Names[id] = name;
                }

                AddAdded(path, json, list.Count);
                break;
            default:
                throw new InputException($"{path} is not a tokenizer.json: model.vocab is missing.");
        }

        if (Names.Count == 0)
        {
            throw new InputException($"{path} has no tokens.");
        }
    }

    /// <summary>The names by id.</summary>
    public Dictionary<int, string> Names { get; } = [];

    /// <summary>An added token whose id in the file is not the one that it gets, as a sentence; or null.</summary>
    public string? Moved { get; private set; }

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

    /// <summary>
    /// Added tokens that the model's vocabulary has keep the id that they have there; the others are numbered on from the number of
    /// the model's tokens, whatever id the file gives them.
    /// </summary>
    private void AddAdded(string path, JsonObject json, int next)
    {
        foreach (JsonNode? token in json["added_tokens"] as JsonArray ?? [])
        {
            if (token is not JsonObject added || Text(added["content"]) is not { } name)
            {
                throw new InputException($"{path}: an entry of added_tokens has no content.");
            }

            int said = Id(path, name, added["id"]);
            if (name.Length == 0)
            {
                continue; // as the library does
            }

            if (!ids.TryGetValue(name, out int id))
            {
                ids[name] = id = next++;
            }

            Names[id] = name;
            if (id != said)
            {
                Moved ??= $"{path} gives the added token \"{FileErrors.Show(name)}\" the id {said}, but the tokenizers library numbers it {id}; {id} is used";
            }
        }
    }

    private static int Id(string path, string name, JsonNode? node) =>
        node is JsonValue value && value.TryGetValue(out int id) && id is >= 0 and < Most
            ? id
            : throw new InputException($"{path}: the token \"{FileErrors.Show(name)}\" has no id from 0 to {Most - 1}.");
}
