using Hybrid.Api;

namespace Hybrid.Runner.Study;

/// <summary>What a model knows of World's text: multiple choice by the likelihood of the answer, and the loss on held-out text.</summary>
internal sealed class WorldProbes
{
    public const string Knowledge = "knowledge";
    public const string InContext = "in-context learning";

    private const long Seed = 7;
    private const int Batch = 128;

    private readonly Dictionary<string, Probe[]> tasks;
    private readonly long[][] texts;

    public WorldProbes(Plan plan, long[][] heldOutTexts)
    {
        texts = heldOutTexts;
        tasks = new()
        {
            [Knowledge] = WorldProbe.knowledge(Seed, plan.ProbeItems),
            [InContext] = WorldProbe.inContext(Seed, plan.ProbeItems),
            ["last word of a story"] = WorldProbe.narrative(Seed, plan.ProbeItems),
        };
    }

    /// <summary>Prompts whose greedy continuation the report shows.</summary>
    public IReadOnlyList<string> Shown => [.. tasks.Values.Select(probes => probes[0].Prompt)];

    public ArmProbes Score(Model model) => new(
        tasks.ToDictionary(task => task.Key, task => Correct(model, task.Value)),
        tasks.ToDictionary(task => task.Key, task => WorldProbe.chance(task.Value)),
        TextLoss(model));

    /// <summary>Mean loss of the held-out text rows, in nats a word.</summary>
    public double TextLoss(Model model)
    {
        SequenceLoss[] losses = model.Losses(texts, 32);
        return losses.Sum(loss => loss.Text) / losses.Sum(loss => loss.TextCount);
    }

    private static double[] Correct(Model model, Probe[] probes)
    {
        Likelihood.Item[] items =
        [
            .. probes.SelectMany(probe => probe.Choices.Select(choice =>
                new Likelihood.Item(Context(probe.Prompt), WorldVocabulary.encode(choice)))),
        ];
        Likelihood.Score[] scores = model.Score(items, Batch);
        var correct = new double[probes.Length];
        for (int i = 0, at = 0; i < probes.Length; at += probes[i].Choices.Length, i++)
            correct[i] = Likelihood.best(scores[at..(at + probes[i].Choices.Length)]) == probes[i].Answer ? 1 : 0;
        return correct;
    }

    /// <summary>A prompt stands after an end mark, as every document does.</summary>
    public static int[] Context(string prompt) => [WorldVocabulary.endId, .. WorldVocabulary.encode(prompt)];
}
