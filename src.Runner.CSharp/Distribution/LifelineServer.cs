using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;

namespace Hybrid.Runner.Distribution;

/// <summary>The lifelines of rank 0: it watches all others and tells them of one that is gone.</summary>
internal sealed class LifelineServer : Lifeline
{
    private readonly TcpListener listener;
    private readonly byte[] token, handed;
    private readonly Line?[] lines;
    private readonly object gate = new();
    private readonly Timer watch;
    private readonly CountdownEvent missing;
    private long advanced = Stopwatch.GetTimestamp(), least = -1;

    private LifelineServer(TcpListener listener, byte[] token, byte[] handed, Member own, Patience patience, Func<Position> position, Failed failed)
        : base(own, patience, position, failed)
    {
        (this.listener, this.token, this.handed) = (listener, token, handed);
        lines = new Line?[own.Size];
        missing = new CountdownEvent(own.Size - 1);
        new Thread(Accept) { IsBackground = true, Name = "lifelines" }.Start();
        watch = new Timer(_ => Watch(), null, patience.Beat, patience.Beat);
    }

    /// <summary>Where the others connect.</summary>
    public IPEndPoint Place => (IPEndPoint)listener.LocalEndpoint;

    /// <summary>
    /// Listens at an address of this machine, and at no other. <paramref name="handed"/> is what each member gets at its welcome. Errors:
    /// InputException where that address is not this machine's, or the port is taken.
    /// </summary>
    public static LifelineServer Open(IPEndPoint place, byte[] token, byte[] handed, Member own, Patience patience, Func<Position> position, Failed failed)
    {
        TcpListener listener = new(place);
        try
        {
            listener.Start();
        }
        catch (SocketException error)
        {
            throw new InputException($"rank 0 cannot listen at {place}: {error.Message}. It must be an address of its own machine ({Rendezvous.InterfaceVariable} or MASTER_ADDR) and a free port (MASTER_PORT).", error);
        }

        return new(listener, token, handed, own, patience, position, failed);
    }

    /// <summary>Waits until all are connected. Errors: InputException naming those that did not come.</summary>
    public void WaitForAll(TimeSpan wait, CancellationToken stop)
    {
        if (!missing.Wait(wait, stop))
        {
            int[] absent;
            lock (gate)
            {
                absent = [.. Enumerable.Range(1, Own.Size - 1).Where(rank => lines[rank] is null)];
            }

            throw new InputException($"rank {string.Join(", ", absent.Take(8))}{(absent.Length > 8 ? $" and {absent.Length - 8} more" : "")} did not come to {Place} within {wait.TotalSeconds:0} s; see that these processes were started, reach that address and have the same token.");
        }
    }

    public override double[] Sum(double[] values)
    {
        double[] sums = [.. values];
        lock (gate)
        {
            for (int rank = 1; rank < lines.Length; rank++)
            {
                while (lines[rank] is not { Numbers.Count: > 0 })
                {
                    if (lines[rank] is { Over: true })
                    {
                        throw new IOException($"{lines[rank]!.Member} is gone.");
                    }

                    Monitor.Wait(gate);
                }

                double[] others = lines[rank]!.Numbers.Dequeue();
                for (int i = 0; i < sums.Length; i++)
                {
                    sums[i] += others[i];
                }
            }
        }

        Tell(LifelineKind.Sums, LifelineFrames.Bytes(sums));
        return sums;
    }

    public override void Bye(string reason, int code = 1)
    {
        Ending = true;
        Tell(LifelineKind.Bye, Reason(reason, code));
    }

    public override void Dispose()
    {
        Ending = true;
        watch.Dispose();
        listener.Dispose();
        foreach (Line line in Lines())
        {
            line.Connection.Dispose();
        }
    }

    private List<Line> Lines()
    {
        lock (gate)
        {
            return [.. lines.OfType<Line>()];
        }
    }

    private void Tell(LifelineKind kind, byte[] content)
    {
        foreach (Line line in Lines())
        {
            line.Send(kind, content);
        }
    }

    private void Accept()
    {
        try
        {
            while (true)
            {
                TcpClient connection = listener.AcceptTcpClient();
                // One that says nothing keeps nobody else waiting.
                new Thread(() => Serve(connection)) { IsBackground = true, Name = "lifeline" }.Start();
            }
        }
        catch (Exception error) when (error is SocketException or ObjectDisposedException or InvalidOperationException)
        {
            // Nobody is waited for any more.
        }
    }

    private void Serve(TcpClient connection)
    {
        Line? line = null;
        try
        {
            Prepare(connection.Client);
            line = Welcome(connection);
            if (line is null)
            {
                connection.Dispose();
                return;
            }

            while (true)
            {
                Hear(line, LifelineFrames.Read(line.Stream));
            }
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException or SocketException)
        {
            if (line is null)
            {
                connection.Dispose();
                return;
            }

            lock (gate)
            {
                line.Over = true;
                Monitor.PulseAll(gate);
            }

            if (!line.Parted)
            {
                Announce(line.Member, $"{line.Member} ended without a word, after step {line.Position.Step}");
            }
        }
    }

