using System.Text.Json;
using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>Opens files of named tensors, whatever their format.</summary>
public static class TensorFiles
{
    /// <summary>The files that a folder's tensors may stand in, the first found being taken: whole, or an index of several.</summary>
    private static readonly string[] Names = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

    /// <summary>Whether a folder holds tensors under one of the usual names.</summary>
    public static bool Holds(string folder) => Names.Any(name => File.Exists(Path.Combine(folder, name)));

    /// <summary>
    /// Opens a .safetensors file, a PyTorch checkpoint (told apart by their first bytes, not by their names), or a folder with
    /// model.safetensors or pytorch_model.bin, or with several files listed in one's .index.json. Errors: <see cref="InputException"/>.
    /// </summary>
    public static ITensorFile Open(string path)
    {
        if (Directory.Exists(path))
        {
            string found = Names.Select(name => Path.Combine(path, name)).FirstOrDefault(File.Exists)
                ?? throw new InputException($"{path} has no weights: none of {string.Join(", ", Names)}.");
            return found.EndsWith(".json", StringComparison.Ordinal) ? new TensorFileSet(path, TensorIndex.Read(found)) : OpenFile(found);
        }

        return path.EndsWith(".index.json", StringComparison.Ordinal) && File.Exists(path)
            ? new TensorFileSet(path, TensorIndex.Read(path))
            : OpenFile(path);
    }

    /// <summary>Opens one file; with <paramref name="asNamed"/>, its names are left as they are.</summary>
    internal static ITensorFile OpenFile(string path, bool asNamed = false)
    {
        bool torchFile;
        using (MappedFile file = MappedFile.Open(path))
        {
            // A safetensors header has an opening brace at offset 8; a zip file of torch.save begins with PK, a bare pickle with 0x80.
            torchFile = file.Length >= 9 && file.Bytes(8, 1)[0] != (byte)'{'
                && (file.Bytes(0, 4).SequenceEqual("PK\u0003\u0004"u8) || file.Bytes(0, 1)[0] == 0x80);
        }

        return torchFile ? TorchFile.Open(path, asNamed) : SafeTensorsFile.Open(path);
    }
}

/// <summary>An index of tensors over several files: which file each tensor stands in.</summary>
/// <param name="Path">The index itself.</param>
/// <param name="Files">The paths of the files, in the order of their names.</param>
/// <param name="Places">The file of every tensor.</param>
public sealed record TensorIndex(string Path, IReadOnlyList<string> Files, IReadOnlyDictionary<string, string> Places)
{
    /// <summary>Reads an index and checks that its files are there. Errors: <see cref="InputException"/>.</summary>
    public static TensorIndex Read(string path)
    {
        string folder = System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(path))!;
        Dictionary<string, string> places = new(StringComparer.Ordinal);
        try
        {
            using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(path));
            foreach (JsonProperty tensor in document.RootElement.GetProperty("weight_map").EnumerateObject())
            {
                string name = tensor.Value.GetString() ?? "";
                if (name.Length == 0 || System.IO.Path.GetFileName(name) != name || name is "." or "..")
                {
                    throw new InputException($"{path}: \"{FileErrors.Show(name)}\" is not the name of a file in the same folder.");
                }

                if (!places.TryAdd(tensor.Name, System.IO.Path.Combine(folder, name)))
                {
                    throw new InputException($"{path} lists the tensor \"{FileErrors.Show(tensor.Name)}\" twice.");
                }
            }
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new InputException($"{path} is not an index of tensors: {e.Message}", e);
        }
        catch (Exception e) when (FileErrors.Explain(e, path) is { } refusal)
        {
            throw refusal;
        }

        string[] files = [.. places.Values.Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal)];
        string[] missing = [.. files.Where(file => !File.Exists(file)).Select(file => System.IO.Path.GetFileName(file))];
        return missing.Length == 0
            ? new(path, files, places)
            : throw new InputException(
                $"{path} lists {files.Length} files and {missing.Length} of them {(missing.Length == 1 ? "is" : "are")} not beside it: {FileErrors.List(missing)}. Is the download whole?");
    }
}

/// <summary>Several files of tensors as one; no name may stand in two of them.</summary>
public sealed class TensorFileSet : ITensorFile
{
    private readonly List<ITensorFile> files = [];
    private readonly OrderedEntries<TensorEntry> entries = new();
    private readonly OrderedEntries<string> metadata = new();
    private readonly Dictionary<string, ITensorFile> owners = new(StringComparer.Ordinal);

    /// <summary>Opens every file of an index and checks that each has the tensors it is said to have. Errors: <see cref="InputException"/>.</summary>
    public TensorFileSet(string path, TensorIndex index)
    {
        Path = path;
        try
        {
            foreach (string part in index.Files)
            {
                ITensorFile file = TensorFiles.OpenFile(part, asNamed: true);
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

            string[] lacking =
            [
                .. index.Places.Where(place => !owners.TryGetValue(place.Key, out ITensorFile? owner) || owner.Path != place.Value)
                    .Select(place => $"{FileErrors.Show(place.Key)} ({System.IO.Path.GetFileName(place.Value)})"),
            ];
            if (lacking.Length > 0)
            {
                throw new InputException($"{index.Path} lists tensors that are not in the files it names for them: {FileErrors.List(lacking)}.");
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
    public void Read(string name, long first, torch.Tensor target)
    {
        ITensorFile owner = owners.TryGetValue(name, out ITensorFile? found) ? found : throw new InputException($"{Path} has no tensor \"{FileErrors.Show(name)}\".");
        owner.Read(name, first, target);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (ITensorFile file in files)
        {
            file.Dispose();
        }
    }
}
