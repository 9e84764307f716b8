namespace Hybrid.Runner.Formats;

/// <summary>Finds the files that data names, and none outside the folder that the user named.</summary>
internal sealed class PicturePaths
{
    private readonly string root;
    private readonly Dictionary<string, bool> folders = new(StringComparer.Ordinal);

    /// <summary>Paths within a folder; the folder itself may be reached by links.</summary>
    public PicturePaths(string root) => this.root = Path.TrimEndingDirectorySeparator(Path.GetFullPath(root.Length == 0 ? "." : root));

    /// <summary>Whether a name from data stays within the place it is relative to: no drive, no root, no step upwards.</summary>
    public static bool IsSafe(string name) =>
        name.Length > 0 && name[0] is not ('/' or '\\') && !(name.Length > 1 && name[1] == ':' && char.IsAsciiLetter(name[0])) && !name.Contains('\0')
        && !name.Split('/', '\\').Contains("..");

    /// <summary>The file of a name, or null where there is none. Errors: <see cref="DropException"/> where it would lie outside.</summary>
    public string? Find(string name)
    {
        if (!IsSafe(name))
        {
            throw new DropException(DropReason.UnsafePath, "the name leads out of the folder");
        }

        try
        {
            string full = Path.GetFullPath(Path.Combine(root, name));
            if (!IsInside(full))
            {
                throw new DropException(DropReason.UnsafePath, "the name leads out of the folder");
            }

            return !File.Exists(full) ? null
                : LeadsOut(full) ? throw new DropException(DropReason.UnsafePath, "it is a link that leads out of the folder")
                : full;
        }
        catch (Exception e) when (FileErrors.Explain(e, name) is not null)
        {
            return null;
        }
    }

    /// <summary>Whether a file within the folder is, or lies behind, a link to a place outside.</summary>
    public bool LeadsOut(string full)
    {
        if (new FileInfo(full).ResolveLinkTarget(returnFinalTarget: true) is { } target && !IsInside(target.FullName))
        {
            return true;
        }

        string folder = Path.GetDirectoryName(full) ?? root;
        if (!folders.TryGetValue(folder, out bool leads))
        {
            leads = folder.Length > root.Length
                && ((new DirectoryInfo(folder).ResolveLinkTarget(returnFinalTarget: true) is { } end && !IsInside(end.FullName)) || LeadsOut(folder));
            folders[folder] = leads;
        }

        return leads;
    }

    private bool IsInside(string full) => full.Length > root.Length && full.StartsWith(root, StringComparison.Ordinal)
        && (root.EndsWith(Path.DirectorySeparatorChar) || full[root.Length] == Path.DirectorySeparatorChar);
}
