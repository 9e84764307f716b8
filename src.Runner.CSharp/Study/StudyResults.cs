namespace Hybrid.Runner.Study;

/// <summary>How the image tokenizer came out on held-out scenes.</summary>
public sealed record TokenizerResult(double Psnr, double ShareUsed, double EntropyBits, int Codes, double[] Curve, double Seconds);

/// <summary>How pre-training went: loss by step, and the held-out text loss at the end.</summary>
public sealed record PretrainResult(double[] Curve, double HeldOutText, double Seconds);

/// <summary>Held-out losses (mean nats a token) after some steps, and what the probes say where the arm is probed.</summary>
public sealed record Evaluation(
    int Step, double Total, double Text, double Image, double Structure, double ImageWithin, ProbeScores? Probes);

/// <summary>Right (1) or wrong (0) for each item of a task; the level of guessing; loss on held-out text (nats a word).</summary>
public sealed record ProbeScores(Dictionary<string, double[]> Correct, Dictionary<string, double> Chance, double TextLoss);

/// <summary>One arm: training losses by step (mean nats of each kind; NaN where a step has none), evaluations, final image losses by sequence.</summary>
public sealed record ArmResult(
    string Name, double[] Total, double[] Text, double[] Image, Evaluation[] Evaluations, double[] FinalImageBySequence,
    long Moving, long Parameters, double TokensPerSecond, double Seconds, string[] Completions);

/// <summary>Alignment on true and on shuffled captions.</summary>
public sealed record AlignmentResult(
    double[] Loss, double[] Temperature, double[] Accuracy, double[] ShuffledLoss, double[] ShuffledAccuracy,
    double[] Hits, double[] ShuffledHits, string[][] Nearest, double Seconds);

/// <summary>Codes drawn for held-out captions by an arm.</summary>
public sealed record Samples(string Arm, string[] Captions, int[][] Codes);
