using System.Runtime.ExceptionServices;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// Threads that go forward and backward side by side, each with torch's work on itself. Splitting a batch among them costs less than
/// splitting every operation: a step has hundreds of these, and each one waits for its slowest part.
/// </summary>
internal sealed class WorkerTeam
{
    /// <summary>More gradients side by side than this take more memory than they bring speed.</summary>
    private const int Most = 8;

    private readonly Lock gate = new();
    private readonly SemaphoreSlim[] starts;
    private readonly Exception?[] failures;
    private readonly CountdownEvent done = new(1);
    private Action<int> work = _ => { };

    private WorkerTeam(int size, int threadsEach)
    {
        failures = new Exception?[size];
        starts = [.. Enumerable.Range(0, size).Select(_ => new SemaphoreSlim(0))];
        using CountdownEvent ready = new(size);
        for (int i = 0; i < size; i++)
        {
            int own = i;
            new Thread(() => Work(own, threadsEach, ready)) { IsBackground = true, Name = $"worker {own}" }.Start();
        }

        ready.Wait();
    }

    /// <summary>A team for the threads that torch has on this machine; one of the caller alone where that is one, or a GPU does the work.</summary>
    public static Team Of(torch.Device device)
    {
        int threads = torch.get_num_threads();
        int size = Math.Min(threads, Most);
        if (device.type != DeviceType.CPU || size < 2)
        {
            return Team.Alone;
        }

        return Start(size, threads / size);
    }

    /// <summary>A team of so many threads, on each of which torch has so many.</summary>
    internal static Team Start(int size, int threadsEach)
    {
        int threads = torch.get_num_threads();
        WorkerTeam workers = new(size, threadsEach);
        // What workers set for themselves is also what torch gives to threads that come later.
        torch.set_num_threads(threads);
        return new Team(size, workers.Run);
    }

    private void Run(int count, Action<int> given)
    {
        lock (gate)
        {
            work = given;
            done.Reset(count);
            Array.Clear(failures);
            for (int i = 0; i < count; i++)
            {
                starts[i].Release();
            }

            done.Wait();
            work = _ => { };
            if (failures.FirstOrDefault(failure => failure is not null) is { } first)
            {
                ExceptionDispatchInfo.Throw(first);
            }
        }
    }

    private void Work(int own, int threadsEach, CountdownEvent ready)
    {
        // Torch gives a thread its usual number of threads when the thread first asks; only then can it be changed for this one.
        _ = torch.get_num_threads();
        torch.set_num_threads(threadsEach);
        ready.Signal();
        while (true)
        {
            starts[own].Wait();
            try
            {
                work(own);
            }
            catch (Exception error)
            {
                failures[own] = error;
            }

            done.Signal();
        }
    }
}
