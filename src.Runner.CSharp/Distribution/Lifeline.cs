using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace Hybrid.Runner.Distribution;

/// <summary>After what time others stop when a process is gone.</summary>
/// <param name="Silence">Nothing was heard of it, though its connection stands: stopped, or its machine is gone.</param>
/// <param name="Timeout">It is alive, but makes no call that the others wait for.</param>
internal sealed record Patience(TimeSpan Silence, TimeSpan Timeout)
{
    /// <summary>How long processes wait for each other at the start.</summary>
    public static TimeSpan Start => TimeSpan.FromSeconds(120);

    /// <summary>How often each says that it is there.</summary>
    public TimeSpan Beat => TimeSpan.FromMilliseconds(Math.Clamp(Silence.TotalMilliseconds / 8, 20, 1000));
}

/// <summary>
/// Is told that the run cannot go on: because of whom, the sentence, whether another process has said it to a person, and with what exit
/// code processes end.
/// </summary>
internal delegate void Failed(Member culprit, string sentence, bool said, int code);

/// <summary>
/// A connection of each process with rank 0 by which all learn of one that died, hangs, or had to stop, and by which small numbers go
/// where no other way is open. It never carries tensors.
/// </summary>
internal abstract class Lifeline : IDisposable
{
    private readonly Func<Position> position;
    private readonly Failed failed;
    private int told;

    protected Lifeline(Member own, Patience patience, Func<Position> position, Failed failed) =>
        (Own, Patience, this.position, this.failed) = (own, patience, position, failed);

    protected Member Own { get; }

    protected Patience Patience { get; }

    protected Position Position => position();

    /// <summary>Whether this process has said that it ends, so that nothing more is a failure.</summary>
    protected bool Ending { get; set; }

    /// <summary>Sums numbers over all processes. Errors: IOException where a connection is gone.</summary>
    public abstract double[] Sum(double[] values);

    /// <summary>Says that this process ends; a reason tells the others to stop, with an exit code.</summary>
    public abstract void Bye(string reason, int code = 1);

    public abstract void Dispose();

    /// <summary>Tells once who is to blame, the sentence, and whether it has been said to a person.</summary>
    protected void Fail(Member culprit, string sentence, bool said = false, int code = 1)
    {
        if (!Ending && Interlocked.Exchange(ref told, 1) == 0)
        {
            failed(culprit, sentence, said, code);
        }
    }

    /// <summary>A connection that tells small messages at once.</summary>
    protected static void Prepare(Socket socket)
    {
        socket.NoDelay = true;
        socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);
    }

    /// <summary>A reason to stop and an exit code as a message; empty where there is none.</summary>
    protected static byte[] Reason(string reason, int code) => reason.Length == 0 ? [] : [(byte)code, .. System.Text.Encoding.UTF8.GetBytes(reason)];

    /// <summary>The reverse.</summary>
    protected static (string Reason, int Code) Reason(byte[] content) => content.Length == 0 ? ("", 0) : (System.Text.Encoding.UTF8.GetString(content.AsSpan(1)), content[0]);

    protected static byte[] Beating(Position position) => LifelineFrames.Bytes([position.Step, position.Calls]);

    protected static Position Beaten(byte[] content) => LifelineFrames.Doubles(content) is [double step, double calls] ? new((long)step, (long)calls) : default;
}

/// <summary>The lifeline of any process but rank 0.</summary>
internal sealed class LifelineClient : Lifeline
{
    private readonly TcpClient connection;
    private readonly NetworkStream stream;
    private readonly Lock writing = new();
    private readonly Timer beat;
    private readonly Queue<double[]> sums = new();
    private readonly object arrived = new();
    private readonly Member leader;
    private long heard = Stopwatch.GetTimestamp(), leaderStep;
    private bool closed;

    private LifelineClient(TcpClient connection, Member own, Member leader, byte[] handed, Patience patience, Func<Position> position, Failed failed)
        : base(own, patience, position, failed)
    {
        (this.connection, this.leader, Handed) = (connection, leader, handed);
        stream = connection.GetStream();
        new Thread(Listen) { IsBackground = true, Name = "lifeline" }.Start();
        beat = new Timer(_ => Beat(), null, TimeSpan.Zero, patience.Beat);
    }

    /// <summary>What rank 0 handed out.</summary>
    public byte[] Handed { get; }

    /// <summary>Connects with rank 0. Errors: InputException where it is not reached in time, or does not know the token.</summary>
    public static LifelineClient Connect(IPEndPoint place, byte[] token, Member own, Patience patience, TimeSpan wait, Func<Position> position, Failed failed)
    {
        long began = Stopwatch.GetTimestamp();
        while (true)
        {
            TcpClient connection = new(place.AddressFamily);
            try
            {
                connection.Connect(place);
                Prepare(connection.Client);
                return Greet(connection, place, token, own, patience, position, failed);
            }
            catch (Exception error) when (error is SocketException or IOException)
            {
                connection.Dispose();
                if (Stopwatch.GetElapsedTime(began) > wait)
                {
                    throw new InputException(
                        $"rank 0 was not reached at {place} within {wait.TotalSeconds:0} s ({error.Message}); see that its process runs, that the address and port are its own and open between the machines, and that all processes have the same token.", error);
                }

                Thread.Sleep(200);
            }
        }
    }

