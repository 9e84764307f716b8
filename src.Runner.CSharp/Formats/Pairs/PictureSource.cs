namespace Hybrid.Runner.Formats;

/// <summary>One source of pictures, with captions or without: a tar, a folder, a table that names files, or one file.</summary>
internal sealed class PictureSource
{
    private readonly Func<DropCounts, IEnumerable<(string Name, byte[] Bytes)>> read;

    private PictureSource(string path, Func<DropCounts, IEnumerable<(string Name, byte[] Bytes)>> read)
    {
        Path = path;
        this.read = read;
    }

    /// <summary>The tar, folder, table or file.</summary>
    public string Path { get; }

    /// <summary>
    /// The sources that a path stands for: a picture; a tar of pictures among other files; a table that names pictures; a folder: its tars, and the pictures in it and in the folders below. Anything else is read as pairs are, and their
    /// captions are left aside. In ordinal order. Errors: <see cref="InputException"/> when it is none of these.
    /// </summary>
    public static IReadOnlyList<PictureSource> Open(string path)
    {
        if (Directory.Exists(path))
        {
            return OfFolder(path);
        }

        if (!File.Exists(path))
        {
            throw new InputException($"{path} does not exist.");
        }

        return IsPicture(path) ? [new(path, drops => OfFiles([path], drops))]
            : TarMembers.IsTar(path) ? [OfTar(path)]
            : [.. PairSource.Open(path).Select(pairs => new PictureSource(pairs.Path, drops => OfPairs(pairs, drops)))];
    }

    /// <summary>The pictures of some files of a folder.</summary>
    public static PictureSource OfPictures(string folder, IReadOnlyList<string> files) => new(folder, drops => OfFiles(files, drops));

    /// <summary>The pictures, still encoded, in the source's order. What cannot be read is counted and left out.</summary>
    public IEnumerable<(string Name, byte[] Bytes)> Read(DropCounts drops) => read(drops);

    private static bool IsPicture(string path) => SampleGroups.IsPicture(WebDataset.Split(System.IO.Path.GetFileName(path)).Extension)
        || SampleGroups.IsPicture(System.IO.Path.GetExtension(path).TrimStart('.').ToLowerInvariant());

    private static PictureSource OfTar(string path) => new(path, drops => OfMembers(path, drops));

    private static IEnumerable<(string Name, byte[] Bytes)> OfMembers(string path, DropCounts drops)
    {
        foreach (TarMember member in TarMembers.Read(
            path, name => IsPicture(name) ? EncodedPicture.MostBytes : -1, reason => drops.Add(DropReason.TruncatedTar, $"{path}: {reason}")))
        {
            if (member.Kind == TarKind.File)
            {
                yield return (member.Name, member.Bytes);
            }
            else if (IsPicture(member.Name))
            {
                drops.Add(member.Kind == TarKind.Link ? DropReason.UnsafePath : DropReason.TooLarge, $"{path}: {FileErrors.Show(member.Name)}");
            }
        }
    }

    private static IEnumerable<(string Name, byte[] Bytes)> OfPairs(PairSource source, DropCounts drops)
    {
        foreach (PairEvent next in source.Read(new PairReading { Uncaptioned = true }))
        {
            if (next.Pair is not { } pair)
            {
                drops.Add(next.Drop!.Reason, $"{source.Path}: {FileErrors.Show(next.Drop.Key)}");
                continue;
            }

            byte[] bytes;
            try
            {
                bytes = pair.Image.Read();
            }
            catch (DropException drop)
            {
                drops.Add(drop.Reason, drop.Message);
                continue;
            }

            yield return (pair.Key, bytes);
        }
    }

    private static List<PictureSource> OfFolder(string folder)
    {
        try
        {
            EnumerationOptions below = new() { RecurseSubdirectories = true, AttributesToSkip = FileAttributes.System, IgnoreInaccessible = true };
            string[] files = [.. Directory.EnumerateFiles(folder, "*", below).Order(StringComparer.Ordinal)];
            string[] pictures = [.. files.Where(IsPicture)];
            List<PictureSource> sources = [.. files.Where(TarMembers.IsTar).Select(OfTar)];
            if (pictures.Length > 0)
            {
                sources.Add(new(folder, drops => OfFiles(pictures, drops)));
            }

            return sources.Count > 0 ? sources : throw new InputException($"{folder} holds no picture (.jpg, .png, .webp) and no tar, nor do the folders below it.");
        }
        catch (Exception e) when (FileErrors.Explain(e, folder) is { } refusal)
        {
            throw refusal;
        }
    }

    private static IEnumerable<(string Name, byte[] Bytes)> OfFiles(IEnumerable<string> files, DropCounts drops)
    {
        foreach (string file in files)
        {
            byte[] bytes;
            try
            {
                bytes = File.ReadAllBytes(file);
            }
            catch (Exception e) when (FileErrors.Explain(e, file) is { } refusal)
            {
                drops.Add(DropReason.MissingPicture, refusal.Message);
                continue;
            }

            yield return (file, bytes);
        }
    }
}
