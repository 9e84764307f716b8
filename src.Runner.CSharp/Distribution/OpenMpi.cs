using System.Runtime.InteropServices;
using System.Text;

namespace Hybrid.Runner.Distribution;

/// <summary>
/// The functions of Open MPI's library that are used, by the C interface of its versions 4 and 5, whose handles are addresses of the
/// library's own objects. Other MPIs have other handles.
/// </summary>
internal sealed unsafe class OpenMpi
{
    /// <summary>Names the library where it is not found by itself.</summary>
    public const string LibraryVariable = "HYBRID_MPI";

    /// <summary>How to come to it.</summary>
    public const string Mend = "install Open MPI (Debian and Ubuntu: apt-get install openmpi-bin), or name its libmpi by " + LibraryVariable;

    private const int Serialized = 2, Multiple = 3, LongestText = 8192;
    private static readonly string[] names = OperatingSystem.IsMacOS() ? ["libmpi.40.dylib", "libmpi.dylib"] : ["libmpi.so.40", "libmpi.so"];

    private readonly nint library, world;
    private readonly delegate* unmanaged<int, byte*, int*, int> errorString;

    private OpenMpi(nint library, string path)
    {
        this.library = library;
        Path = path;
        world = Object("ompi_mpi_comm_world");
        Int16 = Object("ompi_mpi_int16_t");
        Int32 = Object("ompi_mpi_int32_t");
        Int64 = Object("ompi_mpi_int64_t");
        errorString = (delegate* unmanaged<int, byte*, int*, int>)Function("MPI_Error_string");
        Alltoallv = (delegate* unmanaged<nint, int*, int*, nint, nint, int*, int*, nint, nint, int>)Function("MPI_Alltoallv");
        Allgatherv = (delegate* unmanaged<nint, int, nint, nint, int*, int*, nint, nint, int>)Function("MPI_Allgatherv");
        Bcast = (delegate* unmanaged<nint, int, nint, int, nint, int>)Function("MPI_Bcast");
        Barrier = (delegate* unmanaged<nint, int>)Function("MPI_Barrier");
    }

    /// <summary>The library's name or path.</summary>
    public string Path { get; }

    public nint World => world;

    public nint Int16 { get; }

    public nint Int32 { get; }

    public nint Int64 { get; }

    public delegate* unmanaged<nint, int*, int*, nint, nint, int*, int*, nint, nint, int> Alltoallv { get; }

    public delegate* unmanaged<nint, int, nint, nint, int*, int*, nint, nint, int> Allgatherv { get; }

    public delegate* unmanaged<nint, int, nint, int, nint, int> Bcast { get; }

    public delegate* unmanaged<nint, int> Barrier { get; }

    /// <summary>The version that the library tells, its first line.</summary>
    public string Version
    {
        get
        {
            byte* text = stackalloc byte[LongestText];
            int length = 0;
            _ = ((delegate* unmanaged<byte*, int*, int>)Function("MPI_Get_library_version"))(text, &length);
            string version = Encoding.UTF8.GetString(text, Math.Clamp(length, 0, LongestText - 1)).TrimEnd('\0');
            return version.Split(['\n', ','], 2)[0].Trim();
        }
    }

    /// <summary>Loads the library. Errors: InputException where there is none, or it is another MPI.</summary>
    public static OpenMpi Load()
    {
        string? given = Environment.GetEnvironmentVariable(LibraryVariable);
        foreach (string name in string.IsNullOrEmpty(given) ? names : [given])
        {
            if (NativeLibrary.TryLoad(name, out nint library))
            {
                return NativeLibrary.TryGetExport(library, "ompi_mpi_comm_world", out _)
                    ? new(library, name)
                    : throw new InputException($"{name} is an MPI, but not Open MPI; {Mend}.");
            }
        }

        throw new InputException($"Open MPI is not on this machine: {(string.IsNullOrEmpty(given) ? string.Join(" and ", names) + " are" : given + " is")} not found or cannot be loaded; {Mend}.");
    }

    /// <summary>Begins; from then on calls that fail return. Errors: InputException.</summary>
    public (int Rank, int Size) Initialise()
    {
        // Ranks that wait would else keep cores from those that compute.
        NativeEnvironment.SetUnlessGiven("OMPI_MCA_mpi_yield_when_idle", "1");
        int provided = 0;
        Check(((delegate* unmanaged<int*, byte***, int, int*, int>)Function("MPI_Init_thread"))(null, null, Multiple, &provided), "MPI_Init_thread");
        if (provided < Serialized)
        {
            throw new InputException($"{Path} was built without support for threads; {Mend}.");
        }

        Check(((delegate* unmanaged<nint, nint, int>)Function("MPI_Comm_set_errhandler"))(world, Object("ompi_mpi_errors_return")), "MPI_Comm_set_errhandler");
        int rank = 0, size = 1;
        Check(((delegate* unmanaged<nint, int*, int>)Function("MPI_Comm_rank"))(world, &rank), "MPI_Comm_rank");
        Check(((delegate* unmanaged<nint, int*, int>)Function("MPI_Comm_size"))(world, &size), "MPI_Comm_size");
        return (rank, size);
    }

    /// <summary>Ends; nothing may be called after it.</summary>
    public void Finish() => _ = ((delegate* unmanaged<int>)Function("MPI_Finalize"))();

    /// <summary>Errors: InputException where a call failed.</summary>
    public void Check(int code, string call)
    {
        if (code == 0)
        {
            return;
        }

        byte* text = stackalloc byte[LongestText];
        int length = 0;
        string reason = errorString(code, text, &length) == 0 ? Encoding.UTF8.GetString(text, Math.Clamp(length, 0, LongestText - 1)) : $"code {code}";
        throw new InputException($"Open MPI: {call} failed: {reason.Trim()}");
    }

    private nint Function(string name) => NativeLibrary.GetExport(library, name);

    private nint Object(string name) => NativeLibrary.GetExport(library, name);
}

/// <summary>Variables as native libraries see them: those that .NET sets are its own.</summary>
internal static partial class NativeEnvironment
{
    /// <summary>Sets a variable that is not set.</summary>
    public static void SetUnlessGiven(string name, string value)
    {
        if (!OperatingSystem.IsWindows())
        {
            _ = SetVariable(name, value, 0);
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetVariable(string name, string value, int overwrite);
}