    public override double[] Sum(double[] values)
    {
        Send(LifelineKind.Numbers, LifelineFrames.Bytes(values));
        lock (arrived)
        {
            while (sums.Count == 0)
            {
                if (closed)
                {
                    throw new IOException("the connection with rank 0 is gone.");
                }

                Monitor.Wait(arrived);
            }

            return sums.Dequeue();
        }
    }

    public override void Bye(string reason, int code = 1)
    {
        Ending = true;
        try
        {
            Send(LifelineKind.Bye, Reason(reason, code));
        }
        catch (IOException)
        {
            // Nobody is left to be told.
        }
    }

    public override void Dispose()
    {
        Ending = true;
        Cut();
    }

    /// <summary>Ends as a process does that is killed.</summary>
    internal void Cut()
    {
        beat.Dispose();
        connection.Dispose();
    }

    private static LifelineClient Greet(TcpClient connection, IPEndPoint place, byte[] token, Member own, Patience patience, Func<Position> position, Failed failed)
    {
        NetworkStream stream = connection.GetStream();
        stream.ReadTimeout = 10_000;
        var (kind, challenge) = LifelineFrames.Read(stream);
        if (kind != LifelineKind.Challenge)
        {
            throw new InputException($"what answers at {place} is not rank 0 of a run.");
        }

        byte[] nonce = System.Security.Cryptography.RandomNumberGenerator.GetBytes(LifelineFrames.NonceBytes), who = own.ToBytes();
        byte[] proof = LifelineFrames.Proof(token, "member", challenge, nonce, who);
        LifelineFrames.Write(stream, LifelineKind.Hello, [.. nonce, .. proof, .. who]);
        var (answer, content) = LifelineFrames.Read(stream);
        int names = content.Length >= LifelineFrames.ProofBytes + 4 ? BitConverter.ToInt32(content, LifelineFrames.ProofBytes) : -1;
        if (answer != LifelineKind.Welcome || names < 0 || names > content.Length - LifelineFrames.ProofBytes - 4)
        {
            throw new InputException($"what answers at {place} is not rank 0 of a run.");
        }

        byte[] rest = content[LifelineFrames.ProofBytes..];
        if (!System.Security.Cryptography.CryptographicOperations.FixedTimeEquals(content.AsSpan(0, LifelineFrames.ProofBytes), LifelineFrames.Proof(token, "leader", nonce, challenge, rest)))
        {
            throw new InputException($"rank 0 at {place} does not know this run's token.");
        }

        stream.ReadTimeout = Timeout.Infinite;
        Member leader = Member.Of(rest[4..(4 + names)]) ?? own;
        return new(connection, own, leader, rest[(4 + names)..], patience, position, failed);
    }

    private void Send(LifelineKind kind, byte[] content)
    {
        lock (writing)
        {
            LifelineFrames.Write(stream, kind, content);
        }
    }

    private void Beat()
    {
        try
        {
            Send(LifelineKind.Beat, Beating(Position));
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException)
        {
            return;
        }

        if (Stopwatch.GetElapsedTime(Interlocked.Read(ref heard)) > Patience.Silence)
        {
            Fail(leader, $"{leader} has not been heard of for {Patience.Silence.TotalSeconds:0} s, since step {leaderStep}");
        }
    }

    private void Listen()
    {
        try
        {
            while (true)
            {
                var (kind, content) = LifelineFrames.Read(stream);
                Interlocked.Exchange(ref heard, Stopwatch.GetTimestamp());
                switch (kind)
                {
                    case LifelineKind.Beat:
                        leaderStep = Beaten(content).Step;
                        break;
                    case LifelineKind.Sums:
                        lock (arrived)
                        {
                            sums.Enqueue(LifelineFrames.Doubles(content));
                            Monitor.PulseAll(arrived);
                        }

                        break;
                    case LifelineKind.Bye:
                        var (reason, code) = Reason(content);
                        if (reason.Length > 0)
                        {
                            Fail(leader, $"{leader} stopped: {reason}", said: true, code);
                        }

                        Ending = true;
                        break;
                    case LifelineKind.Stop:
                        var (sentence, exit) = Reason(content);
                        Fail(Own, sentence, said: true, exit);
                        break;
                }
            }
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException)
        {
            lock (arrived)
            {
                closed = true;
                Monitor.PulseAll(arrived);
            }

            Fail(leader, $"{leader} ended without a word, after step {leaderStep}");
        }
    }
}
