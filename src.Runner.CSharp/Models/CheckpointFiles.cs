using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>The list of a checkpoint's files in its state.json, and whether they are as they were written.</summary>
internal static class CheckpointFiles
{
    /// <summary>Up to this length the bytes are looked at whenever a checkpoint is opened.</summary>
    private const long Small = 1 << 20;

    /// <summary>
    /// Checks that the files which a state lists are there in full; with <paramref name="bytes"/> every byte is compared with what was
    /// written, else those of small files. Errors: InputException that names the file; JsonException, KeyNotFoundException and
    /// InvalidOperationException where it is no such list.
    /// </summary>
    public static void Check(string directory, JsonElement files, bool bytes)
    {
        foreach (JsonProperty file in files.EnumerateObject())
        {
            FileMark wanted = FileMark.Read(file.Value);
            FileInfo there = new(Path.Combine(directory, Inside(file.Name)));
            if (!there.Exists || there.Length != wanted.Length)
            {
                string found = there.Exists ? $"has {there.Length} bytes" : "is missing";
                throw new InputException($"the checkpoint {directory} is not whole: {file.Name} {found}, {wanted.Length} bytes were written.");
            }

            if (wanted.Sha256 is not null && (bytes || there.Length <= Small) && Files.Sha256(there.FullName) != wanted.Sha256)
            {
                throw new InputException($"the checkpoint {directory} is not whole: {file.Name} was altered after it was written (its SHA-256 is another one).");
            }
        }
    }

    /// <summary>The list for a state.json: the marks that are given, and those of files of the folder that are not among them.</summary>
    public static JsonObject List(string folder, IReadOnlyDictionary<string, FileMark> marks)
    {
        SortedDictionary<string, FileMark> all = new(StringComparer.Ordinal);
        foreach (var (name, mark) in marks)
        {
            all[name] = mark;
        }

        foreach (string path in Directory.EnumerateFiles(folder))
        {
            string name = Path.GetFileName(path);
            if (!all.ContainsKey(name))
            {
                all[name] = FileMark.Of(path);
            }
        }

        JsonObject files = [];
        foreach (var (name, mark) in all)
        {
            files[name] = mark.ToJson();
        }

        return files;
    }

    /// <summary>A name from the list, which stands for a file in the folder or in a folder of it.</summary>
    private static string Inside(string name)
    {
        bool fits = name.Split('/') is { Length: 1 or 2 } parts && parts.All(part => part.Trim('.', ' ').Length > 0 && part.IndexOfAny(['\\', ':', '\0']) < 0);
        return fits ? name : throw new FormatException($"\"{FileErrors.Show(name)}\" is not the name of a file in this folder.");
    }
}
