using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>How the tensors of a file make up a parameter.</summary>
internal enum TensorLayout
{
    /// <summary>The rows of the tensors follow each other.</summary>
    Rows,

    /// <summary>One tensor with inputs as rows and outputs as columns.</summary>
    Transposed,

    /// <summary>One tensor whose rows are those of q, k and v of the first head, then of the second, and so on.</summary>
    Heads,
}

/// <summary>The tensors that make up a parameter, and how.</summary>
internal sealed record TensorRecipe(TensorLayout Layout, params string[] Names);

/// <summary>
/// Which tensors of a file make up each parameter of a model, for reading and for writing. Parameters have open_lm's names; each
/// family of Hugging Face's transformers has its own.
/// </summary>
internal static class TensorNames
{
    private static readonly string[] prefixes = ["module.", "_orig_mod.", "model.", "transformer.", "gpt_neox."];
    private static readonly string[] wrappers = ["_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod."];

    private static readonly Family llama = new(
        "model.",
        "layers",
        new()
        {
            ["tok_embeddings"] = ["embed_tokens"],
            ["output"] = ["lm_head"],
            ["norm"] = ["norm"],
            ["attention_norm"] = ["input_layernorm"],
            ["ffn_norm"] = ["post_attention_layernorm"],
            ["attention.in_proj"] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            ["attention.out_proj"] = ["self_attn.o_proj"],
            ["feed_forward.w12"] = ["mlp.gate_proj", "mlp.up_proj"],
            ["feed_forward.w3"] = ["mlp.down_proj"],
        });

    private static readonly Family neoX = new(
        "gpt_neox.",
        "layers",
        new()
        {
            ["tok_embeddings"] = ["embed_in"],
            ["output"] = ["embed_out"],
            ["norm"] = ["final_layer_norm"],
            ["attention_norm"] = ["input_layernorm"],
            ["ffn_norm"] = ["post_attention_layernorm"],
            ["attention.in_proj"] = ["attention.query_key_value"],
            ["attention.out_proj"] = ["attention.dense"],
            ["_ff_w1"] = ["mlp.dense_h_to_4h"],
            ["_ff_w2"] = ["mlp.dense_4h_to_h"],
        })
    { Heads = "attention.in_proj" };

    private static readonly Family gpt2 = new(
        "transformer.",
        "h",
        new()
        {
            ["tok_embeddings"] = ["wte"],
            ["pos_embeddings"] = ["wpe"],
            ["output"] = ["lm_head"],
            ["norm"] = ["ln_f"],
            ["attention_norm"] = ["ln_1"],
            ["ffn_norm"] = ["ln_2"],
            ["attention.in_proj"] = ["attn.c_attn"],
            ["attention.out_proj"] = ["attn.c_proj"],
            ["_ff_w1"] = ["mlp.c_fc"],
            ["_ff_w2"] = ["mlp.c_proj"],
        })
    { Transposes = true };

    // What open_lm's modules call some parameters beside the names that stand for them here.
    private static readonly Family openLm = new(
        "",
        "layers",
        new()
        {
            ["_ff_w1"] = ["feed_forward.0"],
            ["_ff_w2"] = ["feed_forward.2"],
            ["feed_forward.w12"] = ["feed_forward.gate_proj", "feed_forward.up_proj"],
            ["feed_forward.w3"] = ["feed_forward.down_proj"],
        });

    private static readonly Family[] all = [openLm, llama, neoX, gpt2];

