using System.Text.Json;

namespace Hybrid.Runner;

/// <summary>A question of a probe: texts after which texts are scored, and which of them is right.</summary>
/// <param name="Choices">Context and continuation; one of them for language modelling, several for a choice.</param>
/// <param name="Gold">The right choice, or −1 where there is nothing to choose.</param>
internal sealed record ProbeItem(IReadOnlyList<(string Context, string Continuation)> Choices, int Gold)
{
    public bool IsChoice => Gold >= 0;

    /// <summary>The question with its answer, as an example before another one.</summary>
    public string Solved => Joined(Choices[Math.Max(Gold, 0)]);

    /// <summary>Context and continuation as one text: a space between them, unless the context ends with spaces of its own.</summary>
    public static string Joined((string Context, string Continuation) choice) =>
        choice.Context.EndsWith(' ') ? choice.Context + choice.Continuation : $"{choice.Context} {choice.Continuation}";

    /// <summary>The question after some text.</summary>
    public ProbeItem After(string text) => text.Length == 0 ? this : this with { Choices = [.. Choices.Select(choice => (text + choice.Context, choice.Continuation))] };
}

/// <summary>
/// A probe as open_lm keeps them, one JSON object a line: query, choices, gold; or context_options, continuation, gold; or
/// context, continuation; or facts (<see cref="ProbeFacts"/>). Or a JSON array of input and output pairs. Or a .txt file of plain
/// text: the word that ends the first forty of a paragraph is asked after the others, in up to 400 paragraphs.
/// </summary>
/// <param name="Items">Its questions, without examples.</param>
/// <param name="Shots">Examples that a question usually comes after.</param>
internal sealed record ProbeTask(string Name, IReadOnlyList<ProbeItem> Items, int Shots = 0)
{
    private const int ListShots = 5, ParagraphWords = 40, MostParagraphs = 400;

    /// <summary>Reads a task, each question after its usual examples. Errors: InputException naming line and key.</summary>
    public static ProbeTask Read(string path) => Read(path, null, null, null);

    /// <summary>
    /// Reads a task: its first <paramref name="limit"/> questions (null: all), each after <paramref name="shots"/> examples (null: five in
    /// lists of pairs, none elsewhere), drawn from the others of the file by <paramref name="seed"/> (null: the ones that follow it).
    /// Errors: InputException naming line and key.
    /// </summary>
    public static ProbeTask Read(string path, int? shots, int? limit, long? seed)
    {
        ProbeTask task = ReadAll(path);
        int count = Math.Min(shots ?? task.Shots, task.Items.Count - 1);
        if (shots > count)
        {
            Terminal.Warn($"{path} has {task.Items.Count} questions, so each comes after {count} examples, not {shots}");
        }

        IEnumerable<ProbeItem> asked = task.Items.Select((item, i) => item.After(string.Concat(Examples(task.Items, i, count, seed).Select(example => example.Solved + "\n\n"))));
        return task with { Items = [.. asked.Take(limit ?? int.MaxValue)] };
    }

    private static ProbeTask ReadAll(string path)
    {
        string name = Path.GetFileNameWithoutExtension(path), text = Files.Text(path, "the task");
        ProbeTask task = Path.GetExtension(path).Equals(".txt", StringComparison.OrdinalIgnoreCase) ? new(name, Paragraphs(text))
            : text.AsSpan().TrimStart().StartsWith("[") ? new(name, Pairs(path, text), ListShots)
            : new(name, Lines(path, text));
        return task.Items.Count > 0 ? task : throw new InputException($"{path} holds no questions.");
    }

    /// <summary>The examples of a question: the ones that follow it, around the end of the list, or some that a seed draws.</summary>
    private static IEnumerable<ProbeItem> Examples(IReadOnlyList<ProbeItem> items, int question, int count, long? seed)
    {
        int others = items.Count - 1;
        Hybrid.Random.Stream? stream = seed is { } given
            ? Hybrid.Random.numbered(question, Hybrid.Random.named("examples of a question", Hybrid.Random.ofSeed(given)))
            : null;
        return Enumerable.Range(0, count)
            .Select(k => stream is { } drawn ? (int)Hybrid.Random.permuted(others, drawn, k) : k)
            .Select(k => items[(question + 1 + k) % items.Count]);
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
        List<(string Where, JsonElement Root)> lines = ProbeJson.Lines(path, text);
        return lines.Count > 0 && ProbeFacts.IsFact(lines[0].Root) ? ProbeFacts.Items(path, lines) : [.. lines.Select(line => Item(line.Where, line.Root))];
    }

    private static ProbeItem Item(string where, JsonElement root)
    {
        if (root.TryGetProperty("choices", out _))
        {
            string query = ProbeJson.Word(where, root, "query");
            return Choice(where, root, [.. ProbeJson.Words(where, root, "choices").Select(choice => (query, choice))]);
        }

        string continuation = ProbeJson.Word(where, root, "continuation");
        return root.TryGetProperty("context_options", out _)
            ? Choice(where, root, [.. ProbeJson.Words(where, root, "context_options").Select(context => (context, continuation))])
            : new([(ProbeJson.Word(where, root, "context"), continuation)], -1);
    }

    private static ProbeItem Choice(string where, JsonElement root, (string, string)[] choices)
    {
        int gold = root.TryGetProperty("gold", out JsonElement value) && value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int given) ? given : -1;
        return gold >= 0 && gold < choices.Length
            ? new(choices, gold)
            : throw new InputException($"{where}: gold must be the number of one of the {choices.Length} choices, counted from 0.");
    }

    private static List<ProbeItem> Pairs(string path, string text)
    {
        using JsonDocument document = ProbeJson.Parse(path, text);
        return
        [
            .. document.RootElement.EnumerateArray().Select((pair, i) =>
                new ProbeItem([($"Q: {ProbeJson.Word($"{path}, entry {i}", pair, "input")}\nA:", ProbeJson.Word($"{path}, entry {i}", pair, "output"))], -1)),
        ];
    }
}
