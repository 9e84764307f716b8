using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Study;

/// <summary>
/// The finished stages of a study, a JSON file each under <c>stages/</c>, written aside and renamed, each with the hash of all that it
/// depends on: a study that goes on takes from here what is done, and runs again what depends on something that is now another.
/// Safe for use by several threads.
/// </summary>
internal sealed class StageStore(string directory)
{
    private static readonly JsonSerializerOptions Options = new()
    {
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        RespectRequiredConstructorParameters = true,
        RespectNullableAnnotations = true,
    };

    private sealed record Stored<T>(string Key, T Value);

    /// <summary>A hash of some texts, in order.</summary>
    public static string Hash(params IEnumerable<string> parts)
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (string part in parts)
        {
            byte[] bytes = Encoding.UTF8.GetBytes(part);
            sha.AppendData(BitConverter.GetBytes(bytes.Length));
            sha.AppendData(bytes);
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    /// <summary>The stored result of a stage with this key, or what <paramref name="run"/> gives, stored.</summary>
    public T Get<T>(string name, string key, Func<T> run)
    {
        if (Read<T>(name, key) is { } stored)
            return stored.Value;
        T result = run();
        AtomicFile.Write(PathOf(name), stream => JsonSerializer.Serialize(stream, new Stored<T>(key, result), Options));
        return result;
    }

    /// <summary>Whether a stage with this key is there.</summary>
    public bool Has<T>(string name, string key) => Read<T>(name, key) is not null;

    private string PathOf(string name) => Path.Combine(directory, name + ".json");

    /// <summary>A stage with this key; null for one with another, whatever it holds.</summary>
    private Stored<T>? Read<T>(string name, string key)
    {
        string path = PathOf(name);
        if (!File.Exists(path))
            return null;
        try
        {
            Stored<JsonElement> stored = JsonSerializer.Deserialize<Stored<JsonElement>>(File.ReadAllText(path), Options)
                ?? throw new JsonException("the file holds null");
            if (stored.Key != key)
                return null;
            return new Stored<T>(key, stored.Value.Deserialize<T>(Options) ?? throw new JsonException("its value is null"));
        }
        catch (JsonException e)
        {
            throw new InputException($"{path} is not a stage of a study ({e.Message}); delete it to run the stage again.");
        }
    }
}
