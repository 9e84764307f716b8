using System.Runtime.InteropServices;
using SkiaSharp;

namespace Hybrid.Runner.Formats;

/// <summary>A picture of 8-bit RGB pixels.</summary>
/// <param name="Width">Its width.</param>
/// <param name="Height">Its height.</param>
/// <param name="Pixels">Its pixels [Height, Width, 3] in row-major order.</param>
public sealed record Picture(int Width, int Height, byte[] Pixels);

/// <summary>Decoding, cropping, resizing and encoding of pictures.</summary>
public static class Pictures
{
    /// <summary>The most pixels that a picture may have: beyond these Pillow too suspects a bomb.</summary>
    public const long MaximumPixels = 89_478_485;

    // Pictures beyond this are decoded one at a time, so that many threads need no more memory than a few.
    private const long Large = 1L << 24;
    private static readonly Lock OneLarge = new();

    private static readonly SKEncodedImageFormat[] Formats =
        [SKEncodedImageFormat.Jpeg, SKEncodedImageFormat.Png, SKEncodedImageFormat.Webp, SKEncodedImageFormat.Gif, SKEncodedImageFormat.Bmp];

    /// <summary>
    /// Decodes a JPEG, PNG, WebP, GIF or BMP picture (the first frame of an animated one). Greyscale, palette, 16-bit and CMYK become
    /// 8-bit RGB without colour management; transparency is composed on white; the EXIF orientation is applied.
    /// </summary>
    /// <param name="bytes">The encoded picture.</param>
    /// <param name="name">What messages call it: a path, or a tar and the member's name.</param>
    /// <returns>The picture. Errors: <see cref="InputException"/> when it is no picture, cut short, damaged or too large.</returns>
    public static Picture Decode(ReadOnlyMemory<byte> bytes, string name)
    {
        using SKData data = SKData.CreateCopy(bytes.Span);
        using SKCodec? codec = SKCodec.Create(data);
        if (codec is null || !Formats.Contains(codec.EncodedFormat))
        {
            throw new InputException($"{name} is not a JPEG, PNG, WebP, GIF or BMP picture{(codec is null ? "" : $" but {codec.EncodedFormat}")} ({bytes.Length} bytes).");
        }

        (int width, int height) = (codec.Info.Width, codec.Info.Height);
        long pixels = (long)width * height;
        if (pixels is <= 0 or > MaximumPixels)
        {
            throw new DropException(DropReason.TooLarge, $"{name} has {width} × {height} pixels; at most {MaximumPixels / 1_000_000} million are decoded.");
        }

        // Neither deflate nor Huffman-coded blocks can hold more pixels than this in a byte. (A WebP of one colour can.)
        const long mostPerByte = 8 * 1032;
        if (codec.EncodedFormat != SKEncodedImageFormat.Webp && pixels / mostPerByte > bytes.Length)
        {
            throw new DropException(DropReason.TooLarge, $"{name} claims {width} × {height} pixels, more than its {bytes.Length} bytes can hold.");
        }

        if (pixels <= Large)
        {
            return Decode(codec, width, height, bytes.Span, name);
        }

        lock (OneLarge)
        {
            return Decode(codec, width, height, bytes.Span, name);
        }
    }

    /// <summary>Decodes the picture of a file; see <see cref="Decode(ReadOnlyMemory{byte}, string)"/>.</summary>
    public static Picture Read(string path) => Decode(Files.Bytes(path), path);

    /// <summary>
    /// The central square of a picture, resized to <paramref name="size"/> × <paramref name="size"/> by antialiased bicubic
    /// resampling (<see cref="Middle"/>).
    /// </summary>
    /// <param name="picture">The picture.</param>
    /// <param name="size">Width and height of the result.</param>
    /// <param name="reducingGap">See <see cref="Resampling.Bicubic"/>; MoVQGAN was trained with 1.</param>
    public static Picture CentreCropResize(Picture picture, int size, double? reducingGap = null)
    {
        int side = Math.Min(picture.Width, picture.Height);
        Picture square = Middle(picture, side, side);
        return new(size, size, Resampling.Bicubic(square.Pixels, side, side, size, size, reducingGap));
    }

    /// <summary>
    /// The middle of a picture, which is the picture where it is as large. Where the margins cannot be equal, the one on the left or top
    /// is the smaller.
    /// </summary>
    public static Picture Middle(Picture picture, int width, int height) => (width, height) == (picture.Width, picture.Height)
        ? picture
        : Crop(picture, (picture.Width - width) / 2, (picture.Height - height) / 2, width, height);

    /// <summary>A rectangle of a picture.</summary>
    public static Picture Crop(Picture picture, int left, int top, int width, int height)
    {
        if (left < 0 || top < 0 || width <= 0 || height <= 0 || left > picture.Width - width || top > picture.Height - height)
        {
            throw new ArgumentOutOfRangeException(nameof(left), $"The rectangle {left}, {top}, {width} × {height} leaves the picture.");
        }

        byte[] pixels = new byte[width * height * 3];
        for (int y = 0; y < height; y++)
        {
            picture.Pixels.AsSpan((((top + y) * picture.Width) + left) * 3, width * 3).CopyTo(pixels.AsSpan(y * width * 3));
        }

        return new(width, height, pixels);
    }

