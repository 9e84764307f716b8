using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Hybrid.Runner.Runs;

/// <summary>What a server answers.</summary>
/// <param name="Policy">The Content-Security-Policy of a page; null for what is none.</param>
internal sealed record Answer(int Status, string Type, string Body, string? Policy = null);

/// <summary>
/// A server for this machine only: it listens on 127.0.0.1, answers GET and HEAD, and nothing that was not asked of this address by name:
/// a page of another host whose name leads here (DNS rebinding) is refused. It gives what a function gives for a path and its query, and
/// never looks at the disk itself.
/// </summary>
internal sealed class LocalServer : IDisposable
{
    private const int LongestRequest = 8192, MostAtOnce = 16;
    private static readonly TimeSpan patience = TimeSpan.FromSeconds(5);

    private readonly TcpListener listener;
    private readonly Func<string, string, Answer?> answer;
    private readonly SemaphoreSlim places = new(MostAtOnce);

    /// <summary>Listens. Errors: InputException where the port is taken or not allowed.</summary>
    public LocalServer(int? port, Func<string, string, Answer?> answer)
    {
        this.answer = answer;
        listener = new TcpListener(IPAddress.Loopback, port ?? 0) { ExclusiveAddressUse = true };
        try
        {
            listener.Start();
        }
        catch (SocketException error)
        {
            throw new InputException($"the port {port} of 127.0.0.1 cannot be had: {error.Message}. Give another --port, or none for one that is free.", error);
        }

        Port = ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    public int Port { get; }

    public string Address => $"http://127.0.0.1:{Port}/";

    /// <summary>Serves until asked to stop.</summary>
    public async Task Serve(CancellationToken stop)
    {
        try
        {
            while (true)
            {
                await places.WaitAsync(stop);
                Socket socket;
                try
                {
                    socket = await listener.AcceptSocketAsync(stop);
                }
                catch (SocketException)
                {
                    // The other side has gone before it was taken.
                    places.Release();
                    continue;
                }

                _ = Task.Run(() => Attend(socket, stop), CancellationToken.None);
            }
        }
        catch (OperationCanceledException)
        {
            listener.Stop();
        }
    }

    public void Dispose() => listener.Dispose();

    private async Task Attend(Socket socket, CancellationToken stop)
    {
        try
        {
            using NetworkStream stream = new(socket, ownsSocket: true);
            using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(stop);
            limit.CancelAfter(patience);
            string? head = await Head(stream, limit.Token);
            if (head is not null)
            {
                limit.CancelAfter(patience * 6);
                await stream.WriteAsync(Reply(head), limit.Token);
                socket.Shutdown(SocketShutdown.Send);
            }
        }
        catch (Exception error) when (error is IOException or SocketException or OperationCanceledException or ObjectDisposedException)
        {
            // Whoever asked has gone, or never finished asking.
        }
        finally
        {
            places.Release();
        }
    }

    /// <summary>The request up to the empty line; null where it ends before.</summary>
    private static async Task<string?> Head(NetworkStream stream, CancellationToken stop)
    {
        byte[] buffer = new byte[LongestRequest];
        int length = 0;
        while (length < buffer.Length)
        {
            int read = await stream.ReadAsync(buffer.AsMemory(length), stop);
            if (read == 0)
            {
                return null;
            }

            length += read;
            int end = buffer.AsSpan(0, length).IndexOf("\r\n\r\n"u8);
            if (end >= 0)
            {
                return Encoding.Latin1.GetString(buffer, 0, end);
            }
        }

        return "";
    }

    private byte[] Reply(string head)
    {
        string[] lines = head.Split("\r\n");
        string[] words = lines[0].Split(' ');
        bool isHead = words[0] == "HEAD";
        Answer reply = Checked(words, [.. lines.Skip(1)]);
        byte[] body = Encoding.UTF8.GetBytes(reply.Body);
        StringBuilder text = new();
        text.Append(CultureInfo.InvariantCulture, $"HTTP/1.1 {reply.Status} {(HttpStatusCode)reply.Status}\r\nContent-Type: {reply.Type}; charset=utf-8\r\nContent-Length: {body.Length}\r\n");
        text.Append("Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n");
        text.Append(CultureInfo.InvariantCulture, $"Content-Security-Policy: {reply.Policy ?? "default-src 'none'"}; frame-ancestors 'none'\r\n");
        text.Append(reply.Status == 405 ? "Allow: GET, HEAD\r\n\r\n" : "\r\n");
        return [.. Encoding.ASCII.GetBytes(text.ToString()), .. isHead ? [] : body];
    }

    private Answer Checked(string[] words, string[] fields)
    {
        static Answer Plain(int status, string body) => new(status, "text/plain", body + "\n");
        if (words.Length != 3 || !words[2].StartsWith("HTTP/1.", StringComparison.Ordinal))
        {
            return Plain(400, "This is no request of HTTP/1.1, or one that is too long.");
        }

        string[] hosts = [.. fields.Where(field => field.StartsWith("Host:", StringComparison.OrdinalIgnoreCase)).Select(field => field[5..].Trim())];
        if (hosts.Length != 1 || !(hosts[0] == $"127.0.0.1:{Port}" || hosts[0].Equals($"localhost:{Port}", StringComparison.OrdinalIgnoreCase)))
        {
            return Plain(421, $"This server answers to 127.0.0.1:{Port} only.");
        }

        if (words[0] is not ("GET" or "HEAD"))
        {
            return Plain(405, "Only GET is answered here.");
        }

        int mark = words[1].IndexOf('?');
        var (path, query) = mark < 0 ? (words[1], "") : (words[1][..mark], words[1][(mark + 1)..]);
        try
        {
            return answer(path, query) ?? Plain(404, "There is nothing here.");
        }
        catch (Exception error) when (error is InputException or IOException or UnauthorizedAccessException)
        {
            return Plain(503, error.Message);
        }
    }
}
