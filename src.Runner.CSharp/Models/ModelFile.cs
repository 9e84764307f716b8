using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>A model on disk: what it is, and its weights by open_lm's names. Dispose it when the weights are loaded.</summary>
public sealed class ModelFile : IDisposable
{
    private readonly ITensorFile file;
    private readonly IReadOnlyDictionary<string, TensorRecipe> sources;

    private ModelFile(string path, ModelConfig config, Vocabulary vocabulary, ITensorFile file, IReadOnlyDictionary<string, TensorRecipe> sources) =>
        (Path, Config, Vocabulary, this.file, this.sources) = (path, config, vocabulary, file, sources);

    /// <summary>The path that it was opened by.</summary>
    public string Path { get; }

    /// <summary>The decoder.</summary>
    public ModelConfig Config { get; }

    /// <summary>The layout of its table.</summary>
    public Vocabulary Vocabulary { get; }

    /// <summary>The file or folder that the weights stand in.</summary>
    public string WeightsPath => file.Path;

    /// <summary>In words, such as "a Hugging Face directory".</summary>
    public required string Kind { get; init; }

    /// <summary>The path of the tokenizer.json beside it, or null.</summary>
    public string? TokenizerPath { get; init; }

    /// <summary>The id that ends a text, or −1.</summary>
    public int EndOfText { get; init; } = -1;

    /// <summary>
    /// Fits the tensors of a file to a description, but for some that the model does without. Errors: InputException with every missing, unexpected and mis-shaped tensor.
    /// </summary>
    internal static ModelFile Fit(
        string path, ModelConfig config, Vocabulary? vocabulary, ITensorFile file, IReadOnlyCollection<string> needless, string kind, string? tokenizer, int endOfText)
    {
        Dictionary<string, TensorEntry> there = TensorFit.Bare(path, file.Entries.Values.Where(entry => !needless.Contains(entry.Name)));
        Vocabulary layout = vocabulary ?? new Vocabulary(config.Rows, 0);
        if (TensorFit.TableRows(config, there) is { } rows && rows > config.Rows && rows <= int.MaxValue)
        {
            if (vocabulary is null)
            {
                Terminal.Warn(
                    $"{path} has a table of {rows} rows, its description says {config.Rows}: the others are taken for padding. If it was extended with image codes already, --text-rows and --image-codes say so");
            }

            config = Architecture.WithRows(config, (int)rows);
        }

        if (layout.Rows > config.Rows)
        {
            throw new InputException(
                $"{path} has a table of {config.Rows} rows; {layout.TextRows} text rows, 7 marks and {layout.ImageCodes} image codes need {layout.Rows}.");
        }

        TensorFit fit = TensorFit.Of(path, config, there);
        ModelFile model = new(path, config, layout, file, fit.Recipes) { Kind = kind, TokenizerPath = tokenizer, EndOfText = endOfText };
        foreach (string head in fit.SecondHeads)
        {
            model.RequireTied(head);
        }

        return model;
    }

    /// <summary>The element type that a parameter is stored in; the widest of several.</summary>
    public torch.ScalarType TypeOf(string parameter) => sources[parameter].Names.Select(part => file.Entries[part].Type).Aggregate(torch.promote_types);

    /// <summary>A parameter's values; the caller owns them. Errors: InputException.</summary>
    public torch.Tensor Load(string parameter)
    {
        TensorRecipe recipe = sources[parameter];
        if (recipe is { Layout: TensorLayout.Rows, Names.Length: 1 })
        {
            return file.Load(recipe.Names[0]);
        }

        using DisposeScope scope = torch.NewDisposeScope();
        return TensorFit.Assemble(recipe.Layout, [.. recipe.Names.Select(file.Load)], Config).MoveToOuterDisposeScope();
    }

    /// <summary>Writes a parameter's values into a contiguous tensor of its shape, in pieces. Errors: InputException.</summary>
    public void Fill(string parameter, torch.Tensor target)
    {
        if (sources[parameter].Layout != TensorLayout.Rows)
        {
            using torch.Tensor whole = Load(parameter);
            target.copy_(whole);
            return;
        }

        long row = 0;
        foreach (string part in sources[parameter].Names)
        {
            long rows = file.Entries[part].Shape[0];
            using torch.Tensor place = target.narrow(0, row, rows);
            TensorReading.Into(file, part, place);
            row += rows;
        }
    }

    /// <summary>The model in memory.</summary>
    public Model Open(Layout layout) => Open(layout, Vocabulary);

    /// <summary>The model in memory, its table laid out in another way.</summary>
    public Model Open(Layout layout, Vocabulary vocabulary) => Model.Filled(Config, vocabulary, layout, Fill);

    /// <summary>Closes the file.</summary>
    public void Dispose() => file.Dispose();

    private void RequireTied(string name)
    {
        if (!TensorReading.Same(file, sources["tok_embeddings.weight"].Names[0], name))
        {
            throw new InputException($"{Path} has a head ({name}) that differs from its embedding table, but its description says that the two are tied.");
        }
    }
}
