using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>One of the two sets that are compared: features, and where they come from.</summary>
internal sealed class FeatureSet : IDisposable
{
    /// <summary>Pictures left out that are named on stderr.</summary>
    private const int Named = 20;

    private FeatureSet(torch.Tensor features, JsonObject origin) => (Features, Origin) = (features, origin);

    /// <summary>Features [N, D].</summary>
    public torch.Tensor Features { get; }

    /// <summary>What the protocol says of the set.</summary>
    public JsonObject Origin { get; }

    /// <summary>How many pictures were left out.</summary>
    public int LeftOut { get; private init; }

    /// <summary>Whether a path names ready features.</summary>
    public static bool IsFeatures(string path) => path.EndsWith(".npy", StringComparison.OrdinalIgnoreCase) && !Directory.Exists(path);

    /// <summary>Reads ready features, with what stands beside them about their origin. Errors: InputException.</summary>
    /// <param name="role">real or generated, for messages.</param>
    public static FeatureSet Read(string role, string path, int? limit)
    {
        torch.Tensor features;
        using (NpyFile file = NpyFile.Open(path))
        {
            features = file.Load();
        }

        try
        {
            string name = $"the {role} set {path}";
            if (features.dim() == 2 && limit is { } most && features.shape[0] > most)
            {
                torch.Tensor all = features;
                features = all.narrow(0, 0, most).clone();
                all.Dispose();
            }

            Hybrid.Features.require(name, features);
            JsonObject origin = new() { ["path"] = path, ["kind"] = "features", ["n"] = features.shape[0], ["sha256"] = Files.Sha256(path) };
            if (Beside(path) is { } kept)
            {
                origin["from"] = kept;
            }

            return new(features, origin);
        }
        catch
        {
            features.Dispose();
            throw;
        }
    }

    /// <summary>Makes features of pictures. Errors: InputException where there are none, or with strict where one cannot be read.</summary>
    public static FeatureSet Extract(string role, string path, FidCommand command, FeatureExtractor extractor, Progress progress, CancellationToken stop)
    {
        ExtractorInput input = ExtractorInput.Of(command);
        List<torch.Tensor> parts = [];
        List<string> hashes = [];
        DropCounts drops = new();
        int leftOut = 0;
        try
        {
            using (Stage stage = progress.Stage($"{role} pictures", 0))
            {
                // The next pictures are decoded while the extractor is at work.
                using IEnumerator<Prepared[]> batches = Batches(path, input, command, drops, stop).GetEnumerator();
                Task<Prepared[]?> next = Task.Run(Next, stop);
                while (next.GetAwaiter().GetResult() is { } batch)
                {
                    next = Task.Run(Next, stop);
                    try
                    {
                        foreach (Prepared bad in batch.Where(picture => picture.Fault is not null))
                        {
                            Refuse(bad, command.Strict, ++leftOut);
                        }

                        Prepared[] good = [.. batch.Where(picture => picture.Fault is null)];
                        hashes.AddRange(good.Select(picture => $"{picture.Hash}  {picture.Name}"));
                        foreach (IGrouping<(int, int), Prepared> size in good.GroupBy(picture => (picture.Width, picture.Height)))
                        {
                            stop.ThrowIfCancellationRequested();
                            parts.Add(Through(extractor, [.. size]));
                        }
                    }
                    catch
                    {
                        // The reader must be still before it is disposed; how it ends no longer matters.
                        ((IAsyncResult)next).AsyncWaitHandle.WaitOne();
                        throw;
                    }

                    stage.Report(hashes.Count);
                }

                Prepared[]? Next() => batches.MoveNext() ? batches.Current : null;
            }

            leftOut = checked((int)drops.Total);
            if (hashes.Count == 0)
            {
                throw new InputException(leftOut == 0 ? $"{path} holds no pictures." : $"none of {leftOut} pictures of {path} could be read.");
            }

            if (command.Strict && leftOut > 0)
            {
                throw new InputException($"{path}: {drops.Examples.Values.First()} (--strict)");
            }

            if (leftOut > 0)
            {
                Terminal.Warn($"{path}: {leftOut} of {hashes.Count + leftOut} pictures were left out");
            }

            torch.Tensor features = torch.cat(parts, 0);
            try
            {
                Hybrid.Features.require($"what {extractor.Path} makes of {path}", features);
            }
            catch
            {
                features.Dispose();
                throw;
            }

            hashes.Sort(StringComparer.Ordinal);
            return new(features, new JsonObject
            {
                ["path"] = path,
                ["kind"] = "pictures",
                ["n"] = features.shape[0],
                ["left_out"] = leftOut,
                ["sha256"] = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\n', hashes)))),
            })
            {
                LeftOut = leftOut,
            };
        }
        finally
        {
            parts.ForEach(part => part.Dispose());
        }
    }

