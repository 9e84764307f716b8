using Spectre.Console;
using Spectre.Console.Rendering;

namespace Hybrid.Runner;

/// <summary>
/// Progress on stderr: a live line for each stage on a terminal; elsewhere a plain line when a stage begins, when it ends, and between them
/// when five seconds have passed and five per cent are done, or a minute has passed.
/// </summary>
internal sealed class Progress : IDisposable
{
    private static readonly TimeSpan refresh = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan pause = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan signOfLife = TimeSpan.FromMinutes(1);

    private readonly Lock gate = new();
    private readonly List<Stage> stages = [];
    private readonly IAnsiConsole? live;
    private readonly TextWriter plain;
    private readonly Func<TimeSpan> clock;

    // The thread that draws, and what ends it; the one before it may still be taking its lines away.
    private (Thread Thread, ManualResetEventSlim End)? drawing;
    private Thread? before;

    /// <summary>Progress on this process's stderr.</summary>
    public Progress()
        : this(Terminal.Live, Console.Error, TimeProvider.System)
    {
        // A process that ends in the middle of a stage gives the cursor back.
        AppDomain.CurrentDomain.ProcessExit += (_, _) => Dispose();
    }

    internal Progress(IAnsiConsole? live, TextWriter plain, TimeProvider time)
    {
        long start = time.GetTimestamp();
        (this.live, this.plain, clock) = (live, plain, () => time.GetElapsedTime(start));
    }

    /// <summary>Plain progress on a writer, whatever stderr is.</summary>
    public static Progress On(TextWriter writer, TimeProvider time) => new(null, writer, time);

    /// <summary>Begins a stage. A resumed one gives the steps that are done already as <paramref name="start"/>.</summary>
    public Stage Stage(string name, long total, long start = 0)
    {
        Stage stage = new(this, name, total, start, clock) { LastLine = (clock(), start) };
        lock (gate)
        {
            stages.Add(stage);
            if (live is not null && drawing is null)
            {
                ManualResetEventSlim end = new();
                Thread? previous = before;
                before = new Thread(() => Draw(previous, end)) { IsBackground = true, Name = "progress" };
                drawing = (before, end);
                before.Start();
            }
        }

        if (live is null)
        {
            Write(total > 0 ? $"{name}: {total - start} steps" : name);
        }

        return stage;
    }

    public void Dispose()
    {
        Stage[] left;
        lock (gate)
        {
            left = [.. stages];
        }

        foreach (Stage stage in left)
        {
            stage.Dispose();
        }
    }

    internal void Reported(Stage stage, TimeSpan time, long done)
    {
        if (live is not null)
        {
            return;
        }

        var (lastTime, lastStep) = stage.LastLine;
        bool advanced = stage.Total > 0 && (done - lastStep) * 20 >= stage.Total;
        if (time - lastTime < (advanced ? pause : signOfLife) || (stage.Total > 0 && done >= stage.Total))
        {
            return;
        }

        stage.LastLine = (time, done);
        Write(stage.Line(160, bar: false));
    }

    internal void Ended(Stage stage)
    {
        (Thread Thread, ManualResetEventSlim End)? ending = null;
        lock (gate)
        {
            stages.Remove(stage);
            if (stages.Count == 0 && drawing is not null)
            {
                (ending, drawing) = (drawing, null);
            }
        }

        if (ending is var (thread, end))
        {
            end.Set();
            thread.Join();
        }

        if (live is null)
        {
            Write(stage.LastWords());
        }
        else
        {
            live.Write(new Text(stage.LastWords() + "\n"));
        }
    }

    private void Write(string line)
    {
        lock (gate)
        {
            plain.WriteLine(line);
        }
    }

    private void Draw(Thread? previous, ManualResetEventSlim end)
    {
        previous?.Join();
        try
        {
            live!.Live(Lines()).AutoClear(true).Overflow(VerticalOverflow.Crop).Start(context =>
            {
                while (!end.Wait(refresh))
                {
                    context.UpdateTarget(Lines());
                }
            });
        }
        catch (IOException)
        {
            // The terminal is gone. The work goes on.
        }
    }

    private Rows Lines()
    {
        // The last column stays free: some terminals wrap when it is written.
        int width = Math.Max(10, live!.Profile.Width - 1);
        lock (gate)
        {
            return new Rows(stages.Select(stage => Coloured(stage.Line(width, bar: true))).ToArray());
        }
    }

    private static IRenderable Coloured(string line)
    {
        int from = line.IndexOfAny(['━', '─']), to = line.LastIndexOf('━') + 1, end = line.LastIndexOf('─') + 1;
        Paragraph paragraph = new() { Overflow = Spectre.Console.Overflow.Crop };
        if (from < 0)
        {
            return paragraph.Append(line);
        }

        to = Math.Max(from, to);
        end = Math.Max(to, end);
        return paragraph.Append(line[..from], new Style(decoration: Decoration.Bold))
            .Append(line[from..to], new Style(Color.Green)).Append(line[to..end], new Style(Color.Grey)).Append(line[end..]);
    }
}
