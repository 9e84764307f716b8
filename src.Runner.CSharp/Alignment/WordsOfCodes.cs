using System.Text.RegularExpressions;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Alignment;

/// <summary>A code that fires on a word.</summary>
/// <param name="Pictures">Pictures that hold it.</param>
/// <param name="Together">Of these, pictures whose caption has the word.</param>
/// <param name="Association">How strongly the two go together: Dunning's log-likelihood ratio G².</param>
/// <param name="Lift">How many times more often than with captions at large.</param>
internal sealed record FiringCode(int Code, long Pictures, long Together, double Association, double Lift);

/// <summary>A word of captions, and the codes that go with it most.</summary>
internal sealed record WordUse(string Word, long Captions, FiringCode[] Codes);

/// <summary>How often codes occur in the pictures that train, and with which words.</summary>
internal sealed class WordsOfCodes
{
    private const int MostCodes = 10;

    private WordsOfCodes(long[] pictures, WordUse[] words) => (Pictures, Words) = (pictures, words);

    /// <summary>Pictures that hold each code.</summary>
    public long[] Pictures { get; }

    public WordUse[] Words { get; }

    /// <summary>The codes that most pictures hold, the most frequent first.</summary>
    public int[] Frequent(int count) => [.. Enumerable.Range(0, Pictures.Length).Where(code => Pictures[code] > 0).OrderByDescending(code => Pictures[code]).ThenBy(code => code).Take(count)];

    /// <summary>
    /// Counts over some pairs. A word is looked for as a whole word of the caption's text, in any case, however its tokens are cut.
    /// Errors: InputException; OperationCanceledException when asked to stop.
    /// </summary>
    public static WordsOfCodes Of(ITokenPairs pairs, IReadOnlyList<int> places, int codes, IReadOnlyList<string> words, HuggingFaceTokenizer? tokenizer, CancellationToken stop)
    {
        long[] pictures = new long[codes];
        long[] captions = new long[words.Count];
        long[][] together = [.. words.Select(_ => new long[codes])];
        Regex[] wanted = [.. words.Select(Pattern)];
        foreach (int place in places)
        {
            stop.ThrowIfCancellationRequested();
            (int[] caption, int[] picture) = pairs.Pair(place);
            int[] held = [.. picture.Distinct()];
            foreach (int code in held)
            {
                pictures[code]++;
            }

            string text = wanted.Length == 0 || tokenizer is null ? "" : Text(tokenizer, caption);
            for (int w = 0; w < wanted.Length; w++)
            {
                if (wanted[w].IsMatch(text))
                {
                    captions[w]++;
                    foreach (int code in held)
                    {
                        together[w][code]++;
                    }
                }
            }
        }

        return new(pictures, [.. words.Select((word, w) => new WordUse(word, captions[w], Strongest(pictures, captions[w], together[w], places.Count)))]);
    }

    /// <summary>The text of ids, those that the tokenizer knows.</summary>
    public static string Text(HuggingFaceTokenizer tokenizer, IEnumerable<int> ids) => tokenizer.Decode([.. ids.Where(id => tokenizer.TokenOf(id) is not null)]);

    private static Regex Pattern(string word)
    {
        // A border stands only beside a letter or digit: a word may begin or end with another sign.
        string left = word.Length > 0 && char.IsLetterOrDigit(word[0]) ? @"(?<![\p{L}\p{N}])" : "", right = word.Length > 0 && char.IsLetterOrDigit(word[^1]) ? @"(?![\p{L}\p{N}])" : "";
        return new(left + Regex.Escape(word) + right, RegexOptions.IgnoreCase | RegexOptions.CultureInvariant);
    }

    private static FiringCode[] Strongest(long[] pictures, long captions, long[] together, int total) =>
    [
        .. Enumerable.Range(0, pictures.Length)
            .Where(code => together[code] > 0)
            .Select(code => new FiringCode(
                code, pictures[code], together[code], AlignmentTables.Association(together[code], pictures[code], captions, total),
                together[code] * (double)total / ((double)pictures[code] * captions)))
            .Where(code => code.Association > 0)
            .OrderByDescending(code => code.Association).ThenBy(code => code.Code)
            .Take(MostCodes),
    ];
}
