using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Hybrid.Runner.Distribution;

/// <summary>
/// Sums of what several processes sent, in the order of ranks: the bits then depend on nothing but the values and their number. bf16 is
/// added in fp32 and rounded once.
/// </summary>
internal static unsafe class OrderedSum
{
    /// <summary>target[i] = Σ over parts of source[part · stride + i]. Counts are in elements.</summary>
    public static void Into(nint target, nint source, int parts, long stride, long count, ElementType type)
    {
        switch (type)
        {
            case ElementType.Float32:
                Add((float*)target, (float*)source, parts, stride, count);
                break;
            case ElementType.Float64:
                Add((double*)target, (double*)source, parts, stride, count);
                break;
            case ElementType.Int64:
                Add((long*)target, (long*)source, parts, stride, count);
                break;
            default:
                AddHalf((ushort*)target, (ushort*)source, parts, stride, count);
                break;
        }
    }

    private static void Add<T>(T* target, T* source, int parts, long stride, long count)
        where T : unmanaged, INumberBase<T>
    {
        long i = 0;
        for (; i <= count - Vector<T>.Count; i += Vector<T>.Count)
        {
            Vector<T> sum = Unsafe.ReadUnaligned<Vector<T>>(source + i);
            for (int part = 1; part < parts; part++)
            {
                sum += Unsafe.ReadUnaligned<Vector<T>>(source + part * stride + i);
            }

            Unsafe.WriteUnaligned(target + i, sum);
        }

        for (; i < count; i++)
        {
            T sum = source[i];
            for (int part = 1; part < parts; part++)
            {
                sum += source[part * stride + i];
            }

            target[i] = sum;
        }
    }

    private static void AddHalf(ushort* target, ushort* source, int parts, long stride, long count)
    {
        long i = 0;
        for (; i <= count - Vector<ushort>.Count; i += Vector<ushort>.Count)
        {
            Widen(source + i, out Vector<float> low, out Vector<float> high);
            for (int part = 1; part < parts; part++)
            {
                Widen(source + part * stride + i, out Vector<float> otherLow, out Vector<float> otherHigh);
                low += otherLow;
                high += otherHigh;
            }

            Unsafe.WriteUnaligned(target + i, Vector.Narrow(Round(low), Round(high)));
        }

        for (; i < count; i++)
        {
            float sum = Wide(source[i]);
            for (int part = 1; part < parts; part++)
            {
                sum += Wide(source[part * stride + i]);
            }

            target[i] = Narrow(sum);
        }
    }

    private static float Wide(ushort value) => BitConverter.UInt32BitsToSingle((uint)value << 16);

    // To the nearest, halves to even; what is not a number stays none.
    private static ushort Narrow(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return float.IsNaN(value) ? (ushort)0x7FC0 : (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }

    private static void Widen(ushort* source, out Vector<float> low, out Vector<float> high)
    {
        Vector.Widen(Unsafe.ReadUnaligned<Vector<ushort>>(source), out Vector<uint> first, out Vector<uint> second);
        low = Vector.AsVectorSingle(first << 16);
        high = Vector.AsVectorSingle(second << 16);
    }

    private static Vector<uint> Round(Vector<float> value)
    {
        Vector<uint> bits = Vector.AsVectorUInt32(value);
        Vector<uint> rounded = (bits + new Vector<uint>(0x7FFF) + ((bits >> 16) & Vector<uint>.One)) >> 16;
        return Vector.ConditionalSelect(Vector.AsVectorUInt32(Vector.Equals(value, value)), rounded, new Vector<uint>(0x7FC0));
    }
}
