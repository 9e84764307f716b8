using System.Buffers.Binary;

namespace Hybrid.Runner.Formats;

/// <summary>The EXIF orientation of a PNG, which the decoder passes over. (It reads those of JPEG and WebP itself.)</summary>
internal static class PngOrientation
{
    private const ushort Tag = 0x0112;

    /// <summary>From 1 (as it stands) to 8; 1 where nothing, or nothing sensible, is said.</summary>
    public static int Read(ReadOnlySpan<byte> png)
    {
        for (int at = 8; at <= png.Length - 12;)
        {
            uint length = BinaryPrimitives.ReadUInt32BigEndian(png[at..]);
            if (length > png.Length - at - 12)
            {
                return 1;
            }

            if (png.Slice(at + 4, 4).SequenceEqual("eXIf"u8))
            {
                return OfExif(png.Slice(at + 8, (int)length));
            }

            at += 12 + (int)length;
        }

        return 1;
    }

    private static int OfExif(ReadOnlySpan<byte> exif)
    {
        bool little = exif.StartsWith("II*\0"u8);
        if (exif.Length < 8 || !(little || exif.StartsWith("MM\0*"u8)))
        {
            return 1;
        }

        ushort Short(ReadOnlySpan<byte> at) => little ? BinaryPrimitives.ReadUInt16LittleEndian(at) : BinaryPrimitives.ReadUInt16BigEndian(at);
        uint first = little ? BinaryPrimitives.ReadUInt32LittleEndian(exif[4..]) : BinaryPrimitives.ReadUInt32BigEndian(exif[4..]);
        if (first > exif.Length - 2)
        {
            return 1;
        }

        ReadOnlySpan<byte> entries = exif[((int)first + 2)..];
        int count = Math.Min(Short(exif[(int)first..]), entries.Length / 12);
        for (int i = 0; i < count; i++)
        {
            ReadOnlySpan<byte> entry = entries.Slice(12 * i, 12);
            if (Short(entry) == Tag)
            {
                return Short(entry[8..]) is >= 1 and <= 8 and ushort found ? found : 1;
            }
        }

        return 1;
    }
}
