using Hybrid.Runner.Reporting;

namespace Hybrid.Runner.Runs;

/// <summary>Serves the page of runs while they go on.</summary>
internal sealed class RunWatch : IDisposable
{
    private static readonly TimeSpan every = TimeSpan.FromSeconds(2);

    private readonly Lock reading = new();
    private readonly IReadOnlyList<RunData> runs;
    private readonly RunPage page;
    private readonly LocalServer server;

    public RunWatch(IReadOnlyList<RunData> runs, RunPage page, int? port)
    {
        (this.runs, this.page) = (runs, page);
        server = new LocalServer(port, Answer);
    }

    public string Address => server.Address;

    /// <summary>Serves until asked to stop.</summary>
    public Task Serve(CancellationToken stop) => server.Serve(stop);

    public void Dispose() => server.Dispose();

    private Answer? Answer(string path, string query)
    {
        if (path is not ("/" or "/points"))
        {
            return null;
        }

        lock (reading)
        {
            foreach (RunData run in runs)
            {
                run.Read();
            }

            if (path == "/")
            {
                LivePage live = new(every, page.Structure(), page.Status());
                return new(200, "text/html", HtmlReport.Render(page.Build(live: true), live), PageParts.Policy(live: true));
            }

            const string key = "after=";
            string after = query.StartsWith(key, StringComparison.Ordinal) ? Uri.UnescapeDataString(query[key.Length..]) : "";
            return new(200, "application/json", page.Points(after));
        }
    }
}
