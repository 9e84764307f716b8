using System.Globalization;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>The tensors of a file put to the parameters of a model: what fits, and what does not, with the likely cause.</summary>
internal sealed class TensorFit
{
    private readonly string path;
    private readonly ModelConfig config;
    private readonly Dictionary<string, TensorEntry> there;
    private readonly HashSet<string> used = [];
    private readonly List<string> missing = [], misshapen = [];
    private readonly Dictionary<string, TensorRecipe> recipes = [];

    private TensorFit(string path, ModelConfig config, Dictionary<string, TensorEntry> there) =>
        (this.path, this.config, this.there) = (path, config, there);

    /// <summary>For each parameter the tensors that make it up, by their names in the file.</summary>
    public IReadOnlyDictionary<string, TensorRecipe> Recipes => recipes;

    /// <summary>Heads that stand in the file although the model ties its head to the table, by their names in the file.</summary>
    public IEnumerable<string> SecondHeads =>
        there.Keys.Where(name => config.Tied && TensorNames.IsHead(name) && !used.Contains(name)).Select(name => there[name].Name);

    /// <summary>Tensors by their bare names. Errors: InputException where two have the same.</summary>
    public static Dictionary<string, TensorEntry> Bare(string path, IEnumerable<TensorEntry> entries)
    {
        Dictionary<string, TensorEntry> there = [];
        foreach (TensorEntry entry in entries)
        {
            if (!there.TryAdd(TensorNames.Bare(entry.Name), entry))
            {
                throw new InputException($"{path} holds two tensors that are both {TensorNames.Bare(entry.Name)}, the second as {entry.Name}.");
            }
        }

        return there;
    }

    /// <summary>The rows of the embedding table in a file, or null where it has none.</summary>
    public static long? TableRows(ModelConfig config, IReadOnlyDictionary<string, TensorEntry> there) =>
        TensorNames.Recipes("tok_embeddings.weight", config).Select(recipe => recipe.Names[0]).FirstOrDefault(there.ContainsKey) is { } table
            && there[table].Shape is [var rows, _] ? rows : null;

    /// <summary>
    /// Fits tensors to a model. Errors: InputException with every missing, unexpected and mis-shaped tensor, and the likely cause.
    /// </summary>
    public static TensorFit Of(string path, ModelConfig config, Dictionary<string, TensorEntry> there)
    {
        TensorFit fit = new(path, config, there);
        foreach (ParameterShape parameter in Architecture.Parameters(config))
        {
            fit.Place(parameter);
        }

        fit.Check();
        return fit;
    }

    /// <summary>A parameter from its tensors; the caller owns the result and keeps the parts.</summary>
    public static torch.Tensor Assemble(TensorLayout layout, torch.Tensor[] parts, ModelConfig config)
    {
        using DisposeScope scope = torch.NewDisposeScope();
        torch.Tensor whole = layout switch
        {
            TensorLayout.Transposed => parts[0].t().contiguous(),
            TensorLayout.Heads => Turned(parts[0], config.Heads, 3),
            _ => parts.Length == 1 ? parts[0].alias() : torch.cat(parts),
        };
        return whole.MoveToOuterDisposeScope();
    }

    /// <summary>The one tensor of a layout that is not of rows, from its parameter.</summary>
    public static torch.Tensor Disassemble(TensorLayout layout, torch.Tensor parameter, ModelConfig config)
    {
        using DisposeScope scope = torch.NewDisposeScope();
        torch.Tensor stored = layout == TensorLayout.Transposed ? parameter.t().contiguous() : Turned(parameter, 3, config.Heads);
        return stored.MoveToOuterDisposeScope();
    }

    /// <summary>Rows [first, second, C] in the order [second, first, C].</summary>
    private static torch.Tensor Turned(torch.Tensor rows, long first, long second)
    {
        using DisposeScope scope = torch.NewDisposeScope();
        return rows.unflatten(0, first, second, rows.shape[0] / first / second).transpose(0, 1).reshape(rows.shape).MoveToOuterDisposeScope();
    }

