using Hybrid;
using Hybrid.Api;
using static TorchSharp.torch;

namespace Snippets;

/// <summary>What docs/csharp.md shows of derivatives.</summary>
public static class Differentiating
{
    /// <summary>Derivatives of a function of a tensor, and of a model's loss by its weights.</summary>
    public static (double[] Gradient, double[] Product, int Gradients) Derive()
    {
        var vocabulary = new Vocabulary(100, 64);
        var config = new ModelOptions(32, 2, 4, vocabulary.Rows, 64) { FeedForwardWidth = 64 }.Config;
        using var model = Model.Random(config, vocabulary, new Layout(), seed: 1);
        using var scope = NewDisposeScope();
        Batch batch = Compose.Batch(vocabulary, CPU, [Compose.ImageOnly(vocabulary, 20, [.. Enumerable.Range(0, 16)])]);
        #region derivatives
        Tensor Bowl(Tensor x) => x.pow(Scalars.Of(4)).sum();
        Tensor point = tensor(new[] { 1.0, 2.0 });
        Tensor gradient = Derivatives.Grad(Bowl, point); // [4, 32]
        Tensor product = Derivatives.Hvp(Bowl, point, point); // H x = [12, 96]

        // Of a model's loss, by all of its weights.
        Tensor Nats(Func<string, Tensor> weights)
        {
            using var parts = new DecoderParts(config, vocabulary, weights, positions: (int)batch.Inputs.shape[1]);
            Tensor logits = parts.Logits(batch.Inputs);
            return Losses.Evaluate(Losses.Total, Losses.Score(vocabulary, batch, logits)).Objective.Times(1.0 / batch.Count);
        }

        IReadOnlyDictionary<string, Tensor> slope = Derivatives.GradOf(model.Names, Nats, model.Weights);
        IReadOnlyDictionary<string, Tensor> bend = Derivatives.HvpOf(model.Names, Nats, model.Weights, name => slope[name]);
        #endregion
        return ([.. gradient.data<double>()], [.. product.data<double>()], bend.Count);
    }
}
