using System.Globalization;
using System.Runtime.InteropServices;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// Which libtorch this process computes with: the build's own, or the one in the folder that HYBRID_LIBTORCH names (a Python
/// wheel's torch/lib or the lib folder of a libtorch zip), loaded where it lies because its libraries find each other there.
/// </summary>
public static partial class TorchLibrary
{
    /// <summary>The environment variable that names the folder of a libtorch.</summary>
    public const string FolderVariable = "HYBRID_LIBTORCH";

    /// <summary>The environment variable that says how many threads compute.</summary>
    public const string ThreadsVariable = "HYBRID_THREADS";

    /// <summary>The environment variable that chooses the device: cpu or cuda.</summary>
    public const string DeviceVariable = "HYBRID_DEVICE";

    private static readonly Lock gate = new();
    private static bool loaded;

    // No value of torch may be made here: this class is what decides which libtorch makes it.
    private static torch.Device? device;
    private static Api.Team? team;

    /// <summary>The folder that libtorch was loaded from, once it is.</summary>
    public static string? Folder { get; private set; }

    /// <summary>The device that models live on: a GPU where libtorch reaches one, unless HYBRID_DEVICE says cpu.</summary>
    public static torch.Device Device => device ?? throw new InvalidOperationException("libtorch is not loaded yet.");

    /// <summary>
    /// The threads that share the sequences of a step, of which so many may be in memory together; where these are fewer than the
    /// threads, the caller's alone, and torch splits each operation.
    /// </summary>
    public static Api.Team TeamFor(int sequences)
    {
        Api.Team all = team ?? throw new InvalidOperationException("libtorch is not loaded yet.");
        return sequences >= all.Size ? all : Api.Team.Alone;
    }

    /// <summary>How a run uses memory and threads.</summary>
    public static Api.Training TrainingOf(Api.TrainPlan plan)
    {
        Api.Training training = plan.Training;
        training.Team = TeamFor(plan.Config.MicroBatch);
        return training;
    }

    /// <summary>How one process of a run uses memory and threads, and shares the run with the others.</summary>
    internal static Api.Training TrainingOf(Api.TrainPlan plan, Distribution.ProcessGroup group)
    {
        Api.Training training = TrainingOf(plan);
        training.Sharing.Exchange = group.Exchange;
        training.Sharing.Zero = plan.Config.Distribution.Zero;
        training.Sharing.Overlap = plan.Config.Distribution.Overlap;
        training.Sharing.Bucket = ((long)plan.Config.Distribution.BucketMiB << 20) / sizeof(float);
        return training;
    }

