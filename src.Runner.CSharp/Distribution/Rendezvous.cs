using System.Globalization;
using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Distribution;

/// <summary>Where the processes of a run find rank 0, and the token that shows that they belong to it.</summary>
internal sealed record Rendezvous(IPEndPoint Place, byte[] Token)
{
    /// <summary>The interface, or address of one, that rank 0 listens at.</summary>
    public const string InterfaceVariable = "HYBRID_INTERFACE";

    /// <summary>A secret that all processes are given, where MPI does not hand one out.</summary>
    public const string TokenVariable = "HYBRID_TOKEN";

    /// <summary>A file that all processes see, by which rank 0 tells where it is.</summary>
    public const string FileVariable = "HYBRID_RENDEZVOUS";

    private const string AddressVariable = "MASTER_ADDR", PortVariable = "MASTER_PORT";
    private const int TokenBytes = 32, LeastToken = 16;

    private static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;

    /// <summary>Whether the processes find each other by a file.</summary>
    public static bool ByFile => Variable(FileVariable) is not null;

    /// <summary>A place for rank 0 of processes that can tell each other of it, with a token of its own.</summary>
    /// <param name="oneMachine">Whether all run on this one.</param>
    public static Rendezvous Own(bool oneMachine) => new(new(Address(oneMachine), Port() ?? 0), RandomNumberGenerator.GetBytes(TokenBytes));

    /// <summary>
    /// The place that MASTER_ADDR and MASTER_PORT name, with the token of HYBRID_TOKEN; where rank 0 listens, at the interface that is named
    /// for it. Errors: ConfigurationException naming what is missing.
    /// </summary>
    public static Rendezvous Given(bool listens)
    {
        string address = Variable(AddressVariable) ?? throw new ConfigurationException($"{AddressVariable}: is not set; it must be the address of rank 0's machine, the same for all processes.");
        int port = Port() ?? throw new ConfigurationException($"{PortVariable}: is not set; it must be a free port of rank 0's machine, the same for all processes.");
        string token = Variable(TokenVariable) ?? throw new ConfigurationException($"{TokenVariable}: is not set; give all processes the same secret, such as the output of: openssl rand -hex 32. Or set {FileVariable} to a file that only you can read and that all of them see.");
        return token.Length >= LeastToken
            ? new(new(listens ? Address(false) : Resolve(address, AddressVariable), port), Encoding.UTF8.GetBytes(token))
            : throw new ConfigurationException($"{TokenVariable}: has {token.Length} characters; a secret needs {LeastToken} at least.");
    }

    /// <summary>Tells the others by the file, which only this user can read; `port` is where rank 0 listens.</summary>
    public void Publish(int port)
    {
        JsonObject place = new() { ["address"] = Place.Address.ToString(), ["port"] = port, ["token"] = Convert.ToHexStringLower(Token) };
        string path = Path.GetFullPath(Variable(FileVariable)!);
        string aside = AtomicFile.Aside(path);
        FileStreamOptions options = new() { Mode = FileMode.CreateNew, Access = FileAccess.Write };
        if (!OperatingSystem.IsWindows())
        {
            options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
        }

        using (FileStream stream = new(aside, options))
        {
            stream.Write(Encoding.UTF8.GetBytes(place.ToJsonString()));
        }

        File.Move(aside, path, overwrite: true);
    }

    /// <summary>Removes the file, once all have come.</summary>
    public static void Withdraw()
    {
        if (Variable(FileVariable) is { } path)
        {
            File.Delete(path);
        }
    }

    /// <summary>What rank 0 told by the file. Errors: InputException where it does not come, or is not what it should be.</summary>
    public static Rendezvous Awaited(TimeSpan wait)
    {
        string path = Variable(FileVariable)!;
        DateTime until = DateTime.UtcNow + wait;
        while (!File.Exists(path))
        {
            if (DateTime.UtcNow > until)
            {
                throw new InputException($"rank 0 did not write {path} within {wait.TotalSeconds:0} s; see that it was started and that this machine sees the file ({FileVariable}).");
            }

            Thread.Sleep(100);
        }

        try
        {
            JsonNode? place = JsonNode.Parse(Files.Text(path, "the rendezvous of the processes"));
            return new(
                new(IPAddress.Parse(place!["address"]!.GetValue<string>()), place["port"]!.GetValue<int>()),
                Convert.FromHexString(place["token"]!.GetValue<string>()));
        }
        catch (Exception error) when (error is JsonException or FormatException or InvalidOperationException or NullReferenceException or ArgumentException)
        {
            throw new InputException($"{path} is not what rank 0 of a run writes; remove it and start all processes again.", error);
        }
    }

    /// <summary>As bytes, to be sent by MPI.</summary>
    public byte[] ToBytes() => Encoding.UTF8.GetBytes($"{Convert.ToHexStringLower(Token)} {Place.Port.ToString(CultureInfo.InvariantCulture)} {Place.Address}");

    public static Rendezvous Of(byte[] bytes)
    {
        string[] words = Encoding.UTF8.GetString(bytes).TrimEnd('\0').Split(' ', 3);
        return new(new(IPAddress.Parse(words[2]), int.Parse(words[1], CultureInfo.InvariantCulture)), Convert.FromHexString(words[0]));
    }

    private static IPAddress Address(bool oneMachine) =>
        Variable(InterfaceVariable) is { } name ? OfInterface(name)
        : Variable(AddressVariable) is { } given ? Resolve(given, AddressVariable)
        : oneMachine ? IPAddress.Loopback
        : Resolve(Environment.MachineName, "this machine's name");

    private static IPAddress OfInterface(string name)
    {
        if (IPAddress.TryParse(name, out IPAddress? address))
        {
            return address;
        }

        NetworkInterface? found = NetworkInterface.GetAllNetworkInterfaces().FirstOrDefault(nic => nic.Name == name);
        return found?.GetIPProperties().UnicastAddresses.Select(unicast => unicast.Address).OrderBy(own => own.AddressFamily == AddressFamily.InterNetwork ? 0 : 1).FirstOrDefault()
            ?? throw new ConfigurationException($"{InterfaceVariable}: '{name}' is no interface of this machine with an address; there are {string.Join(", ", NetworkInterface.GetAllNetworkInterfaces().Select(nic => nic.Name))}.");
    }

    private static IPAddress Resolve(string name, string variable)
    {
        try
        {
            IPAddress[] all = Dns.GetHostAddresses(name);
            return all.OrderBy(address => IPAddress.IsLoopback(address) ? 1 : 0).ThenBy(address => address.AddressFamily == AddressFamily.InterNetwork ? 0 : 1).First();
        }
        catch (Exception error) when (error is SocketException or InvalidOperationException or ArgumentException)
        {
            throw new ConfigurationException($"{variable}: '{name}' has no address ({error.Message}); set {InterfaceVariable} to the interface of rank 0 that the others reach, such as eth0 or its address.");
        }
    }

    private static int? Port()
    {
        string? text = Variable(PortVariable);
        return text is null ? null
            : int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int port) && port is > 0 and < 65536 ? port
            : throw new ConfigurationException($"{PortVariable}: is '{text}'; it must be a port from 1 to 65535.");
    }
}
