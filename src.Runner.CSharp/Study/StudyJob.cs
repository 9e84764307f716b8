using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Reporting;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>The main job: the whole experiment on World, with its report.</summary>
public sealed class StudyJob
{
    /// <summary>World's seed: the data are the same for every seed of the twins.</summary>
    public const long DataSeed = 1;

    private readonly Plan plan;
    private readonly string directory;
    private readonly bool halfPrecision;
    private readonly Progress progress;
    private readonly CancellationToken stop;
    private readonly StageStore stages;
    private readonly StudyFiles files;
    private readonly Vocabulary vocabulary;
    private readonly ModelConfig textModel;

    private StudyJob(Plan plan, string directory, bool halfPrecision, Progress progress, CancellationToken stop)
    {
        this.plan = plan;
        this.directory = directory;
        this.halfPrecision = halfPrecision;
        this.progress = progress;
        this.stop = stop;
        stages = new StageStore(Path.Combine(directory, "stages"));
        files = new StudyFiles(directory);
        vocabulary = new Vocabulary(Corpus.TextRows, (int)SceneVqVae.defaults.Codes);
        textModel = ModelConfigModule.openLm(plan.Width, plan.Layers, plan.Heads, Corpus.TextRows, Math.Max(plan.Positions, plan.TextPositions));
    }

    /// <summary>Carries the command out.</summary>
    public static void Run(StudyCommand command, CancellationToken stop)
    {
        if (command.Preset == "paper")
        {
            PlanPaper(command);
            return;
        }

        Plan plan = ReadPlan(command);
        if (command.DryRun)
        {
            Describe(plan, command.Json);
            return;
        }

        string directory = command.Out ?? DefaultDirectory(plan.Preset, command.Resume);
        bool half = Prepare(directory, plan, command.Resume);
        using var progress = new Progress();
        try
        {
            new StudyJob(plan, directory, half, progress, stop).Run(command.Json);
        }
        catch (OperationCanceledException)
        {
            Terminal.Say($"stopped; the same command with --out {directory} --resume auto goes on with the stages that are not done");
            throw;
        }
    }

    private void Run(bool json)
    {
        long began = Stopwatch.GetTimestamp();
        (string Caption, byte[] Picture)[] scenes = Corpus.Scenes(Split.Train, DataSeed, 0, plan.TrainPairs);
        using PictureTokenizer tokenizer = Tokenizer(scenes, out TokenizerResult tokenizerResult);
        Corpus corpus;
        using (Stage stage = progress.Stage("pictures to codes", plan.TrainPairs + plan.HeldOutPairs))
            corpus = Corpus.Build(plan, scenes, tokenizer, DataSeed, done => stage.Report(done), stop);
        var probes = new WorldProbes(plan, corpus.HeldOutTexts);

        IReadOnlyDictionary<string, torch.Tensor> pretrained = Pretrained(corpus, probes, out PretrainResult pretraining);
        (AlignmentResult alignment, torch.Tensor alignedRows) = Align(corpus, pretrained);
        var runner = new ArmRunner(plan, corpus, probes, textModel, vocabulary, pretrained, alignedRows, halfPrecision);
        ProbeScores before = stages.Get("before", runner.Before);
        string[] completions = stages.Get("completions-before", () => CompletionsBefore(pretrained, runner));

        Arm[] arms = [.. Hybrid.Study.twins(plan), .. Hybrid.Study.imageOnly(plan)];
        var results = new List<ArmResult>();
        foreach (Arm arm in arms)
            results.Add(stages.Get("arm-" + arm.Name, () => Train(runner, arm, corpus)));

        Samples[] samples = [.. arms.Where(Sampled).Select(arm => stages.Get<Samples>(
            "samples-" + arm.Name, () => throw new InputException($"{directory} holds no samples of {arm.Name}; delete stages/arm-{arm.Name}.json to run it again.")))];
        var data = new StudyData(
            plan, halfPrecision, tokenizerResult, pretraining, before, probes.Shown, completions, [.. results], alignment, samples,
            stages.Get("seconds", () => Stopwatch.GetElapsedTime(began).TotalSeconds));
        Report(data, tokenizer, json);
    }

    private PictureTokenizer Tokenizer((string Caption, byte[] Picture)[] scenes, out TokenizerResult result)
    {
        PictureTokenizer? trained = null;
        result = stages.Get("tokenizer", () =>
        {
            trained = TokenizerStage.Train(plan, scenes, halfPrecision, progress, stop, out TokenizerResult made);
            files.SaveTokenizer(trained);
            return made;
        });
        return trained ?? files.LoadTokenizer();
    }

