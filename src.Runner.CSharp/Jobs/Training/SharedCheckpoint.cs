using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Distribution;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// One checkpoint that several processes write, each its own files into the folder that rank 0 has set aside. They find each other by small
/// files there, so that the steps which go on meanwhile are not disturbed: attempt-ID-N says that the folder is the Nth try of this
/// checkpoint, and written-NNNNN-N.json that a process has done its part of it, with the marks of its files.
/// </summary>
internal sealed class SharedCheckpoint(string directory, string attempt, ProcessGroup group, TimeSpan patience)
{
    private static readonly TimeSpan interval = TimeSpan.FromMilliseconds(20);
    private int tries;

    /// <summary>
    /// Rank 0's part: its files, and the marks of everybody's. Errors: IOException where another process has not written its part in time;
    /// OperationCanceledException where a further try is given up for a newer checkpoint.
    /// </summary>
    public IReadOnlyDictionary<string, FileMark> Fill(string aside, Snapshot snapshot, CancellationToken given)
    {
        tries++;
        if (group.Size == 1)
        {
            return snapshot.WriteTo(aside);
        }

        File.WriteAllText(Attempt(aside, tries), "");
        Dictionary<string, FileMark> marks = snapshot.WriteTo(aside);
        long began = Stopwatch.GetTimestamp();
        for (int rank = 1; rank < group.Size; rank++)
        {
            while (!File.Exists(Written(aside, rank, tries)))
            {
                if (Stopwatch.GetElapsedTime(began) > patience)
                {
                    throw new IOException($"rank {rank} has not written its part of {directory} for {patience.TotalMinutes:0.#} minutes.");
                }

                if (given.WaitHandle.WaitOne(interval) && tries > 1)
                {
                    // At the first try the others are on their way; later they may have gone on.
                    given.ThrowIfCancellationRequested();
                }
            }

            foreach (var (name, mark) in Read(Written(aside, rank, tries)))
            {
                marks[name] = mark;
            }
        }

        File.Delete(Attempt(aside, tries));
        for (int rank = 1; rank < group.Size; rank++)
        {
            File.Delete(Written(aside, rank, tries));
        }

        return marks;
    }

    /// <summary>
    /// Another process's part, as often as rank 0 tries. Returns when the checkpoint is whole. Errors: those of writing;
    /// OperationCanceledException where rank 0 has come to a newer one.
    /// </summary>
    public void Add(Snapshot snapshot, CancellationToken given)
    {
        string aside = directory + AtomicFile.Unfinished;
        int wrote = 0;
        while (true)
        {
            int asked = Asked(aside);
            if (asked > wrote)
            {
                Write(aside, snapshot, asked);
                wrote = asked;
            }
            else if (asked == 0 && wrote > 0 && Directory.Exists(directory) && !Directory.Exists(aside))
            {
                return;
            }

            if (given.WaitHandle.WaitOne(interval))
            {
                given.ThrowIfCancellationRequested();
            }
        }
    }

    private void Write(string aside, Snapshot snapshot, int trial)
    {
        JsonObject marks = [];
        foreach (var (name, mark) in snapshot.WriteTo(aside))
        {
            marks[name] = mark.ToJson();
        }

        AtomicFile.WriteText(Written(aside, group.Rank, trial), marks.ToJsonString());
    }

    /// <summary>The try that a folder is for; 0 where there is none of this checkpoint.</summary>
    private int Asked(string aside)
    {
        string start = $"attempt-{attempt}-";
        try
        {
            return Directory.Exists(aside)
                ? Directory.EnumerateFiles(aside, start + "*").Select(path => int.Parse(Path.GetFileName(path)[start.Length..], CultureInfo.InvariantCulture)).DefaultIfEmpty(0).Max()
                : 0;
        }
        catch (DirectoryNotFoundException)
        {
            // It got its name meanwhile.
            return 0;
        }
    }

    private string Attempt(string aside, int trial) => Path.Combine(aside, string.Create(CultureInfo.InvariantCulture, $"attempt-{attempt}-{trial}"));

    private static string Written(string aside, int rank, int trial) => Path.Combine(aside, string.Create(CultureInfo.InvariantCulture, $"written-{rank:00000}-{trial}.json"));

    private static Dictionary<string, FileMark> Read(string path)
    {
        try
        {
            using JsonDocument marks = JsonDocument.Parse(File.ReadAllText(path));
            return marks.RootElement.EnumerateObject().ToDictionary(file => file.Name, file => FileMark.Read(file.Value));
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or KeyNotFoundException or FormatException)
        {
            throw new IOException($"{path} is not what a process of this run writes.", error);
        }
    }
}
