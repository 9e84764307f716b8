using System.Text.Json;
using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>Opens files of named tensors, whatever their format.</summary>
public static class TensorFiles
{
    private const string Index = "model.safetensors.index.json";

    /// <summary>
    /// Opens a .safetensors file, a PyTorch checkpoint (told apart by their first bytes, not by their names), or a folder with
    /// model.safetensors, or with several files listed in model.safetensors.index.json. Errors: <see cref="InputException"/>.
    /// </summary>
    public static ITensorFile Open(string path)
    {
        if (Directory.Exists(path))
        {
            string index = Path.Combine(path, Index), single = Path.Combine(path, "model.safetensors");
            return File.Exists(single) ? SafeTensorsFile.Open(single)
                : File.Exists(index) ? OpenIndexed(path, index)
                : throw new InputException($"{path} has neither model.safetensors nor {Index}.");
        }

        bool torchFile;
        using (MappedFile file = MappedFile.Open(path))
        {
            // A safetensors header has an opening brace at offset 8; a zip file of torch.save begins with PK, a bare pickle with 0x80.
            torchFile = file.Length >= 9 && file.Bytes(8, 1)[0] != (byte)'{'
                && (file.Bytes(0, 4).SequenceEqual("PK\u0003\u0004"u8) || file.Bytes(0, 1)[0] == 0x80);
        }

        return torchFile ? TorchFile.Open(path) : SafeTensorsFile.Open(path);
    }

    private static ITensorFile OpenIndexed(string folder, string index)
    {
        SortedSet<string> names = new(StringComparer.Ordinal);
        try
        {
            using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(index));
            foreach (JsonProperty tensor in document.RootElement.GetProperty("weight_map").EnumerateObject())
            {
                string name = tensor.Value.GetString() ?? "";
                if (name.Length == 0 || Path.GetFileName(name) != name)
                {
                    throw new InputException($"{index}: \"{FileErrors.Show(name)}\" is not the name of a file in the same folder.");
                }

                names.Add(name);
            }
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new InputException($"{index} is not an index of tensors: {e.Message}", e);
        }
        catch (Exception e) when (FileErrors.Explain(e, index) is { } refusal)
        {
            throw refusal;
        }

        return new TensorFileSet(folder, names.Select(name => Path.Combine(folder, name)));
    }
}

/// <summary>Several files of tensors as one; no name may stand in two of them.</summary>
public sealed class TensorFileSet : ITensorFile
{
    private readonly List<ITensorFile> files = [];
    private readonly OrderedEntries<TensorEntry> entries = new();
    private readonly OrderedEntries<string> metadata = new();
    private readonly Dictionary<string, ITensorFile> owners = new(StringComparer.Ordinal);

    /// <summary>Opens every file. Errors: <see cref="InputException"/>.</summary>
    public TensorFileSet(string path, IEnumerable<string> paths)
    {
        Path = path;
        try
        {
            foreach (string part in paths)
            {
                ITensorFile file = TensorFiles.Open(part);
                files.Add(file);
                foreach ((string name, TensorEntry entry) in file.Entries)
                {
                    if (!entries.TryAdd(name, entry))
                    {
                        throw new InputException($"{part}: tensor \"{FileErrors.Show(name)}\" stands in {owners[name].Path} as well.");
                    }

                    owners.Add(name, file);
                }

                foreach ((string key, string value) in file.Metadata)
                {
                    metadata.TryAdd(key, value);
                }
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public string Path { get; }

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, TensorEntry> Entries => entries;

    /// <summary>The metadata of all files; the first file's value stands where several have a key.</summary>
    public IReadOnlyDictionary<string, string> Metadata => metadata;

    /// <inheritdoc/>
    public torch.Tensor Load(string name) => owners.TryGetValue(name, out ITensorFile? owner)
        ? owner.Load(name)
        : throw new InputException($"{Path} has no tensor \"{FileErrors.Show(name)}\".");

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (ITensorFile file in files)
        {
            file.Dispose();
        }
    }
}
