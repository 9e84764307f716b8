using System.Text.Json.Nodes;

namespace Hybrid.Runner.Formats;

/// <summary>The ids that a tokenizer.json's post_processor puts before and after a single sequence.</summary>
internal sealed record TokenizerMarks(int[] Before, int[] After)
{
    private static readonly TokenizerMarks None = new([], []);

    public bool IsEmpty => Before.Length == 0 && After.Length == 0;

    /// <summary>Reads a post_processor whose types have been checked. Errors: <see cref="InputException"/>.</summary>
    public static TokenizerMarks Of(string path, JsonNode? processor, IReadOnlyDictionary<int, string> names)
    {
        TokenizerMarks marks = (string?)processor?["type"] switch
        {
            "Sequence" => processor["processors"]!.AsArray().Aggregate(None, (inner, next) =>
            {
                TokenizerMarks outer = Of(path, next, names);
                return new([.. outer.Before, .. inner.Before], [.. inner.After, .. outer.After]);
            }),
            "TemplateProcessing" => OfTemplate(path, processor),
            "BertProcessing" or "RobertaProcessing" => new([Id(path, processor["cls"]?[1])], [Id(path, processor["sep"]?[1])]),
            _ => None,
        };
        foreach (int id in marks.Before.Concat(marks.After))
        {
            if (!names.ContainsKey(id))
            {
                throw new InputException($"{path}: its post_processor adds the id {id}, which no token has.");
            }
        }

        return marks;
    }

    private static TokenizerMarks OfTemplate(string path, JsonNode processor)
    {
        List<int> before = [], after = [];
        bool passed = false;
        foreach (JsonNode? piece in processor["single"]?.AsArray() ?? [])
        {
            if (piece?["SpecialToken"]?["id"] is { } name)
            {
                if (processor["special_tokens"]?[(string?)name ?? ""]?["ids"] is not JsonArray ids)
                {
                    throw new InputException($"{path}: its post_processor adds \"{FileErrors.Show((string?)name ?? "")}\", whose ids it does not give.");
                }

                (passed ? after : before).AddRange(ids.Select(id => Id(path, id)));
            }
            else if (piece?["Sequence"]?["id"] is { } sequence && (string?)sequence == "A" && !passed)
            {
                passed = true;
            }
            else
            {
                throw new InputException($"{path}: the template in its post_processor has a piece that is neither a special token nor the one sequence A.");
            }
        }

        return passed ? new([.. before], [.. after]) : throw new InputException($"{path}: the template in its post_processor has no sequence A.");
    }

    private static int Id(string path, JsonNode? node) => node is JsonValue value && value.TryGetValue(out int id)
        ? id
        : throw new InputException($"{path}: its post_processor has an id that is not a whole number.");
}
