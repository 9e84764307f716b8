using System.Text.Json;

namespace Hybrid.Runner;

/// <summary>A question of a probe: texts after which texts are scored, and which of them is right.</summary>
/// <param name="Choices">Context and continuation; one of them for language modelling, several for a choice.</param>
/// <param name="Gold">The right choice, or −1 where there is nothing to choose.</param>
internal sealed record ProbeItem(IReadOnlyList<(string Context, string Continuation)> Choices, int Gold)
{
    public bool IsChoice => Gold >= 0;
}

/// <summary>
/// A probe as open_lm keeps them, one JSON object a line: query, choices, gold; or context_options, continuation, gold; or
/// context, continuation. Or a JSON array of input and output pairs, each asked after five others of the list. Or a .txt file of
/// plain text: the word that ends the first forty of a paragraph is asked after the others, in up to 400 paragraphs.
/// </summary>
internal sealed record ProbeTask(string Name, IReadOnlyList<ProbeItem> Items)
{
    private const int Shots = 5, ParagraphWords = 40, MostParagraphs = 400;

    /// <summary>Reads a task. Errors: InputException naming line and key.</summary>
    public static ProbeTask Read(string path)
    {
        string text = Files.Text(path, "the task");
        List<ProbeItem> items = Path.GetExtension(path).Equals(".txt", StringComparison.OrdinalIgnoreCase) ? Paragraphs(text) : text.AsSpan().TrimStart().StartsWith("[") ? FewShot(path, text) : Lines(path, text);
        return items.Count > 0
            ? new(Path.GetFileNameWithoutExtension(path), items)
            : throw new InputException($"{path} holds no questions.");
    }

    private static List<ProbeItem> Paragraphs(string text)
    {
        string[][] paragraphs =
        [
            .. text.Split('\n')
                .Select(line => line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries))
                .Where(words => words.Length >= ParagraphWords),
        ];
        int count = Math.Min(paragraphs.Length, MostParagraphs);
        return
        [
            .. from i in Enumerable.Range(0, count)
               let words = paragraphs[(int)((long)i * paragraphs.Length / count)]
               select new ProbeItem([(string.Join(' ', words[..(ParagraphWords - 1)]), words[ParagraphWords - 1])], -1),
        ];
    }

    private static List<ProbeItem> Lines(string path, string text)
    {
        List<ProbeItem> items = [];
        foreach (var (line, i) in text.Split('\n').Select((line, i) => (line, i)).Where(entry => entry.line.Trim().Length > 0))
        {
            string where = $"{path}, line {i + 1}";
            using JsonDocument document = Parse(where, line);
            items.Add(Item(where, document.RootElement));
        }

        return items;
    }

    private static ProbeItem Item(string where, JsonElement root)
    {
        if (root.ValueKind != JsonValueKind.Object)
        {
            throw new InputException($"{where}: must be a JSON object.");
        }

        if (root.TryGetProperty("choices", out _))
        {
            string query = Word(where, root, "query");
            return Choice(where, root, [.. Words(where, root, "choices").Select(choice => (query, choice))]);
        }

        string continuation = Word(where, root, "continuation");
        return root.TryGetProperty("context_options", out _)
            ? Choice(where, root, [.. Words(where, root, "context_options").Select(context => (context, continuation))])
            : new([(Word(where, root, "context"), continuation)], -1);
    }

    private static ProbeItem Choice(string where, JsonElement root, (string, string)[] choices)
    {
        int gold = root.TryGetProperty("gold", out JsonElement value) && value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int given) ? given : -1;
        return gold >= 0 && gold < choices.Length
            ? new(choices, gold)
            : throw new InputException($"{where}: gold must be the number of one of the {choices.Length} choices, counted from 0.");
    }

    private static List<ProbeItem> FewShot(string path, string text)
    {
        using JsonDocument document = Parse(path, text);
        (string Input, string Output)[] pairs =
            [.. document.RootElement.EnumerateArray().Select((pair, i) => (Word($"{path}, entry {i}", pair, "input"), Word($"{path}, entry {i}", pair, "output")))];
        List<ProbeItem> items = [];
        for (int i = 0; i < pairs.Length; i++)
        {
            // The examples of a question are the ones that follow it, around the end of the list.
            string examples = string.Concat(Enumerable.Range(1, Math.Min(Shots, pairs.Length - 1)).Select(k => pairs[(i + k) % pairs.Length]).Select(pair => $"Q: {pair.Input}\nA: {pair.Output}\n\n"));
            items.Add(new([($"{examples}Q: {pairs[i].Input}\nA:", pairs[i].Output)], -1));
        }

        return items;
    }

    private static JsonDocument Parse(string where, string text)
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

    private static string Word(string where, JsonElement root, string name) =>
        root.ValueKind == JsonValueKind.Object && root.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.String
            ? Text(where, name, value)
            : throw new InputException($"{where}: {name} must be a text.");

    private static string[] Words(string where, JsonElement root, string name)
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
