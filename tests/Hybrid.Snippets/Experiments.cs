using Hybrid;
using Hybrid.Api;
using static TorchSharp.torch;

namespace Snippets;

/// <summary>What docs/csharp.md shows of experiments, region by region.</summary>
public static class Experiments
{
    /// <summary>An arm and a claim of one's own.</summary>
    public static (IReadOnlyList<Arm> Runs, string Json, Report.Claim Judged) Study()
    {
        #region a study arm
        // Text of the corpus in a tenth of all sequences, and the random twin of that arm.
        ArmPlan light = new ArmOptions("replay-light") { Replay = 0.1, Seeds = 3 }.Plan;
        ArmPlan twin = new ArmOptions(light, "replay-light-random") { Start = Start.FromRandom }.Plan;
        Comparison same = Studies.Compare("The twins are the same on image tokens.", light.Name, twin.Name, "image", Rule.Same);

        Plan plan = Studies.With(Studies.WithoutArms(Studies.Tiny), [light, twin], [same]);
        string json = Studies.Json(plan); // for hybrid study --config
        Report.Claim judged = Studies.Judge(same, arm: [1.012, 1.034, 0.998], against: [1.010, 1.037, 0.999]);
        #endregion
        return (Studies.Runs(plan), json, judged);
    }

    /// <summary>The twins on World's pictures, written in words.</summary>
    public static (double[] Pretrained, double[] Random) Twins(int pretraining, int steps)
    {
        #region the twins
        var text = new Vocabulary(Worlds.Words, imageCodes: 0);
        var both = new Vocabulary(Worlds.Words, Worlds.WordCodeCount);
        const int length = 96;
        ModelConfig config = new ModelOptions(width: 64, layers: 2, heads: 2, rows: text.Rows, positions: length).Config;
        OptimizerConfig adamW = new OptimizerOptions().Config;

        // Documents of the corpus, as many as it takes, and pictures with their captions.
        long[] Text(long index) => [.. Enumerable.Range(0, 16)
            .SelectMany(i => Worlds.Encode(Worlds.Document(seed: 0, Split.Train, 16 * index + i)).Append(Worlds.EndId))
            .Take(length).Select(id => (long)id)];

        long[] Picture(long index)
        {
            WorldPair pair = Worlds.Pair(seed: 0, Split.Train, index);
            return Compose.Captioned(both, length, pair.CaptionIds, pair.WordCodes);
        }

        // Image loss at each step, in nats a code.
        double[] Train(Model model, Objective objective, int steps, Func<long, long[]> sequence, int kind)
        {
            using var trainer = new Trainer(model, adamW, objective);
            double[] losses = new double[steps];
            for (int step = 0; step < steps; step++)
            {
                Batch[] batches = trainer.Batches([.. Enumerable.Range(0, 8).Select(i => sequence(8 * step + i))]);
                using StepResult result = trainer.Step(batches, learningRate: 3e-3);
                using Tensor sum = result.Parts[kind];
                losses[step] = sum.item<float>() / result.Counts[kind];
                Array.ForEach(batches, Compose.Release);
            }

            return losses;
        }

        using var textModel = Model.Random(config, text, new Layout(), seed: 0);
        Train(textModel, Losses.Text, pretraining, Text, kind: 0);

        using var pretrained = Model.Extend(config, both, new Layout(), textModel.Values, "normal", given: null, seed: 1);
        using var random = Model.Random(pretrained.Config, both, new Layout(), seed: 1);
        double[] ofPretrained = Train(pretrained, Losses.Total, steps, Picture, kind: 1);
        double[] ofRandom = Train(random, Losses.Total, steps, Picture, kind: 1);
        #endregion
        return (ofPretrained, ofRandom);
    }
}
