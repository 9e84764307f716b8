
namespace Hybrid.Runner.Study;

/// <summary>What the paper's own run takes: parameters, operations, memory and days.</summary>
internal sealed record PaperEstimate(
    long Parameters, long MatrixParameters, double FlopsPerToken, double TokensPerStep, double Tokens, long Steps,
    double TotalFlops, EstimateForGpus[] Plans)
{
    /// <summary>Share of the datasheet's peak that a well-tuned run reaches; open_lm's own 1B runs reached 0.28 to 0.33.</summary>
    private const double Utilisation = 0.33;

    private const double PeakA100 = 312e12, PeakH100 = 989e12;

    /// <summary>Works the paper's configuration out.</summary>
    public static PaperEstimate Make()
    {
        ModelConfig model = Hybrid.Study.paperModel;
        long parameters = Decoder.parameterCount(model);
        double flops = ModelConfigModule.flopsPerToken(model, model.Positions);
        double tokens = Hybrid.Study.paperTokens, perStep = Hybrid.Study.paperTokensPerStep;
        EstimateForGpus Plan(string gpu, double peak, int count)
        {
            double tokensPerSecond = Utilisation * peak / flops;
            // Weights and gradients in bf16, fp32 master and two moments cut into slices over the GPUs (ZeRO-1); activations of one
            // sequence of 1,152 positions: 34 bytes per position, width and layer, and the logits in fp32 with their gradient.
            double states = parameters * (2.0 + 2.0 + 12.0 / count);
            double activations = 34.0 * model.Positions * model.Width * model.Layers + 8.0 * model.Positions * model.Rows;
            return new EstimateForGpus(gpu, count, tokensPerSecond, (states + activations) / 1e9, tokens / (tokensPerSecond * count) / 86400);
        }

        return new PaperEstimate(
            parameters, ModelConfigModule.matrixParameters(model), flops, perStep, tokens, (long)(tokens / perStep), flops * tokens,
            [Plan("A100", PeakA100, 64), Plan("H100", PeakH100, 64), Plan("H100", PeakH100, 8), Plan("H100", PeakH100, 1)]);
    }

    /// <summary>The estimate for a person.</summary>
    public IEnumerable<string> Lines()
    {
        yield return "The paper's configuration: open_lm-1b with 16,384 image codes, 1,152 positions";
        yield return $"  parameters        {Parameters:N0} ({MatrixParameters:N0} in matrix products)";
        yield return $"  operations        {FlopsPerToken / 1e9:F2} GFLOP a token, {TotalFlops:E2} FLOP in all";
        yield return $"  tokens            {Tokens / 1e9:F0}B in {Steps:N0} steps of {TokensPerStep / 1e6:F0}M";
        yield return $"  at {Utilisation:P0} of the datasheet's bf16 peak, ZeRO-1, one sequence a GPU at a time:";
        foreach (EstimateForGpus plan in Plans)
        {
            yield return $"    {plan.Count,3} × {plan.Gpu,-5} {plan.TokensPerSecond / 1e3,6:F1}K tokens/s a GPU  "
                + $"{plan.MemoryGigabytes,5:F1} GB a GPU  {plan.Days,6:F1} days for one twin";
        }
    }
}

/// <summary>The run on some GPUs.</summary>
internal sealed record EstimateForGpus(string Gpu, int Count, double TokensPerSecond, double MemoryGigabytes, double Days);
