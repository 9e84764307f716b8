using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Image tokenizers in files: opening them, and keeping a copy beside models and shards.</summary>
internal static class ImageTokenizers
{
    /// <summary>The name of the copy that stands beside a model or shards.</summary>
    public const string FileName = "image_tokenizer.safetensors";

    private const string GridHeight = "grid_height", GridWidth = "grid_width";

    /// <summary>Opens a tokenizer: a file of tensors, or a folder with <see cref="FileName"/> or model files. Errors: InputException.</summary>
    public static PictureTokenizer Open(string path)
    {
        using ITensorFile file = TensorFiles.Open(Resolve(path));
        return Load(file);
    }

    /// <summary>The file that a path stands for.</summary>
    public static string Resolve(string path)
    {
        string beside = Path.Combine(path, FileName);
        return Directory.Exists(path) && File.Exists(beside) ? beside : path;
    }

    /// <summary>SHA-256 of the tensors that a path stands for, in lower-case hexadecimal. Errors: InputException.</summary>
    public static string Hash(string path)
    {
        string file = Resolve(path), single = Path.Combine(file, "model.safetensors");
        if (!Directory.Exists(file) || File.Exists(single))
        {
            return ShardManifest.Hash(Directory.Exists(file) ? single : file);
        }

        IEnumerable<string> parts = Directory.EnumerateFiles(file, "*.safetensors").Order(StringComparer.Ordinal).Select(ShardManifest.Hash);
        return Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(string.Join('\n', parts))));
    }

    /// <summary>Writes a copy in fp32 that says on which grid its pictures were encoded.</summary>
    public static void Save(PictureTokenizer tokenizer, string path, int gridHeight, int gridWidth)
    {
        (string Name, torch.Tensor Tensor)[] tensors = [.. tokenizer.Names.Select(name => (name, tokenizer.Values(name)))];
        try
        {
            SafeTensorsWriter.Write(path, tensors, new Dictionary<string, string>
            {
                [GridHeight] = gridHeight.ToString(CultureInfo.InvariantCulture),
                [GridWidth] = gridWidth.ToString(CultureInfo.InvariantCulture),
            });
        }
        finally
        {
            foreach ((string _, torch.Tensor tensor) in tensors)
            {
                tensor.Dispose();
            }
        }
    }

    /// <summary>The decoder that stands beside a model. Errors: InputException where there is none, or it does not say its grid.</summary>
    public static IPictureDecoder DecoderBeside(ModelFile model)
    {
        string weights = Path.GetFullPath(model.WeightsPath);
        string path = Path.Combine(Directory.Exists(weights) ? weights : Path.GetDirectoryName(weights)!, FileName);
        if (!File.Exists(path))
        {
            throw new InputException($"{model.Path} has no {FileName} beside its weights, so its codes cannot become pictures; copy the one of its training data there.");
        }

        using ITensorFile file = TensorFiles.Open(path);
        int Side(string key) => file.Metadata.TryGetValue(key, out string? text) && int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int side) && side > 0
            ? side
            : throw new InputException($"{path} does not say its {key} in its metadata.");
        return new Decoder(Load(file), Side(GridHeight), Side(GridWidth));
    }

    private static PictureTokenizer Load(ITensorFile file) => PictureTokenizer.Load(
        file.Path, file.Entries.Select(entry => KeyValuePair.Create(entry.Key, entry.Value.Shape)), file.Load);

    private sealed class Decoder(PictureTokenizer tokenizer, int height, int width) : IPictureDecoder
    {
        public int Codebook => tokenizer.Codes;

        public int GridHeight => height;

        public int GridWidth => width;

        public IReadOnlyList<Picture> Decode(IReadOnlyList<int[]> codes) =>
        [
            .. tokenizer.Decode(codes, height, width)
                .Select(pixels => new Picture(width * tokenizer.Stride, height * tokenizer.Stride, pixels)),
        ];

        public void Dispose() => ((IDisposable)tokenizer).Dispose();
    }
}
