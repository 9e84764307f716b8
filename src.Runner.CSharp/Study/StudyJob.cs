using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using Hybrid.Runner.Reporting;
using TorchSharp;
using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>The main job: the whole experiment with its report, on World or on material of one's own.</summary>
internal sealed class StudyJob
{
    private readonly Plan plan;
    private readonly string directory;
    private readonly string folder;
    private readonly bool halfPrecision;
    private readonly int? parallel;
    private readonly bool tensorBoard;
    private readonly Progress progress;
    private readonly CancellationToken stop;
    private readonly StageStore stages;
    private readonly StudyFiles files;

    private StudyJob(Plan plan, string directory, string folder, bool halfPrecision, StudyCommand command, Progress progress, CancellationToken stop)
    {
        (this.plan, this.directory, this.folder, this.halfPrecision) = (plan, directory, folder, halfPrecision);
        (parallel, tensorBoard) = (command.Parallel, command.TensorBoard);
        (this.progress, this.stop) = (progress, stop);
        stages = new StageStore(Path.Combine(directory, "stages"));
        files = new StudyFiles(directory);
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

        string directory = command.Out ?? StudyDirectory.Usual(plan, command.Resume);
        string folder = command.Config is null ? "" : Path.GetDirectoryName(Path.GetFullPath(command.Config)) ?? "";
        bool half = StudyDirectory.Prepare(directory, plan, command.Resume);
        using FileStream alone = Files.Alone(
            Path.Combine(directory, "study.lock"), $"another study works in {directory} just now; wait for it, or give another --out.");
        foreach (string filled in new[] { "", "stages", "models" })
        {
            AtomicFile.RemoveUnfinished(Path.Combine(directory, filled));
        }

        using var progress = new Progress();
        try
        {
            new StudyJob(plan, directory, folder, half, command, progress, stop).Run(command.Json);
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
        using IMaterial material = plan.Material is null
            ? WorldMaterial.Make(plan, halfPrecision, stages, files, progress, stop)
            : GivenMaterial.Read(plan, plan.Material.Value, folder, progress, stop);
        string alignmentKey = StageStore.Hash("alignment 2", material.Key, $"{plan.Seed} {plan.TrainPairs}", StudyPlan.budgetText(plan.Alignment));
        (AlignmentFindings alignment, torch.Tensor alignedRows) = Align(material, alignmentKey);
        using (alignedRows)
        {
            var runner = new ArmRunner(plan, material, () => alignedRows, halfPrecision, Path.Combine(directory, "arms"), tensorBoard);
            ArmProbes before = stages.Get("before", StageStore.Hash("before 1", material.Key), runner.Before);
            string[] completions = stages.Get(
                "completions-before", StageStore.Hash(["completions 1", material.Key, .. material.Prompts]), runner.CompletionsBefore);

            Arm[] arms = Hybrid.Study.runs(plan);
            int atOnce = parallel ?? ArmSchedule.Usual(StepBytes(material));
            string KeyOf(Arm arm) => ArmKey(arm, material.Key, alignmentKey);
            ArmSchedule.Run(
                [.. arms.Where(arm => !stages.Has<ArmResult>("arm-" + arm.Name, KeyOf(arm)))], atOnce,
                (arm, place) => stages.Get("arm-" + arm.Name, KeyOf(arm), () => Train(runner, material, arm, place)), stop);
            ArmResult[] results = [.. arms.Select(arm => stages.Get<ArmResult>(
                "arm-" + arm.Name, KeyOf(arm), () => throw new InvalidOperationException($"{arm.Name} was not run.")))];
            // A study that went on adds up what its parts took, not what passed between them.
            double seconds = Math.Max(
                Stopwatch.GetElapsedTime(began).TotalSeconds, (results.Sum(arm => arm.Cost.Seconds) / atOnce) + alignment.Seconds);
            Report(new StudyData(plan, material, halfPrecision, before, completions, results, alignment, seconds), json);
        }
    }

    /// <summary>Bytes that a step of an arm takes, by the longest sequences.</summary>
    private long StepBytes(IMaterial material)
    {
        ModelConfig grown = Extension.grow(material.Pictures(PictureCodes.Learned).Vocabulary.Rows, material.TextModel);
        return StepMemories.Of(grown, halfPrecision, new Training(), plan.Twins.Batch, Math.Max(plan.Positions, plan.LongPositions)).Total;
    }

    /// <summary>A hash of all that an arm's result depends on.</summary>
    private string ArmKey(Arm arm, string material, string alignment) => StageStore.Hash(
        "arm 1", material, arm.Plan.Start == Start.FromAligned ? alignment : "",
        StudyArmPlan.identity(arm.Plan), StudyPlan.budgetText(Hybrid.Study.budgetOf(plan, arm.Plan)),
        $"{arm.Seed} {arm.First} {plan.Positions} {plan.LongPositions} {plan.TrainPairs} {plan.HeldOutPairs} {plan.Evaluations} {plan.Pictures} {plan.Samples} {halfPrecision}",
        string.Join(' ', plan.Guidance.Select(strength => strength.ToString(CultureInfo.InvariantCulture))), string.Join('\n', plan.Material is null ? [] : plan.Material.Value.Prompts));

    private (AlignmentFindings, torch.Tensor) Align(IMaterial material, string key)
    {
        AlignmentFindings result = stages.Get("alignment", key, () =>
        {
            using Stage stage = progress.Stage("aligning image codes with text", 3L * plan.Alignment.Steps);
            Vocabulary vocabulary = material.Pictures(PictureCodes.Learned).Vocabulary;
            using Model grown = Model.Random(
                Extension.grow(vocabulary.Rows, material.TextModel), vocabulary, new Layout { Frozen = true }, plan.Seed);
            using torch.Tensor table = grown.Values("tok_embeddings.weight");
            // The marks between text rows and codes keep their random start.
            using torch.Tensor added = table.narrow(0, vocabulary.TextRows, vocabulary.Rows - vocabulary.TextRows).clone();
            using torch.Tensor images = added.narrow(0, vocabulary.FirstCode - vocabulary.TextRows, vocabulary.ImageCodes);
            AlignmentStage.Outcome outcome = new AlignmentStage(plan, material).Run(images, stage, stop);
            using (outcome.Images)
            {
                images.copy_(outcome.Images);
                files.SaveTensors("aligned", [("rows", added)]);
            }

            return outcome.Result;
        });
        return (result, files.LoadTensors("aligned")["rows"]);
    }

    private ArmResult Train(ArmRunner runner, IMaterial material, Arm arm, ArmPlace place)
    {
        using Stage stage = progress.Stage(arm.Name.Replace('-', ' '), runner.BudgetOf(arm).Steps);
        Action<Model> save = model => files.SaveModel(arm.Name, model, folder => material.PutTokenizers(folder, arm.Plan.Codes));
        return runner.Run(arm, place, stage, arm.First && arm.Plan.Sampled ? save : null, stop);
    }

    private void Report(StudyData data, bool json)
    {
        string page = Path.Combine(directory, "report.html");
        WrittenReport written = ReportFiles.Write(StudyReport.Build(data, Machine()), page);
        Claim[] claims = data.Claims();
        if (json)
        {
            Json.Write(new
            {
                Preset = plan.Preset,
                Material = data.Material.Name,
                Directory = Path.GetFullPath(directory),
                Report = Path.GetFullPath(page),
                written.Figures,
                data.Seconds,
                HalfPrecision = halfPrecision,
                Answer = data.Answer(),
                Arms = data.Arms.ToDictionary(arm => $"{arm.Plan}-seed{arm.Seed}", arm => new
                {
                    Final = new { arm.Evaluations[^1].Total, arm.Evaluations[^1].Text, arm.Evaluations[^1].Image },
                    arm.Moving,
                    arm.Cost.TokensPerSecond,
                }),
                Claims = claims.Select(claim => new { claim.Source, claim.Statement, Verdict = verdict(claim.Verdict), claim.Evidence }),
            });
            return;
        }

        foreach (Claim claim in claims)
        {
            System.Console.WriteLine($"{claim.Source,-8} {verdict(claim.Verdict),-14} {claim.Statement}");
            System.Console.WriteLine($"         {claim.Evidence}");
        }

        System.Console.WriteLine();
        System.Console.WriteLine(data.Answer());
        System.Console.WriteLine($"Report: {Path.GetFullPath(page)}");
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
            Runs = Hybrid.Study.runs(plan).Length,
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
