using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>What a model made of one task.</summary>
internal sealed record ProbeResult
{
    private const int Resamples = 10_000;

    public required IReadOnlyList<ProbeItem> Items { get; init; }

    /// <summary>The scores of each item's choices.</summary>
    public required IReadOnlyList<Likelihood.Score[]> Scores { get; init; }

    /// <summary>Whether each item was answered: the right choice has the highest mean log-likelihood per token, or the continuation is what the model says itself.</summary>
    public IReadOnlyList<bool> Right => [.. Items.Select((item, i) => item.IsChoice ? Likelihood.best(Scores[i]) == item.Gold : Scores[i][0].Greedy)];

    public Statistics.Interval Accuracy
    {
        get
        {
            double[] right = [.. Right.Select(answered => answered ? 1.0 : 0.0)];
            return Intervals.Ratio(0, Resamples, right, [.. right.Select(_ => 1.0)]);
        }
    }

    /// <summary>Nats per token of the continuations; NaN where there are choices.</summary>
    public Statistics.Interval LossPerToken
    {
        get
        {
            int[] modelled = [.. Enumerable.Range(0, Items.Count).Where(i => !Items[i].IsChoice)];
            return Intervals.Ratio(0, Resamples, [.. modelled.Select(i => -Scores[i][0].LogLikelihood)], [.. modelled.Select(i => (double)Scores[i][0].Tokens)]);
        }
    }

    /// <summary>
    /// Scores a task. As the context of a continuation counts what its ids are without it; spaces at the context's end belong to
    /// the continuation. Errors: InputException; OperationCanceledException when asked to stop.
    /// </summary>
    public static ProbeResult Of(Model model, PromptCodec codec, ProbeTask task, CancellationToken stop, Action<long>? report = null)
    {
        const int block = 256, batch = 16;
        List<Likelihood.Score> scores = [];
        Likelihood.Item[] flat = [.. task.Items.SelectMany((item, i) => item.Choices.Select(choice => Tokens(model, codec, task, i, choice)))];
        foreach (Likelihood.Item[] part in flat.Chunk(block))
        {
            stop.ThrowIfCancellationRequested();
            scores.AddRange(model.Score(part, batch));
            report?.Invoke(scores.Count);
        }

        List<Likelihood.Score[]> byItem = [];
        int next = 0;
        foreach (ProbeItem item in task.Items)
        {
            byItem.Add([.. scores.Skip(next).Take(item.Choices.Count)]);
            next += item.Choices.Count;
        }

        return new() { Items = task.Items, Scores = byItem };
    }

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson()
    {
        Statistics.Interval accuracy = Accuracy, loss = LossPerToken;
        IReadOnlyList<bool> right = Right;
        return new()
        {
            ["n"] = Items.Count,
            ["accuracy"] = accuracy.Mean,
            ["interval"] = new[] { accuracy.Low, accuracy.High },
            ["loss_per_token"] = loss.Mean,
            ["loss_interval"] = new[] { loss.Low, loss.High },
            ["items"] = Items.Select((item, i) => ItemJson(item, Scores[i], right[i])).ToArray(),
        };
    }

    private static Dictionary<string, object> ItemJson(ProbeItem item, Likelihood.Score[] scores, bool right) => item.IsChoice
        ? new()
        {
            ["sums"] = scores.Select(score => score.LogLikelihood).ToArray(),
            ["tokens"] = scores.Select(score => score.Tokens).ToArray(),
            ["predicted"] = Likelihood.best(scores),
            ["gold"] = item.Gold,
        }
        : new() { ["sum"] = scores[0].LogLikelihood, ["tokens"] = scores[0].Tokens, ["greedy_match"] = right };

    private static Likelihood.Item Tokens(Model model, PromptCodec codec, ProbeTask task, int i, (string Context, string Continuation) choice)
    {
        string context = choice.Context.TrimEnd(' ');
        string moved = choice.Context[context.Length..];
        int[] before = codec.Encode(context), whole = codec.Encode($"{context}{(moved.Length > 0 ? moved : " ")}{choice.Continuation}");
        if (whole.Length <= before.Length || before.Length == 0)
        {
            throw new InputException($"task {task.Name}, question {i}: the continuation '{choice.Continuation}' adds no token to its context.");
        }

        int[] continuation = whole[before.Length..];
        int[] start = whole[..before.Length];

        // What does not fit into the model's positions is cut from the context's beginning; its first token stays.
        int room = Math.Max(1, model.Config.Positions - continuation.Length);
        int[] kept = start.Length <= room ? start : [start[0], .. start[^(room - 1)..]];
        return new(kept, continuation);
    }
}
