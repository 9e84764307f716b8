using System.Buffers.Binary;
using System.Text;
using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>Writes a pickle of protocol 2 with what a checkpoint needs: scalars, text, dicts, and tensors as torch.save describes them.</summary>
internal sealed class PickleWriter
{
    private readonly MemoryStream bytes = new();

    public PickleWriter() => Put(0x80, 2);

    public PickleWriter Text(string value)
    {
        byte[] text = Encoding.UTF8.GetBytes(value);
        Put((byte)'X');
        Word(text.Length);
        bytes.Write(text);
        return this;
    }

    public PickleWriter Int(long value)
    {
        if (value is >= 0 and <= byte.MaxValue)
        {
            Put((byte)'K', (byte)value);
        }
        else if (value is >= int.MinValue and <= int.MaxValue)
        {
            Put((byte)'J');
            Word((int)value);
        }
        else
        {
            Put(0x8A, 8);
            byte[] number = new byte[8];
            BinaryPrimitives.WriteInt64LittleEndian(number, value);
            bytes.Write(number);
        }

        return this;
    }

    /// <summary>A dict; <paramref name="items"/> writes keys and values alternately.</summary>
    public PickleWriter Dict(Action items)
    {
        Put((byte)'}', (byte)'(');
        items();
        Put((byte)'u');
        return this;
    }

    /// <summary>An OrderedDict; <paramref name="items"/> writes keys and values alternately.</summary>
    public PickleWriter OrderedDict(Action items)
    {
        EmptyOrderedDict();
        Put((byte)'(');
        items();
        Put((byte)'u');
        return this;
    }

    /// <summary>A contiguous tensor that begins at the start of a storage of the CPU.</summary>
    public PickleWriter Tensor(torch.ScalarType type, string storage, long[] shape)
    {
        long count = shape.Aggregate(1L, (product, length) => product * length);
        Global("torch._utils", "_rebuild_tensor_v2");
        Put((byte)'(', (byte)'(');
        Text("storage");
        Global("torch", TensorType.Of(type).Storage!);
        Text(storage).Text("cpu").Int(count);
        Put((byte)'t', (byte)'Q');
        Int(0);
        Tuple(shape);
        long[] strides = new long[shape.Length];
        for (long axis = shape.Length - 1, stride = 1; axis >= 0; stride *= Math.Max(1, shape[axis--]))
        {
            strides[axis] = stride;
        }

        Tuple(strides);
        Put(0x89);
        EmptyOrderedDict();
        Put((byte)'t', (byte)'R');
        return this;
    }

    /// <summary>The pickle as a whole.</summary>
    public byte[] Finish()
    {
        Put((byte)'.');
        return bytes.ToArray();
    }

    private void EmptyOrderedDict()
    {
        Global("collections", "OrderedDict");
        Put((byte)')', (byte)'R');
    }

    private void Global(string module, string name) => bytes.Write(Encoding.ASCII.GetBytes($"c{module}\n{name}\n"));

    private void Tuple(long[] values)
    {
        Put((byte)'(');
        foreach (long value in values)
        {
            Int(value);
        }

        Put((byte)'t');
    }

    private void Word(int value)
    {
        byte[] number = new byte[4];
        BinaryPrimitives.WriteInt32LittleEndian(number, value);
        bytes.Write(number);
    }

    private void Put(params ReadOnlySpan<byte> values) => bytes.Write(values);
}
