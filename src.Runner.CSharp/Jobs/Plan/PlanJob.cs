using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>What training over many GPUs would take, and the fastest way that fits.</summary>
internal static class PlanJob
{
    private const double Giga = 1e9, Tera = 1e12, Micro = 1e-6;
    private const double Share = 0.45;

    // The A100's data sheet: bf16, and fp32 without TF32.
    private const double PeakHalf = 312, PeakFull = 19.5;

    // The paper's run.
    private const int Positions = 1152;
    private const double TokensPerStep = 1e6, Tokens = 100e9;

    public static void Run(PlanCommand command)
    {
        PlanReport report = Make(command);
        Console.Out.WriteLine(command.Json ? report.ToJson().ToJsonString(Json.Options) : report.ToText());
    }

    /// <summary>Works it out. Errors: ConfigurationException for what does not go together; InputException for files, and where nothing fits.</summary>
    internal static PlanReport Make(PlanCommand command)
    {
        AtMostOne(("--config", command.Config), ("--model-config", command.ModelConfig), ("--size", command.Size));
        AtMostOne(("--measured", command.Measured), ("--peak", command.Peak));
        AtMostOne(("--measured", command.Measured), ("--share", command.Share));
        (string name, ScalingWork work) = Work(command);
        (double rate, double peak) = Rate(command, work);
        Cluster cluster = new(
            command.Gpus, command.NodeGpus, command.GpuMemory * Giga, command.Link * Giga, (command.NodeLink ?? command.Link) * Giga,
            command.Latency * Micro, rate);
        return new(name, work, cluster, peak, Scalings.Plan(work, cluster), command.Measured is not null, command.CheckpointLink * Giga);
    }

    private static void AtMostOne(params (string Name, object? Value)[] options)
    {
        string[] given = [.. options.Where(option => option.Value is not null).Select(option => option.Name)];
        if (given.Length > 1)
        {
            throw new ConfigurationException($"{string.Join(" and ", given)} exclude each other: give one of them.");
        }
    }

    private static (string Name, ScalingWork Work) Work(PlanCommand command)
    {
        TrainPlan? run = command.Config is { } path ? TrainJob.ReadPlan(path, []) : null;
        // What a model reads of a sequence is all tokens but the last.
        int positions = command.Sequence ?? run?.Config.Length - 1 ?? Positions;
        (string name, ModelConfig model) = (run, command.ModelConfig) switch
        {
            ({ } given, _) => (command.Config!, TrainStart.Describe(given, null)),
            (_, { } file) => (file, ModelDescription.Read(file).Config),
            _ => (command.Size ?? "1b", BenchModels.Shape(command.Size ?? "1b", positions)),
        };
        double perStep = command.TokensPerStep ?? (double?)run?.Config.Sequences * positions ?? TokensPerStep;
        double tokens = command.Tokens ?? (double?)run?.Config.Schedule.Steps * perStep ?? Tokens;
        bool half = command.Precision is { } precision ? precision == "bf16" : run is null || run.PrecisionIsOpen || run.Layout(TorchSharp.torch.CPU).HalfPrecision;
        bool halfGradients = command.Gradients is { } gradients ? gradients == "bf16" : run?.Training.HalfGradients ?? false;
        if (!half && command.Gradients == "bf16")
        {
            throw new ConfigurationException("--gradients bf16 goes only with --precision bf16.");
        }

        ScalingWork work = Scalings.Work(model, half, halfGradients, positions, perStep, tokens);
        return (name, run is null ? work : Scalings.Moving(work, run));
    }

    private static (double Rate, double Peak) Rate(PlanCommand command, ScalingWork work)
    {
        if (command.Measured is { } path)
        {
            MeasuredTraining measured = Scalings.Measured(path, Files.Text(path, "the measurement"));
            return (Scalings.Rate(path, measured, work), measured.Peak);
        }

        double peak = (command.Peak ?? (work.Precision == Precision.Bf16 ? PeakHalf : PeakFull)) * Tera;
        return (peak * (command.Share ?? Share), peak);
    }
}
