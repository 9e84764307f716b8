using System.Collections.Concurrent;
using System.Runtime.ExceptionServices;
using Hybrid;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner.Distribution;

/// <summary>
/// What the core asks of the processes, carried out by a collective. On host memory one thread makes all calls, in the order in which
/// they were begun, while others compute; on a GPU calls are queued on a lane beside what computes.
/// </summary>
internal sealed class TensorExchange : IExchange, IDisposable
{
    private const int MostNumbers = 1 << 16;

    private readonly ICollective collective;
    private readonly Func<double[], double[]> sum;
    private readonly BlockingCollection<Piece> pieces = [];
    private readonly Thread? thread;

    /// <param name="collective">What carries tensors; the caller keeps it.</param>
    /// <param name="sum">Sums the host's numbers; null: the collective does.</param>
    public TensorExchange(ICollective collective, Func<double[], double[]>? sum = null)
    {
        this.collective = collective;
        this.sum = sum ?? SumOnHost;
        if (!collective.OnDevice)
        {
            int threads = torch.get_num_threads();
            using ManualResetEventSlim ready = new();
            thread = new Thread(() => Work(ready)) { IsBackground = true, Name = "exchange" };
            thread.Start();
            ready.Wait();
            // What that thread set for itself is also what torch gives to threads that come later.
            torch.set_num_threads(threads);
        }
    }

    public int Rank => collective.Rank;

    public int Size => collective.Size;

    /// <summary>Calls that were made; those of all processes are the same.</summary>
    public long Calls => Interlocked.Read(ref calls);

    private long calls;

    public void AllReduce(torch.Tensor tensor) => On(tensor, collective.AllReduce);

    public void ReduceScatter(torch.Tensor tensor) => On(tensor, collective.ReduceScatter);

    public void AllGather(torch.Tensor tensor) => On(tensor, collective.AllGather);

    public void Ready() => collective.Await();

    public double[] Sum(double[] values)
    {
        List<double> sums = [];
        Begin(() =>
        {
            // A message on a lifeline has a limit.
            foreach (double[] part in values.Length > 0 ? values.Chunk(MostNumbers) : [[]])
            {
                sums.AddRange(sum(part));
            }
        })();
        return [.. sums];
    }

    public Action Begin(Action work)
    {
        Interlocked.Increment(ref calls);
        if (thread is null)
        {
            work();
            return collective.Await;
        }

        if (Thread.CurrentThread == thread)
        {
            work();
            return () => { };
        }

        Piece piece = new(work);
        pieces.Add(piece);
        return piece.Wait;
    }

    public void Dispose()
    {
        pieces.CompleteAdding();
        thread?.Join();
        pieces.Dispose();
    }

    private static void Check(torch.Tensor tensor)
    {
        if (!tensor.is_contiguous())
        {
            throw new ArgumentException("Only contiguous tensors can be exchanged.");
        }
    }

    private void On(torch.Tensor tensor, Action<nint, long, ElementType> call)
    {
        Check(tensor);
        ElementType type = tensor.dtype switch
        {
            torch.ScalarType.Float32 => ElementType.Float32,
            torch.ScalarType.BFloat16 => ElementType.BFloat16,
            torch.ScalarType.Float64 => ElementType.Float64,
            torch.ScalarType.Int64 => ElementType.Int64,
            _ => throw new ArgumentException($"Tensors of {tensor.dtype} are not exchanged."),
        };
        if (collective.OnDevice || tensor.device_type == DeviceType.CPU)
        {
            call(Dispatcher.dataPointer(tensor), tensor.numel(), type);
            return;
        }

        // An engine for host memory, and a GPU's tensor.
        using (torch.no_grad())
        using (torch.NewDisposeScope())
        {
            torch.Tensor host = tensor.cpu();
            call(Dispatcher.dataPointer(host), host.numel(), type);
            tensor.copy_(host);
        }
    }

    private unsafe double[] SumOnHost(double[] values)
    {
        double[] sums = [.. values];
        fixed (double* data = sums)
        {
            collective.AllReduce((nint)data, sums.Length, ElementType.Float64);
        }

        return sums;
    }

    private void Work(ManualResetEventSlim ready)
    {
        // What others compute meanwhile has the cores.
        _ = torch.get_num_threads();
        torch.set_num_threads(1);
        ready.Set();
        foreach (Piece piece in pieces.GetConsumingEnumerable())
        {
            piece.Run();
        }
    }

    private sealed class Piece(Action work)
    {
        private readonly ManualResetEventSlim done = new();
        private Exception? failure;

        public void Run()
        {
            try
            {
                work();
            }
            catch (Exception error)
            {
                failure = error;
            }

            done.Set();
        }

        public void Wait()
        {
            done.Wait();
            if (failure is not null)
            {
                ExceptionDispatchInfo.Throw(failure);
            }
        }
    }
}
