using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>
/// From texts to the ids that are scored, as lm-evaluation-harness does it: spaces at the context's end belong to the continuation;
/// the whole is encoded, and what follows as many ids as the context alone has is the continuation.
/// </summary>
internal sealed class ProbeTokens(PromptCodec codec, int endOfText, int positions)
{
    private (string Context, int[] Ids) last = ("", []);
    private bool known;

    /// <summary>
    /// Context and continuation as ids. Where they do not fit into the model's positions, the beginning is cut off, whatever it is; the
    /// last token needs no position. Errors: InputException where the continuation has no token or does not fit alone.
    /// </summary>
    public Likelihood.Item Encode(string where, (string Context, string Continuation) choice)
    {
        string context = choice.Context.TrimEnd(' ');
        int[] before = Context(context);
        int[] whole = codec.Encode(ProbeItem.Joined(choice));
        int start = before.Length;
        if (start == 0)
        {
            // Nothing stands before the first token: the token that ends texts does.
            before = Prefix(where);
        }

        if (whole.Length <= start)
        {
            throw new InputException($"{where}: the continuation '{choice.Continuation}' adds no token to its context.");
        }

        int[] continuation = whole[start..];
        if (continuation.Length > positions)
        {
            throw new InputException($"{where}: the continuation has {continuation.Length} tokens, more than the model's {positions} positions.");
        }

        int[] begun = start == 0 ? before : whole[..start];
        return new(begun[Math.Max(0, begun.Length + continuation.Length - (positions + 1))..], continuation);
    }

    /// <summary>
    /// A text in windows, each token scored once: the first window begins after the token that begins or ends texts; the others after
    /// the last token of the one before, and the last one is as long as the others and scores what is left.
    /// </summary>
    public IEnumerable<Likelihood.Item> Windows(string where, string text)
    {
        int[] ids = codec.EncodePlain(text);
        int[] prefix = Prefix(where);
        for (int done = 0; done < ids.Length;)
        {
            int count = Math.Min(positions, ids.Length - done), end = done + count;
            int from = end - positions - 1;
            int[] context = done == 0 ? prefix : count == positions ? [ids[done - 1]] : ids[Math.Max(0, from)..done];
            yield return new(context[Math.Max(0, context.Length + count - (positions + 1))..], ids[done..end]);
            done = end;
        }
    }

    /// <summary>The text of ids that follow each other.</summary>
    public string Text(int[] ids) => codec.Decode(ids);

    private int[] Prefix(string where)
    {
        int[] beginning = codec.Encode("");
        return beginning.Length > 0 ? beginning
            : endOfText >= 0 ? [endOfText]
            : throw new InputException($"{where}: nothing stands before the first token, and neither the tokenizer nor the model names one that begins or ends texts; give the question a context.");
    }

    private int[] Context(string context)
    {
        // The choices of a question mostly share it.
        if (!known || last.Context != context)
        {
            (last, known) = ((context, codec.Encode(context)), true);
        }

        return last.Ids;
    }
}
