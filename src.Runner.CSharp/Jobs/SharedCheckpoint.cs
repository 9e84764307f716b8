using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Distribution;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// One checkpoint that several processes write, each its own files into the folder that rank 0 has set aside. They find each other by small
/// files there, so that the steps which go on meanwhile are not disturbed: attempt-ID says that the folder is this checkpoint's, and
/// written-NNNNN.json that a process is done, with the marks of its files.
/// </summary>
internal sealed class SharedCheckpoint(string directory, string attempt, ProcessGroup group, TimeSpan patience)
{
    private static readonly TimeSpan interval = TimeSpan.FromMilliseconds(20);

    /// <summary>
    /// Rank 0's part: its files, and the marks of everybody's. Errors: IOException where another process has not written its part in time.
    /// </summary>
    public IReadOnlyDictionary<string, FileMark> Fill(string aside, Snapshot snapshot, CancellationToken given)
    {
        Dictionary<string, FileMark> marks = [];
        if (group.Size > 1)
        {
            File.WriteAllText(Attempt(aside), "");
        }

        foreach (var (name, mark) in snapshot.WriteTo(aside))
        {
            marks[name] = mark;
        }

        long began = Stopwatch.GetTimestamp();
        for (int rank = 1; rank < group.Size; rank++)
        {
            while (!File.Exists(Written(aside, rank)))
            {
                if (Stopwatch.GetElapsedTime(began) > patience)
                {
                    throw new IOException($"rank {rank} has not written its part of {directory} for {patience.TotalMinutes:0.#} minutes.");
                }

                given.WaitHandle.WaitOne(interval);
            }

            foreach (var (name, mark) in Read(Written(aside, rank)))
            {
                marks[name] = mark;
            }

            File.Delete(Written(aside, rank));
        }

        File.Delete(Attempt(aside));
        return marks;
    }

    /// <summary>
    /// Another process's part. Returns when the checkpoint is whole. Errors: those of writing; OperationCanceledException where it is given
    /// up for a newer one.
    /// </summary>
    public void Add(Snapshot snapshot, CancellationToken given)
    {
        string aside = directory + AtomicFile.Unfinished;
        bool wrote = false;
        while (!(wrote && Directory.Exists(directory) && !File.Exists(Attempt(aside))))
        {
            if (File.Exists(Attempt(aside)) && !File.Exists(Written(aside, group.Rank)))
            {
                Write(aside, snapshot);
                wrote = true;
            }

            if (given.WaitHandle.WaitOne(interval))
            {
                given.ThrowIfCancellationRequested();
            }
        }
    }

    private void Write(string aside, Snapshot snapshot)
    {
        JsonObject marks = [];
        foreach (var (name, mark) in snapshot.WriteTo(aside))
        {
            marks[name] = new JsonObject { ["length"] = mark.Length, ["sha256"] = mark.Sha256 };
        }

        AtomicFile.WriteText(Written(aside, group.Rank), marks.ToJsonString());
    }

    private string Attempt(string aside) => Path.Combine(aside, "attempt-" + attempt);

    private static string Written(string aside, int rank) => Path.Combine(aside, string.Create(CultureInfo.InvariantCulture, $"written-{rank:00000}.json"));

    private static Dictionary<string, FileMark> Read(string path)
    {
        try
        {
            JsonObject marks = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
            return marks.ToDictionary(pair => pair.Key, pair => new FileMark(pair.Value!["length"]!.GetValue<long>(), pair.Value["sha256"]!.GetValue<string>()));
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or NullReferenceException)
        {
            throw new IOException($"{path} is not what a process of this run writes.", error);
        }
    }
}
