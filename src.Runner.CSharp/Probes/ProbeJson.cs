using System.Text.Json;

namespace Hybrid.Runner;

/// <summary>Reading the JSON of tasks, with sentences for what is wrong with it.</summary>
internal static class ProbeJson
{
    /// <summary>The objects of a file of JSON lines, each with its place; empty lines are left out. Errors: InputException.</summary>
    public static List<(string Where, JsonElement Root)> Lines(string path, string text)
    {
        List<(string, JsonElement)> lines = [];
        foreach (var (line, i) in text.Split('\n').Select((line, i) => (line, i)).Where(entry => entry.line.Trim().Length > 0))
        {
            string where = $"{path}, line {i + 1}";
            using JsonDocument document = Parse(where, line);
            lines.Add((where, document.RootElement.ValueKind == JsonValueKind.Object
                ? document.RootElement.Clone()
                : throw new InputException($"{where}: must be a JSON object.")));
        }

        return lines;
    }

    public static JsonDocument Parse(string where, string text)
    {
        try
        {
            return JsonDocument.Parse(text);
        }
        catch (JsonException error)
        {
            throw new InputException($"{where}: is not valid JSON: {error.Message}", error);
        }
    }

    /// <summary>A text. Errors: InputException where it is none.</summary>
    public static string Word(string where, JsonElement root, string name) => OptionalWord(where, root, name) ?? throw new InputException($"{where}: {name} must be a text.");

    /// <summary>A text, or null where the key is not there. Errors: InputException where it is something else.</summary>
    public static string? OptionalWord(string where, JsonElement root, string name)
    {
        if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty(name, out JsonElement value))
        {
            return null;
        }

        return value.ValueKind == JsonValueKind.String ? Text(where, name, value) : throw new InputException($"{where}: {name} must be a text.");
    }

    /// <summary>A list of at least two texts. Errors: InputException.</summary>
    public static string[] Words(string where, JsonElement root, string name)
    {
        JsonElement value = root.GetProperty(name);
        return value.ValueKind == JsonValueKind.Array && value.GetArrayLength() > 1 && value.EnumerateArray().All(item => item.ValueKind == JsonValueKind.String)
            ? [.. value.EnumerateArray().Select(item => Text(where, name, item))]
            : throw new InputException($"{where}: {name} must be a list of at least two texts.");
    }

    private static string Text(string where, string name, JsonElement value)
    {
        try
        {
            return value.GetString()!;
        }
        catch (InvalidOperationException error)
        {
            throw new InputException($"{where}: {name} holds half of a surrogate pair (\\ud800 to \\udfff); give both halves or neither.", error);
        }
    }
}
