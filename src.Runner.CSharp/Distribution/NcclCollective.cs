using Hybrid;

namespace Hybrid.Runner.Distribution;

/// <summary>
/// Processes with a GPU each, by NCCL on the memory of these, queued on a lane of their own beside what computes.
/// </summary>
internal sealed unsafe class NcclCollective : ICollective
{
    private readonly Nccl nccl;
    private readonly IGpuLane lane;
    private readonly nint communicator;
    private bool over;

    /// <summary>Joins the others; all must do so together. Errors: InputException.</summary>
    public NcclCollective(Nccl nccl, byte[] id, int rank, int size, IGpuLane lane)
    {
        (this.nccl, this.lane) = (nccl, lane);
        (Rank, Size) = (rank, size);
        Nccl.Id given = default;
        id.AsSpan(0, Nccl.IdBytes).CopyTo(new Span<byte>(given.Bytes, Nccl.IdBytes));
        nint made = 0;
        nccl.Check(nccl.CommInitRank(&made, size, given, rank), "ncclCommInitRank");
        communicator = made;
    }

    public string Name => $"NCCL ({nccl.Path})";

    public int Rank { get; }

    public int Size { get; }

    public bool OnDevice => true;

    /// <summary>An id for a new group of processes; rank 0 makes it and hands it out.</summary>
    public static byte[] NewId(Nccl nccl)
    {
        Nccl.Id id = default;
        nccl.Check(nccl.GetUniqueId(&id), "ncclGetUniqueId");
        return new Span<byte>(id.Bytes, Nccl.IdBytes).ToArray();
    }

    public void AllReduce(nint data, long count, ElementType type) => Queue(() =>
        nccl.Check(nccl.AllReduce(data, data, (nuint)count, Nccl.Type(type), Nccl.Sum, communicator, lane.Stream), "ncclAllReduce"));

    public void ReduceScatter(nint data, long count, ElementType type)
    {
        long each = Slices.each(Size, count);
        if (each * Size == count)
        {
            Queue(() =>
                nccl.Check(nccl.ReduceScatter(data, At(data, each * Rank, type), (nuint)each, Nccl.Type(type), Nccl.Sum, communicator, lane.Stream), "ncclReduceScatter"));
            return;
        }

        // NCCL's own wants slices of one length.
        EachSlice(count, (rank, start, length) =>
            nccl.Check(nccl.Reduce(At(data, start, type), At(data, start, type), (nuint)length, Nccl.Type(type), Nccl.Sum, rank, communicator, lane.Stream), "ncclReduce"));
    }

    public void AllGather(nint data, long count, ElementType type)
    {
        long each = Slices.each(Size, count);
        if (each * Size == count)
        {
            Queue(() =>
                nccl.Check(nccl.AllGather(At(data, each * Rank, type), data, (nuint)each, Nccl.Type(type), communicator, lane.Stream), "ncclAllGather"));
            return;
        }

        EachSlice(count, (rank, start, length) =>
            nccl.Check(nccl.Broadcast(At(data, start, type), At(data, start, type), (nuint)length, Nccl.Type(type), rank, communicator, lane.Stream), "ncclBroadcast"));
    }

    public void Broadcast(nint data, long count, ElementType type, int root) => Queue(() =>
        nccl.Check(nccl.Broadcast(data, data, (nuint)count, Nccl.Type(type), root, communicator, lane.Stream), "ncclBroadcast"));

    public void Await() => lane.Await();

    public void Barrier()
    {
        using TorchSharp.torch.Tensor one = TorchSharp.torch.ones(1, dtype: TorchSharp.torch.float32, device: TorchLibrary.Device);
        AllReduce(Dispatcher.dataPointer(one), 1, ElementType.Float32);
        lane.Synchronise();
    }

    public void Dispose()
    {
        if (!over)
        {
            over = true;
            lane.Synchronise();
            _ = nccl.CommDestroy(communicator);
            lane.Dispose();
        }
    }

    private static nint At(nint data, long element, ElementType type) => data + (nint)(element * type.Bytes());

    private void Queue(Action call)
    {
        lane.Enter();
        call();
        lane.Leave();
    }

    private void EachSlice(long count, Action<int, long, long> call) => Queue(() =>
    {
        nccl.Check(nccl.GroupStart(), "ncclGroupStart");
        for (int rank = 0; rank < Size; rank++)
        {
            var (start, length) = Slices.range(Size, rank, count);
            if (length > 0)
            {
                call(rank, start, length);
            }
        }

        nccl.Check(nccl.GroupEnd(), "ncclGroupEnd");
    });
}
