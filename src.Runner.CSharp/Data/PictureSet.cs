using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using Microsoft.Win32.SafeHandles;

namespace Hybrid.Runner;

/// <summary>
/// The pictures of a run: decoded and resized once, then kept in a file without a name of its own, so that their number is bounded by
/// the disk only. Which are held out follows from their bytes and the seed: a picture that is there twice, or moves to another
/// file, stays on its side.
/// </summary>
internal sealed class PictureSet : IDisposable
{
    private const int Together = 64;

    // A panorama is cut to this many times its short side before it is kept.
    private const int LongestSide = 2;

    private readonly ImageTrainPlan plan;
    private readonly SafeFileHandle cache;
    private readonly List<(long Offset, int Width, int Height, double Draw)> kept = [];
    private readonly SortedSet<Candidate> candidates = [];
    private readonly IncrementalHash digest = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
    private readonly int candidateLimit;
    private (long Offset, int Width, int Height)[] train = [];
    private long length;

    private PictureSet(ImageTrainPlan plan, string cache)
    {
        this.plan = plan;
        candidateLimit = plan.HeldOut(int.MaxValue);
        Directory.CreateDirectory(Path.GetDirectoryName(cache)!);
        this.cache = File.OpenHandle(cache, FileMode.Create, FileAccess.ReadWrite, FileShare.None, FileOptions.DeleteOnClose | FileOptions.RandomAccess);
    }

    /// <summary>How many pictures are trained on.</summary>
    public int Count => train.Length;

    /// <summary>Held-out pictures of imageSize × imageSize pixels, in the order of their draws.</summary>
    public IReadOnlyList<byte[]> HeldOut { get; private set; } = [];

    /// <summary>What was left out.</summary>
    public DropCounts Drops { get; } = new();

    /// <summary>SHA-256 over the SHA-256 of all pictures' files in their order.</summary>
    public string Digest { get; private set; } = "";

    /// <summary>
    /// Reads all pictures of the plan's inputs. Errors: InputException where there are too few; OperationCanceledException when asked to stop.
    /// </summary>
    /// <param name="cache">The path of the file, which is gone when the set is disposed.</param>
    public static PictureSet Read(ImageTrainPlan plan, string cache, Progress progress, CancellationToken stop)
    {
        PictureSource[] sources = [.. plan.Inputs.SelectMany(PictureSource.Open)];
        PictureSet set = new(plan, cache);
        try
        {
            using (Stage stage = progress.Stage("pictures", 0))
            {
                foreach (PictureSource source in sources)
                {
                    foreach ((string Name, byte[] Bytes)[] batch in source.Read(set.Drops).Chunk(Together))
                    {
                        stop.ThrowIfCancellationRequested();
                        set.Add(batch, source.Path);
                        stage.Report(set.kept.Count, new Metrics { Note = Path.GetFileName(source.Path) });
                    }
                }
            }

            set.Split();
            return set;
        }
        catch
        {
            set.Dispose();
            throw;
        }
    }

    /// <summary>The squares that the run sees at a step, each imageSize × imageSize pixels: a function of the step alone.</summary>
    public byte[][] Batch(int step)
    {
        int pictures = plan.Config.Pictures;
        return [.. Enumerable.Range(0, pictures).Select(i => At(((long)step * pictures) + i))];
    }

    /// <summary>The central squares of the first pictures of the order, for the first codes.</summary>
    public byte[][] First(int count) => [.. Enumerable.Range(0, Math.Min(count, Count)).Select(i =>
    {
        (byte[] pixels, int width, int height) = Load(plan.Place(Count, i));
        int size = plan.Config.ImageSize;
        return Pictures.Middle(new(width, height, pixels), size, size).Pixels;
    })];

    public void Dispose()
    {
        digest.Dispose();
        cache.Dispose();
    }

    private byte[] At(long position)
    {
        (byte[] pixels, int width, int height) = Load(plan.Place(Count, position));
        int size = plan.Config.ImageSize;
        PictureView view = plan.View(position, width, height);
        byte[] square = Pictures.Crop(new(width, height, pixels), view.Left, view.Top, size, size).Pixels;
        if (view.Mirrored)
        {
            Mirror(square, size);
        }

        return square;
    }

