namespace Hybrid.Runner.Distribution;

/// <summary>How the processes of a run find each other: lifelines, and NCCL's id for all of them.</summary>
/// <param name="ranks">Which process this one is.</param>
/// <param name="patience">For those that are gone later.</param>
/// <param name="position">How far this process has come.</param>
/// <param name="failed">Is told when the run cannot go on.</param>
/// <param name="stop">Ends the waiting.</param>
internal sealed class Meeting(RankVariables ranks, Patience patience, Func<Position> position, Failed failed, CancellationToken stop)
{
    /// <summary>Of processes that MPI has started.</summary>
    public unsafe (MpiCollective? Mpi, Lifeline Line, byte[] Id) ByMpi(Nccl nccl)
    {
        MpiCollective mpi = MpiCollective.Start();
        byte[] id = mpi.Rank == 0 ? NcclCollective.NewId(nccl) : new byte[Nccl.IdBytes];
        fixed (byte* data = id)
        {
            mpi.Broadcast((nint)data, Nccl.IdBytes / sizeof(long), ElementType.Int64, 0);
        }

        return (mpi, Connect(mpi), id);
    }

    /// <summary>Of processes that find each other by a file, or by an address that they were given.</summary>
    public (MpiCollective? Mpi, Lifeline Line, byte[] Id) ByAddress(Nccl nccl)
    {
        Member own = Member.Own(ranks.Rank, ranks.Size);
        if (ranks.Rank > 0)
        {
            Rendezvous found = Rendezvous.ByFile ? Rendezvous.Awaited(Patience.Start) : Rendezvous.Given(listens: false);
            LifelineClient client = LifelineClient.Connect(found.Place, found.Token, own, patience, Patience.Start, position, failed);
            return (null, client, client.Handed);
        }

        Rendezvous place = Rendezvous.ByFile ? Rendezvous.Own(false) : Rendezvous.Given(listens: true);
        byte[] id = NcclCollective.NewId(nccl);
        LifelineServer server = LifelineServer.Open(place.Place, place.Token, id, own, patience, position, failed);
        if (Rendezvous.ByFile)
        {
            place.Publish(server.Place.Port);
        }

        server.WaitForAll(Patience.Start, stop);
        Rendezvous.Withdraw();
        return (null, server, id);
    }

    /// <summary>Lifelines of processes that MPI connects already: rank 0 tells the others where it listens.</summary>
    public Lifeline Connect(MpiCollective mpi)
    {
        Member own = Member.Own(mpi.Rank, mpi.Size);
        long hash = BitConverter.ToInt64(System.Security.Cryptography.SHA256.HashData(System.Text.Encoding.UTF8.GetBytes(Environment.MachineName)));
        bool oneMachine = SumOf(mpi, hash >> 24) == (hash >> 24) * mpi.Size;
        const int room = 64 * sizeof(long);
        byte[] told = new byte[room];
        LifelineServer? server = null;
        if (mpi.Rank == 0)
        {
            Rendezvous place = Rendezvous.Own(oneMachine);
            server = LifelineServer.Open(place.Place, place.Token, [], own, patience, position, failed);
            (place with { Place = server.Place }).ToBytes().CopyTo(told, 0);
        }

        unsafe
        {
            fixed (byte* data = told)
            {
                mpi.Broadcast((nint)data, room / sizeof(long), ElementType.Int64, 0);
            }
        }

        if (server is not null)
        {
            server.WaitForAll(Patience.Start, stop);
            return server;
        }

        Rendezvous given = Rendezvous.Of(told);
        return LifelineClient.Connect(given.Place, given.Token, own, patience, Patience.Start, position, failed);
    }

    private static unsafe long SumOf(MpiCollective mpi, long value)
    {
        mpi.AllReduce((nint)(&value), 1, ElementType.Int64);
        return value;
    }
}
