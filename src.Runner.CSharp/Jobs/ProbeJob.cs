using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>Probes of what a language model knows, can take from its context, and expects of text; beside other models where they are given.</summary>
internal static class ProbeJob
{
    public static void Run(ProbeCommand command, CancellationToken stop)
    {
        ProbeTask[] tasks = [.. command.Tasks.Select(path => ProbeTask.Read(path, command.Shots, command.Limit, command.Seed))];
        RequireNames("--tasks", tasks.Select(task => task.Name));
        RequireNames("--text", command.Texts.Select(path => Path.GetFileName(path)));
        if (command.Texts.FirstOrDefault(path => !File.Exists(path)) is { } missing)
        {
            throw new InputException($"the text is not there: {missing}.");
        }

        using Progress progress = new();
        List<ProbeScores> models = [];
        foreach (string path in command.Against)
        {
            models.Add(Score(ModelFiles.Open(path), command, tasks, progress, stop));
        }

        models.Add(Score(ModelFiles.Open(command.Model), command, tasks, progress, stop));
        ProbeReport report = new(tasks, command.Prompts, models);
        if (command.Json)
        {
            Json.Write(report.ToJson());
        }
        else
        {
            Console.Out.WriteLine(report.ToText());
        }
    }

    private static ProbeScores Score(ModelFile opened, ProbeCommand command, ProbeTask[] tasks, Progress progress, CancellationToken stop)
    {
        using ModelFile file = opened;
        using PromptCodec codec = PromptCodec.Beside(file);
        using Model model = file.Open(new Layout { Device = TorchLibrary.Device, Frozen = true });
        string name = Path.GetFileName(Path.TrimEndingDirectorySeparator(file.Path));
        List<ProbeResult> results = [];
        foreach (ProbeTask task in tasks)
        {
            using Stage stage = progress.Stage($"{task.Name} by {name}", task.Items.Sum(item => item.Choices.Count));
            results.Add(ProbeResult.Of(model, codec, task, stop, done => stage.Report(done), file.EndOfText));
        }

        List<ProbeText> texts = [];
        foreach (string path in command.Texts)
        {
            using Stage stage = progress.Stage($"{Path.GetFileName(path)} by {name}", 0);
            texts.Add(ProbeText.Of(model, codec, file.EndOfText, path, command.Limit, stop, (done, all) =>
            {
                stage.Expect(all);
                stage.Report(done);
            }));
        }

        List<ProbeCompletion> completions = [];
        foreach (string prompt in command.Prompts)
        {
            stop.ThrowIfCancellationRequested();
            int[] ids = codec.Encode(prompt);
            if (ids.Length == 0)
            {
                throw new ConfigurationException("--complete: an empty beginning has no token to go on from.");
            }

            int room = Math.Max(1, Math.Min(command.MaxTokens, model.Config.Positions - ids.Length));
            int[] next = model.Complete(ids, room, file.EndOfText, new Drawing { Temperature = 0 });
            completions.Add(new(codec.DecodeAfter(ids, next), next));
        }

        return new(file.Path, results, texts, completions);
    }

    private static void RequireNames(string option, IEnumerable<string> names)
    {
        if (names.GroupBy(name => name).FirstOrDefault(group => group.Count() > 1) is { } twice)
        {
            throw new ConfigurationException($"{option}: two of the files are named {twice.Key}.");
        }
    }
}
