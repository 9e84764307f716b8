using System.Globalization;
using System.Text.RegularExpressions;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// The optimizer's moments as each process of a run writes its own: optimizer-NNNNN-of-NNNNN.safetensors with `first` and `second`, flat,
/// and `places`, [pieces, 2]: where each piece of them begins among the moments of all processes, and its length. Any number of processes
/// can read them, and one can read what many wrote; optimizer.safetensors holds them all as one piece.
/// </summary>
internal static partial class MomentShards
{
    private const string Places = "places";
    private static readonly string[] sliced = ["first", "second"];

    /// <summary>The file of a process.</summary>
    public static string Name(int rank, int size) => string.Create(CultureInfo.InvariantCulture, $"optimizer-{rank + 1:00000}-of-{size:00000}.safetensors");

    /// <summary>What a process writes.</summary>
    public static IEnumerable<KeyValuePair<string, torch.Tensor>> Of(Trainer trainer)
    {
        long[] places = [.. trainer.StatePlaces.SelectMany(piece => new[] { piece.Item1, piece.Item2 })];
        torch.Tensor table = torch.tensor(places, dtype: torch.int64).reshape(-1, 2);
        return trainer.State.Append(new(Places, table));
    }

    /// <summary>The files of this kind in a checkpoint. Errors: InputException where some of them are missing.</summary>
    public static string[] In(string directory)
    {
        string[] found = [.. Directory.EnumerateFiles(directory).Where(path => Pattern().IsMatch(Path.GetFileName(path))).Order(StringComparer.Ordinal)];
        if (found.Length == 0)
        {
            return found;
        }

        int size = int.Parse(Pattern().Match(Path.GetFileName(found[0])).Groups[1].Value, CultureInfo.InvariantCulture);
        string[] wanted = [.. Enumerable.Range(0, size).Select(rank => Path.Combine(directory, Name(rank, size)))];
        return wanted.SequenceEqual(found) ? found
            : throw new InputException($"{directory} has {found.Length} of the {size} files with the moments of its processes; take another checkpoint.");
    }

    /// <summary>
    /// Puts the moments of some files into a trainer, which may keep other slices. Errors: InputException naming file and tensor where
    /// they do not fit, or leave a gap.
    /// </summary>
    public static void Restore(IReadOnlyList<string> files, Trainer trainer)
    {
        using var still = torch.no_grad();
        long wanted = trainer.StatePlaces.Sum(piece => piece.Item2);
        Dictionary<string, long> filled = sliced.ToDictionary(name => name, _ => 0L);
        foreach (string path in files)
        {
            using var scope = torch.NewDisposeScope();
            using ITensorFile file = SafeTensorsFile.Open(path);
            long[] places = file.Entries.ContainsKey(Places) ? [.. Read(file, path, Places, null).reshape(-1).to(torch.int64).data<long>()] : [0, trainer.StateLength];
            foreach (string name in sliced)
            {
                torch.Tensor there = Read(file, path, name, [places.Where((_, i) => i % 2 == 1).Sum()]);
                filled[name] += Fill(trainer, trainer.State[name], there, places, path);
            }

            if (path == files[0])
            {
                foreach (var (name, target) in trainer.State.Where(pair => !sliced.Contains(pair.Key)))
                {
                    target.copy_(Read(file, path, name, target.shape));
                }
            }
        }

        if (filled.FirstOrDefault(pair => pair.Value != wanted) is { Key: { } missing })
        {
            throw new InputException($"{files[0]}: the tensor {missing} covers {filled[missing]} of the {wanted} elements that are wanted; take another checkpoint.");
        }
    }

    /// <summary>Copies what both have; how many elements that are.</summary>
    private static long Fill(Trainer trainer, torch.Tensor target, torch.Tensor there, long[] places, string path)
    {
        long filled = 0, own = 0;
        foreach (var (place, length) in trainer.StatePlaces)
        {
            long at = 0;
            for (int i = 0; i < places.Length; i += 2)
            {
                if (places[i] < 0 || places[i + 1] < 0)
                {
                    throw new InputException($"{path}: the tensor {Places} has a negative number.");
                }

                long first = Math.Max(place, places[i]), last = Math.Min(place + length, places[i] + places[i + 1]);
                if (first < last)
                {
                    target.narrow(0, own + first - place, last - first).copy_(there.narrow(0, at + first - places[i], last - first));
                    filled += last - first;
                }

                at += places[i + 1];
            }

            own += length;
        }

        return filled;
    }

    private static torch.Tensor Read(ITensorFile file, string path, string name, long[]? shape)
    {
        if (!file.Entries.TryGetValue(name, out TensorEntry? entry) || (shape is not null && !entry.Shape.SequenceEqual(shape)))
        {
            string found = entry is null ? "is missing" : $"is {Shape.show(entry.Shape)}";
            throw new InputException($"{path}: the tensor {name} {found}{(shape is null ? "" : $", must be {Shape.show(shape)}")}.");
        }

        return file.Load(name);
    }

    [GeneratedRegex(@"^optimizer-\d{5}-of-(\d{5})\.safetensors$")]
    private static partial Regex Pattern();
}
