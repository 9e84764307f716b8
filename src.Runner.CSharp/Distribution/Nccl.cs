using System.Runtime.InteropServices;
using System.Text;

namespace Hybrid.Runner.Distribution;

/// <summary>The functions of NCCL that are used, by its C interface.</summary>
internal sealed unsafe class Nccl
{
    /// <summary>Names the library where it is not found by itself.</summary>
    public const string LibraryVariable = "HYBRID_NCCL";

    /// <summary>How to come to it.</summary>
    public const string Mend = "install NCCL 2 (libnccl2), take a libtorch that brings it (a CUDA wheel's torch/lib), or name its library by " + LibraryVariable;

    /// <summary>Bytes of an id.</summary>
    public const int IdBytes = 128;

    /// <summary>Sums; what a call on elements of a type is told.</summary>
    public const int Sum = 0;

    private readonly delegate* unmanaged<int, byte*> errorString;

    private Nccl(nint library, string path)
    {
        Path = path;
        nint Function(string name) => NativeLibrary.GetExport(library, name);
        errorString = (delegate* unmanaged<int, byte*>)Function("ncclGetErrorString");
        GetUniqueId = (delegate* unmanaged<Id*, int>)Function("ncclGetUniqueId");
        CommInitRank = (delegate* unmanaged<nint*, int, Id, int, int>)Function("ncclCommInitRank");
        CommDestroy = (delegate* unmanaged<nint, int>)Function("ncclCommDestroy");
        AllReduce = (delegate* unmanaged<nint, nint, nuint, int, int, nint, nint, int>)Function("ncclAllReduce");
        ReduceScatter = (delegate* unmanaged<nint, nint, nuint, int, int, nint, nint, int>)Function("ncclReduceScatter");
        AllGather = (delegate* unmanaged<nint, nint, nuint, int, nint, nint, int>)Function("ncclAllGather");
        Broadcast = (delegate* unmanaged<nint, nint, nuint, int, int, nint, nint, int>)Function("ncclBroadcast");
        Reduce = (delegate* unmanaged<nint, nint, nuint, int, int, int, nint, nint, int>)Function("ncclReduce");
        GroupStart = (delegate* unmanaged<int>)Function("ncclGroupStart");
        GroupEnd = (delegate* unmanaged<int>)Function("ncclGroupEnd");
    }

    /// <summary>ncclUniqueId, which goes by value.</summary>
    [StructLayout(LayoutKind.Sequential, Size = IdBytes)]
    public struct Id
    {
        public fixed byte Bytes[IdBytes];
    }

    public string Path { get; }

    public delegate* unmanaged<Id*, int> GetUniqueId { get; }

    public delegate* unmanaged<nint*, int, Id, int, int> CommInitRank { get; }

    public delegate* unmanaged<nint, int> CommDestroy { get; }

    public delegate* unmanaged<nint, nint, nuint, int, int, nint, nint, int> AllReduce { get; }

    public delegate* unmanaged<nint, nint, nuint, int, int, nint, nint, int> ReduceScatter { get; }

    public delegate* unmanaged<nint, nint, nuint, int, nint, nint, int> AllGather { get; }

    public delegate* unmanaged<nint, nint, nuint, int, int, nint, nint, int> Broadcast { get; }

    public delegate* unmanaged<nint, nint, nuint, int, int, int, nint, nint, int> Reduce { get; }

    public delegate* unmanaged<int> GroupStart { get; }

    public delegate* unmanaged<int> GroupEnd { get; }

    /// <summary>ncclDataType_t.</summary>
    public static int Type(ElementType type) => type switch
    {
        ElementType.Float32 => 7,
        ElementType.Float64 => 8,
        ElementType.BFloat16 => 9,
        _ => 4,
    };

    /// <summary>Loads the library: the one that is named, NCCL's own, or the part of libtorch that has it. Errors: InputException.</summary>
    public static Nccl Load()
    {
        string? given = Environment.GetEnvironmentVariable(LibraryVariable);
        string torch = System.IO.Path.Combine(TorchLibrary.Folder ?? "", TorchLibrary.FileName("torch_cuda"));
        foreach (string name in string.IsNullOrEmpty(given) ? ["libnccl.so.2", torch] : (string[])[given])
        {
            if (NativeLibrary.TryLoad(name, out nint library) && NativeLibrary.TryGetExport(library, "ncclCommInitRank", out _))
            {
                return new(library, name);
            }
        }

        throw new InputException($"NCCL is not on this machine{(string.IsNullOrEmpty(given) ? "" : $": {given} is not it")}; {Mend}.");
    }

    /// <summary>Errors: InputException where a call failed.</summary>
    public void Check(int code, string call)
    {
        if (code != 0)
        {
            string reason = Encoding.UTF8.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(errorString(code)));
            throw new InputException($"NCCL: {call} failed: {reason}. NCCL_DEBUG=WARN makes it say more.");
        }
    }
}
