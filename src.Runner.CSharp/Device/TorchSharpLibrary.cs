using System.Diagnostics;
using System.Runtime.InteropServices;
using TorchSharp;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// Loading TorchSharp's native part where no build has mended it: from the package cache, as a script has it that references
/// packages. It asks for a newer libstdc++ than some systems have without using anything of it; a copy that asks no more is kept
/// for the user, and the package is left as it is.
/// </summary>
internal static class TorchSharpLibrary
{
    private const string Name = "LibTorchSharp", Version = "GLIBCXX_3.4.32";

    /// <summary>Loads it; a libtorch must be loaded already. Errors: DllNotFoundException, BadImageFormatException with the loader's reason.</summary>
    public static void Load()
    {
        try
        {
            NativeLibrary.Load(Name, typeof(torch).Assembly, null);
        }
        catch (DllNotFoundException) when (OperatingSystem.IsLinux() && Mended() is { } copy)
        {
            // Under this name the loader finds what is loaded, so TorchSharp does too.
            NativeLibrary.Load(copy);
        }
    }

    /// <summary>The folder of the libtorch that the loader finds by itself, among a script's packages for instance, now loaded; null where it finds none.</summary>
    public static string? LoadTorch()
    {
        if (!NativeLibrary.TryLoad("torch_cpu", typeof(torch).Assembly, null, out _) || !NativeLibrary.TryLoad("torch", typeof(torch).Assembly, null, out _))
        {
            return null;
        }

        using Process process = Process.GetCurrentProcess();
        string file = TorchLibrary.FileName("torch_cpu");
        return process.Modules.Cast<ProcessModule>().Select(module => module.FileName).FirstOrDefault(path => Path.GetFileName(path) == file) is { } found
            ? Path.GetDirectoryName(found)
            : null;
    }

    /// <summary>The copy that asks for less, or null where the package's own does not ask for too much or is not to be found.</summary>
    private static string? Mended()
    {
        string assembly = typeof(torch).Assembly.Location, version = typeof(torch).Assembly.GetName().Version?.ToString() ?? "";
        if (string.IsNullOrEmpty(assembly))
        {
            return null;
        }

        string original = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(assembly)!, "..", "..", "runtimes", "linux-x64", "native", TorchLibrary.FileName(Name)));
        if (!File.Exists(original))
        {
            return null;
        }

        byte[] elf = File.ReadAllBytes(original);
        if (!SymbolVersions.Readable(elf) || !SymbolVersions.Weaken(elf, Version))
        {
            return null;
        }

        string cache = Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.DoNotVerify);
        string copy = Path.Combine(cache.Length > 0 ? cache : Path.GetTempPath(), "hybrid", $"torchsharp-{version}", TorchLibrary.FileName(Name));
        if (!File.Exists(copy) || !File.ReadAllBytes(copy).AsSpan().SequenceEqual(elf))
        {
            AtomicFile.Write(copy, stream => stream.Write(elf));
        }

        return copy;
    }
}