    private static void Mirror(byte[] pixels, int size)
    {
        for (int y = 0; y < size; y++)
        {
            Span<Pixel> row = MemoryMarshal.Cast<byte, Pixel>(pixels.AsSpan(y * size * 3, size * 3));
            row.Reverse();
        }
    }

    private (byte[] Pixels, int Width, int Height) Load(int place)
    {
        (long offset, int width, int height) = train[place];
        byte[] pixels = new byte[width * height * 3];
        int read = RandomAccess.Read(cache, pixels, offset);
        return read == pixels.Length ? (pixels, width, height) : throw new IOException("the file of decoded pictures is shorter than it was made.");
    }

    private void Add((string Name, byte[] Bytes)[] batch, string source)
    {
        var pictures = new Picture?[batch.Length];
        var hashes = new byte[batch.Length][];
        Parallel.For(0, batch.Length, i =>
        {
            try
            {
                hashes[i] = SHA256.HashData(batch[i].Bytes);
                pictures[i] = Fit(Pictures.Decode(batch[i].Bytes, batch[i].Name));
            }
            catch (InputException error)
            {
                Drops.Add(DropReason.BadPicture, $"{source}, {batch[i].Name}: {error.Message}");
            }
        });
        for (int i = 0; i < batch.Length; i++)
        {
            if (pictures[i] is { } picture)
            {
                digest.AppendData(hashes[i]);
                double draw = plan.Draw(Convert.ToHexStringLower(hashes[i]));
                Propose(new Candidate(draw, kept.Count, batch[i].Bytes));
                kept.Add((length, picture.Width, picture.Height, draw));
                RandomAccess.Write(cache, picture.Pixels, length);
                length += picture.Pixels.Length;
            }
        }
    }

    /// <summary>Keeps the files of the pictures with the lowest draws: some of them will be held out, and those are cut as `prepare` cuts them.</summary>
    private void Propose(Candidate candidate)
    {
        if (candidateLimit > 0)
        {
            candidates.Add(candidate);
            if (candidates.Count > candidateLimit)
            {
                candidates.Remove(candidates.Max!);
            }
        }
    }

    /// <summary>A picture as it is kept: the central square, or with random squares the whole at the short side wanted.</summary>
    private Picture Fit(Picture picture)
    {
        if (!plan.Random)
        {
            return Pictures.CentreCropResize(picture, plan.Config.ImageSize);
        }

        int side = Math.Min(picture.Width, picture.Height), most = LongestSide * side;
        picture = Pictures.Middle(picture, Math.Min(picture.Width, most), Math.Min(picture.Height, most));
        int Scaled(int length) => Math.Max(plan.Config.ShortSide, (int)Math.Round((double)length * plan.Config.ShortSide / side));
        (int width, int height) = (Scaled(picture.Width), Scaled(picture.Height));
        return new(width, height, Resampling.Bicubic(picture.Pixels, picture.Width, picture.Height, width, height));
    }

    private void Split()
    {
        Digest = Convert.ToHexStringLower(digest.GetCurrentHash());
        int wanted = Math.Min(plan.HeldOut(kept.Count), candidates.Count);
        Candidate[] held = [.. candidates.Take(wanted)];
        candidates.Clear();
        double border = held.Length > 0 ? held[^1].Draw : -1;
        // What has the same bytes as a held-out picture has the same draw, and is not trained on either.
        train = [.. kept.Where(picture => picture.Draw > border).Select(picture => (picture.Offset, picture.Width, picture.Height))];
        if (train.Length == 0)
        {
            throw new InputException(
                $"{string.Join(", ", plan.Inputs)}: {(kept.Count == 0 ? "no picture was found" : $"{kept.Count} {(kept.Count == 1 ? "picture is" : "different pictures are")} too few to train on some and hold some out (data.heldOutShare)")}.{Drops.Said}");
        }

        HeldOut = [.. held.Select(candidate => Pictures.CentreCropResize(Pictures.Decode(candidate.Bytes, "a held-out picture"), plan.Config.ImageSize).Pixels)];
    }

    private sealed record Candidate(double Draw, int Index, byte[] Bytes) : IComparable<Candidate>
    {
        public int CompareTo(Candidate? other) => other is null ? 1 : (Draw, Index).CompareTo((other.Draw, other.Index));
    }

    [StructLayout(LayoutKind.Sequential, Pack = 1)]
    private struct Pixel
    {
        public byte Red, Green, Blue;
    }
}
