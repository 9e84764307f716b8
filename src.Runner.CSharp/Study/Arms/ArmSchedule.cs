using System.Collections.Concurrent;
using System.Runtime.ExceptionServices;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>Where an arm is trained, and the threads that share the sequences of its steps.</summary>
internal sealed record ArmPlace(torch.Device Device, Func<int, Team> Team);

/// <summary>Runs arms side by side: each GPU takes one at a time, or the CPU's threads are shared out.</summary>
internal static class ArmSchedule
{
    // More than this are more models in memory than they bring speed.
    private const int Most = 8;

    /// <summary>
    /// How many arms run at once where nothing else is asked for: one on each GPU; on the CPU one on each thread, as far as half of the
    /// memory that is free holds a step of each. Arms share no step, so that nothing waits for the slowest of the threads.
    /// </summary>
    /// <param name="step">Bytes that a step of the largest arm takes.</param>
    public static int Usual(long step) => TorchLibrary.Device.type == DeviceType.CUDA
        ? Math.Max(1, torch.cuda.device_count())
        : (int)Math.Clamp(TrainSettings.FreeMemory() / 2 / Math.Max(1, step), 1, Math.Min(torch.get_num_threads(), Most));

    /// <summary>
    /// Does the work for every arm, in their order as far as places are free. The first failure stops those that have not begun and is thrown
    /// when the others are done.
    /// </summary>
    public static void Run(IReadOnlyList<Arm> arms, int atOnce, Action<Arm, ArmPlace> work, CancellationToken stop)
    {
        int places = Math.Clamp(atOnce, 1, Math.Max(1, arms.Count));
        if (places == 1)
        {
            foreach (Arm arm in arms)
                work(arm, new ArmPlace(TorchLibrary.Device, TorchLibrary.TeamFor));
            return;
        }

        var waiting = new ConcurrentQueue<Arm>(arms);
        ExceptionDispatchInfo? failure = null;
        // Torch's threads are asked for here, before places take theirs.
        int threads = Math.Max(1, torch.get_num_threads() / places);
        Thread[] running =
        [
            .. Enumerable.Range(0, places).Select(i => new Thread(() => Work(i)) { IsBackground = true, Name = $"arm {i}" }),
        ];
        foreach (Thread thread in running)
            thread.Start();
        foreach (Thread thread in running)
            thread.Join();
        failure?.Throw();

        void Work(int own)
        {
            try
            {
                ArmPlace place = Place(own, threads);
                while (Volatile.Read(ref failure) is null && waiting.TryDequeue(out Arm? arm))
                {
                    stop.ThrowIfCancellationRequested();
                    work(arm, place);
                }
            }
            catch (Exception error)
            {
                Interlocked.CompareExchange(ref failure, ExceptionDispatchInfo.Capture(error), null);
            }
        }
    }

    private static ArmPlace Place(int own, int threads)
    {
        if (TorchLibrary.Device.type == DeviceType.CUDA)
            return new ArmPlace(new torch.Device(DeviceType.CUDA, own % torch.cuda.device_count()), _ => Team.Alone);
        // Torch gives a thread its usual number of threads when the thread first asks; only then can it be changed for this one.
        _ = torch.get_num_threads();
        Team team = threads > 1 ? WorkerTeam.Start(threads, 1) : Team.Alone;
        torch.set_num_threads(threads);
        return new ArmPlace(torch.CPU, sequences => sequences >= team.Size ? team : Team.Alone);
    }
}
