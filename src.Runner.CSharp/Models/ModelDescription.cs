using System.Text.Json;
using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>What a JSON file says a model is: open_lm's form, a Hugging Face config.json, or Hybrid's own config.json.</summary>
/// <param name="Config">The decoder.</param>
/// <param name="Vocabulary">The layout of its table; null where the file says none.</param>
/// <param name="Form">Whose form the file has.</param>
/// <param name="EndOfText">The id that ends a text, or −1.</param>
public sealed record ModelDescription(ModelConfig Config, Vocabulary? Vocabulary, DescriptionForm Form, int EndOfText)
{
    /// <summary>Whether the norms' biases are there for the form's sake only: where they are zero, the model has none.</summary>
    public bool GainOnly { get; init; }

    /// <summary>Reads a description. Errors: InputException naming every key that is wrong.</summary>
    public static ModelDescription Read(string path)
    {
        string text = Files.Text(path, "the model's description");
        (DescriptionForm form, int endOfText) = Recognise(path, text);
        switch (form)
        {
            case DescriptionForm.Hybrid:
                var (config, vocabulary) = Descriptions.Hybrid(path, text);
                return new(config, vocabulary, form, endOfText);
            case DescriptionForm.HuggingFace:
                return Own(path, text, Descriptions.HuggingFace(path, text), form, endOfText);
            default:
                return Own(path, text, Descriptions.OpenLm(path, text), form, endOfText);
        }
    }

    /// <summary>A description of another form with what this program put into it for itself.</summary>
    private static ModelDescription Own(string path, string text, ModelConfig read, DescriptionForm form, int endOfText)
    {
        var (config, vocabulary, gainOnly) = Descriptions.Own(path, text, read);
        return new(config, vocabulary, form, endOfText) { GainOnly = gainOnly };
    }

    private static (DescriptionForm Form, int EndOfText) Recognise(string path, string text)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(text);
            JsonElement root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object)
            {
                throw new InputException($"{path} must hold a JSON object that describes a model.");
            }

            if (root.TryGetProperty("model_type", out _))
            {
                // A list names several; the first is the one that ends a text.
                bool has = root.TryGetProperty("eos_token_id", out JsonElement end);
                end = has && end.ValueKind == JsonValueKind.Array && end.GetArrayLength() > 0 ? end[0] : end;
                return (DescriptionForm.HuggingFace, has && end.ValueKind == JsonValueKind.Number && end.TryGetInt32(out int id) ? id : -1);
            }

            return (root.TryGetProperty("model", out _) ? DescriptionForm.Hybrid : DescriptionForm.OpenLm, -1);
        }
        catch (JsonException error)
        {
            throw new InputException($"{path} is not valid JSON: {error.Message}", error);
        }
    }
}

/// <summary>Whose way of describing a model it is.</summary>
public enum DescriptionForm
{
    /// <summary>open_lm's model JSON.</summary>
    OpenLm,

    /// <summary>A Hugging Face config.json.</summary>
    HuggingFace,

    /// <summary>Hybrid's own config.json.</summary>
    Hybrid,
}
