using System.Runtime.InteropServices;
using Hybrid;
using TorchSharp;

namespace Hybrid.Runner.Distribution;

/// <summary>The processes of a run, or one alone: what they exchange, and how each learns that another is gone.</summary>
internal sealed partial class ProcessGroup : IDisposable
{
    /// <summary>mpi or nccl, where the choice by the device is not wanted.</summary>
    public const string CollectiveVariable = "HYBRID_COLLECTIVE";

    private static readonly TimeSpan grace = TimeSpan.FromSeconds(1);

    private readonly ICollective? collective;
    private readonly TensorExchange? exchange;
    private Lifeline? lifeline;
    private MpiCollective? launcher;
    private long step;
    private bool failing;

    private ProcessGroup(ICollective? collective, TensorExchange? exchange) => (this.collective, this.exchange) = (collective, exchange);

    /// <summary>This process, from 0.</summary>
    public int Rank => collective?.Rank ?? 0;

    /// <summary>Processes in all.</summary>
    public int Size => collective?.Size ?? 1;

    /// <summary>Whether this one writes and speaks for all.</summary>
    public bool Leads => Rank == 0;

    /// <summary>What carries tensors, for a person.</summary>
    public string Engine => collective?.Name ?? "one process";

    /// <summary>What the core asks of the processes.</summary>
    public IExchange Exchange => exchange ?? Hybrid.Exchange.alone;

    /// <summary>Collective operations on memory; null for one process.</summary>
    internal ICollective? Collective => collective;

    /// <summary>Is told the sentence when the run has to stop because of another process, before this one ends.</summary>
    public Action<string> Stopping { get; set; } = _ => { };

    /// <summary>One process.</summary>
    public static ProcessGroup Alone() => new(null, null);

    /// <summary>
    /// Joins the processes that a launcher has started, or stays alone where there is none. Errors: ConfigurationException where the
    /// environment says nonsense; InputException where what carries tensors is missing, or the others do not come.
    /// </summary>
    internal static ProcessGroup Open(Patience patience, CancellationToken stop)
    {
        if (RankVariables.Read() is not { } ranks)
        {
            return Alone();
        }

        FollowLauncher();
        ProcessGroup? group = null;
        Position Position() => group is null ? default : new(Interlocked.Read(ref group.step), group.exchange?.Calls ?? 0);
        void Failed(Member culprit, string sentence, bool said, int code) => (group ?? Alone()).Stop(ranks.Rank, culprit, sentence, said, code);
        Meeting meeting = new(ranks, patience, Position, Failed, stop);
        if (UsesNccl())
        {
            if (torch.cuda.device_count() > 1)
            {
                throw new ConfigurationException($"rank {ranks.Rank} sees {torch.cuda.device_count()} GPUs, and each process uses one; the launcher must set CUDA_VISIBLE_DEVICES for each, such as: mpirun … bash -c 'CUDA_VISIBLE_DEVICES=$OMPI_COMM_WORLD_LOCAL_RANK exec hybrid …'");
            }

            Nccl nccl = Nccl.Load();
            (MpiCollective? launcher, Lifeline line, byte[] id) = ranks.ByMpi ? meeting.ByMpi(nccl) : meeting.ByAddress(nccl);
            NcclCollective gpus = new(nccl, id, ranks.Rank, ranks.Size, new CudaLane(GpuMemory.Driver, CudaLane.OfTorch, () => torch.cuda.synchronize()));
            return group = new(gpus, new TensorExchange(gpus, line.Sum)) { lifeline = line, launcher = launcher };
        }

        if (!ranks.ByMpi)
        {
            throw new ConfigurationException($"{ranks.Source} say that there are {ranks.Size} processes, but on CPUs tensors go by Open MPI: start with mpirun -np {ranks.Size} hybrid …, or srun --mpi=pmix, or unset these variables.");
        }

        MpiCollective mpi = MpiCollective.Start();
        group = new(mpi, new TensorExchange(mpi));
        if (mpi.Size != ranks.Size)
        {
            throw new ConfigurationException($"{ranks.Source} say that there are {ranks.Size} processes, but MPI has started {mpi.Size}; start with srun --mpi=pmix, or with an mpirun of the same Open MPI ({mpi.Name}).");
        }

        group.lifeline = meeting.Connect(mpi);
        return group;
    }