    /// <summary>The folder of the libtorch that belongs to this build, or null.</summary>
    internal static string? BuiltIn
    {
        get
        {
            string searched = AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string ?? "";
            return searched.Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries).Prepend(AppContext.BaseDirectory)
                .FirstOrDefault(folder => File.Exists(Path.Combine(folder, FileName("torch_cpu"))));
        }
    }

    /// <summary>
    /// Loads libtorch, before anything touches it. Errors: InputException where there is none, or HYBRID_LIBTORCH,
    /// HYBRID_THREADS or HYBRID_DEVICE will not do.
    /// </summary>
    public static void Load()
    {
        lock (gate)
        {
            if (loaded)
            {
                return;
            }

            string? given = Environment.GetEnvironmentVariable(FolderVariable);
            bool wanted = Environment.GetEnvironmentVariable(DeviceVariable) != "cpu";
            if (string.IsNullOrEmpty(given))
            {
                Folder = BuiltIn ?? TorchSharpLibrary.LoadTorch() ?? throw new InputException(
                    $"there is no libtorch: this build has none of its own (-p:Torch=external). Set {FolderVariable} to a folder that holds {FileName("torch")}, such as torch/lib of a Python wheel or lib of a libtorch zip.");
                LoadTorchSharp(Folder);
            }
            else
            {
                Folder = Path.GetFullPath(given);
                LoadFrom(Folder);
            }

            torch.set_num_threads(Threads());
            device = Choose(wanted && MadeForCuda && StartCuda());
            team = WorkerTeam.Of(device);
            loaded = true;
        }
    }

    /// <summary>Whether the libtorch that was loaded can compute on a GPU, if there is one.</summary>
    internal static bool MadeForCuda => File.Exists(Path.Combine(Folder ?? "", FileName("torch_cuda")));

    /// <summary>The version of the libtorch that was loaded, such as 2.10; null where it is too old to say.</summary>
    internal static string? Version
    {
        get
        {
            try
            {
                ulong version = AbiVersion();
                return $"{version >> 56}.{(version >> 48) & 0xFF}";
            }
            catch (Exception error) when (error is EntryPointNotFoundException or DllNotFoundException)
            {
                return null;
            }
        }
    }

    [LibraryImport("torch_cpu", EntryPoint = "aoti_torch_abi_version")]
    private static partial ulong AbiVersion();

    /// <summary>A library's file name on this system.</summary>
    internal static string FileName(string library) =>
        OperatingSystem.IsWindows() ? library + ".dll" : OperatingSystem.IsMacOS() ? $"lib{library}.dylib" : $"lib{library}.so";

    private static void LoadFrom(string folder)
    {
        if (!Directory.Exists(folder))
        {
            throw new InputException($"{FolderVariable} names {folder}, which is not a folder.");
        }

        string library = Path.Combine(folder, FileName("torch"));
        if (!File.Exists(library))
        {
            throw new InputException(
                $"{FolderVariable} names {folder}, which holds no {FileName("torch")}; it must be torch/lib of a Python wheel or lib of a libtorch zip.");
        }

        if (BuiltIn is { } own && Path.GetFullPath(own).TrimEnd(Path.DirectorySeparatorChar) != folder.TrimEnd(Path.DirectorySeparatorChar))
        {
            throw new InputException(
                $"{FolderVariable} names {folder}, but this build has a libtorch of its own in {own}, and two do not go into one process. Build with -p:Torch=external, or unset {FolderVariable}.");
        }

        try
        {
            NativeLibrary.Load(library);
        }
        catch (Exception error) when (error is DllNotFoundException or BadImageFormatException)
        {
            throw new InputException($"{library} cannot be loaded: {error.Message}", error);
        }

        LoadTorchSharp(folder);
    }

    // TorchSharp would load its own part by itself, but not say why where it does not go with this libtorch.
    private static void LoadTorchSharp(string folder)
    {
        try
        {
            TorchSharpLibrary.Load();
        }
        catch (Exception error) when (error is DllNotFoundException or BadImageFormatException)
        {
            throw new InputException(
                $"the libtorch in {folder} ({(Version is { } version ? $"version {version}" : "its version is not known")}) does not go with this build, which wants 2.10: {Reason(error.Message)}", error);
        }
    }

    /// <summary>What the loader said of the library that it found; it says of every other place that it is not there.</summary>
    private static string Reason(string message) =>
        message.Split('\n').Select(line => line.Trim()).FirstOrDefault(line => line.Contains("undefined symbol", StringComparison.Ordinal) || line.Contains("version `", StringComparison.Ordinal))
        ?? message;

    private static bool StartCuda()
    {
        try
        {
            torch.InitializeDeviceType(DeviceType.CUDA);
            if (!torch.cuda.is_available())
            {
                return false;
            }

            // fp32 is fp32, whatever torch or its environment would rather take; bf16 is there for speed.
            torch.backends.cuda.matmul.allow_tf32 = false;
            torch.backends.cudnn.allow_tf32 = false;
            return true;
        }
        catch (Exception error) when (error is not OutOfMemoryException)
        {
            Terminal.Warn($"this libtorch is made for CUDA, but no GPU can be used ({error.Message.TrimStart().Split('\n', 2)[0].TrimEnd()}); computing on the CPU");
            return false;
        }
    }

    private static int Threads()
    {
        string? given = Environment.GetEnvironmentVariable(ThreadsVariable);
        if (string.IsNullOrEmpty(given))
        {
            // Processes of one machine share its cores.
            return Math.Max(1, Environment.ProcessorCount / Math.Max(1, Distribution.RankVariables.Read()?.LocalSize ?? 1));
        }

        return int.TryParse(given, NumberStyles.None, CultureInfo.InvariantCulture, out int threads) && threads is > 0 and <= 4096
            ? threads
            : throw new InputException($"{ThreadsVariable} is '{given}'; it must be a number of threads from 1 to 4096.");
    }

    private static torch.Device Choose(bool cuda)
    {
        string? given = Environment.GetEnvironmentVariable(DeviceVariable);
        return given switch
        {
            null or "" => cuda ? torch.CUDA : torch.CPU,
            "cpu" => torch.CPU,
            "cuda" when cuda => torch.CUDA,
            "cuda" => throw new InputException($"{DeviceVariable} is cuda, but the libtorch in {Folder} reaches no GPU; hybrid doctor says why."),
            _ => throw new InputException($"{DeviceVariable} is '{given}'; it must be cpu or cuda."),
        };
    }
}
