using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>A model on disk: what it is, and its weights by open_lm's names. Dispose it when the weights are loaded.</summary>
public sealed class ModelFile : IDisposable
{
    private readonly ITensorFile file;
    private readonly Dictionary<string, string[]> sources;

    private ModelFile(string path, ModelConfig config, Vocabulary vocabulary, ITensorFile file, Dictionary<string, string[]> sources) =>
        (Path, Config, Vocabulary, this.file, this.sources) = (path, config, vocabulary, file, sources);

    public string Path { get; }

    public ModelConfig Config { get; }

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
        Dictionary<string, TensorEntry> there = [];
        foreach (TensorEntry entry in file.Entries.Values.Where(entry => !needless.Contains(entry.Name)))
        {
            if (!there.TryAdd(TensorNames.Bare(entry.Name), entry))
            {
                throw new InputException($"{path} holds two tensors that are both {TensorNames.Bare(entry.Name)}, the second as {entry.Name}.");
            }
        }

        // A table with more rows than the description says is one that was padded.
        Vocabulary layout = vocabulary ?? new Vocabulary(config.Rows, 0);
        if (TensorNames.Sources("tok_embeddings.weight", config).Select(names => names[0]).FirstOrDefault(there.ContainsKey) is { } table
            && there[table].Shape is [var rows, _] && rows > config.Rows && rows <= int.MaxValue)
        {
            config = Architecture.WithRows(config, (int)rows);
        }

        if (layout.Rows > config.Rows)
        {
            throw new InputException(
                $"{path} has a table of {config.Rows} rows; {layout.TextRows} text rows, 7 marks and {layout.ImageCodes} image codes need {layout.Rows}.");
        }

        Dictionary<string, string[]> sources = [];
        HashSet<string> used = [];
        List<string> missing = [], misshapen = [];
        foreach (ParameterShape parameter in Architecture.Parameters(config))
        {
            string[]? names = TensorNames.Sources(parameter.Name, config).FirstOrDefault(names => names.All(there.ContainsKey));
            if (names is null)
            {
                missing.Add(parameter.Name);
                continue;
            }

            used.UnionWith(names);
            sources[parameter.Name] = [.. names.Select(name => there[name].Name)];
            long[][] shapes = [.. names.Select(name => there[name].Shape)];
            long[] whole = [.. shapes[0]];
            bool joins = shapes.All(shape => shape.Length == whole.Length && shape.Skip(1).SequenceEqual(whole.Skip(1))) && whole.Length > 0;
            if (joins)
            {
                whole[0] = shapes.Sum(shape => shape[0]);
            }

            if (!joins || !whole.SequenceEqual(parameter.Shape))
            {
                string found = joins ? Shape.show(whole) : string.Join(" and ", shapes.Select(Shape.show));
                misshapen.Add($"{string.Join(" + ", names)} is {found}, must be {Shape.show(parameter.Shape)}");
            }
        }

        string[] unexpected = [.. there.Keys.Where(name => !used.Contains(name) && !TensorNames.Redundant(name, config)).Order(StringComparer.Ordinal)];
        if (missing.Count + misshapen.Count + unexpected.Length > 0)
        {
            IEnumerable<string> lines =
            [
                .. missing.Select(name => $"missing: {name}"),
                .. unexpected.Select(name => $"unexpected: {name} {Shape.show(there[name].Shape)}"),
                .. misshapen.Select(sentence => $"of another shape: {sentence}"),
            ];
            throw new InputException(
                $"the weights in {path} do not fit the model's description ({Architecture.Describe(config)}):\n  {string.Join("\n  ", lines)}");
        }

        ModelFile model = new(path, config, layout, file, sources) { Kind = kind, TokenizerPath = tokenizer, EndOfText = endOfText };
        foreach (string head in there.Keys.Where(name => config.Tied && TensorNames.IsHead(name) && !used.Contains(name)))
        {
            model.RequireTied(there[head].Name);
        }

        return model;
    }

    /// <summary>The element type that a parameter is stored in; the widest of several.</summary>
    public torch.ScalarType TypeOf(string parameter) => sources[parameter].Select(part => file.Entries[part].Type).Aggregate(torch.promote_types);

    /// <summary>A parameter's values; the caller owns them. Errors: InputException.</summary>
    public torch.Tensor Load(string parameter)
    {
        string[] parts = sources[parameter];
        if (parts.Length == 1)
        {
            return file.Load(parts[0]);
        }

        using DisposeScope scope = torch.NewDisposeScope();
        return torch.cat([.. parts.Select(file.Load)]).MoveToOuterDisposeScope();
    }

    /// <summary>Writes a parameter's values into a contiguous tensor of its shape, in pieces. Errors: InputException.</summary>
    public void Fill(string parameter, torch.Tensor target)
    {
        long row = 0;
        foreach (string part in sources[parameter])
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

    public void Dispose() => file.Dispose();

    private void RequireTied(string name)
    {
        if (!TensorReading.Same(file, sources["tok_embeddings.weight"][0], name))
        {
            throw new InputException($"{Path} has a head ({name}) that differs from its embedding table, but its description says that the two are tied.");
        }
    }
}