    /// <summary>Keeps the features with their origin: name.npy and name.json in a folder.</summary>
    public void Save(string folder, string name, JsonObject extraction)
    {
        Directory.CreateDirectory(folder);
        NpyFile.Write(Path.Combine(folder, name + ".npy"), Features);
        JsonObject said = new() { ["set"] = Origin.DeepClone(), ["extraction"] = extraction.DeepClone(), ["width"] = Features.shape[1] };
        AtomicFile.WriteText(Path.Combine(folder, name + ".json"), said.ToJsonString(new(Json.Options) { WriteIndented = true }) + "\n");
    }

    public void Dispose() => Features.Dispose();

    private static void Refuse(Prepared bad, bool strict, int count)
    {
        if (strict)
        {
            throw bad.Fault!;
        }

        if (count <= Named)
        {
            Terminal.Warn($"left out: {bad.Fault!.Message}");
        }
    }

    private static torch.Tensor Through(FeatureExtractor extractor, Prepared[] pictures)
    {
        (int width, int height) = (pictures[0].Width, pictures[0].Height);
        float[] planes = new float[pictures.Length * 3 * width * height];
        for (int i = 0; i < pictures.Length; i++)
        {
            pictures[i].Planes!.CopyTo(planes, i * 3 * width * height);
        }

        using torch.Tensor batch = torch.tensor(planes, [pictures.Length, 3, height, width]);
        return extractor.Extract(batch);
    }

    private static IEnumerable<Prepared[]> Batches(string path, ExtractorInput input, FidCommand command, DropCounts drops, CancellationToken stop)
    {
        ParallelOptions together = new() { MaxDegreeOfParallelism = command.Workers ?? Environment.ProcessorCount, CancellationToken = stop };
        IEnumerable<(string Name, byte[] Bytes)> all = Sources(path).SelectMany(source => source.Read(drops).Select(picture => (picture.Name, picture.Bytes)));
        if (command.Limit is { } limit)
        {
            all = all.Take(limit);
        }

        foreach ((string Name, byte[] Bytes)[] some in all.Chunk(command.Batch))
        {
            Prepared[] done = new Prepared[some.Length];
            Parallel.For(0, some.Length, together, i =>
            {
                try
                {
                    (float[] planes, int width, int height) = input.Prepare(Pictures.Decode(some[i].Bytes, some[i].Name));
                    input.ScaleInPlace(planes);
                    done[i] = new(Relative(path, some[i].Name), Convert.ToHexStringLower(SHA256.HashData(some[i].Bytes)), planes, width, height, null);
                }
                catch (InputException fault)
                {
                    drops.Add(DropReason.BadPicture, fault.Message);
                    done[i] = new(some[i].Name, "", null, 0, 0, fault);
                }
            });
            yield return done;
        }
    }

    private static string Relative(string root, string name) => Path.IsPathRooted(name) || name.StartsWith(root, StringComparison.Ordinal)
        ? Path.GetRelativePath(root, name).Replace('\\', '/')
        : name;

    /// <summary>The pictures of a path; of a directory that `generate` made, those that it lists, not its contact sheet.</summary>
    private static IReadOnlyList<PictureSource> Sources(string path)
    {
        string list = Path.Combine(path, GeneratedPictures.ListName);
        return !Directory.Exists(path) || !File.Exists(list)
            ? PictureSource.Open(path)
            : [PictureSource.OfPictures(path, GeneratedPictures.Files(path))];
    }

    /// <summary>What was kept beside a file of features about how they were made, or null.</summary>
    private static JsonObject? Beside(string path)
    {
        string said = Path.ChangeExtension(path, ".json");
        if (!File.Exists(said))
        {
            return null;
        }

        try
        {
            return JsonNode.Parse(Files.Text(said, "the description of features")) is JsonObject { } found && found["extraction"] is JsonObject ? found : null;
        }
        catch (JsonException)
        {
            // Some other file that happens to have the name.
            return null;
        }
    }

    private readonly record struct Prepared(string Name, string Hash, float[]? Planes, int Width, int Height, InputException? Fault);
}
