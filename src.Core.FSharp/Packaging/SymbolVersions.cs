// Read by two compilers: MSBuild's, as the task that Hybrid.Core.targets names, and the runner's, which has no MSBuild at hand.
using System;
using System.Text;

#if !HYBRID_RUNNER
/// <summary>Makes an ELF file's requirement of a symbol version weak, where it lies. A file without it, or already mended, is left as it is.</summary>
public class WeakenGlibcxxRequirement : Microsoft.Build.Utilities.Task
{
    [Microsoft.Build.Framework.Required]
    public string File { get; set; }

    [Microsoft.Build.Framework.Required]
    public string Version { get; set; }

    public override bool Execute()
    {
        byte[] elf = System.IO.File.ReadAllBytes(File);
        if (!SymbolVersions.Readable(elf))
        {
            Log.LogError("{0} is not a 64-bit little-endian ELF file.", File);
            return false;
        }

        if (SymbolVersions.Weaken(elf, Version))
        {
            // Written aside and moved: the output may be a hard link into the package cache.
            string aside = File + ".mended";
            System.IO.File.WriteAllBytes(aside, elf);
            System.IO.File.Delete(File);
            System.IO.File.Move(aside, File);
            Log.LogMessage(Microsoft.Build.Framework.MessageImportance.Normal, "{0}: the requirement of {1} is now weak.", File, Version);
        }

        return true;
    }
}
#endif

/// <summary>The symbol versions that an ELF file requires of the libraries it names (System V ABI, "Symbol Versioning").</summary>
internal static class SymbolVersions
{
    private const int VersionRequirements = 0x6ffffffe, Weak = 2;

    /// <summary>Whether bytes begin as a 64-bit little-endian ELF file does.</summary>
    public static bool Readable(byte[] elf)
    {
        return elf.Length >= 64 && elf[0] == 0x7F && elf[1] == 'E' && elf[2] == 'L' && elf[3] == 'F' && elf[4] == 2 && elf[5] == 1;
    }

    /// <summary>Sets the flag that lets the loader go on where a library lacks the version, and says whether any was not set yet.</summary>
    public static bool Weaken(byte[] elf, string version)
    {
        long sections = BitConverter.ToInt64(elf, 0x28);
        int size = BitConverter.ToUInt16(elf, 0x3A), count = BitConverter.ToUInt16(elf, 0x3C);
        long Field(int section, int offset) => BitConverter.ToInt64(elf, (int)sections + section * size + offset);
        int Word(long offset) => BitConverter.ToInt32(elf, (int)offset);
        string Name(long offset) => Encoding.ASCII.GetString(elf, (int)offset, Array.IndexOf(elf, (byte)0, (int)offset) - (int)offset);
        bool changed = false;
        for (int section = 0; section < count; section++)
        {
            if (Word(sections + section * size + 4) != VersionRequirements)
            {
                continue;
            }

            long strings = Field(Word(sections + section * size + 0x28), 0x18), need = Field(section, 0x18);
            for (bool more = true; more;)
            {
                int auxiliaries = BitConverter.ToUInt16(elf, (int)need + 2);
                long aux = need + Word(need + 8);
                for (int i = 0; i < auxiliaries; i++, aux += Word(aux + 12))
                {
                    if (Name(strings + Word(aux + 8)) == version && (elf[aux + 4] & Weak) == 0)
                    {
                        elf[aux + 4] |= Weak;
                        changed = true;
                    }
                }

                int next = Word(need + 12);
                more = next != 0;
                need += next;
            }
        }

        return changed;
    }
}