    /// <summary>A tensor's name without what wrappers put before or into it.</summary>
    public static string Bare(string name)
    {
        foreach (string wrapper in wrappers)
        {
            name = name.Replace(wrapper, "", StringComparison.Ordinal);
        }

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

    /// <summary>The ways in which a file may hold a parameter, best first, by bare names.</summary>
    public static IEnumerable<TensorRecipe> Recipes(string parameter, ModelConfig config)
    {
        yield return new(TensorLayout.Rows, parameter);
        foreach (Family family in all)
        {
            if (family.Recipe(parameter, "") is { } recipe)
            {
                yield return recipe;
            }
        }

        if (parameter == "tok_embeddings.weight" && config.Tied)
        {
            foreach (TensorRecipe head in Recipes("output.weight", config))
            {
                yield return head;
            }
        }
    }

    /// <summary>The tensors of a parameter as a family of Hugging Face's transformers writes them.</summary>
    public static TensorRecipe InFamily(string family, string parameter) =>
        Of(family).Recipe(parameter, Of(family).Prefix)
            ?? throw new InvalidOperationException($"{parameter} has no name among the tensors of {family}.");

    /// <summary>The parts of open_lm's feed-forward layer with a GELU gate, which it keeps apart.</summary>
    public static TensorRecipe InOpenLm(string parameter, ModelConfig config) =>
        config.FeedForward.IsGeGlu && openLm.Recipe(parameter, "") is { } recipe ? recipe : new(TensorLayout.Rows, parameter);

    /// <summary>Whether a tensor that no parameter uses may be there: a second name of a parameter, or a value that follows from the configuration.</summary>
    public static bool Redundant(string bare, ModelConfig config) =>
        Ends(bare, ".inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")
        || (config.FeedForward.IsGelu && Ends(bare, ".feed_forward.0.weight", ".feed_forward.2.weight"))
        || (config.Tied && IsHead(bare));

    public static bool IsHead(string bare) => bare is "output.weight" or "lm_head.weight" or "embed_out.weight";

    public static bool IsTable(string parameter) => parameter is "tok_embeddings.weight" or "output.weight";

    /// <summary>The family whose tensors some bare names look like, in words, where it has no name for one of the missing parameters; else null.</summary>
    public static string? Stranger(IReadOnlyCollection<string> bare, IEnumerable<string> missing)
    {
        (Family Family, string Mark, string Name)[] marks =
        [
            (gpt2, ".attn.c_attn.", "GPT-2"),
            (neoX, ".attention.query_key_value.", "GPT-NeoX"),
            (llama, ".self_attn.q_proj.", "Llama"),
        ];
        (Family family, _, string words) = marks.FirstOrDefault(known => bare.Any(name => name.Contains(known.Mark, StringComparison.Ordinal)));
        return family is not null && missing.Any(parameter => family.Recipe(parameter, "") is null) ? words : null;
    }

    private static bool Ends(string name, params string[] endings) => endings.Any(ending => name.EndsWith(ending, StringComparison.Ordinal));

    private static Family Of(string family) => family switch
    {
        "gpt_neox" => neoX,
        "gpt2" => gpt2,
        _ => llama,
    };

    /// <summary>A family's names for the parts of a model.</summary>
    /// <param name="Prefix">Before every name but the head's.</param>
    /// <param name="Layers">What its layers are called.</param>
    /// <param name="Stems">Its names by ours, without the layer's prefix and the leaf.</param>
    private sealed record Family(string Prefix, string Layers, Dictionary<string, string[]> Stems)
    {
        /// <summary>The part whose rows go head by head, or null.</summary>
        public string? Heads { get; init; }

        /// <summary>Whether the projections' weights are transposed.</summary>
        public bool Transposes { get; init; }

        public TensorRecipe? Recipe(string parameter, string prefix)
        {
            string[] words = parameter.Split('.');
            bool layered = words[0] == "layers";
            string stem = string.Join('.', layered ? words[2..^1] : words[..^1]), leaf = words[^1];
            if (!Stems.TryGetValue(stem, out string[]? names))
            {
                return null;
            }

            string before = layered ? $"{prefix}{Layers}.{words[1]}." : stem == "output" ? "" : prefix;
            TensorLayout layout = stem == Heads ? TensorLayout.Heads
                : Transposes && layered && leaf == "weight" && !stem.EndsWith("norm", StringComparison.Ordinal) ? TensorLayout.Transposed
                : TensorLayout.Rows;
            return new(layout, [.. names.Select(name => $"{before}{name}.{leaf}")]);
        }
    }
}
