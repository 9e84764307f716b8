using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// open_lm's tars of ready sequences to .npy files [N, L] of int32 that training maps into memory: one for each tar, ids as they stand
/// there (negative ones too), anything that is no number as 0.
/// </summary>
internal static class PrepareSequences
{
    /// <summary>Everything that the files depend on, beside the sources.</summary>
    public static JsonObject Settings() => new() { ["sequences"] = "int32" };

    /// <summary>The file of a tar, or what is there already. Errors: InputException.</summary>
    public static void Make(PrepareFolder folder, PairSource source, int number, bool strict, Stage stage, CancellationToken stop)
    {
        if (folder.Last(source) is not null)
        {
            return;
        }

        List<int> ids = [];
        int length = 0;
        long rows = 0, read = 0;
        string? broken = null;
        SortedDictionary<DropReason, long> dropped = [];
        void Drop(DropReason reason, string key, string detail)
        {
            if (strict)
            {
                throw new InputException($"{source.Path}: {FileErrors.Show(key)}: {reason}: {detail.TrimEnd('.')} (--strict).");
            }

            folder.Drop(source, new Drop(reason, key, detail));
            dropped[reason] = dropped.GetValueOrDefault(reason) + 1;
        }

        foreach (TarMember member in TarSequences.Members(source.Path, reason => broken = reason))
        {
            stop.ThrowIfCancellationRequested();
            read++;
            if (member.Kind != TarKind.File)
            {
                Drop(member.Kind == TarKind.Link ? DropReason.UnsafePath : DropReason.TooLarge, member.Name, member.Kind == TarKind.Link ? "it is a link" : $"{member.Length:N0} bytes");
                continue;
            }

            try
            {
                int[] row = TarSequences.Parse(source.Path, member.Name, member.Bytes, SequenceFiles.AnyIds);
                length = rows == 0 ? row.Length : length;
                if (row.Length != length || length < 2)
                {
                    Drop(DropReason.OtherLength, member.Name, $"{row.Length} ids, not {Math.Max(length, 2)}");
                    continue;
                }

                ids.AddRange(row);
                rows++;
                stage.Report(rows);
            }
            catch (InputException error)
            {
                Drop(DropReason.BadRecord, member.Name, error.Message);
            }
        }

        if (broken is not null)
        {
            Drop(DropReason.TruncatedTar, "", broken);
        }

        string name = $"sequences-{number:00000}.npy", path = Path.Combine(folder.Manifest.Folder, name);
        NpyFile.Write<int>(path, ids.ToArray(), rows, length);
        folder.Manifest.Add(new ShardEntry(name, rows, Files.Sha256(path), source.Path, new ShardMaking(read, true, 0, dropped, folder.Flush())));
    }
}
