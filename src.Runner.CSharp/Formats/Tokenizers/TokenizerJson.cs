using System.Text.Json;
using System.Text.Json.Nodes;

namespace Hybrid.Runner.Formats;

/// <summary>Reading the JSON of tokenizers.</summary>
internal static class TokenizerJson
{
    /// <summary>An object that gives no key twice. Errors: InputException.</summary>
    public static JsonObject Parse(string path, byte[] bytes)
    {
        JsonDocumentOptions options = new() { MaxDepth = 64, AllowDuplicateProperties = false };
        try
        {
            ReadOnlySpan<byte> mark = [0xEF, 0xBB, 0xBF];
            ReadOnlySpan<byte> text = bytes.AsSpan().StartsWith(mark) ? bytes.AsSpan(3) : bytes;
            return JsonNode.Parse(text, documentOptions: options) as JsonObject
                ?? throw new InputException($"{path} is not a tokenizer.json: it is no JSON object.");
        }
        catch (JsonException e)
        {
            throw new InputException($"{path} is not a tokenizer.json: {e.Message}", e);
        }
    }

    /// <summary>A node that is a text, else null.</summary>
    public static string? Text(JsonNode? node) => node is JsonValue value && value.TryGetValue(out string? text) ? text : null;
}
