namespace Hybrid.Runner.Soak;

/// <summary>What disks and crashes do to files.</summary>
internal static class FileDamage
{
    // What a pointer may hold after a crash: a checkpoint that is not there, nothing, or anything.
    private static readonly string[] pointers = ["step-9999999\n", "", "\0\0\0\0", "a\n"];

    /// <summary>Damages what a fault asks for, in a checkpoint where it is about one.</summary>
    public static void Of(SoakFault fault, RunView view, int? step, long seed, int number)
    {
        switch (fault)
        {
            case SoakFault.Truncate:
                string cut = Tensors(view, step!.Value, seed, number);
                Truncate(cut, SoakRules.draw(seed, number, "length", new FileInfo(cut).Length));
                break;
            case SoakFault.FlipBit:
                string flipped = Tensors(view, step!.Value, seed, number);
                Flip(flipped, SoakRules.draw(seed, number, "bit", 8 * new FileInfo(flipped).Length));
                break;
            case SoakFault.EmptyState:
                Truncate(Path.Combine(view.At(step!.Value), Checkpoint.StateFile), 0);
                break;
            case SoakFault.LatestNothing:
                view.Point(pointers[SoakRules.draw(seed, number, "pointer", pointers.Length)]);
                break;
            case SoakFault.TornMetrics:
                File.AppendAllText(view.Metrics, """{"step":""" + view.Done() + ""","los""");
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(fault), fault, "this fault damages no file");
        }
    }

    /// <summary>One of a checkpoint's files of tensors.</summary>
    private static string Tensors(RunView view, int step, long seed, int number)
    {
        string[] files = [.. Directory.GetFiles(view.At(step), "*.safetensors").Order(StringComparer.Ordinal)];
        return files[SoakRules.draw(seed, number, "file", files.Length)];
    }

    private static void Truncate(string path, long length)
    {
        using FileStream stream = new(path, FileMode.Open, FileAccess.Write);
        stream.SetLength(length);
    }

    private static void Flip(string path, long bit)
    {
        using FileStream stream = new(path, FileMode.Open, FileAccess.ReadWrite);
        stream.Position = bit / 8;
        int old = stream.ReadByte();
        stream.Position = bit / 8;
        stream.WriteByte((byte)(old ^ (1 << (int)(bit % 8))));
    }
}
