using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// The tensors of a model as another program names and cuts them, each made from one parameter when its turn comes. Everything but a
/// change of the element type moves bits and changes none.
/// </summary>
internal sealed class TensorExport(ModelFile model, torch.ScalarType? elementType)
{
    private readonly ModelConfig config = model.Config;

    /// <summary>Every parameter under its own name, as open_lm has it, with <paramref name="prefix"/> before it.</summary>
    public IEnumerable<TensorSource> Plain(string prefix = "") =>
        Architecture.Parameters(config).Select(parameter => Source(prefix + parameter.Name, parameter.Name, parameter.Shape));

    /// <summary>Every parameter as open_lm's modules name it, with <paramref name="prefix"/> before it.</summary>
    public IEnumerable<TensorSource> OpenLm(string prefix = "") => Architecture.Parameters(config)
        .SelectMany(parameter => Cut(TensorNames.InOpenLm(parameter.Name, config), parameter))
        .Select(tensor => tensor with { Name = prefix + tensor.Name });

    /// <summary>The frequencies that open_lm keeps as a buffer of each layer that rotates.</summary>
    public IEnumerable<TensorSource> Frequencies(string prefix = "") =>
        config.Position.IsRotary || config.Position.IsHeadRotary
            ? Enumerable.Range(0, config.Layers).Select(layer => new TensorSource(
                $"{prefix}layers.{layer}.attention.pos_embed.inv_freq", torch.ScalarType.Float32, [(config.HeadWidth + 1) / 2], () => InverseFrequencies(config.HeadWidth)))
            : [];

    /// <summary>Second names of tensors, as open_lm's modules give them: the tied head, and the feed-forward layer's list.</summary>
    public IEnumerable<KeyValuePair<string, string>> SecondNames(string prefix = "")
    {
        if (config.Tied)
        {
            yield return new($"{prefix}output.weight", $"{prefix}tok_embeddings.weight");
        }

        for (int layer = 0; config.FeedForward.IsGelu && layer < config.Layers; layer++)
        {
            yield return new($"{prefix}layers.{layer}.feed_forward.0.weight", $"{prefix}layers.{layer}._ff_w1.weight");
            yield return new($"{prefix}layers.{layer}.feed_forward.2.weight", $"{prefix}layers.{layer}._ff_w2.weight");
        }
    }

    /// <summary>The tensors of a family of Hugging Face's transformers.</summary>
    public IEnumerable<TensorSource> HuggingFace(string family) => family switch
    {
        // Second names are written out: a safetensors file shares no memory.
        "openlm" => [.. OpenLm("model."), .. Frequencies("model."), .. SecondNames("model.").Select(pair => Again(pair.Key, pair.Value["model.".Length..]))],
        _ => Architecture.Parameters(config).SelectMany(parameter => InFamily(family, parameter)).Concat(family == "stablelm" && config.Norm.IsGainLayerNorm ? ZeroBiases() : []),
    };

    /// <summary>All of a model in fp32, as a checkpoint of this program has it.</summary>
    public static IEnumerable<TensorSource> Checkpoint(ModelFile model) => new TensorExport(model, torch.ScalarType.Float32).Plain();

    private IEnumerable<TensorSource> InFamily(string family, ParameterShape parameter) =>
        Cut(TensorNames.InFamily(family, parameter.Name), parameter);

    /// <summary>The tensors of a recipe from their parameter.</summary>
    private IEnumerable<TensorSource> Cut(TensorRecipe recipe, ParameterShape parameter)
    {
        if (recipe.Layout != TensorLayout.Rows)
        {
            return [Turned(recipe.Names[0], recipe.Layout, parameter)];
        }

        if (recipe.Names.Length == 1)
        {
            return [Source(recipe.Names[0], parameter)];
        }

        long keys = config.KeyValueHeads * config.HeadWidth;
        bool attention = recipe.Names.Length == 3;
        long[] counts = attention ? [config.Heads * config.HeadWidth, keys, keys] : [config.FeedForwardWidth, config.FeedForwardWidth];
        return recipe.Names.Select((name, i) => Rows(name, parameter, counts[..i].Sum(), counts[i], turned: attention && i < 2));
    }

