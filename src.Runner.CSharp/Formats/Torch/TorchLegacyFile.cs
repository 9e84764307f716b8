namespace Hybrid.Runner.Formats;

/// <summary>
/// torch.save's format before zip: five pickles (a magic number, the protocol, facts about the machine, the content, the storages'
/// keys), then for every key its element count and its elements.
/// </summary>
internal static class TorchLegacyFile
{
    /// <summary>The stand-in for <see cref="MagicNumber"/>, which has ten bytes, among the values of a pickle.</summary>
    public const long MagicValue = 0x6c9cfc6c_0a866a19;

    private const long ProtocolVersion = 1001;

    /// <summary>torch's magic number 0x1950a86a20f9469cfc6c, little-endian, as a pickle writes it.</summary>
    public static ReadOnlySpan<byte> MagicNumber => [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

    public static TorchContent Read(MappedFile file)
    {
        long at = 0;
        if (Next(file, ref at) is not MagicValue)
        {
            throw new InputException($"{file.Path} is a pickle but not one of torch.save: its magic number is missing.");
        }

        if (Next(file, ref at) is not ProtocolVersion)
        {
            throw new InputException($"{file.Path}: the protocol of torch.save is not {ProtocolVersion} (offset {at}).");
        }

        if (Next(file, ref at) is PickleDict machine && machine.TryGet("little_endian", out object? little) && little is false)
        {
            throw new InputException($"{file.Path} was written on a big-endian machine; save it again on a little-endian one.");
        }

        Dictionary<string, PickleStorage> named = new(StringComparer.Ordinal);
        object? root = Next(file, ref at, storage =>
        {
            if (!named.TryAdd(storage.Key, storage) && named[storage.Key] != storage)
            {
                throw new InputException($"{file.Path}: storage \"{FileErrors.Show(storage.Key)}\" has two types or lengths.");
            }
        });
        if (Next(file, ref at) is not List<object?> keys)
        {
            throw new InputException($"{file.Path}: the list of storages is missing (offset {at}).");
        }

        Dictionary<string, long> storages = new(StringComparer.Ordinal);
        foreach (object? key in keys)
        {
            if (key is not string name || !named.TryGetValue(name, out PickleStorage? storage))
            {
                throw new InputException($"{file.Path}: a storage is listed that nothing uses (offset {at}).");
            }

            long bytes = storage.Count * TensorType.Of(storage.Type).Bytes;
            if (file.Length - at < 8 || file.Length - at - 8 < bytes)
            {
                throw new InputException($"{file.Path} is cut short: storage \"{FileErrors.Show(name)}\" takes {bytes} bytes at offset {at} and the file has {file.Length}.");
            }

            long count = file.Values<long>(at, 1)[0];
            if (count != storage.Count || !storages.TryAdd(name, at + 8))
            {
                throw new InputException($"{file.Path}: storage \"{FileErrors.Show(name)}\" has {count} elements where {storage.Count} are named, or stands there twice (offset {at}).");
            }

            at += 8 + bytes;
        }

        if (storages.Count != named.Count)
        {
            throw new InputException($"{file.Path}: {named.Count - storages.Count} storages that tensors name have no values.");
        }

        return new TorchContent(root, storages);
    }

    private static object? Next(MappedFile file, ref long at, Action<PickleStorage>? storageSeen = null)
    {
        int most = (int)Math.Min(file.Length - at, int.MaxValue);
        object? value = Pickle.Read(file.Bytes(at, most), file.Path, at, out int length, storageSeen);
        at += length;
        return value;
    }
}