    /// <summary>Null for whoever does not know the token, or is none of this run's processes.</summary>
    private Line? Welcome(TcpClient connection)
    {
        NetworkStream stream = connection.GetStream();
        stream.ReadTimeout = 10_000;
        byte[] challenge = RandomNumberGenerator.GetBytes(LifelineFrames.NonceBytes);
        LifelineFrames.Write(stream, LifelineKind.Challenge, challenge);
        var (kind, content) = LifelineFrames.Read(stream);
        const int head = LifelineFrames.NonceBytes + LifelineFrames.ProofBytes;
        if (kind != LifelineKind.Hello || content.Length <= head)
        {
            return null;
        }

        byte[] nonce = content[..LifelineFrames.NonceBytes], who = content[head..];
        byte[] proof = LifelineFrames.Proof(token, "member", challenge, nonce, who);
        if (!CryptographicOperations.FixedTimeEquals(proof, content.AsSpan(LifelineFrames.NonceBytes, LifelineFrames.ProofBytes))
            || Member.Of(who) is not { } member || member.Size != Own.Size || member.Rank <= 0 || member.Rank >= Own.Size)
        {
            return null;
        }

        byte[] name = Own.ToBytes(), rest = [.. BitConverter.GetBytes(name.Length), .. name, .. handed];
        stream.ReadTimeout = Timeout.Infinite;
        Line line = new(member, connection, stream);
        lock (gate)
        {
            if (lines[member.Rank] is not null)
            {
                return null;
            }

            line.Send(LifelineKind.Welcome, [.. LifelineFrames.Proof(token, "leader", nonce, challenge, rest), .. rest]);
            lines[member.Rank] = line;
        }

        missing.Signal();
        return line;
    }

    private void Hear(Line line, (LifelineKind Kind, byte[] Content) frame)
    {
        line.Heard = Stopwatch.GetTimestamp();
        switch (frame.Kind)
        {
            case LifelineKind.Beat:
                line.Position = Beaten(frame.Content);
                break;
            case LifelineKind.Numbers:
                lock (gate)
                {
                    line.Numbers.Enqueue(LifelineFrames.Doubles(frame.Content));
                    Monitor.PulseAll(gate);
                }

                break;
            case LifelineKind.Bye:
                line.Parted = true;
                var (reason, code) = Reason(frame.Content);
                if (reason.Length > 0)
                {
                    Announce(line.Member, $"{line.Member} stopped: {reason}", code);
                }

                break;
        }
    }

    private void Watch()
    {
        Position own = Position;
        Tell(LifelineKind.Beat, Beating(own));
        List<Line> watched = [.. Lines().Where(line => !line.Parted && !line.Over)];
        if (watched.FirstOrDefault(line => Stopwatch.GetElapsedTime(line.Heard) > Patience.Silence) is { } silent)
        {
            Announce(silent.Member, $"{silent.Member} has not been heard of for {Patience.Silence.TotalSeconds:0} s, since step {silent.Position.Step}");
            return;
        }

        // Who waits has made its call; who keeps the others waiting has not.
        long last = watched.Select(line => line.Position.Calls).Append(own.Calls).Min();
        long first = watched.Select(line => line.Position.Calls).Append(own.Calls).Max();
        if (last != least || first == last)
        {
            (least, advanced) = (last, Stopwatch.GetTimestamp());
        }
        else if (Stopwatch.GetElapsedTime(advanced) > Patience.Timeout)
        {
            Member late = watched.Where(line => line.Position.Calls == last).Select(line => line.Member).FirstOrDefault() ?? Own;
            long step = late == Own ? own.Step : lines[late.Rank]!.Position.Step;
            Announce(late, $"{late} has kept the others waiting for {Patience.Timeout.TotalSeconds:0} s, at step {step}");
        }
    }

    private void Announce(Member culprit, string sentence, int code = 1)
    {
        if (Ending)
        {
            return;
        }

        Tell(LifelineKind.Stop, Reason(sentence, code));
        Fail(culprit, sentence, code: code);
    }

    /// <summary>A member's connection.</summary>
    private sealed class Line(Member member, TcpClient connection, NetworkStream stream)
    {
        private readonly Lock writing = new();

        public Member Member => member;

        public TcpClient Connection => connection;

        public NetworkStream Stream => stream;

        public Queue<double[]> Numbers { get; } = new();

        public Position Position { get; set; }

        public long Heard { get; set; } = Stopwatch.GetTimestamp();

        /// <summary>Whether it has said that it ends.</summary>
        public volatile bool Parted;

        /// <summary>Whether its connection is gone.</summary>
        public volatile bool Over;

        public void Send(LifelineKind kind, byte[] content)
        {
            try
            {
                lock (writing)
                {
                    LifelineFrames.Write(stream, kind, content);
                }
            }
            catch (Exception error) when (error is IOException or ObjectDisposedException)
            {
                // Whoever reads from it learns that it is gone.
            }
        }
    }
}
