using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>From the path that a person gives to a model: whatever kind of model it is.</summary>
public static class ModelFiles
{
    /// <summary>The description of an open_lm model beside its weights.</summary>
    public const string OpenLmDescription = "model.json";

    private const string Description = "config.json";

    /// <summary>
    /// Opens a checkpoint or run of Hybrid, a Hugging Face directory, or a file of weights with a description beside it.
    /// Errors: InputException.
    /// </summary>
    public static ModelFile Open(string path, string? description = null, int? textRows = null, int? imageCodes = null)
    {
        Vocabulary? layout = textRows is { } rows && imageCodes is { } codes ? new Vocabulary(rows, codes) : null;
        if (Directory.Exists(path))
        {
            return OpenDirectory(Checkpoints.Resolve(path), description, layout);
        }

        if (!File.Exists(path))
        {
            throw new InputException($"there is no model at {path}.");
        }

        if (description is null)
        {
            throw new InputException(
                $"{path} is a file of weights, which does not say what model it is; give its description with --model-config, or the directory that holds its config.json.");
        }

        return Open(path, ModelDescription.Read(description), layout, "a file of weights", Path.GetDirectoryName(Path.GetFullPath(path)));
    }

    /// <summary>The weights of a directory as convert writes it for open_lm, one .pt beside its description; null for any other.</summary>
    internal static string? OpenLmWeights(string directory) =>
        !File.Exists(Path.Combine(directory, Description)) && File.Exists(Path.Combine(directory, OpenLmDescription))
            && Directory.GetFiles(directory, "*.pt") is [var weights] ? weights : null;

    /// <inheritdoc cref="Open(string, string?, int?, int?)"/>
    public static ModelFile Open(ModelPath model) => Open(model.Path, model.Config, model.TextRows, model.ImageCodes);

    private static ModelFile OpenDirectory(string directory, string? given, Vocabulary? layout)
    {
        if (given is null && OpenLmWeights(directory) is { } weights)
        {
            return Open(weights, ModelDescription.Read(Path.Combine(directory, OpenLmDescription)), layout, "an open_lm directory", directory);
        }

        string description = given ?? Path.Combine(directory, Description);
        if (!File.Exists(description))
        {
            throw new InputException(
                given is null
                    ? $"{directory} is no model: it has no {Description}. A model is a checkpoint or run of hybrid, a Hugging Face directory, or an open_lm .pt file with --model-config."
                    : $"the model's description is not there: {given}.");
        }

        ModelDescription model = ModelDescription.Read(description);
        string kind = model.Form == DescriptionForm.Hybrid ? "a checkpoint of hybrid" : "a Hugging Face directory";
        return Open(directory, model, layout, kind, directory);
    }

    private static ModelFile Open(string path, ModelDescription model, Vocabulary? layout, string kind, string? beside)
    {
        ITensorFile file = TensorFiles.Open(path);
        try
        {
            if (layout is not null && model.Vocabulary is not null && !layout.Equals(model.Vocabulary))
            {
                throw new InputException(
                    $"{path} says itself that it has {model.Vocabulary.TextRows} text rows and {model.Vocabulary.ImageCodes} image codes; --text-rows {layout.TextRows} and --image-codes {layout.ImageCodes} contradict it.");
            }

            ModelConfig config = model.Config;
            string[] biases = model.GainOnly ? [.. file.Entries.Keys.Where(name => name.EndsWith("norm.bias", StringComparison.Ordinal))] : [];
            if (model.GainOnly && biases.All(name => TensorReading.IsZero(file, name)))
            {
                config = Architecture.WithoutNormBiases(config);
            }
            else
            {
                biases = [];
            }

            string? tokenizer = beside is null ? null : Path.Combine(beside, "tokenizer.json");
            return ModelFile.Fit(
                path, config, layout ?? model.Vocabulary, file, biases, kind, File.Exists(tokenizer) ? tokenizer : null, model.EndOfText);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }
}
