using System.Text;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// What is to be written, as it was at one moment: named files of named tensors in host memory, beside texts and copies of files. The
/// memory is kept from one snapshot to the next, so that only the first one allocates it. It may be taken on one thread and written on
/// another, one after the other. Several processes may each write a snapshot of their own into one folder, under other names.
/// </summary>
internal sealed class Snapshot : IDisposable
{
    private readonly Dictionary<string, torch.Tensor> memory = [];
    private readonly SortedDictionary<string, Action<TensorBytes>> files = new(StringComparer.Ordinal);

    /// <summary>The names of its files, relative to the folder; a folder's name stands before a slash.</summary>
    public IReadOnlyCollection<string> Names => files.Keys;

    /// <summary>Forgets the files; the memory stays for the next ones.</summary>
    public void Clear() => files.Clear();

    /// <summary>A tensor's copy in host memory that belongs to a name; it stays the snapshot's. The device is done with it on return.</summary>
    public torch.Tensor Copy(string name, torch.Tensor source)
    {
        using IDisposable still = torch.no_grad();
        if (!memory.TryGetValue(name, out torch.Tensor? copy) || copy.dtype != source.dtype || !copy.shape.SequenceEqual(source.shape))
        {
            copy?.Dispose();
            copy = TensorMemory.Empty(source.dtype, source.shape).DetachFromDisposeScope();
            memory[name] = copy;
        }

        copy.copy_(source);
        return copy;
    }

    /// <summary>Adds a safetensors file. Its tensors are made when it is written, from memory that this snapshot holds.</summary>
    public void Add(string file, IEnumerable<TensorSource> tensors)
    {
        TensorSource[] all = [.. tensors];
        files.Add(file, write => SafeTensorsWriter.WriteTo(write, all));
    }

    /// <summary>Adds a safetensors file of copies of tensors.</summary>
    public void Add(string file, IEnumerable<KeyValuePair<string, torch.Tensor>> tensors) =>
        Add(file, [.. tensors.Select(pair =>
        {
            torch.Tensor copy = Copy($"{file}/{pair.Key}", pair.Value);
            return new TensorSource(pair.Key, copy.dtype, copy.shape, copy.alias);
        })]);

    /// <summary>Adds a file of text, as UTF-8.</summary>
    public void Add(string file, string text) => files.Add(file, write => write(Encoding.UTF8.GetBytes(text)));

    /// <summary>Adds a copy of a file, which is read when it is written.</summary>
    public void AddCopy(string file, string path) => files.Add(file, write =>
    {
        using FileStream from = new(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1);
        byte[] piece = new byte[1 << 20];
        for (int read; (read = from.Read(piece)) > 0;)
        {
            write(piece.AsSpan(0, read));
        }
    });

    /// <summary>Writes the files into a folder that is there, flushed to the disk, and returns the mark of each. Errors: those of writing.</summary>
    public Dictionary<string, FileMark> WriteTo(string folder)
    {
        Dictionary<string, FileMark> marks = [];
        foreach (var (name, write) in files)
        {
            if (name.IndexOf('/') is var slash and > 0)
            {
                Directory.CreateDirectory(Path.Combine(folder, name[..slash]));
            }

            marks[name] = FileMark.Write(Path.Combine(folder, name), write);
        }

        return marks;
    }

    public void Dispose()
    {
        foreach (torch.Tensor copy in memory.Values)
        {
            copy.Dispose();
        }

        memory.Clear();
    }
}