    private IReadOnlyDictionary<string, torch.Tensor> Pretrained(Corpus corpus, WorldProbes probes, out PretrainResult result)
    {
        result = stages.Get("pretraining", () =>
        {
            using Stage stage = progress.Stage("pre-training on text", plan.Pretraining.Steps);
            using Model model = PretrainStage.Train(plan, textModel, probes, halfPrecision, stage, stop, out PretrainResult made);
            files.SaveModel("pretrained", model);
            return made;
        });
        return files.LoadWeights("pretrained");
    }

    private (AlignmentResult, torch.Tensor) Align(Corpus corpus, IReadOnlyDictionary<string, torch.Tensor> pretrained)
    {
        AlignmentResult result = stages.Get("alignment", () =>
        {
            using Stage stage = progress.Stage("aligning image codes with text", 2L * plan.Alignment.Steps);
            using Model grown = Model.Random(
                Extension.grow(vocabulary.Rows, textModel), vocabulary, new Layout(), plan.Seeds[0]);
            using torch.Tensor table = grown.Values("tok_embeddings.weight");
            // The marks between text rows and codes keep their random start.
            using torch.Tensor added = table.narrow(0, vocabulary.TextRows, vocabulary.Rows - vocabulary.TextRows).clone();
            using torch.Tensor images = added.narrow(0, 7, vocabulary.ImageCodes);
            AlignmentStage.Outcome outcome = new AlignmentStage(plan, corpus, vocabulary.ImageCodes)
                .Run(pretrained["tok_embeddings.weight"], images, stage, stop);
            using (outcome.Images)
            {
                images.copy_(outcome.Images);
                files.SaveTensors("aligned", [("rows", added)]);
            }

            return outcome.Result;
        });
        return (result, files.LoadTensors("aligned")["rows"]);
    }

    private string[] CompletionsBefore(IReadOnlyDictionary<string, torch.Tensor> pretrained, ArmRunner runner)
    {
        using Model model = Model.Load(
            textModel, VocabularyModule.plainText(Corpus.TextRows), new Layout(), name => pretrained[name].alias());
        return runner.Completions(model);
    }

    private bool Sampled(Arm arm) => !arm.ImageOnly && arm.Seed == plan.Seeds[0];

    private ArmResult Train(ArmRunner runner, Arm arm, Corpus corpus)
    {
        using Stage stage = progress.Stage(arm.Name.Replace('-', ' '), runner.BudgetOf(arm).Steps);
        return runner.Run(arm, stage, Sampled(arm) ? Finished : null, stop);

        void Finished(Model model)
        {
            int[][] captions = [.. corpus.HeldOut.Take(plan.Pictures).Select(pair => pair.Caption)];
            int[][] codes = model.DrawImages(captions, 64, new Drawing { Seed = 5 });
            string name = arm.Start switch { Start.FromPretrained => "pre-trained", Start.FromRandom => "random", _ => "aligned" };
            stages.Get("samples-" + arm.Name, () => new Samples(name, [.. captions.Select(WorldVocabulary.decode)], codes));
            files.SaveModel(arm.Name, model);
        }
    }

    private void Report(StudyData data, PictureTokenizer tokenizer, bool json)
    {
        string page = Path.Combine(directory, "report.html");
        WrittenReport written = ReportFiles.Write(StudyReport.Build(data, tokenizer, Machine()), page);
        Hybrid.Report.Claim[] claims = data.Claims();
        if (json)
        {
            Json.Write(new
            {
                Preset = plan.Preset,
                Directory = Path.GetFullPath(directory),
                Report = Path.GetFullPath(page),
                written.Figures,
                data.Seconds,
                HalfPrecision = halfPrecision,
                Tokenizer = new { data.Tokenizer.Psnr, data.Tokenizer.ShareUsed },
                Arms = data.Arms.ToDictionary(arm => arm.Name, arm => new
                {
                    Final = new { arm.Evaluations[^1].Total, arm.Evaluations[^1].Text, arm.Evaluations[^1].Image },
                    arm.Moving,
                    arm.TokensPerSecond,
                }),
                Claims = claims.Select(claim => new { claim.Source, claim.Statement, Verdict = Hybrid.Report.verdict(claim.Verdict), claim.Evidence }),
            });
            return;
        }

        foreach (Hybrid.Report.Claim claim in claims)
        {
            System.Console.WriteLine($"{claim.Source,-8} {Hybrid.Report.verdict(claim.Verdict),-14} {claim.Statement}");
            System.Console.WriteLine($"         {claim.Evidence}");
        }

        System.Console.WriteLine($"Report: {Path.GetFullPath(page)}");
    }

