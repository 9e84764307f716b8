using Hybrid;

namespace Hybrid.Runner.Distribution;

/// <summary>What the elements of memory are that processes exchange.</summary>
internal enum ElementType
{
    Float32,
    BFloat16,
    Float64,
    Int64,
}

/// <summary>
/// Collective operations of the processes of a run on memory: host memory, or a GPU's where <see cref="OnDevice"/> says so. All processes
/// make the same calls in the same order. Errors: InputException where the engine says that a call failed.
/// </summary>
internal interface ICollective : IDisposable
{
    /// <summary>The engine, for messages.</summary>
    string Name { get; }

    /// <summary>This process, from 0.</summary>
    int Rank { get; }

    /// <summary>Processes in all.</summary>
    int Size { get; }

    /// <summary>Whether memory is a GPU's; calls are then queued, and <see cref="Await"/> orders what follows.</summary>
    bool OnDevice { get; }

    /// <summary>Sums over all processes, in place, in the order of ranks on host memory, to the same bits on each.</summary>
    void AllReduce(nint data, long count, ElementType type);

    /// <summary>Sums over all processes; the slice of this process (<see cref="Slices.range"/>) has the sum then, and the rest is undefined.</summary>
    void ReduceScatter(nint data, long count, ElementType type);

    /// <summary>Fills memory with the slices of all processes, each of which has its own in place.</summary>
    void AllGather(nint data, long count, ElementType type);

    /// <summary>Gives what one process has to all.</summary>
    void Broadcast(nint data, long count, ElementType type, int root);

    /// <summary>On a GPU: what the calling thread queues next waits for the calls so far. On host memory calls are over when they return.</summary>
    void Await()
    {
    }

    /// <summary>Returns when all processes have come here.</summary>
    void Barrier();
}

/// <summary>Sizes of elements.</summary>
internal static class ElementTypes
{
    /// <summary>Bytes of an element.</summary>
    public static int Bytes(this ElementType type) => type switch
    {
        ElementType.BFloat16 => 2,
        ElementType.Float32 => 4,
        _ => 8,
    };
}
