using System.Buffers.Binary;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;

namespace Hybrid.Runner.Distribution;

/// <summary>What a message on a lifeline is.</summary>
internal enum LifelineKind : byte
{
    /// <summary>From rank 0: a nonce.</summary>
    Challenge = 1,

    /// <summary>To rank 0: who this is, and proof of the token.</summary>
    Hello,

    /// <summary>From rank 0: proof of the token, and what it hands out.</summary>
    Welcome,

    /// <summary>Still there: the step, and how many calls were made.</summary>
    Beat,

    /// <summary>Numbers to be summed.</summary>
    Numbers,

    /// <summary>Their sums.</summary>
    Sums,

    /// <summary>A process ends; the reason where it did not come to its end.</summary>
    Bye,

    /// <summary>From rank 0: all are to stop, and why.</summary>
    Stop,
}

/// <summary>Messages on a lifeline: length, kind, content. Nothing in them is more than numbers and text.</summary>
internal static class LifelineFrames
{
    public const int NonceBytes = 16, ProofBytes = 32;
    private const int Longest = 1 << 22;

    /// <summary>Writes a message as one.</summary>
    public static void Write(NetworkStream stream, LifelineKind kind, ReadOnlySpan<byte> content)
    {
        byte[] frame = new byte[5 + content.Length];
        BinaryPrimitives.WriteInt32LittleEndian(frame, content.Length);
        frame[4] = (byte)kind;
        content.CopyTo(frame.AsSpan(5));
        stream.Write(frame);
    }

    /// <summary>Reads a message. Errors: EndOfStreamException at the end; IOException where it is none.</summary>
    public static (LifelineKind Kind, byte[] Content) Read(NetworkStream stream)
    {
        Span<byte> head = stackalloc byte[5];
        stream.ReadExactly(head);
        int length = BinaryPrimitives.ReadInt32LittleEndian(head);
        if (length is < 0 or > Longest)
        {
            throw new IOException($"a message of {length} bytes came, which is none of this program.");
        }

        byte[] content = new byte[length];
        stream.ReadExactly(content);
        return ((LifelineKind)head[4], content);
    }

    /// <summary>Proof that a side knows the token, for nonces of both sides.</summary>
    public static byte[] Proof(byte[] token, string side, params ReadOnlySpan<byte[]> parts)
    {
        using IncrementalHash hash = IncrementalHash.CreateHMAC(HashAlgorithmName.SHA256, token);
        hash.AppendData(Encoding.UTF8.GetBytes(side));
        foreach (byte[] part in parts)
        {
            hash.AppendData(BitConverter.GetBytes(part.Length));
            hash.AppendData(part);
        }

        return hash.GetHashAndReset();
    }

    public static byte[] Bytes(ReadOnlySpan<double> values)
    {
        byte[] bytes = new byte[values.Length * sizeof(double)];
        for (int i = 0; i < values.Length; i++)
        {
            BinaryPrimitives.WriteDoubleLittleEndian(bytes.AsSpan(i * sizeof(double)), values[i]);
        }

        return bytes;
    }

    public static double[] Doubles(ReadOnlySpan<byte> bytes)
    {
        double[] values = new double[bytes.Length / sizeof(double)];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = BinaryPrimitives.ReadDoubleLittleEndian(bytes[(i * sizeof(double))..]);
        }

        return values;
    }
}

/// <summary>A process of a run, as others name it.</summary>
/// <param name="Rank">From 0.</param>
/// <param name="Size">Processes in all.</param>
/// <param name="Host">Its machine.</param>
/// <param name="Process">Its number there.</param>
internal sealed record Member(int Rank, int Size, string Host, int Process)
{
    /// <summary>This process.</summary>
    public static Member Own(int rank, int size) => new(rank, size, Environment.MachineName, Environment.ProcessId);

    public override string ToString() => $"rank {Rank} ({Host}, process {Process})";

    public byte[] ToBytes() => Encoding.UTF8.GetBytes($"{Rank} {Size} {Process} {Host}");

    /// <summary>Null where the bytes are no member.</summary>
    public static Member? Of(byte[] bytes)
    {
        string[] words = Encoding.UTF8.GetString(bytes).Split(' ', 4);
        return words.Length == 4 && int.TryParse(words[0], out int rank) && int.TryParse(words[1], out int size) && int.TryParse(words[2], out int process)
            ? new(rank, size, Formats.FileErrors.Show(words[3]), process)
            : null;
    }
}

/// <summary>How far a process has come.</summary>
/// <param name="Step">Of the run.</param>
/// <param name="Calls">Collective calls that it made.</param>
internal readonly record struct Position(long Step, long Calls);
