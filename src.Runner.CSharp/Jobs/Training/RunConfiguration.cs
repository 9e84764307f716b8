using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;

namespace Hybrid.Runner;

/// <summary>The resolved configuration of a run as text: its hash, its keys, and how two of them differ.</summary>
internal static class RunConfiguration
{
    /// <summary>SHA-256 of a resolved configuration.</summary>
    public static string Hash(string configuration) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(configuration)));

    /// <summary>The keys in which one configuration differs from another, apart from those under some objects.</summary>
    public static IReadOnlyList<string> Differences(string begun, string configuration, IReadOnlyList<string> free)
    {
        SortedDictionary<string, string> old = Flat(JsonNode.Parse(begun)), now = Flat(JsonNode.Parse(configuration));
        return
        [
            .. old.Keys.Union(now.Keys).Order(StringComparer.Ordinal)
                .Where(key => !free.Any(name => key.StartsWith(name + ".", StringComparison.Ordinal)))
                .Where(key => old.GetValueOrDefault(key) != now.GetValueOrDefault(key))
                .Select(key => $"{key}: {old.GetValueOrDefault(key) ?? "absent"} in the run, {now.GetValueOrDefault(key) ?? "absent"} now"),
        ];
    }

    /// <summary>The leaves of an object by their dotted names, as JSON.</summary>
    public static SortedDictionary<string, string> Flat(JsonNode? root)
    {
        SortedDictionary<string, string> flat = new(StringComparer.Ordinal);
        void Visit(string path, JsonNode? node)
        {
            if (node is JsonObject fields)
            {
                foreach (var (name, value) in fields)
                {
                    Visit(path.Length == 0 ? name : $"{path}.{name}", value);
                }
            }
            else
            {
                flat[path] = node?.ToJsonString() ?? "null";
            }
        }

        Visit("", root);
        return flat;
    }
}