    /// <summary>The next unused directory under <c>runs/</c>, or the last one to go on with.</summary>
    private static string DefaultDirectory(string preset, bool resume)
    {
        string Named(int number) => Path.Combine("runs", number == 1 ? $"study-{preset}" : $"study-{preset}-{number}");
        int used = 0;
        while (Directory.Exists(Named(used + 1)))
            used++;
        return Named(resume && used > 0 ? used : used + 1);
    }

    /// <summary>Makes the run directory, or checks that the one to go on with is of this plan; gives the precision.</summary>
    private static bool Prepare(string directory, Plan plan, bool resume)
    {
        string file = Path.Combine(directory, "run.json");
        string planText = StudyPlan.toJson(plan).ToJsonString();
        if (File.Exists(file))
        {
            JsonNode run = Existing(file);
            if (!resume)
                throw new InputException($"{directory} holds a study already. Give --resume auto to go on with it, or another --out.");
            if (run["plan"]?.ToJsonString() != planText)
                throw new InputException($"{directory} holds a study of another plan; give another --out.");
            return run["halfPrecision"]!.GetValue<bool>();
        }

        if (Directory.Exists(directory) && Directory.EnumerateFileSystemEntries(directory).Any())
            throw new InputException($"{directory} is not empty and holds no study; give another --out.");
        bool half = Precisions.HalfIsFaster();
        Directory.CreateDirectory(directory);
        var made = new JsonObject { ["job"] = "study", ["halfPrecision"] = half, ["plan"] = JsonNode.Parse(planText) };
        File.WriteAllText(file + ".partial", made.ToJsonString(new() { WriteIndented = true }));
        File.Move(file + ".partial", file);
        return half;
    }

    private static JsonNode Existing(string file)
    {
        try
        {
            if (JsonNode.Parse(File.ReadAllText(file)) is JsonObject run
                && run["plan"] is JsonObject && run["halfPrecision"] is JsonValue half && half.TryGetValue(out bool _))
                return run;
        }
        catch (Exception e) when (e is System.Text.Json.JsonException or ArgumentException)
        {
            // A key that is given twice is an ArgumentException of the first look at the object.
        }

        throw new InputException($"{file} is not the description of a study; give another --out.");
    }

    private static Plan ReadPlan(StudyCommand command)
    {
        string text = $$"""{"preset": "{{command.Preset}}"}""";
        string source = "--preset";
        if (command.Config is string config)
        {
            source = config;
            try
            {
                text = Files.Text(config, "the plan");
            }
            catch (InputException e)
            {
                throw new ConfigurationException(e.Message);
            }
        }

        Microsoft.FSharp.Core.FSharpResult<Plan, Microsoft.FSharp.Collections.FSharpList<string>> parsed = StudyPlan.parse(text);
        if (parsed.IsError)
            throw new ConfigurationException($"{source} cannot be used:\n  {string.Join("\n  ", parsed.ErrorValue)}");
        Plan plan = parsed.ResultValue;
        return command.Seed is long seed ? Hybrid.Study.withSeed(seed, plan) : plan;
    }

    private static void Describe(Plan plan, bool json)
    {
        ModelConfig model = ModelConfigModule.openLm(
            plan.Width, plan.Layers, plan.Heads, Corpus.TextRows + 7 + (int)SceneVqVae.defaults.Codes, plan.Positions);
        long tokens = (long)plan.Twins.Steps * plan.Twins.Batch * (plan.Positions - 1);
        var result = new
        {
            plan.Preset,
            Parameters = Decoder.parameterCount(model),
            FlopsPerToken = ModelConfigModule.flopsPerToken(model, plan.Positions),
            TokensPerTwin = tokens,
            Runs = Hybrid.Study.twins(plan).Length + Hybrid.Study.imageOnly(plan).Length,
        };
        if (json)
            Json.Write(result);
        else
            System.Console.WriteLine(
                $"{result.Preset}: {result.Parameters:N0} parameters, {result.FlopsPerToken / 1e6:F1} MFLOP a token, {result.TokensPerTwin:N0} tokens a twin, {result.Runs} runs.");
    }

    private static void PlanPaper(StudyCommand command)
    {
        if (!command.DryRun)
            throw new ConfigurationException(
                "the paper's configuration needs its data and many GPUs: give --dry-run to see what it takes, and hybrid train to run it on shards of your own.");
        PaperEstimate estimate = PaperEstimate.Make();
        if (command.Json)
            Json.Write(estimate);
        else
            foreach (string line in estimate.Lines())
                System.Console.WriteLine(line);
    }

    private static string Machine() =>
        $"{Environment.ProcessorCount} CPU cores, {RuntimeInformation.OSDescription.Trim()}, {RuntimeInformation.ProcessArchitecture}";
}
