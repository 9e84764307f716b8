namespace Hybrid.Runner.Formats;

/// <summary>A picture, still encoded: its bytes, or the file that has them.</summary>
internal sealed class EncodedPicture
{
    /// <summary>The most bytes of a picture that are read.</summary>
    public const long MostBytes = 1L << 28;

    private readonly byte[]? bytes;
    private readonly string? path;

    /// <summary>A picture in memory.</summary>
    public EncodedPicture(byte[] bytes) => this.bytes = bytes;

    /// <summary>A picture in a file, which is read when it is asked for.</summary>
    public EncodedPicture(string path) => this.path = path;

    /// <summary>The bytes that are held in memory.</summary>
    public long Held => bytes?.Length ?? 0;

    /// <summary>The bytes. Errors: <see cref="InputException"/> where the file is absent, empty, unreadable or too large.</summary>
    public byte[] Read()
    {
        if (bytes is not null)
        {
            return bytes;
        }

        try
        {
            long length = new FileInfo(path!).Length;
            return length switch
            {
                0 => throw new DropException(DropReason.MissingPicture, $"{path} is empty."),
                > MostBytes => throw new DropException(DropReason.TooLarge, $"{path} has {length:N0} bytes; at most {MostBytes:N0} are read."),
                _ => File.ReadAllBytes(path!),
            };
        }
        catch (Exception e) when (FileErrors.Explain(e, path!) is { } refusal)
        {
            throw new DropException(DropReason.MissingPicture, refusal.Message);
        }
    }
}
