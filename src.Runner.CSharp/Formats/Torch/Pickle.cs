using System.Buffers.Binary;
using System.Numerics;
using System.Text;

namespace Hybrid.Runner.Formats;

/// <summary>
/// A pickle machine for files of tensors. It executes nothing: it knows the opcodes that torch.save writes (protocols 2 to 5)
/// and the few names that tensors need, and builds plain values. What trainers keep beside tensors (settings, callbacks, numbers of
/// NumPy) becomes an inert <see cref="PickleObject"/>; names that reach the machine end the reading with a sentence.
/// </summary>
/// <remarks>
/// Values: null, bool, long, BigInteger, double, string, byte[], object?[] (tuple), List&lt;object?&gt; (sets too),
/// <see cref="PickleDict"/>, <see cref="PickleTensor"/>, <see cref="PickleStorage"/>, <see cref="PickleName"/>,
/// <see cref="PickleDevice"/>, <see cref="PickleObject"/>.
/// Work and memory are bounded by a multiple of the pickle's length.
/// </remarks>
internal ref partial struct Pickle
{
    private static readonly UTF8Encoding Utf8 = new(false, throwOnInvalidBytes: true);

    private readonly string path;
    private readonly long origin;
    private readonly ReadOnlySpan<byte> bytes;
    private readonly List<object?> stack = [];
    private readonly List<int> marks = [];
    private readonly Dictionary<uint, object?> memo = [];
    private readonly Action<PickleStorage>? storageSeen;
    private long budget;
    private int position;
    private int opcodeAt;

    private Pickle(ReadOnlySpan<byte> bytes, string path, long origin, Action<PickleStorage>? storageSeen)
    {
        this.bytes = bytes;
        this.path = path;
        this.origin = origin;
        this.storageSeen = storageSeen;
        budget = (4L * bytes.Length) + 4096;
    }

    /// <summary>Reads one pickle from the start of <paramref name="bytes"/>.</summary>
    /// <param name="bytes">The pickle, and what may follow it.</param>
    /// <param name="path">The file, for messages.</param>
    /// <param name="origin">The offset of <paramref name="bytes"/> within the file, for messages.</param>
    /// <param name="length">The pickle's own length.</param>
    /// <param name="storageSeen">Called for every storage that is named.</param>
    /// <returns>The value. Errors: <see cref="InputException"/>.</returns>
    public static object? Read(ReadOnlySpan<byte> bytes, string path, long origin, out int length, Action<PickleStorage>? storageSeen = null)
    {
        Pickle machine = new(bytes, path, origin, storageSeen);
        object? value = machine.Run();
        length = machine.position;
        return value;
    }

    private object? Run()
    {
        if (bytes.Length < 2 || bytes[0] != 0x80 || bytes[1] is < 2 or > 5)
        {
            throw Wrong("this is not a pickle of protocol 2 to 5");
        }

        while (true)
        {
            opcodeAt = position;
            byte opcode = Byte();
            switch (opcode)
            {
                case 0x80:
                    if (Byte() is < 2 or > 5)
                    {
                        throw Wrong("the pickle's protocol is not one of 2 to 5");
                    }

                    break;
                case 0x95:
                    Take(8); // a frame's length says nothing that is needed
                    break;
                case (byte)'.':
                    object? result = Pop();
                    return stack.Count == 0 && marks.Count == 0 ? result : throw Wrong("values are left over at the pickle's end");
                case (byte)'(':
                    marks.Add(stack.Count);
                    break;
                case (byte)'0':
                    Pop();
                    break;
                case (byte)'1':
                    PopToMark();
                    break;
                case (byte)'N':
                    stack.Add(null);
                    break;
                case 0x88:
                    stack.Add(true);
                    break;
                case 0x89:
                    stack.Add(false);
                    break;
                case (byte)'J':
                    stack.Add((long)BinaryPrimitives.ReadInt32LittleEndian(Take(4)));
                    break;
                case (byte)'K':
                    stack.Add((long)Byte());
                    break;
                case (byte)'M':
                    stack.Add((long)BinaryPrimitives.ReadUInt16LittleEndian(Take(2)));
                    break;
                case 0x8A:
                    stack.Add(Whole(Take(Byte())));
                    break;
                case 0x8B:
                    stack.Add(Whole(Take(BinaryPrimitives.ReadUInt32LittleEndian(Take(4)))));
                    break;
                case (byte)'G':
                    stack.Add(BinaryPrimitives.ReadDoubleBigEndian(Take(8)));
                    break;
                case (byte)'X':
                    stack.Add(Text(Take(BinaryPrimitives.ReadUInt32LittleEndian(Take(4)))));
                    break;
                case 0x8C:
                    stack.Add(Text(Take(Byte())));
                    break;
                case 0x8D:
                    stack.Add(Text(Take(BinaryPrimitives.ReadUInt64LittleEndian(Take(8)))));
                    break;
                case (byte)'U':
                    stack.Add(Encoding.Latin1.GetString(Take(Byte()))); // Python 2's str
                    break;
                case (byte)'T':
                    stack.Add(Encoding.Latin1.GetString(Take(BinaryPrimitives.ReadUInt32LittleEndian(Take(4)))));
                    break;
                case (byte)'C':
                    stack.Add(Take(Byte()).ToArray());
                    break;
                case (byte)'B':
                    stack.Add(Take(BinaryPrimitives.ReadUInt32LittleEndian(Take(4))).ToArray());
                    break;
                case 0x8E or 0x96:
                    stack.Add(Take(BinaryPrimitives.ReadUInt64LittleEndian(Take(8))).ToArray());
                    break;
                case (byte)']' or 0x8F: // a list, or a set
                    stack.Add(new List<object?>());
                    break;
                case (byte)'a':
                    object? element = Pop();
                    TopList().Add(element);
                    break;
                case (byte)'e' or 0x90: // to a list, or to a set
                    object?[] elements = PopToMark();
                    TopList().AddRange(elements);
                    break;
                case 0x91:
                    stack.Add(new List<object?>(PopToMark())); // a frozen set
                    break;
                case (byte)')':
                    stack.Add(Array.Empty<object?>());
                    break;
                case 0x85:
                    stack.Add(PopLast(1));
                    break;
                case 0x86:
                    stack.Add(PopLast(2));
                    break;
                case 0x87:
                    stack.Add(PopLast(3));
                    break;
                case (byte)'t':
                    stack.Add(PopToMark());
                    break;
                case (byte)'}':
                    stack.Add(new PickleDict());
                    break;
                case (byte)'s':
                    object?[] pair = PopLast(2);
                    TopDict().Set(pair[0], pair[1]);
                    break;
                case (byte)'u':
                    SetItems(PopToMark());
                    break;
                case (byte)'q':
                    memo[Byte()] = Peek();
                    break;
                case (byte)'r':
                    memo[BinaryPrimitives.ReadUInt32LittleEndian(Take(4))] = Peek();
                    break;
                case 0x94:
                    memo[(uint)memo.Count] = Peek();
                    break;
                case (byte)'h':
                    stack.Add(Remembered(Byte()));
                    break;
                case (byte)'j':
                    stack.Add(Remembered(BinaryPrimitives.ReadUInt32LittleEndian(Take(4))));
                    break;
                case (byte)'c':
                    string module = Line();
                    stack.Add(Name(module, Line()));
                    break;
                case 0x93:
                    object?[] parts = PopLast(2);
                    stack.Add(parts is [string m, string n] ? Name(m, n) : throw Wrong("a name is not made of two texts"));
                    break;
                case (byte)'Q':
                    stack.Add(Storage(Pop()));
                    break;
                case (byte)'R':
                    object? arguments = Pop();
                    stack.Add(Rebuild(Pop(), arguments as object?[] ?? throw Wrong("arguments are not a tuple")));
                    break;
                case 0x81:
                    object? given = Pop();
                    stack.Add(Rebuild(Pop(), given as object?[] ?? throw Wrong("arguments are not a tuple")));
                    break;
                case 0x92:
                    Pop(); // arguments by name
                    object? listed = Pop();
                    stack.Add(Rebuild(Pop(), listed as object?[] ?? throw Wrong("arguments are not a tuple")));
                    break;
                case (byte)'2':
                    stack.Add(Peek());
                    break;
                case (byte)'b':
                    Build(Pop());
                    break;
                default:
                    throw Wrong($"opcode 0x{opcode:X2} is not one that torch.save writes for tensors; nothing of the file is executed");
            }
        }
    }

    /// <summary>
    /// An object's state: state dicts carry a version table as an attribute, which nothing here needs; nor does anything need what a
    /// parameter or an inert object knows of itself.
    /// </summary>
    private readonly void Build(object? state)
    {
        if (Peek() is PickleObject or PickleTensor)
        {
            return;
        }

        _ = Top<PickleDict>("an OrderedDict to give attributes to");
        if (state is not PickleDict)
        {
            throw Wrong("attributes are not a dict");
        }
    }

    private readonly void SetItems(object?[] items)
    {
        PickleDict dict = TopDict();
        if (items.Length % 2 != 0)
        {
            throw Wrong("a key of a dict has no value");
        }

        for (int i = 0; i < items.Length; i += 2)
        {
            dict.Set(items[i], items[i + 1]);
        }
    }

    private static object Whole(ReadOnlySpan<byte> digits)
    {
        if (digits.Length > 8)
        {
            // torch's own magic number has ten bytes; other values this long are states of random generators and the like.
            return digits.SequenceEqual(TorchLegacyFile.MagicNumber) ? TorchLegacyFile.MagicValue : (object)new BigInteger(digits);
        }

        long value = 0;
        for (int i = 0; i < digits.Length; i++)
        {
            value |= (long)digits[i] << (8 * i);
        }

        int unused = 64 - (8 * digits.Length);
        return digits.Length == 0 ? 0 : value << unused >> unused;
    }

    private readonly string Text(ReadOnlySpan<byte> text)
    {
        try
        {
            return Utf8.GetString(text);
        }
        catch (DecoderFallbackException e)
        {
            throw Wrong("a text is not UTF-8", e);
        }
    }

    private string Line()
    {
        int length = bytes[position..].IndexOf((byte)'\n');
        if (length < 0)
        {
            throw Wrong("a name has no end");
        }

        string line = Text(bytes.Slice(position, length));
        position += length + 1;
        return line;
    }

    private byte Byte() => Take(1)[0];

    private ReadOnlySpan<byte> Take(ulong count)
    {
        if (count > (ulong)(bytes.Length - position))
        {
            throw Wrong($"the pickle is cut short: {count} bytes are needed and {bytes.Length - position} are left");
        }

        ReadOnlySpan<byte> taken = bytes.Slice(position, (int)count);
        position += (int)count;
        return taken;
    }

    private readonly object? Remembered(uint index) =>
        memo.TryGetValue(index, out object? value) ? value : throw Wrong($"nothing was remembered under {index}");

    private readonly int Floor() => marks.Count == 0 ? 0 : marks[^1];

    private readonly object? Peek() => stack.Count > Floor() ? stack[^1] : throw Wrong("the stack is empty");

    private readonly T Top<T>(string wanted)
        where T : class => Peek() as T ?? throw Wrong($"there is not {wanted}");

    /// <summary>The list, or the elements of an inert object, at the top of the stack.</summary>
    private readonly List<object?> TopList() => Peek() is PickleObject inert ? inert.Elements : Top<List<object?>>("a list to append to");

    /// <summary>The dict, or the items of an inert object, at the top of the stack.</summary>
    private readonly PickleDict TopDict() => Peek() is PickleObject inert ? inert.Items : Top<PickleDict>("a dict to set items of");

    private readonly object? Pop()
    {
        object? value = Peek();
        stack.RemoveAt(stack.Count - 1);
        return value;
    }

    private readonly object?[] PopLast(int count)
    {
        if (stack.Count - Floor() < count)
        {
            throw Wrong("the stack is empty");
        }

        object?[] values = stack.GetRange(stack.Count - count, count).ToArray();
        stack.RemoveRange(stack.Count - count, count);
        return values;
    }

    private readonly object?[] PopToMark()
    {
        if (marks.Count == 0)
        {
            throw Wrong("there is no mark");
        }

        object?[] values = PopLast(stack.Count - marks[^1]);
        marks.RemoveAt(marks.Count - 1);
        return values;
    }

    private readonly InputException Wrong(string what, Exception? inner = null) => new($"{path}: {what} (offset {origin + opcodeAt}).", inner);
}
