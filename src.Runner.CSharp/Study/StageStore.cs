using System.Text.Json;
using System.Text.Json.Serialization;

namespace Hybrid.Runner.Study;

/// <summary>
/// The finished stages of a study, a JSON file each under <c>stages/</c>, written aside and renamed: a study that is resumed takes
/// from here what is done. Stages are pure functions of the plan, so a stored one is what a new one would be.
/// </summary>
public sealed class StageStore(string directory)
{
    private static readonly JsonSerializerOptions Options = new()
    {
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        RespectRequiredConstructorParameters = true,
        RespectNullableAnnotations = true,
    };

    /// <summary>The stored result of a stage, or what <paramref name="run"/> gives, stored.</summary>
    public T Get<T>(string name, Func<T> run)
    {
        string path = Path.Combine(directory, name + ".json");
        if (File.Exists(path))
        {
            try
            {
                return JsonSerializer.Deserialize<T>(File.ReadAllText(path), Options)
                    ?? throw new JsonException("the file holds null");
            }
            catch (JsonException e)
            {
                throw new InputException($"{path} is not a stage of a study ({e.Message}); delete it to run the stage again.");
            }
        }

        T result = run();
        Directory.CreateDirectory(directory);
        string aside = path + ".partial";
        using (FileStream stream = File.Create(aside))
        {
            JsonSerializer.Serialize(stream, result, Options);
            stream.Flush(flushToDisk: true);
        }

        File.Move(aside, path, overwrite: true);
        return result;
    }
}
