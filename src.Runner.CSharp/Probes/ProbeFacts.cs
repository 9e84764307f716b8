using System.Text.Json;

namespace Hybrid.Runner;

/// <summary>
/// Cloze questions from facts of one relation, as LAMA and ParaRel keep them: lines with sub_label and obj_label, and a sentence with
/// [X] for the subject and [Y] for the object. Every object of the file is a choice, but for other right ones of the same subject.
/// </summary>
internal static class ProbeFacts
{
    private const string Subject = "[X]", Object = "[Y]";

    /// <summary>Whether a line is a fact.</summary>
    public static bool IsFact(JsonElement root) => root.TryGetProperty("obj_label", out _) && root.TryGetProperty("sub_label", out _);

    /// <summary>
    /// The questions of a file's lines. The sentence is the line's own <c>template</c>; else the first one that ends with its object in
    /// the file of patterns: NAME.patterns.jsonl beside the file, relations.jsonl beside it, or ParaRel's
    /// ../pattern_data/graphs_json/NAME.jsonl. Errors: InputException.
    /// </summary>
    public static List<ProbeItem> Items(string path, IReadOnlyList<(string Where, JsonElement Root)> lines)
    {
        string? common = null;
        (string Subject, string Object, string Opening)[] facts = new (string, string, string)[lines.Count];
        for (int i = 0; i < facts.Length; i++)
        {
            (string where, JsonElement root) = lines[i];
            string subject = ProbeJson.Word(where, root, "sub_label"), answer = ProbeJson.Word(where, root, "obj_label");
            string? opening = ProbeJson.OptionalWord(where, root, "template") is { } own
                ? Opening(own) ?? throw new InputException($"{where}: template must hold {Subject}, and end with {Object} and at most punctuation; it is \"{own}\".")
                : common ??= Pattern(path);
            facts[i] = (subject, answer, opening.Replace(Subject, subject, StringComparison.Ordinal));
            if (answer.Trim().Length == 0 || facts[i].Opening.Trim().Length == 0)
            {
                throw new InputException($"{where}: subject, object and sentence must not be empty.");
            }
        }

        string[] objects = [.. facts.Select(fact => fact.Object).Distinct(StringComparer.Ordinal)];
        ILookup<string, string> right = facts.ToLookup(fact => fact.Opening, fact => fact.Object);
        List<ProbeItem> items = [];
        for (int i = 0; i < facts.Length; i++)
        {
            var (_, answer, opening) = facts[i];
            HashSet<string> others = [.. right[opening].Where(other => other != answer)];
            string[] choices = [.. objects.Where(choice => !others.Contains(choice))];
            items.Add(choices.Length > 1
                ? new([.. choices.Select(choice => (opening, choice))], Array.IndexOf(choices, answer))
                : throw new InputException($"{lines[i].Where}: the file has no other object than \"{answer}\" to choose from; a file holds the facts of one relation."));
        }

        return items;
    }

    /// <summary>The part of a sentence before its object, or null where it does not end with that or names no subject before it.</summary>
    private static string? Opening(string template)
    {
        int at = template.IndexOf(Object, StringComparison.Ordinal);
        bool usable = at > 0 && template.AsSpan(0, at).Contains(Subject, StringComparison.Ordinal) && template[(at + Object.Length)..].All(c => char.IsWhiteSpace(c) || char.IsPunctuation(c));
        return usable ? template[..at].TrimEnd() : null;
    }

    private static string Pattern(string path)
    {
        string folder = Path.GetDirectoryName(Path.GetFullPath(path)) ?? ".", name = Path.GetFileNameWithoutExtension(path);
        (string File, Func<JsonElement, bool> Wanted)[] places =
        [
            (Path.Combine(folder, name + ".patterns.jsonl"), _ => true),
            (Path.Combine(folder, "relations.jsonl"), line => line.TryGetProperty("relation", out JsonElement relation) && relation.ValueKind == JsonValueKind.String && relation.ValueEquals(name)),
            (Path.Combine(folder, "..", "pattern_data", "graphs_json", name + ".jsonl"), _ => true),
        ];
        string found = "";
        foreach (var (file, wanted) in places.Where(place => File.Exists(place.File)))
        {
            found = file;
            foreach (var (where, root) in ProbeJson.Lines(file, Files.Text(file, "the patterns of the task")).Where(line => wanted(line.Root)))
            {
                string template = ProbeJson.OptionalWord(where, root, "pattern") ?? ProbeJson.Word(where, root, "template");
                if (Opening(template) is { } opening)
                {
                    return opening;
                }
            }
        }

        throw new InputException(found.Length == 0
            ? $"{path} holds facts without a sentence: give each line a template such as \"{Subject} is the capital of {Object}.\", or put {name}.patterns.jsonl beside it, a line {{\"pattern\": \"…\"}} for each sentence."
            : $"{found} has no sentence for {name} that names {Subject} and ends with {Object}, which a model that reads from left to right needs.");
    }
}