    private TensorSource Turned(string name, TensorLayout layout, ParameterShape parameter)
    {
        torch.ScalarType type = elementType ?? model.TypeOf(parameter.Name);
        long[] shape = layout == TensorLayout.Transposed ? [.. parameter.Shape.Reverse()] : parameter.Shape;
        return new(name, type, shape, () =>
        {
            using torch.Tensor whole = model.Load(parameter.Name);
            return Cast(TensorFit.Disassemble(layout, whole, config), type, name);
        });
    }

    /// <summary>The biases of a family that has them, for a model without.</summary>
    private IEnumerable<TensorSource> ZeroBiases() =>
        Architecture.Parameters(config).Where(parameter => parameter.Name.EndsWith("norm.weight", StringComparison.Ordinal)).SelectMany(parameter => InFamily("stablelm", parameter))
            .Select(weight => new TensorSource(
                weight.Name[..^"weight".Length] + "bias", weight.Type, weight.Shape, () => torch.zeros(weight.Shape, dtype: weight.Type)));

    private TensorSource Again(string name, string parameter) =>
        Source(name, parameter, Architecture.Parameters(config).First(there => there.Name == parameter).Shape);

    private TensorSource Source(string name, ParameterShape parameter) => Source(name, parameter.Name, parameter.Shape);

    private TensorSource Source(string name, string parameter, long[] shape)
    {
        torch.ScalarType type = elementType ?? model.TypeOf(parameter);
        return new(name, type, shape, () => Cast(model.Load(parameter), type, name));
    }

    /// <summary>Some rows of a parameter; with <paramref name="turned"/>, rows of queries or keys in the order that a rotation of halves wants.</summary>
    private TensorSource Rows(string name, ParameterShape parameter, long first, long count, bool turned)
    {
        torch.ScalarType type = elementType ?? model.TypeOf(parameter.Name);
        return new(name, type, [count, .. parameter.Shape[1..]], () =>
        {
            using DisposeScope scope = torch.NewDisposeScope();
            torch.Tensor rows = model.Load(parameter.Name).narrow(0, first, count);
            torch.Tensor ordered = turned && config.Position.IsInterleavedRotary ? Halves(rows, config.HeadWidth) : rows;
            return Cast(ordered.alias(), type, name).MoveToOuterDisposeScope();
        });
    }

    /// <summary>Rows of heads from adjacent pairs to halves: the first of every pair, then the second of every pair.</summary>
    private static torch.Tensor Halves(torch.Tensor rows, int headWidth)
    {
        using torch.Tensor pairs = rows.unflatten(0, -1, headWidth / 2, 2);
        using torch.Tensor turned = pairs.transpose(1, 2);
        return turned.reshape(rows.shape);
    }

    /// <summary>Hands the tensor on in another type; the given one is released. Errors: InputException where a value gets lost.</summary>
    private torch.Tensor Cast(torch.Tensor tensor, torch.ScalarType type, string name)
    {
        if (tensor.dtype == type)
        {
            return tensor;
        }

        using (tensor)
        {
            torch.Tensor cast = tensor.to_type(type);
            if (type == torch.ScalarType.Float16)
            {
                using DisposeScope scope = torch.NewDisposeScope();
                if (cast.isinf().sum().item<long>() > tensor.isinf().sum().item<long>())
                {
                    cast.Dispose();
                    throw new InputException($"{model.Path}: {name} has values beyond 65504, which fp16 cannot hold; choose --dtype bf16 or fp32.");
                }
            }

            return cast;
        }
    }

    /// <summary>10000^(−2i/C) in fp32, computed as open_lm does.</summary>
    private static torch.Tensor InverseFrequencies(int headWidth)
    {
        using DisposeScope scope = torch.NewDisposeScope();
        torch.Tensor exponents = torch.arange(0, headWidth, 2, dtype: torch.ScalarType.Float32).div(Scalars.Of(headWidth));
        return torch.full(exponents.shape, Scalars.Of(10000.0), dtype: torch.ScalarType.Float32).pow(exponents).reciprocal().MoveToOuterDisposeScope();
    }
}
