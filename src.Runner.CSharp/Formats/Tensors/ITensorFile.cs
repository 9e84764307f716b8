using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>What a file says of one of its tensors.</summary>
/// <param name="Name">The tensor's name.</param>
/// <param name="Type">The element type that <see cref="ITensorFile.Load"/> gives.</param>
/// <param name="Shape">The lengths of its axes.</param>
public sealed record TensorEntry(string Name, torch.ScalarType Type, long[] Shape)
{
    /// <summary>The number of elements.</summary>
    public long Count => Shape.Aggregate(1L, (product, length) => product * length);
}

/// <summary>A file of named tensors, opened and checked; tensors are read when asked for.</summary>
public interface ITensorFile : IDisposable
{
    /// <summary>The path the file was opened by.</summary>
    string Path { get; }

    /// <summary>The tensors by name, in the file's own order.</summary>
    IReadOnlyDictionary<string, TensorEntry> Entries { get; }

    /// <summary>Other named values of the file, as text.</summary>
    IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>
    /// A contiguous CPU tensor that the caller owns, with the values of a tensor of the file.
    /// Errors: <see cref="InputException"/> when the file has no tensor of that name.
    /// </summary>
    torch.Tensor Load(string name);

    /// <summary>
    /// Copies elements of a tensor, from number <paramref name="first"/> on in row-major order, into a contiguous CPU tensor of the
    /// entry's type, which decides how many. No other memory of that size is taken. Errors: <see cref="InputException"/>;
    /// ArgumentException when the target does not fit.
    /// </summary>
    void Read(string name, long first, torch.Tensor target);
}

/// <summary>Names and values in the order in which they were added.</summary>
internal sealed class OrderedEntries<T> : IReadOnlyDictionary<string, T>
{
    private readonly OrderedDictionary<string, T> items = new(StringComparer.Ordinal);

    public int Count => items.Count;

    public IEnumerable<string> Keys => items.Keys;

    public IEnumerable<T> Values => items.Values;

    public T this[string key] => items[key];

    public bool TryAdd(string key, T value) => items.TryAdd(key, value);

    public bool ContainsKey(string key) => items.ContainsKey(key);

    public bool TryGetValue(string key, [System.Diagnostics.CodeAnalysis.MaybeNullWhen(false)] out T value) => items.TryGetValue(key, out value);

    public IEnumerator<KeyValuePair<string, T>> GetEnumerator() => items.GetEnumerator();

    System.Collections.IEnumerator System.Collections.IEnumerable.GetEnumerator() => GetEnumerator();
}