    private void Place(ParameterShape parameter)
    {
        TensorRecipe? recipe = TensorNames.Recipes(parameter.Name, config).FirstOrDefault(recipe => recipe.Names.All(there.ContainsKey));
        if (recipe is null)
        {
            missing.Add(parameter.Name);
            return;
        }

        used.UnionWith(recipe.Names);
        recipes[parameter.Name] = new(recipe.Layout, [.. recipe.Names.Select(name => there[name].Name)]);
        long[][] shapes = [.. recipe.Names.Select(name => there[name].Shape)];
        long[] wanted = recipe.Layout == TensorLayout.Transposed ? [.. parameter.Shape.Reverse()] : parameter.Shape;
        long[] whole = [.. shapes[0]];
        bool joins = shapes.All(shape => shape.Length == whole.Length && shape.Skip(1).SequenceEqual(whole.Skip(1))) && whole.Length > 0;
        if (joins)
        {
            whole[0] = shapes.Sum(shape => shape[0]);
        }

        if (!joins || !whole.SequenceEqual(wanted))
        {
            string found = joins ? Shape.show(whole) : string.Join(" and ", shapes.Select(Shape.show));
            misshapen.Add($"{string.Join(" + ", recipe.Names)} is {found}, must be {Shape.show(wanted)}");
        }
    }

    private void Check()
    {
        string[] unexpected = [.. there.Keys.Where(name => !used.Contains(name) && !TensorNames.Redundant(name, config)).Order(StringComparer.Ordinal)];
        if (missing.Count + misshapen.Count + unexpected.Length == 0)
        {
            return;
        }

        IEnumerable<string> lines =
        [
            .. missing.Select(name => $"missing: {name}"),
            .. unexpected.Select(name => $"unexpected: {name} {Shape.show(there[name].Shape)}"),
            .. misshapen.Select(sentence => $"of another shape: {sentence}"),
        ];
        string cause = Cause(unexpected) is { } likely ? $"\n{likely}" : "";
        throw new InputException(
            $"the weights in {path} do not fit the model's description ({Architecture.Describe(config)}):\n  {string.Join("\n  ", lines)}{cause}");
    }

    /// <summary>What most likely is the matter, in a sentence, or null.</summary>
    private string? Cause(string[] unexpected)
    {
        bool Any(params string[] parts) => there.Keys.Any(name => parts.Any(part => name.Contains(part, StringComparison.Ordinal)));
        if (Any("flat_param"))
        {
            return "Likely cause: the file is one shard of a model that FSDP cut into flat parameters; save a full state dict from the training program and take that.";
        }

        if (Any("lora_", "adapter_"))
        {
            return "Likely cause: the file holds an adapter (LoRA), not a model; merge it into its base model first.";
        }

        if (Any("exp_avg", "optimizer."))
        {
            return "Likely cause: the file holds the state of an optimizer; take the file of the model's weights.";
        }

        if (Any(".qweight", ".qzeros", ".SCB", ".weight_scale", ".absmax"))
        {
            return "Likely cause: the weights are quantised; take the model in fp32, fp16 or bf16.";
        }

        if (Any(".router.", ".experts.", "block_sparse_moe"))
        {
            return "Likely cause: the model is a mixture of experts, which is not supported.";
        }

        if (TensorNames.Stranger(there.Keys, missing) is { } family)
        {
            return $"Likely cause: the description is that of another family of models; the tensors are called as {family}'s are.";
        }

        if (Layers() is { } layers && layers != config.Layers)
        {
            return $"Likely cause: the file has {layers} layers, the description says {config.Layers}; or parts of the file are missing.";
        }

        return TablesDiffer()
            ? "Likely cause: the table was extended already, or the description is that of a smaller or larger one; --text-rows and --image-codes say how an extended table is laid out."
            : misshapen.Count == 0 && unexpected.Length > 0 && missing.Count == 0
                ? "Likely cause: the description leaves out a part that the model has (biases, norms of queries and keys, its own head)."
                : null;
    }

    private int? Layers()
    {
        int[] numbers =
        [
            .. from name in there.Keys
               let words = name.Split('.')
               where words.Length > 2 && words[0] is "layers" or "h"
               select int.TryParse(words[1], NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number : -1,
        ];
        return numbers.Length == 0 ? null : numbers.Max() + 1;
    }

    private bool TablesDiffer() => misshapen.Count > 0 && misshapen.All(sentence => sentence.Contains("embed", StringComparison.Ordinal)
        || sentence.Contains("output", StringComparison.Ordinal) || sentence.Contains("head", StringComparison.Ordinal) || sentence.Contains("wte", StringComparison.Ordinal));
}
