namespace Hybrid.Runner.Formats;

/// <summary>The checksum of zip files (reflected polynomial 0xEDB88320), sixteen bytes at a time.</summary>
internal struct Crc32
{
    private const int Slices = 16;

    /// <summary>For each distance from the end of a block, what a byte there adds to the checksum.</summary>
    private static readonly uint[] Table = MakeTable();
    private uint state;

    /// <summary>The checksum of what was added.</summary>
    public readonly uint Value => state;

    /// <summary>Adds bytes.</summary>
    public unsafe void Add(ReadOnlySpan<byte> bytes)
    {
        uint crc = ~state;
        fixed (uint* t = Table)
        fixed (byte* start = bytes)
        {
            byte* p = start;
            byte* end = start + bytes.Length;
            for (; end - p >= Slices; p += Slices)
            {
                // Little-endian, as every machine that libtorch runs on.
                uint a = *(uint*)p ^ crc, b = *(uint*)(p + 4), c = *(uint*)(p + 8), d = *(uint*)(p + 12);
                crc = t[(15 << 8) + (byte)a] ^ t[(14 << 8) + (byte)(a >> 8)] ^ t[(13 << 8) + (byte)(a >> 16)] ^ t[(12 << 8) + (int)(a >> 24)]
                    ^ t[(11 << 8) + (byte)b] ^ t[(10 << 8) + (byte)(b >> 8)] ^ t[(9 << 8) + (byte)(b >> 16)] ^ t[(8 << 8) + (int)(b >> 24)]
                    ^ t[(7 << 8) + (byte)c] ^ t[(6 << 8) + (byte)(c >> 8)] ^ t[(5 << 8) + (byte)(c >> 16)] ^ t[(4 << 8) + (int)(c >> 24)]
                    ^ t[(3 << 8) + (byte)d] ^ t[(2 << 8) + (byte)(d >> 8)] ^ t[(1 << 8) + (byte)(d >> 16)] ^ t[d >> 24];
            }

            for (; p < end; p++)
            {
                crc = t[(byte)(crc ^ *p)] ^ (crc >> 8);
            }
        }

        state = ~crc;
    }

    private static uint[] MakeTable()
    {
        uint[] table = new uint[Slices * 256];
        for (uint i = 0; i < 256; i++)
        {
            uint crc = i;
            for (int bit = 0; bit < 8; bit++)
            {
                crc = (crc >> 1) ^ ((crc & 1) * 0xEDB88320);
            }

            table[i] = crc;
        }

        for (int i = 256; i < table.Length; i++)
        {
            uint before = table[i - 256];
            table[i] = table[(byte)before] ^ (before >> 8);
        }

        return table;
    }
}
