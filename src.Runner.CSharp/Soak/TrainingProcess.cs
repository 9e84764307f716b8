using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;

namespace Hybrid.Runner.Soak;

/// <summary>
/// A run of `hybrid train` in a process of its own, or in several under mpirun. Disposing it leaves none of them behind.
/// </summary>
internal sealed class TrainingProcess : IDisposable
{
    // Which processes are ranks of this run, and which rank each is.
    private const string OwnVariable = "HYBRID_SOAK", RankVariable = "OMPI_COMM_WORLD_RANK=";
    private const int LastLines = 3;

    private readonly Process process;
    private readonly int ranks;
    private readonly string name;
    private readonly List<string> lines = [];
    private readonly ManualResetEventSlim closed = new();
    private readonly TextWriter transcript;

    private TrainingProcess(Process process, int ranks, string name, TextWriter transcript)
    {
        (this.process, this.ranks, this.name, this.transcript) = (process, ranks, name, transcript);
        process.ErrorDataReceived += (_, line) => Said(line.Data);
        process.OutputDataReceived += (_, _) => { };
        process.BeginErrorReadLine();
        process.BeginOutputReadLine();
        process.StandardInput.Close();
    }

    /// <summary>
    /// Starts the program that this is with other arguments. Errors: InputException where mpirun is wanted and is not there.
    /// </summary>
    /// <param name="transcript">Gets what the process says on stderr.</param>
    public static TrainingProcess Start(IEnumerable<string> arguments, int ranks, TextWriter transcript)
    {
        string[] program = Program();
        string[] words = ranks == 1
            ? [.. program, .. arguments]
            : ["mpirun", "--bind-to", "none", "-np", ranks.ToString(CultureInfo.InvariantCulture), .. program, .. arguments];
        ProcessStartInfo start = new(words[0], words[1..]) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment[TorchLibrary.ThreadsVariable] = "1";
        start.Environment["OMP_NUM_THREADS"] = "1";
        string name = Guid.NewGuid().ToString("N");
        start.Environment[OwnVariable] = name;
        start.Environment[Keeper.Variable] = Environment.ProcessId.ToString(CultureInfo.InvariantCulture);

        // Only there do the same steps give the same bits.
        start.Environment.TryAdd(TorchLibrary.DeviceVariable, "cpu");
        try
        {
            return new(Process.Start(start)!, ranks, name, transcript);
        }
        catch (Win32Exception error)
        {
            string mend = ranks == 1 ? "" : " --ranks needs Open MPI (on Debian: openmpi-bin).";
            throw new InputException($"{words[0]} could not be started: {error.Message}.{mend}", error);
        }
    }

    public bool Ended => process.HasExited;

    /// <summary>The exit code of a process that has ended; 128 and the signal's number where one ended it.</summary>
    public int ExitCode => process.ExitCode;

    /// <summary>When it was started.</summary>
    public long Began { get; } = Stopwatch.GetTimestamp();

    /// <summary>Its last error, or else the last that it said on stderr, once it has ended.</summary>
    public string LastWords()
    {
        closed.Wait(TimeSpan.FromSeconds(2));
        lock (lines)
        {
            int error = lines.FindLastIndex(line => line.StartsWith("error:", StringComparison.Ordinal));
            return string.Join(" ", error >= 0 ? lines.Skip(error) : lines.TakeLast(LastLines)).Trim() is { Length: > 0 } words ? words : "it said nothing";
        }
    }

    /// <summary>Whether one of its lines on stderr holds a text.</summary>
    public bool HasSaid(string text)
    {
        lock (lines)
        {
            return lines.Any(line => line.Contains(text, StringComparison.OrdinalIgnoreCase));
        }
    }

    /// <summary>The process of each rank that runs.</summary>
    public IReadOnlyDictionary<int, int> Ranks()
    {
        if (ranks == 1)
        {
            return process.HasExited ? new Dictionary<int, int>() : new Dictionary<int, int> { [0] = process.Id };
        }

        Dictionary<int, int> found = [];
        string own = $"{OwnVariable}={name}";
        foreach (string folder in Directory.EnumerateDirectories("/proc"))
        {
            if (int.TryParse(Path.GetFileName(folder), CultureInfo.InvariantCulture, out int id) && Variables(folder) is { } variables
                && variables.Contains(own) && Array.Find(variables, entry => entry.StartsWith(RankVariable, StringComparison.Ordinal)) is { } rank)
            {
                found[int.Parse(rank.AsSpan(RankVariable.Length), CultureInfo.InvariantCulture)] = id;
            }
        }

        return found;
    }

    /// <summary>Sends a signal to every rank.</summary>
    public void Signal(int signal)
    {
        foreach (int id in Ranks().Values)
        {
            Signals.Send(id, signal);
        }
    }

    /// <summary>Kills what there is of it, at once, and waits for its end.</summary>
    public void Kill()
    {
        if (!process.HasExited)
        {
            Signal(Signals.Kill);
            if (ranks > 1 && !process.HasExited)
            {
                Signals.Send(process.Id, Signals.Kill);
            }
        }

        process.WaitForExit();
    }

    public void Dispose()
    {
        try
        {
            Kill();
        }
        finally
        {
            // Ranks whose mpirun was gone before them.
            if (ranks > 1)
            {
                Signal(Signals.Kill);
            }

            process.Dispose();
            closed.Dispose();
        }
    }

    /// <summary>How this program is started: by its own file, or by dotnet with its dll.</summary>
    private static string[] Program()
    {
        string dll = typeof(TrainingProcess).Assembly.Location, own = Environment.ProcessPath ?? "dotnet";
        bool itself = Path.GetFileNameWithoutExtension(own) == Path.GetFileNameWithoutExtension(dll);
        return itself || dll.Length == 0 ? [own] : [Path.GetFileNameWithoutExtension(own) == "dotnet" ? own : "dotnet", dll];
    }

    /// <summary>The environment of a process, or null where it is gone or another user's. A dead one that nobody has waited for has none.</summary>
    private static string[]? Variables(string folder)
    {
        try
        {
            return File.ReadAllText(Path.Combine(folder, "environ")).Split('\0');
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private void Said(string? line)
    {
        if (line is null)
        {
            closed.Set();
            return;
        }

        lock (lines)
        {
            lines.Add(line);
            transcript.WriteLine(line);
        }
    }
}
