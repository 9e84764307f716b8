using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>A model from one form to another.</summary>
internal static class ConvertJob
{
    /// <summary>Writes the model into a new directory, which appears when it is whole. Errors: InputException.</summary>
    public static void Run(ConvertCommand command, CancellationToken stop)
    {
        JsonObject result;
        using (Progress progress = new())
        {
            result = Convert(command, progress, stop);
        }

        foreach (JsonNode? note in result["notes"]!.AsArray())
        {
            Terminal.Warn(note!.GetValue<string>());
        }

        if (command.Json)
        {
            Console.Out.WriteLine(result.ToJsonString(Json.Options));
        }
        else
        {
            foreach (JsonNode? file in result["files"]!.AsArray())
            {
                Console.Out.WriteLine(file!.GetValue<string>());
            }
        }
    }

    /// <summary>Carries the command out; what there is to say of the result.</summary>
    internal static JsonObject Convert(ConvertCommand command, Progress progress, CancellationToken stop)
    {
        string target = Path.TrimEndingDirectorySeparator(Path.GetFullPath(command.To));
        Files.RequireFree(command.To, "--to");
        using ModelFile model = ModelFiles.Open(command.From);
        int parameters = Architecture.Parameters(model.Config).Count;
        string family = "";
        string[] notes = [];
        using (Stage stage = progress.Stage("convert", parameters))
        {
            HashSet<string> done = [];
            AtomicFile.WriteFolder(
                target,
                folder =>
                {
                    ModelExporter exporter = new(model, folder, command.ElementType, tensor =>
                    {
                        stop.ThrowIfCancellationRequested();
                        done.Add(tensor.Name);
                        stage.Report(Math.Min(done.Count, parameters));
                    });
                    switch (command.Format)
                    {
                        case ModelFormat.HuggingFace:
                            exporter.HuggingFace(command.ShardSize);
                            break;
                        case ModelFormat.OpenLm:
                            exporter.OpenLm(Path.GetFileName(target));
                            break;
                        default:
                            exporter.Hybrid();
                            break;
                    }

                    (family, notes) = (exporter.Family, [.. exporter.Notes]);
                },
                replace: true);
        }

        FileInfo[] files = [.. new DirectoryInfo(target).GetFiles().OrderBy(file => file.Name, StringComparer.Ordinal)];
        return new()
        {
            ["from"] = command.From.Path,
            ["kind"] = model.Kind,
            ["to"] = command.To,
            ["format"] = command.Format switch { ModelFormat.HuggingFace => "hf", ModelFormat.OpenLm => "open_lm", _ => "hybrid" },
            ["family"] = family.Length > 0 ? family : null,
            ["architecture"] = Architecture.Describe(model.Config),
            ["vocabulary"] = new JsonObject { ["textRows"] = model.Vocabulary.TextRows, ["imageCodes"] = model.Vocabulary.ImageCodes, ["rows"] = model.Config.Rows },
            ["files"] = new JsonArray([.. files.Select(file => JsonValue.Create(Path.Combine(command.To, file.Name)))]),
            ["bytes"] = files.Sum(file => file.Length),
            ["notes"] = new JsonArray([.. notes.Select(note => JsonValue.Create(note))]),
        };
    }
}
