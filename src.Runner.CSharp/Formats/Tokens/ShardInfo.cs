using System.Globalization;

namespace Hybrid.Runner.Formats;

/// <summary>What every shard of a folder says of its tokens; it stands in the metadata of each.</summary>
/// <param name="TextVocabulary">The size of the text tokenizer's vocabulary.</param>
/// <param name="ImageVocabulary">The number of image codes, at most 65,536.</param>
/// <param name="GridHeight">Rows of codes of a picture.</param>
/// <param name="GridWidth">Columns of codes of a picture.</param>
/// <param name="ImageSize">Width and height of the pictures in pixels.</param>
/// <param name="Crop">How pictures were brought to that size.</param>
/// <param name="TextTokenizer">SHA-256 of the text tokenizer.</param>
/// <param name="ImageTokenizer">SHA-256 of the image tokenizer.</param>
public sealed record ShardInfo(
    int TextVocabulary,
    int ImageVocabulary,
    int GridHeight,
    int GridWidth,
    int ImageSize,
    string Crop,
    string TextTokenizer,
    string ImageTokenizer)
{
    private const string Format = "hybrid.tokens.1";

    /// <summary>Codes of a picture.</summary>
    public int Codes => GridHeight * GridWidth;

    internal IReadOnlyDictionary<string, string> ToMetadata() => new Dictionary<string, string>
    {
        ["format"] = Format,
        ["text_vocabulary"] = Text(TextVocabulary),
        ["image_vocabulary"] = Text(ImageVocabulary),
        ["grid_height"] = Text(GridHeight),
        ["grid_width"] = Text(GridWidth),
        ["image_size"] = Text(ImageSize),
        ["crop"] = Crop,
        ["text_tokenizer_sha256"] = TextTokenizer,
        ["image_tokenizer_sha256"] = ImageTokenizer,
    };

    internal static ShardInfo FromMetadata(string path, IReadOnlyDictionary<string, string> metadata)
    {
        string Value(string key) => metadata.TryGetValue(key, out string? value)
            ? value
            : throw new InputException($"{path} is not a token shard: its metadata has no {key}.");
        int Number(string key, int most) => int.TryParse(Value(key), NumberStyles.None, CultureInfo.InvariantCulture, out int number) && number >= 1 && number <= most
            ? number
            : throw new InputException($"{path}: the metadata {key} is \"{FileErrors.Show(Value(key))}\"; it must be a whole number from 1 to {most}.");
        if (Value("format") != Format)
        {
            throw new InputException($"{path} has the format \"{FileErrors.Show(Value("format"))}\"; {Format} is read here.");
        }

        return new ShardInfo(
            Number("text_vocabulary", 1 << 30), Number("image_vocabulary", 1 << 16), Number("grid_height", 1 << 14), Number("grid_width", 1 << 14),
            Number("image_size", 1 << 20), Value("crop"), Value("text_tokenizer_sha256"), Value("image_tokenizer_sha256"));
    }

    private static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);
}
