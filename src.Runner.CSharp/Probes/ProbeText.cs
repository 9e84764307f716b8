using System.Text;
using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>What a model gives to a plain text.</summary>
/// <param name="Scores">Of its windows.</param>
/// <param name="Bytes">UTF-8 bytes of the part that was scored.</param>
internal sealed record ProbeText(string Name, IReadOnlyList<Likelihood.Score> Scores, long Bytes)
{
    private const int Resamples = 10_000;

    /// <summary>Logits that are held at a time: about a quarter of a gigabyte.</summary>
    private const long MostLogits = 1L << 26;

    public long Tokens => Scores.Sum(score => (long)score.Tokens);

    public Statistics.Interval LossPerToken => Loss(Scores);

    /// <summary>Nats per byte: models with other tokenizers can be compared by it.</summary>
    public double LossPerByte => -Scores.Sum(score => score.LogLikelihood) / Bytes;

    /// <summary>Nats per token of some scores, with its interval over them.</summary>
    public static Statistics.Interval Loss(IReadOnlyList<Likelihood.Score> scores) =>
        Intervals.Ratio(0, Resamples, [.. scores.Select(score => -score.LogLikelihood)], [.. scores.Select(score => (double)score.Tokens)]);

    /// <summary>The change in nats per token, paired; null where there is nothing to pair or the tokens are not the same ones.</summary>
    public static Statistics.Interval? Change(IReadOnlyList<Likelihood.Score> scores, IReadOnlyList<Likelihood.Score> before) =>
        scores.Count > 0 && scores.Select(score => score.Tokens).SequenceEqual(before.Select(score => score.Tokens))
            ? Intervals.Ratio(0, Resamples, [.. scores.Zip(before, (a, b) => b.LogLikelihood - a.LogLikelihood)], [.. scores.Select(score => (double)score.Tokens)])
            : null;

    /// <summary>Scores a file of text, or its first windows. Errors: InputException; OperationCanceledException when asked to stop.</summary>
    public static ProbeText Of(Model model, PromptCodec codec, int endOfText, string path, int? limit, CancellationToken stop, Action<long, long> report)
    {
        string text = Files.ExactText(path, "the text");
        if (text.Trim().Length == 0)
        {
            throw new InputException($"{path} holds no text.");
        }

        ProbeTokens tokens = new(codec, endOfText, model.Config.Positions);
        Likelihood.Item[] all = [.. tokens.Windows(path, text)], windows = limit is { } most ? [.. all.Take(most)] : all;
        int batch = (int)Math.Clamp(MostLogits / ((long)model.Vocabulary.Rows * model.Config.Positions), 1, 16);
        List<Likelihood.Score> scores = [];
        foreach (Likelihood.Item[] part in windows.Chunk(batch))
        {
            stop.ThrowIfCancellationRequested();
            scores.AddRange(model.Score(part, batch));
            report(scores.Count, windows.Length);
        }

        int bytes = windows.Length == all.Length ? Encoding.UTF8.GetByteCount(text) : Encoding.UTF8.GetByteCount(tokens.Text([.. windows.SelectMany(window => window.Continuation)]));
        return new(Path.GetFileName(path), scores, Math.Max(1, bytes));
    }

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson(ProbeText? before)
    {
        Statistics.Interval loss = LossPerToken;
        Dictionary<string, object?> json = new()
        {
            ["windows"] = Scores.Count,
            ["tokens"] = Tokens,
            ["bytes"] = Bytes,
            ["loss_per_token"] = loss.Mean,
            ["loss_interval"] = new[] { loss.Low, loss.High },
            ["perplexity"] = Math.Exp(loss.Mean),
            ["loss_per_byte"] = LossPerByte,
            ["bits_per_byte"] = LossPerByte / Math.Log(2),
        };
        if (before is not null)
        {
            Statistics.Interval? change = Change(Scores, before.Scores);
            json["difference"] = new Dictionary<string, object?>
            {
                ["loss_per_token"] = change?.Mean,
                ["loss_interval"] = change is null ? null : new[] { change.Value.Low, change.Value.High },
                ["loss_per_byte"] = LossPerByte - before.LossPerByte,
            };
        }

        return json;
    }
}
