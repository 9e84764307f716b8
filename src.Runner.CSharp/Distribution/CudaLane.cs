using System.Runtime.InteropServices;

namespace Hybrid.Runner.Distribution;

/// <summary>A stream of a GPU beside the one that computes, for what processes exchange.</summary>
internal interface IGpuLane : IDisposable
{
    /// <summary>The stream, as NCCL takes it.</summary>
    nint Stream { get; }

    /// <summary>What is queued on it next waits for all that the computing stream was given so far.</summary>
    void Enter();

    /// <summary>What was queued on it until now is what the next <see cref="Await"/> is about.</summary>
    void Leave();

    /// <summary>What the computing stream is given next waits for what was queued on this one until <see cref="Leave"/>.</summary>
    void Await();

    /// <summary>Returns when the GPU has done everything.</summary>
    void Synchronise();
}

/// <summary>
/// A lane by the driver's interface: a stream that does not wait for others by itself, and two events. An event that is recorded again
/// stands for the later moment, and since a stream keeps its order, to wait for a later one is to wait for the earlier one too.
/// </summary>
internal sealed unsafe partial class CudaLane : IGpuLane
{
    private const uint NonBlocking = 1, NoTiming = 2;
    private readonly delegate* unmanaged<nint, nint, int> record;
    private readonly delegate* unmanaged<nint, nint, uint, int> wait;
    private readonly delegate* unmanaged<nint, int> destroyStream, destroyEvent;
    private readonly Func<nint> computing;
    private readonly Action synchronise;
    private readonly nint stream, computed, sent;

    /// <summary>Makes one on the device of the calling thread. Errors: InputException where the driver refuses.</summary>
    public CudaLane(string driver, Func<nint> computing, Action synchronise)
    {
        (this.computing, this.synchronise) = (computing, synchronise);
        if (!NativeLibrary.TryLoad(driver, out nint library))
        {
            throw new InputException($"{driver}, the library of the GPU's driver, cannot be loaded.");
        }

        record = (delegate* unmanaged<nint, nint, int>)NativeLibrary.GetExport(library, "cuEventRecord");
        wait = (delegate* unmanaged<nint, nint, uint, int>)NativeLibrary.GetExport(library, "cuStreamWaitEvent");
        destroyStream = (delegate* unmanaged<nint, int>)NativeLibrary.GetExport(library, "cuStreamDestroy_v2");
        destroyEvent = (delegate* unmanaged<nint, int>)NativeLibrary.GetExport(library, "cuEventDestroy_v2");
        nint madeStream, first, second;
        Check(((delegate* unmanaged<nint*, uint, int>)NativeLibrary.GetExport(library, "cuStreamCreate"))(&madeStream, NonBlocking), "cuStreamCreate");
        var makeEvent = (delegate* unmanaged<nint*, uint, int>)NativeLibrary.GetExport(library, "cuEventCreate");
        Check(makeEvent(&first, NoTiming), "cuEventCreate");
        Check(makeEvent(&second, NoTiming), "cuEventCreate");
        (stream, computed, sent) = (madeStream, first, second);
        Leave();
    }

    public nint Stream => stream;

    /// <summary>The stream on which torch queues what the calling thread asks for.</summary>
    public static nint OfTorch()
    {
        nint current = 0;
        int code = CurrentStream(0, ref current);
        return code == 0 ? current : throw new InvalidOperationException($"torch gave no stream (code {code}).");
    }

    public void Enter()
    {
        Check(record(computed, computing()), "cuEventRecord");
        Check(wait(stream, computed, 0), "cuStreamWaitEvent");
    }

    public void Leave() => Check(record(sent, stream), "cuEventRecord");

    public void Await() => Check(wait(computing(), sent, 0), "cuStreamWaitEvent");

    public void Synchronise() => synchronise();

    public void Dispose()
    {
        _ = destroyEvent(computed);
        _ = destroyEvent(sent);
        _ = destroyStream(stream);
    }

    private static void Check(int code, string call)
    {
        if (code != 0)
        {
            throw new InputException($"the GPU's driver: {call} failed (code {code}).");
        }
    }

    [LibraryImport("torch_cuda", EntryPoint = "aoti_torch_get_current_cuda_stream")]
    private static partial int CurrentStream(int device, ref nint stream);
}
