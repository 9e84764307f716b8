using System.Runtime.InteropServices;
using Hybrid;

namespace Hybrid.Runner.Distribution;

/// <summary>
/// Processes that Open MPI has started, on host memory. Its own reductions leave the order of a sum to it; here MPI moves the parts, and
/// each process adds up its slice in the order of ranks. That sends the same bytes as a ring does.
/// </summary>
internal sealed unsafe class MpiCollective : ICollective
{
    // Of a longer message so many bytes are on their way at a time, so that what is received stays small.
    private const long AtOnce = 16 << 20;

    // Below, every process adds up everything: one message to each instead of two.
    private const long Short = 1 << 14;
    private const nint InPlace = 1;

    private readonly OpenMpi mpi;
    private readonly int[] counts, sources, takes, targets;
    private byte* received;
    private long capacity;

    private MpiCollective(OpenMpi mpi)
    {
        this.mpi = mpi;
        (Rank, Size) = mpi.Initialise();
        (counts, sources, takes, targets) = (new int[Size], new int[Size], new int[Size], new int[Size]);
    }

    public string Name => mpi.Version;

    public int Rank { get; }

    public int Size { get; }

    public bool OnDevice => false;

    /// <summary>Joins the processes that mpirun or srun has started. Errors: InputException.</summary>
    public static MpiCollective Start() => new(OpenMpi.Load());

    public void AllReduce(nint data, long count, ElementType type)
    {
        if (count * type.Bytes() > Short)
        {
            ReduceScatter(data, count, type);
            AllGather(data, count, type);
            return;
        }

        Array.Fill(counts, (int)count);
        for (int rank = 0; rank < Size; rank++)
        {
            targets[rank] = (int)count * rank;
        }

        byte* all = Room(count * Size * type.Bytes());
        fixed (int* lengths = counts, places = targets)
        {
            mpi.Check(mpi.Allgatherv(data, (int)count, Handle(type), (nint)all, lengths, places, Handle(type), mpi.World), "MPI_Allgatherv");
        }

        OrderedSum.Into(data, (nint)all, Size, count, count, type);
    }

    public void ReduceScatter(nint data, long count, ElementType type)
    {
        long each = Slices.each(Size, count), step = Step(type);
        var (ownStart, ownLength) = Slices.range(Size, Rank, count);
        for (long from = 0; from < each; from += step)
        {
            // Each process gets this part of its own slice from all.
            long own = Part(ownLength, from, step);
            for (int rank = 0; rank < Size; rank++)
            {
                var (start, length) = Slices.range(Size, rank, count);
                counts[rank] = (int)Part(length, from, step);
                sources[rank] = Place(counts[rank] == 0 ? 0 : start + from);
                targets[rank] = (int)(own * rank);
            }

            byte* all = Room(own * Size * type.Bytes());
            Array.Fill(takes, (int)own);
            fixed (int* sent = counts, at = sources, lengths = takes, places = targets)
            {
                mpi.Check(mpi.Alltoallv(data, sent, at, Handle(type), (nint)all, lengths, places, Handle(type), mpi.World), "MPI_Alltoallv");
            }

            OrderedSum.Into(data + (nint)((ownStart + from) * type.Bytes()), (nint)all, Size, own, own, type);
        }
    }

    public void AllGather(nint data, long count, ElementType type)
    {
        for (int rank = 0; rank < Size; rank++)
        {
            var (start, length) = Slices.range(Size, rank, count);
            counts[rank] = Place(length);
            targets[rank] = Place(start);
        }

        fixed (int* lengths = counts, places = targets)
        {
            mpi.Check(mpi.Allgatherv(InPlace, 0, Handle(type), data, lengths, places, Handle(type), mpi.World), "MPI_Allgatherv");
        }
    }

    public void Broadcast(nint data, long count, ElementType type, int root) =>
        mpi.Check(mpi.Bcast(data, Place(count), Handle(type), root, mpi.World), "MPI_Bcast");

    public void Barrier() => mpi.Check(mpi.Barrier(mpi.World), "MPI_Barrier");

    public void Dispose()
    {
        mpi.Finish();
        NativeMemory.AlignedFree(received);
        received = null;
    }

    private static long Part(long length, long from, long step) => Math.Clamp(length - from, 0, step);

    // MPI counts elements by 32 bits.
    private static int Place(long elements) => elements <= int.MaxValue
        ? (int)elements
        : throw new InputException($"a message of {elements:N0} elements is longer than MPI takes; send it in parts (distribution.bucketMiB).");

    private long Step(ElementType type) => Math.Max(64, AtOnce / Size / type.Bytes() / 64 * 64);

    private nint Handle(ElementType type) => type.Bytes() switch
    {
        2 => mpi.Int16,
        4 => mpi.Int32,
        _ => mpi.Int64,
    };

    private byte* Room(long bytes)
    {
        if (bytes > capacity)
        {
            NativeMemory.AlignedFree(received);
            received = (byte*)NativeMemory.AlignedAlloc((nuint)bytes, 64);
            capacity = bytes;
        }

        return received;
    }
}
