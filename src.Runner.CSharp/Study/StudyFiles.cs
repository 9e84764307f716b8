using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>
/// The models of a study, each a directory under <c>models/</c> that the other commands take as <c>--model</c>: weights, description,
/// text tokenizer and image tokenizer.
/// </summary>
internal sealed class StudyFiles(string directory)
{
    private string Folder(string name) => Path.Combine(directory, "models", name);

    private string TokenizerPath => Path.Combine(Folder("image-tokenizer"), ImageTokenizers.FileName);

    /// <summary>Writes a model's directory.</summary>
    /// <param name="beside">Puts its tokenizers into the directory; null: World's.</param>
    public void SaveModel(string name, Model model, Action<string>? beside = null)
    {
        Directory.CreateDirectory(Path.Combine(directory, "models"));
        AtomicFile.WriteFolder(
            Folder(name),
            folder =>
            {
                (string Name, torch.Tensor Tensor)[] tensors = [.. model.Names.Select(n => (n, model.Values(n)))];
                SafeTensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors, null);
                foreach ((string _, torch.Tensor tensor) in tensors)
                    tensor.Dispose();
                File.WriteAllText(Path.Combine(folder, "config.json"), Descriptions.Write(model.Config, model.Vocabulary));
                (beside ?? (place => PutWorldsTokenizers(place, model.Vocabulary.ImageCodes > 0)))(folder);
            },
            replace: true);
    }

    /// <summary>Puts World's tokenizer of text into a folder, and the one of pictures where it is wanted.</summary>
    public void PutWorldsTokenizers(string folder, bool pictures)
    {
        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), WorldVocabulary.tokenizerJson);
        if (pictures)
            File.Copy(TokenizerPath, Path.Combine(folder, ImageTokenizers.FileName));
    }

    /// <summary>The fp32 weights of a saved model.</summary>
    public IReadOnlyDictionary<string, torch.Tensor> LoadWeights(string name) =>
        Load(Path.Combine(Folder(name), "model.safetensors"));

    /// <summary>Writes the image tokenizer.</summary>
    public void SaveTokenizer(PictureTokenizer tokenizer)
    {
        Directory.CreateDirectory(Folder("image-tokenizer"));
        int grid = Corpus.Side / tokenizer.Stride;
        ImageTokenizers.Save(tokenizer, TokenizerPath, grid, grid);
    }

    /// <summary>The image tokenizer.</summary>
    public PictureTokenizer LoadTokenizer() => ImageTokenizers.Open(TokenizerPath);

    /// <summary>Writes other tensors of the study.</summary>
    public void SaveTensors(string name, IEnumerable<(string Name, torch.Tensor Tensor)> tensors)
    {
        Directory.CreateDirectory(Path.Combine(directory, "models"));
        SafeTensorsWriter.Write(Folder(name) + ".safetensors", tensors, null);
    }

    /// <summary>Reads them back.</summary>
    public IReadOnlyDictionary<string, torch.Tensor> LoadTensors(string name) => Load(Folder(name) + ".safetensors");

    private static Dictionary<string, torch.Tensor> Load(string path)
    {
        using ITensorFile file = SafeTensorsFile.Open(path);
        return file.Entries.Keys.ToDictionary(name => name, file.Load);
    }
}
