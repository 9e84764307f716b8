namespace Hybrid.Runner.Formats;

/// <summary>The naming rule of webdataset: a sample's key ends at the first dot of the file's name.</summary>
internal static class WebDataset
{
    /// <summary>A member's key and its extension in lower case.</summary>
    public static (string Key, string Extension) Split(string name)
    {
        int slash = name.LastIndexOf('/') + 1;
        int dot = name.IndexOf('.', slash);
        return dot < 0 ? (name, "") : (name[..dot], name[(dot + 1)..].ToLowerInvariant());
    }
}