    /// <summary>A picture as PNG.</summary>
    public static unsafe byte[] EncodePng(Picture picture)
    {
        int count = picture.Width * picture.Height;
        ArgumentOutOfRangeException.ThrowIfNotEqual(picture.Pixels.Length, count * 3);
        byte[] wide = new byte[count * 4];
        for (int i = 0; i < count; i++)
        {
            picture.Pixels.AsSpan(i * 3, 3).CopyTo(wide.AsSpan(i * 4));
            wide[(i * 4) + 3] = 255;
        }

        SKImageInfo info = new(picture.Width, picture.Height, SKColorType.Rgba8888, SKAlphaType.Opaque);
        fixed (byte* start = wide)
        {
            using SKPixmap pixmap = new(info, (nint)start);
            using SKData? data = pixmap.Encode(SKPngEncoderOptions.Default);
            return data?.ToArray() ?? throw new InvalidOperationException($"A picture of {picture.Width} × {picture.Height} pixels could not be encoded.");
        }
    }

    /// <summary>
    /// Pictures in rows of <paramref name="columns"/>, each in a cell of the largest width and height, with white gaps.
    /// </summary>
    public static Picture Grid(IReadOnlyList<Picture> pictures, int columns, int gap = 2)
    {
        ArgumentOutOfRangeException.ThrowIfZero(pictures.Count);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(columns);
        ArgumentOutOfRangeException.ThrowIfNegative(gap);
        int cellWidth = pictures.Max(p => p.Width), cellHeight = pictures.Max(p => p.Height);
        int across = Math.Min(columns, pictures.Count), down = (pictures.Count + columns - 1) / columns;
        int width = checked((across * (cellWidth + gap)) - gap), height = checked((down * (cellHeight + gap)) - gap);
        byte[] pixels = new byte[checked(width * height * 3)];
        Array.Fill(pixels, (byte)255);
        for (int i = 0; i < pictures.Count; i++)
        {
            Picture picture = pictures[i];
            int left = i % columns * (cellWidth + gap), top = i / columns * (cellHeight + gap);
            for (int y = 0; y < picture.Height; y++)
            {
                picture.Pixels.AsSpan(y * picture.Width * 3, picture.Width * 3).CopyTo(pixels.AsSpan((((top + y) * width) + left) * 3));
            }
        }

        return new(width, height, pixels);
    }

    private static Picture Decode(SKCodec codec, int width, int height, ReadOnlySpan<byte> bytes, string name)
    {
        // No colour space: the stored values are wanted, as the image tokenizers were trained on them.
        SKImageInfo info = new(width, height, SKColorType.Rgba8888, SKAlphaType.Unpremul);
        nint buffer = Marshal.AllocHGlobal((nint)((long)width * height * 4));
        try
        {
            SKCodecResult result = codec.GetPixels(info, buffer);
            if (result != SKCodecResult.Success)
            {
                throw new InputException(result == SKCodecResult.IncompleteInput
                    ? $"{name} is cut short: {bytes.Length} bytes do not give its {width} × {height} pixels."
                    : $"{name} cannot be decoded ({result}).");
            }

            return Compose(buffer, width, height, codec.EncodedFormat == SKEncodedImageFormat.Png ? (SKEncodedOrigin)PngOrientation.Read(bytes) : codec.EncodedOrigin);
        }
        finally
        {
            Marshal.FreeHGlobal(buffer);
        }
    }

    /// <summary>RGBA to RGB on white, turned as the EXIF orientation says.</summary>
    private static unsafe Picture Compose(nint buffer, int width, int height, SKEncodedOrigin origin)
    {
        bool turned = origin is SKEncodedOrigin.LeftTop or SKEncodedOrigin.RightTop or SKEncodedOrigin.RightBottom or SKEncodedOrigin.LeftBottom;
        (int newWidth, int newHeight) = turned ? (height, width) : (width, height);
        byte[] pixels = new byte[newWidth * newHeight * 3];
        byte* source = (byte*)buffer;
        int target = 0;
        if (origin is SKEncodedOrigin.TopLeft or SKEncodedOrigin.Default)
        {
            for (byte* pixel = source, end = source + (4L * width * height); pixel < end; pixel += 4)
            {
                (pixels[target], pixels[target + 1], pixels[target + 2]) = pixel[3] == 255
                    ? (pixel[0], pixel[1], pixel[2])
                    : (OnWhite(pixel[0], pixel[3]), OnWhite(pixel[1], pixel[3]), OnWhite(pixel[2], pixel[3]));
                target += 3;
            }

            return new(width, height, pixels);
        }

        for (int y = 0; y < newHeight; y++)
        {
            for (int x = 0; x < newWidth; x++)
            {
                (int fromX, int fromY) = origin switch
                {
                    SKEncodedOrigin.TopRight => (width - 1 - x, y),
                    SKEncodedOrigin.BottomRight => (width - 1 - x, height - 1 - y),
                    SKEncodedOrigin.BottomLeft => (x, height - 1 - y),
                    SKEncodedOrigin.LeftTop => (y, x),
                    SKEncodedOrigin.RightTop => (y, height - 1 - x),
                    SKEncodedOrigin.RightBottom => (width - 1 - y, height - 1 - x),
                    SKEncodedOrigin.LeftBottom => (width - 1 - y, x),
                    _ => (x, y),
                };
                byte* pixel = source + (4L * (((long)fromY * width) + fromX));
                int alpha = pixel[3];
                for (int channel = 0; channel < 3; channel++)
                {
                    pixels[target++] = OnWhite(pixel[channel], alpha);
                }
            }
        }

        return new(newWidth, newHeight, pixels);
    }

    private static byte OnWhite(int value, int alpha) => (byte)(((value * alpha) + (255 * (255 - alpha)) + 127) / 255);
}
