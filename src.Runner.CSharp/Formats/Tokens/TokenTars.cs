namespace Hybrid.Runner.Formats;

/// <summary>open_lm's tars of ready sequences: members txt, json or json.gz that are lists of ids.</summary>
internal static class TokenTars
{
    private const int Looked = 3;

    /// <summary>Whether a tar holds lists of ids and no pictures, by its first members.</summary>
    public static bool Is(string path)
    {
        int looked = 0;
        foreach (TarMember member in TarMembers.Read(path, name => SampleGroups.Most(name), _ => { }))
        {
            string extension = WebDataset.Split(member.Name).Extension;
            if (SampleGroups.IsPicture(extension))
            {
                return false;
            }

            if (member.Kind == TarKind.File && TarSequences.Extensions.Contains(extension) && StartsList(member.Bytes, extension))
            {
                return true;
            }

            if (++looked == Looked)
            {
                return false;
            }
        }

        return false;
    }

    private static bool StartsList(byte[] bytes, string extension)
    {
        try
        {
            byte[] text = extension.EndsWith("gz", StringComparison.Ordinal) ? Unpacking.Inflate(bytes, SampleGroups.MostRecord) : bytes;
            ReadOnlySpan<byte> start = text.AsSpan().TrimStart(" \t\r\n"u8);
            return start.Length > 1 && start[0] == '[' && start[1..].TrimStart(" \t\r\n"u8) is [(>= (byte)'0' and <= (byte)'9') or (byte)'-' or (byte)'"' or (byte)'\'', ..];
        }
        catch (DropException)
        {
            return false;
        }
    }
}
