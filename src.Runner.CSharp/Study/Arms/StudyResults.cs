namespace Hybrid.Runner.Study;

/// <summary>How the image tokenizer came out on held-out scenes.</summary>
internal sealed record TokenizerResult(double Psnr, double ShareUsed, double EntropyBits, int Codes, double[] Curve, double Seconds);

/// <summary>How pre-training went: loss by step, and the held-out text loss at the end.</summary>
internal sealed record PretrainResult(double[] Curve, double HeldOutText, double Seconds);

/// <summary>Held-out losses (mean nats a token) after some steps, and what the probes say where the arm is probed.</summary>
internal sealed record ArmEvaluation(
    int Step, double Total, double Text, double Image, double Structure, double TextWithin, double ImageWithin, ArmProbes? Probes);

/// <summary>Right (1) or wrong (0) for each item of a task; the level of guessing; loss on held-out text (nats a token), NaN without any.</summary>
internal sealed record ArmProbes(Dictionary<string, double[]> Correct, Dictionary<string, double> Chance, double TextLoss);

/// <summary>
/// Pictures that an arm drew: strengths of guidance, the Fréchet distance of each strength's pictures to real ones (NaN: none could be
/// made), the codes of the first captions by strength, and how many pictures each distance is over.
/// </summary>
internal sealed record Drawings(double[] Guidance, double[] Distance, int[][][] Codes, int Pictures);

/// <summary>What an arm took.</summary>
internal sealed record Cost(double Tokens, double Flops, double TokensPerSecond, double Seconds);

/// <summary>
/// One arm's run: training losses by step (mean nats of each kind; NaN where a step has none), evaluations, final image losses by
/// sequence, greedy continuations at the middle evaluation and at the end, and what else was asked for.
/// </summary>
internal sealed record ArmResult(
    string Plan, long Seed, double[] Total, double[] Text, double[] Image, ArmEvaluation[] Evaluations, double[] FinalImageBySequence,
    long Moving, long Parameters, int Positions, Cost Cost, string[] CompletionsOnTheWay, string[] Completions, Drawings? Drawings, ArmDiagnosis? Diagnosis);

/// <summary>Share of held-out pictures whose own caption is the nearest, with its 95 % interval over pictures, and what guessing gives.</summary>
internal sealed record HeldOutRetrieval(double Share, double Low, double High, double Chance);

/// <summary>Alignment on true captions, on shuffled ones, and with random text embeddings.</summary>
internal sealed record AlignmentFindings(
    double[] Loss, double[] Temperature, double[] Accuracy, double[] ShuffledLoss, double[] ShuffledAccuracy,
    double[] RandomLoss, double[] RandomAccuracy,
    HeldOutRetrieval HeldOut, HeldOutRetrieval ShuffledHeldOut, HeldOutRetrieval RandomHeldOut,
    double[] Hits, double[] ShuffledHits, string[][] Nearest, double Seconds);