    /// <summary>Says where this process is, for what others are told when it is gone.</summary>
    public void At(long step) => Interlocked.Exchange(ref this.step, step);

    /// <summary>Whether any process says yes. All must ask together.</summary>
    public bool Any(bool own) => Size == 1 ? own : Exchange.Sum([own ? 1.0 : 0.0])[0] > 0;

    /// <summary>
    /// What rank 0 says, known to all; others' words are not looked at. All must ask together.
    /// </summary>
    public string Tell(string words)
    {
        if (Size == 1)
        {
            return words;
        }

        byte[] own = Leads ? System.Text.Encoding.UTF8.GetBytes(words) : [];
        double[] told = new double[(int)Exchange.Sum([own.Length])[0]];
        for (int i = 0; i < own.Length; i++)
        {
            told[i] = own[i];
        }

        return System.Text.Encoding.UTF8.GetString([.. Exchange.Sum(told).Select(value => (byte)value)]);
    }

    /// <summary>A number of each process, by rank. All must ask together.</summary>
    public double[] Each(double own)
    {
        double[] values = new double[Size];
        values[Rank] = own;
        return Exchange.Sum(values);
    }

    /// <summary>Returns when all processes have come here.</summary>
    public void Barrier()
    {
        if (Size > 1)
        {
            Exchange.Sum([0.0]);
        }
    }

    /// <summary>This process cannot go on: tells the others, so that they stop with the reason.</summary>
    public void Fail(string reason, int code)
    {
        failing = true;
        if (!Leads)
        {
            // What all fail at, the first one says.
            Thread.Sleep(grace);
            Terminal.Silent = true;
        }

        lifeline?.Bye(reason.Split('\n')[0], code);
    }

    public void Dispose()
    {
        if (collective is null)
        {
            return;
        }

        if (failing)
        {
            // The others do not come to an orderly end either; the process's end ends what native libraries hold.
            lifeline?.Dispose();
            return;
        }

        Barrier();
        lifeline?.Bye("");
        exchange?.Dispose();
        collective.Dispose();
        launcher?.Dispose();
        lifeline?.Dispose();
    }

    private static bool UsesNccl()
    {
        bool gpu = TorchLibrary.Device.type == DeviceType.CUDA;
        return Environment.GetEnvironmentVariable(CollectiveVariable) switch
        {
            null or "" => gpu,
            "mpi" => false,
            "nccl" when gpu => true,
            "nccl" => throw new ConfigurationException($"{CollectiveVariable}: is nccl, but this process computes on a CPU; NCCL is for GPUs."),
            string other => throw new ConfigurationException($"{CollectiveVariable}: is '{other}'; it must be mpi or nccl."),
        };
    }

    // Another process is gone, and this one may stand in a call that will never return: it ends here.
    private void Stop(int rank, Member culprit, string sentence, bool said, int code)
    {
        try
        {
            Stopping(sentence);

            // One of the processes says it: the first, or where that one is gone, the next.
            if (!said && rank == (culprit.Rank == 0 && rank != 0 ? 1 : 0))
            {
                Terminal.Silent = false;
                Terminal.Fail($"{sentence.TrimEnd('.')}; all processes stop. What the last checkpoint has is kept: --resume auto goes on.");
            }
        }
        finally
        {
            End(code);
        }
    }

    /// <summary>Asks the system for a SIGTERM when the launcher is gone, so that what it started does not go on without it.</summary>
    private static void FollowLauncher()
    {
        const int parentDeathSignal = 1, terminate = 15;
        if (OperatingSystem.IsLinux())
        {
            _ = ProcessControl(parentDeathSignal, terminate, 0, 0, 0);
        }
    }

    private static void End(int code)
    {
        Console.Error.Flush();
        if (OperatingSystem.IsWindows())
        {
            Environment.Exit(code);
        }

        EndNow(code);
    }

    [LibraryImport("libc", EntryPoint = "prctl")]
    private static partial int ProcessControl(int option, nuint first, nuint second, nuint third, nuint fourth);

    [LibraryImport("libc", EntryPoint = "_exit")]
    private static partial void EndNow(int code);
}
