namespace Hybrid.Runner.Formats;

/// <summary>torch.save's zip format: data.pkl, and one stored entry per storage under data/.</summary>
internal static class TorchZipFile
{
    public static TorchContent Read(MappedFile file)
    {
        ZipDirectory zip = ZipDirectory.Read(file);
        string[] pickles = [.. zip.Entries.Keys.Where(name => name == "data.pkl" || (name.EndsWith("/data.pkl", StringComparison.Ordinal) && name.Count(c => c == '/') == 1))];
        if (pickles.Length != 1)
        {
            throw new InputException($"{file.Path} is a zip file with {(pickles.Length == 0 ? "no" : "more than one")} data.pkl, so torch.save did not write it.");
        }

        string folder = pickles[0][..^"data.pkl".Length];
        if (zip.Entries.ContainsKey(folder + "constants.pkl"))
        {
            throw new InputException($"{file.Path} is a TorchScript program, not a checkpoint; save the state dict of its model.");
        }

        if (zip.Entries.TryGetValue(folder + "byteorder", out ZipDirectory.Extent order)
            && !file.Bytes(order.Offset, (int)Math.Min(order.Length, 16)).SequenceEqual("little"u8))
        {
            throw new InputException($"{file.Path} was written on a big-endian machine (entry {FileErrors.Show(folder)}byteorder); save it again on a little-endian one.");
        }

        ZipDirectory.Extent pickle = zip.Entries[pickles[0]];
        if (pickle.Length > int.MaxValue)
        {
            throw new InputException($"{file.Path}: its data.pkl has {pickle.Length} bytes, more than any table of tensors.");
        }

        Dictionary<string, long> storages = new(StringComparer.Ordinal);
        object? root = Pickle.Read(file.Bytes(pickle.Offset, (int)pickle.Length), file.Path, pickle.Offset, out _, storage =>
        {
            string name = $"{folder}data/{storage.Key}";
            if (!zip.Entries.TryGetValue(name, out ZipDirectory.Extent extent))
            {
                throw new InputException($"{file.Path}: the entry {FileErrors.Show(name)} with the values of a tensor is missing.");
            }

            long bytes = storage.Count * TensorType.Of(storage.Type).Bytes;
            if (extent.Length != bytes)
            {
                throw new InputException(
                    $"{file.Path}: the entry {FileErrors.Show(name)} has {extent.Length} bytes and {storage.Count} elements of {storage.Type} take {bytes} (offset {extent.Offset}).");
            }

            storages.TryAdd(storage.Key, extent.Offset);
        });
        return new TorchContent(root, storages);
    }
}
