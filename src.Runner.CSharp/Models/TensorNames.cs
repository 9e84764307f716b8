using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>
/// Which tensors of a file make up each parameter of a model. Parameters have open_lm's names; Llama's names of Hugging Face are
/// understood as well, some of them joined by rows.
/// </summary>
internal static class TensorNames
{
    private static readonly string[] prefixes = ["module.", "_orig_mod.", "model."];

    /// <summary>A tensor's name without what wrappers put before it.</summary>
    public static string Bare(string name)
    {
        for (bool again = true; again;)
        {
            again = false;
            foreach (string prefix in prefixes)
            {
                if (name.StartsWith(prefix, StringComparison.Ordinal))
                {
                    (name, again) = (name[prefix.Length..], true);
                }
            }
        }

        return name;
    }

    /// <summary>The ways in which a file may hold a parameter, best first: each a list of tensors whose rows follow each other.</summary>
    public static IEnumerable<string[]> Sources(string parameter, ModelConfig config)
    {
        yield return [parameter];
        if (parameter == "tok_embeddings.weight")
        {
            yield return ["embed_tokens.weight"];
            if (config.Tied)
            {
                yield return ["output.weight"];
                yield return ["lm_head.weight"];
            }
        }
        else if (parameter == "output.weight")
        {
            yield return ["lm_head.weight"];
        }
        else if (parameter.Split('.') is ["layers", var layer, .. var rest])
        {
            string prefix = $"layers.{layer}.";
            string[]? names = string.Join('.', rest) switch
            {
                "attention.in_proj.weight" => ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
                "attention.out_proj.weight" => ["self_attn.o_proj.weight"],
                "feed_forward.w12.weight" => ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
                "feed_forward.w3.weight" => ["mlp.down_proj.weight"],
                "attention_norm.weight" => ["input_layernorm.weight"],
                "attention_norm.bias" => ["input_layernorm.bias"],
                "ffn_norm.weight" => ["post_attention_layernorm.weight"],
                "ffn_norm.bias" => ["post_attention_layernorm.bias"],
                "_ff_w1.weight" => ["feed_forward.0.weight"],
                "_ff_w2.weight" => ["feed_forward.2.weight"],
                _ => null,
            };
            if (names is not null)
            {
                yield return [.. names.Select(name => prefix + name)];
            }
        }
    }

    /// <summary>Whether a tensor that no parameter uses may be there: a second name of a parameter, or a value that follows from the configuration.</summary>
    public static bool Redundant(string bare, ModelConfig config) =>
        bare.EndsWith(".inv_freq", StringComparison.Ordinal)
        || (config.FeedForward.IsGelu && (bare.EndsWith(".feed_forward.0.weight", StringComparison.Ordinal) || bare.EndsWith(".feed_forward.2.weight", StringComparison.Ordinal)))
        || (config.Tied && IsHead(bare));

    public static bool IsHead(string bare) => bare is "output.weight" or "lm_head.weight";

    public static bool IsTable(string parameter) => parameter is "tok_embeddings.weight" or "output.weight";
}
