using System.Buffers.Binary;
using System.Numerics;
using System.Text;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Records of TensorBoard's event files. A file is a row of records: the length of an event (8 bytes, little-endian), the masked CRC-32C
/// of these, the event, and its masked CRC-32C (tensorflow/core/lib/io/record_writer.h). An event is a protocol buffer
/// (tensorflow/core/util/event.proto): 1 wall_time, 2 step, 3 file_version, 5 summary; a summary's values (1) have 1 tag, 2 simple_value.
/// </summary>
internal static class EventRecord
{
    private const uint Mask = 0xa282ead8;

    // Field number times 8, and how it is stored: 0 as a number of variable length, 1 in 8 bytes, 2 behind its length, 5 in 4 bytes.
    private const byte WallTime = (1 << 3) | 1, Step = 2 << 3, FileVersion = (3 << 3) | 2, Summary = (5 << 3) | 2;
    private const byte Value = (1 << 3) | 2, Tag = (1 << 3) | 2, SimpleValue = (2 << 3) | 5;

    /// <summary>The record that a file begins with.</summary>
    /// <param name="time">Seconds since 1970.</param>
    public static byte[] Version(double time)
    {
        MemoryStream record = Event(time, null);
        Text(record, FileVersion, "brain.Event:2");
        return Framed(record);
    }

    /// <summary>Numbers of a step.</summary>
    public static byte[] Scalars(double time, long step, IEnumerable<(string Tag, float Value)> numbers)
    {
        MemoryStream summary = new(), record = Event(time, step);
        Span<byte> bytes = stackalloc byte[4];
        foreach (var (tag, number) in numbers)
        {
            MemoryStream value = new();
            Text(value, Tag, tag);
            value.WriteByte(SimpleValue);
            BinaryPrimitives.WriteSingleLittleEndian(bytes, number);
            value.Write(bytes);
            Bytes(summary, Value, value.ToArray());
        }

        Bytes(record, Summary, summary.ToArray());
        return Framed(record);
    }

    private static MemoryStream Event(double time, long? step)
    {
        MemoryStream record = new();
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteDoubleLittleEndian(bytes, time);
        record.WriteByte(WallTime);
        record.Write(bytes);
        if (step is { } number)
        {
            record.WriteByte(Step);
            Number(record, (ulong)number);
        }

        return record;
    }

    private static byte[] Framed(MemoryStream record)
    {
        byte[] framed = new byte[record.Length + 16];
        Span<byte> header = framed.AsSpan(0, 8), data = framed.AsSpan(12, (int)record.Length);
        BinaryPrimitives.WriteUInt64LittleEndian(header, (ulong)record.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(framed.AsSpan(8), Masked(header));
        record.GetBuffer().AsSpan(0, data.Length).CopyTo(data);
        BinaryPrimitives.WriteUInt32LittleEndian(framed.AsSpan(12 + data.Length), Masked(data));
        return framed;
    }

    private static uint Masked(ReadOnlySpan<byte> bytes)
    {
        uint sum = uint.MaxValue;
        foreach (byte value in bytes)
        {
            sum = BitOperations.Crc32C(sum, value);
        }

        return BitOperations.RotateRight(~sum, 15) + Mask;
    }

    private static void Text(MemoryStream into, byte field, string text) => Bytes(into, field, Encoding.UTF8.GetBytes(text));

    private static void Bytes(MemoryStream into, byte field, byte[] bytes)
    {
        into.WriteByte(field);
        Number(into, (ulong)bytes.Length);
        into.Write(bytes);
    }

    // Seven bits in a byte, the lowest first; the highest bit says that more follow.
    private static void Number(MemoryStream into, ulong number)
    {
        for (; number >= 0x80; number >>= 7)
        {
            into.WriteByte((byte)(number | 0x80));
        }

        into.WriteByte((byte)number);
    }
}
