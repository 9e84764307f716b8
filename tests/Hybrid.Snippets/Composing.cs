using Hybrid;
using Hybrid.Api;
using Hybrid.Runner;
using TorchSharp;
using static TorchSharp.torch;

namespace Snippets;

/// <summary>What docs/csharp.md shows, region by region; each method returns what the page says about it.</summary>
public static class Composing
{
    /// <summary>A model in ten lines.</summary>
    public static double RandomModel()
    {
        #region a model
        var vocabulary = new Vocabulary(textRows: 100, imageCodes: 64);
        var options = new ModelOptions(width: 32, layers: 2, heads: 4, rows: vocabulary.Rows, positions: 64) { FeedForwardWidth = 64 };
        using var model = Model.Random(options.Config, vocabulary, new Layout(), seed: 1);

        using var scope = NewDisposeScope();
        long[][] sequences =
        [
            Compose.Captioned(vocabulary, length: 32, caption: [7, 8, 9], codes: [.. Enumerable.Range(0, 16)]),
            Compose.Captioned(vocabulary, length: 32, caption: [8, 8, 9], codes: [.. Enumerable.Range(16, 16)]),
        ];
        Batch batch = Compose.Batch(vocabulary, CPU, sequences);
        Tensor logits = model.Logits(batch.Inputs); // [2, 31, 171]
        LossValue loss = Losses.Evaluate(Losses.Total, Losses.Score(vocabulary, batch, logits));
        double nats = loss.Objective.item<float>() / batch.Count; // a target
        #endregion
        return nats;
    }

    /// <summary>A block of one's own, and training with it.</summary>
    public static (double Before, double After) OwnBlock()
    {
        var vocabulary = new Vocabulary(100, 64);
        var config = new ModelOptions(32, 2, 4, vocabulary.Rows, 64) { FeedForwardWidth = 64 }.Config;
        using var model = Model.Random(config, vocabulary, new Layout(), seed: 1);
        using var scope = NewDisposeScope();
        Batch batch = Learnable(vocabulary);
        #region a block
        // Attention alone, without a feed-forward layer.
        Tensor AttentionOnly(Func<string, Tensor> weights, Batch given)
        {
            using var parts = new DecoderParts(config, vocabulary, weights, positions: (int)given.Inputs.shape[1]);
            return parts.Logits(given.Inputs, (layer, x) => x.Plus(parts.Attention(layer, parts.AttentionNorm(layer, x))));
        }

        using var trainer = new ComposedTrainer(model, new OptimizerOptions { WeightDecay = 0.1 }.Config, Losses.Total, AttentionOnly);
        double first = 0, last = 0;
        for (int step = 0; step < 30; step++)
        {
            using StepResult result = trainer.Step([batch], learningRate: 1e-2);
            last = result.Parts.sum().item<float>() / batch.Count; // nats a target
            first = step == 0 ? last : first;
        }
        #endregion
        return (first, last);
    }

    /// <summary>A term of one's own.</summary>
    public static (double Before, double After, IReadOnlyList<ObjectiveTerm> Terms) OwnTerm()
    {
        var vocabulary = new Vocabulary(100, 64);
        var config = new ModelOptions(32, 2, 4, vocabulary.Rows, 64) { FeedForwardWidth = 64 }.Config;
        using var model = Model.Random(config, vocabulary, new Layout(), seed: 1);
        #region a loss
        // (1 − p)² · −log p of every target: hard targets count more (Lin et al. 2017).
        Objective focal = Losses.PerTarget("focal", scored =>
        {
            Tensor p = scored.CrossEntropy.neg().exp();
            return p.neg().Plus(1).square().mul(scored.CrossEntropy);
        });

        Objective objective = Losses.Total + Losses.Weighted(0.5, focal) + Losses.Weighted(1e-4, Losses.SquaredNormaliser);
        var schedule = new Schedule(ScheduleKind.Cosine, peak: 1e-2, minimum: 1e-3, warmupSteps: 5, steps: 30);
        using var trainer = new Trainer(model, new OptimizerOptions().Config, objective);
        #endregion
        using var scope = NewDisposeScope();
        Batch batch = Learnable(vocabulary);
        double first = 0, last = 0;
        for (int step = 0; step < schedule.Steps; step++)
        {
            using StepResult result = trainer.Step([batch], Compose.LearningRate(schedule, step));
            last = result.Parts.sum().item<float>() / batch.Count;
            first = step == 0 ? last : first;
        }

        return (first, last, Losses.Terms(objective));
    }

    /// <summary>A text model's table with an image vocabulary.</summary>
    public static (long Moving, bool Kept) Extended()
    {
        var text = new Vocabulary(100, 0);
        var config = new ModelOptions(32, 2, 4, text.Rows, 64) { FeedForwardWidth = 64 }.Config;
        using var textModel = Model.Random(config, text, new Layout(), seed: 1);
        #region an extension
        var vocabulary = new Vocabulary(textRows: 100, imageCodes: 64);
        var layout = new Layout { Trainable = "new-rows", OldRows = textModel.Config.Rows };
        using var grown = Model.Extend(
            textModel.Config, vocabulary, layout, source: textModel.Values, newRows: "mean", given: null, seed: 2);

        using var scope = NewDisposeScope();
        Tensor tokens = arange(32, dtype: int64).view(2, 16);
        Tensor before = textModel.Logits(tokens);
        Tensor after = grown.Logits(tokens).narrow(-1, 0, 100);
        bool kept = before.equal(after).all().item<bool>(); // bit for bit
        #endregion
        return (grown.MovingCount, kept);
    }

    /// <summary>Logits of a model on disk.</summary>
    public static long[] FromOpenLm(string path, string description)
    {
        #region open_lm weights
        TorchLibrary.Load();
        using ModelFile file = ModelFiles.Open(path, description);
        using var model = file.Open(new Layout { Frozen = true, Device = TorchLibrary.Device });

        using var scope = NewDisposeScope();
        using var still = no_grad();
        Tensor logits = model.Logits(tensor(new long[] { 1, 2, 3 }, device: TorchLibrary.Device).view(1, 3));
        #endregion
        return logits.shape;
    }

    /// <summary>Sequences that can be learned by heart.</summary>
    private static Batch Learnable(Vocabulary vocabulary) => Compose.Batch(
        vocabulary, CPU, [.. Enumerable.Range(0, 4).Select(i => Compose.Captioned(
            vocabulary, 28, [i, 2 * i, 3 * i], [.. Enumerable.Range(0, 16).Select(k => (5 * i + 3 * k) % vocabulary.ImageCodes)]))]);
}
