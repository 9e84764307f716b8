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
    public Statistics.Interval LossPerToken => ProbeText.Loss(Modelled);

    /// <summary>The scores of continuations without choices, in their order.</summary>
    public IReadOnlyList<Likelihood.Score> Modelled => [.. Scores.Where((_, i) => !Items[i].IsChoice).Select(scores => scores[0])];

    /// <summary>This result minus an earlier model's, over the same questions.</summary>
    public Dictionary<string, object?> Against(ProbeResult before)
    {
        Statistics.Interval change = Change(before);
        (int gained, int lost, double p) = Compare(before);
        Statistics.Interval? loss = ProbeText.Change(Modelled, before.Modelled);
        return new()
        {
            ["accuracy"] = change.Mean,
            ["interval"] = new[] { change.Low, change.High },
            ["only_model"] = gained,
            ["only_against"] = lost,
            ["mcnemar_p"] = p,
            ["loss_per_token"] = loss?.Mean,
            ["loss_interval"] = loss is null ? null : new[] { loss.Value.Low, loss.Value.High },
        };
    }

    /// <summary>Questions that only this model and only the earlier one answered, and McNemar's exact p-value of that.</summary>
    public (int Gained, int Lost, double P) Compare(ProbeResult before)
    {
        (bool Own, bool Before)[] pairs = [.. Right.Zip(before.Right)];
        int gained = pairs.Count(pair => pair is { Own: true, Before: false }), lost = pairs.Count(pair => pair is { Own: false, Before: true });
        return (gained, lost, Intervals.McNemar(gained, lost));
    }

    /// <summary>The change in accuracy with its interval over questions.</summary>
    public Statistics.Interval Change(ProbeResult before)
    {
        double[] changes = [.. Right.Zip(before.Right, (a, b) => (a ? 1.0 : 0.0) - (b ? 1.0 : 0.0))];
        return Intervals.Ratio(0, Resamples, changes, [.. changes.Select(_ => 1.0)]);
    }

    /// <summary>
    /// Scores a task; <paramref name="endOfText"/> (−1: none) stands before a question without a context.
    /// Errors: InputException; OperationCanceledException when asked to stop.
    /// </summary>
    public static ProbeResult Of(Model model, PromptCodec codec, ProbeTask task, CancellationToken stop, Action<long>? report = null, int endOfText = -1)
    {
        const int block = 256, batch = 16;
        ProbeTokens tokens = new(codec, endOfText, model.Config.Positions);
        List<Likelihood.Score> scores = [];
        IEnumerable<Likelihood.Item> flat = task.Items.SelectMany((item, i) => item.Choices.Select(choice => tokens.Encode($"task {task.Name}, question {i}", choice)));
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

    /// <summary>The object for machines, without its questions.</summary>
    public Dictionary<string, object?> Summary()
    {
        Statistics.Interval accuracy = Accuracy, loss = LossPerToken;
        return new()
        {
            ["n"] = Items.Count,
            ["accuracy"] = accuracy.Mean,
            ["interval"] = new[] { accuracy.Low, accuracy.High },
            ["loss_per_token"] = loss.Mean,
            ["loss_interval"] = new[] { loss.Low, loss.High },
        };
    }

    /// <summary>The object for machines.</summary>
    public Dictionary<string, object?> ToJson()
    {
        IReadOnlyList<bool> right = Right;
        Dictionary<string, object?> json = Summary();
        json["chance"] = Items.All(item => item.IsChoice) ? Items.Average(item => 1.0 / item.Choices.Count) : null;
        json["items"] = Items.Select((item, i) => ItemJson(item, Scores[i], right[i])).ToArray();
        return json;
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
}
