using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>A model's tokenizer as prompts use it: what the tokenizer puts before a text (such as &lt;s&gt;) comes first, nothing comes after it.</summary>
internal sealed class PromptCodec : IDisposable
{
    private readonly HuggingFaceTokenizer tokenizer;
    private readonly int[] beginning;

    private PromptCodec(HuggingFaceTokenizer tokenizer)
    {
        this.tokenizer = tokenizer;
        beginning = Beginning(tokenizer);
    }

    /// <summary>The tokenizer beside a model. Errors: InputException where there is none.</summary>
    public static PromptCodec Beside(ModelFile model) => new(HuggingFaceTokenizer.Open(
        model.TokenizerPath ?? throw new InputException($"{model.Path} has no tokenizer.json beside its weights; put it there, or give token ids instead of text.")));

    /// <summary>The ids of a prompt.</summary>
    public int[] Encode(string text) => [.. beginning, .. tokenizer.Encode(text, special: false)];

    /// <summary>The ids of a text inside a sequence, with nothing before them.</summary>
    public int[] EncodePlain(string text) => tokenizer.Encode(text, special: false);

    /// <summary>The text of ids; special tokens, and ids of a model that the tokenizer does not know, are left out.</summary>
    public string Decode(int[] ids) => tokenizer.Decode([.. ids.Where(id => tokenizer.TokenOf(id) is not null)]);

    /// <summary>The text that ids add after others: what lies between the two texts, so that a leading space is kept.</summary>
    public string DecodeAfter(int[] before, int[] ids)
    {
        string start = Decode(before), whole = Decode([.. before, .. ids]);
        return whole.StartsWith(start, StringComparison.Ordinal) ? whole[start.Length..] : Decode(ids);
    }

    public void Dispose() => tokenizer.Dispose();

    private static int[] Beginning(HuggingFaceTokenizer tokenizer)
    {
        int[] plain = tokenizer.Encode("a", special: false), full = tokenizer.Encode("a", special: true);
        for (int start = 0; start + plain.Length <= full.Length; start++)
        {
            if (full.AsSpan(start, plain.Length).SequenceEqual(plain))
            {
                return full[..start];
            }
        }

        return [];
    }
}
