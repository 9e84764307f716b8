using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>Image tokenizers in files: opening them, and keeping a copy beside models and shards.</summary>
public static class ImageTokenizers
{
    /// <summary>The name of the copy that stands beside a model or shards.</summary>
    public const string FileName = "image_tokenizer.safetensors";

    private const string GridHeight = "grid_height", GridWidth = "grid_width", Description = "tokenizer_config";

    /// <summary>diffusers' names of a model's weights, best first; its configuration is <c>config.json</c> beside them.</summary>
    private static readonly string[] Diffusers =
    [
        "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.bin",
    ];

    /// <summary>Where trainers put a second state dict of averaged parameters.</summary>
    private static readonly string[] Averages = ["ema", "ema_state_dict", "model_ema"];

    /// <summary>
    /// Opens a tokenizer: a file of tensors, or a folder with <see cref="FileName"/>, model files or diffusers' files. diffusers' own
    /// configuration is read where no other is given. Errors: InputException.
    /// </summary>
    public static PictureTokenizer Open(string path, TokenizerOptions? options = null)
    {
        string resolved = Resolve(path);
        using ITensorFile file = TensorFiles.Open(resolved);
        options ??= TokenizerOptions.Default;
        string config = Path.Combine(Path.GetDirectoryName(resolved) ?? "", "config.json");
        return options.Description is null && Diffusers.Contains(Path.GetFileName(resolved)) && File.Exists(config)
            ? Load(file, With(options, Files.Text(config, "the image tokenizer's configuration")), config)
            : Load(file, options);
    }

    /// <summary>The file that a path stands for, or the path itself.</summary>
    public static string Resolve(string path) => Directory.Exists(path)
        ? Diffusers.Prepend(FileName).Select(name => Path.Combine(path, name)).FirstOrDefault(File.Exists) ?? path
        : path;

    /// <summary>
    /// SHA-256 of the tensors that a path stands for, in lower-case hexadecimal; another one for the averages in the same file.
    /// Errors: InputException.
    /// </summary>
    public static string Hash(string path, bool averages) => averages
        ? Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(Hash(path) + "\nema")))
        : Hash(path);

    private static string Hash(string path)
    {
        string file = Resolve(path), single = Path.Combine(file, "model.safetensors");
        if (!Directory.Exists(file) || File.Exists(single))
        {
            return Files.Sha256(Directory.Exists(file) ? single : file);
        }

        IEnumerable<string> parts = Directory.EnumerateFiles(file, "*.safetensors").Order(StringComparer.Ordinal).Select(Files.Sha256);
        return Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(string.Join('\n', parts))));
    }

    /// <summary>Writes a copy in fp32 that says on which grid its pictures were encoded.</summary>
    public static void Save(PictureTokenizer tokenizer, string path, int gridHeight, int gridWidth)
    {
        (string Name, torch.Tensor Tensor)[] tensors = [.. tokenizer.Names.Select(name => (name, tokenizer.Values(name)))];
        try
        {
            Dictionary<string, string> metadata = new()
            {
                [GridHeight] = gridHeight.ToString(CultureInfo.InvariantCulture),
                [GridWidth] = gridWidth.ToString(CultureInfo.InvariantCulture),
            };
            if (tokenizer.Description is { } description)
            {
                metadata.Add(Description, description);
            }

            SafeTensorsWriter.Write(path, tensors, metadata);
        }
        finally
        {
            foreach ((string _, torch.Tensor tensor) in tensors)
            {
                tensor.Dispose();
            }
        }
    }

    /// <summary>The file that stands beside a model's weights, or null.</summary>
    internal static string? Beside(ModelFile model)
    {
        string weights = Path.GetFullPath(model.WeightsPath);
        string path = Path.Combine(Directory.Exists(weights) ? weights : Path.GetDirectoryName(weights)!, FileName);
        return File.Exists(path) ? path : null;
    }

    /// <summary>The decoder that stands beside a model. Errors: InputException where there is none, or it does not say its grid.</summary>
    internal static PictureDecoder DecoderBeside(ModelFile model)
    {
        string path = Beside(model)
            ?? throw new InputException($"{model.Path} has no {FileName} beside its weights, so its codes cannot become pictures; copy the one of its training data there.");
        using ITensorFile file = TensorFiles.Open(path);
        int Side(string key) => file.Metadata.TryGetValue(key, out string? text) && int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int side) && side > 0
            ? side
            : throw new InputException($"{path} does not say its {key} in its metadata.");
        return new PictureDecoder(Load(file, TokenizerOptions.Default), Side(GridHeight), Side(GridWidth));
    }

    private static PictureTokenizer Load(ITensorFile file, TokenizerOptions options, string? config = null)
    {
        // A copy of ours keeps in its metadata what its tensors do not say.
        TokenizerOptions said = options.Description is null && file.Metadata.TryGetValue(Description, out string? kept) ? With(options, kept) : options;
        string source = config is null ? file.Path : $"{file.Path} with {config}";
        if (options.Averages && file is TorchFile checkpoint && AveragesOf(checkpoint) is { } averages)
        {
            return PictureTokenizer.Load(
                source,
                averages.Select(entry => KeyValuePair.Create(entry.Key, entry.Value.Shape)),
                name => checkpoint.Load(averages[name], name),
                new TokenizerOptions(said.Description, false, said.HalfPrecision, said.MemoryBudget));
        }

        return PictureTokenizer.Load(source, file.Entries.Select(entry => KeyValuePair.Create(entry.Key, entry.Value.Shape)), file.Load, said);
    }

    private static TokenizerOptions With(TokenizerOptions options, string description) =>
        new(description, options.Averages, options.HalfPrecision, options.MemoryBudget);

    /// <summary>The tensors of a second state dict beside the first, or null.</summary>
    private static Dictionary<string, PickleTensor>? AveragesOf(TorchFile checkpoint)
    {
        foreach (string place in Averages)
        {
            if (checkpoint.Root is PickleDict root && root.TryGet(place, out object? value) && value is PickleDict state)
            {
                Dictionary<string, PickleTensor> found = new(StringComparer.Ordinal);
                foreach ((object? key, object? tensor) in state.Items)
                {
                    if (key is string name && tensor is PickleTensor values)
                    {
                        found[name.Replace("_orig_mod.", "", StringComparison.Ordinal)] = values;
                    }
                }

                if (found.Count > 0)
                {
                    return found;
                }
            }
        }

        return null;
    }
}
