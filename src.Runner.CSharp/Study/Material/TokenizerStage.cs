using System.Diagnostics;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>Trains World's image tokenizer on the training scenes, and measures it on held-out ones.</summary>
internal static class TokenizerStage
{
    // Scenes from here on were never looked at when the tokenizer's sizes were chosen.
    private const long FirstHeldOut = 512;
    private const int HeldOut = 256;
    private const int ReadEvery = 20;

    public static PictureTokenizer Train(
        Plan plan, WorldPair[] scenes, bool halfPrecision, Progress progress, CancellationToken stop,
        out TokenizerResult result)
    {
        long began = Stopwatch.GetTimestamp();
        Budget budget = plan.Tokenizer;
        var curve = new double[budget.Steps];
        PictureTokenizer tokenizer;
        using (Stage stage = progress.Stage("image tokenizer", budget.Steps))
        using (var trainer = new PictureTokenizerTrainer(budget, plan.SmallTokenizer, halfPrecision, WorldMaterial.DataSeed))
        {
            var pending = new List<torch.Tensor>();
            for (int step = 0; step < budget.Steps; step++)
            {
                stop.ThrowIfCancellationRequested();
                var pictures = new byte[budget.Batch][];
                for (int i = 0; i < pictures.Length; i++)
                    pictures[i] = scenes[Compose.Place(scenes.Length, WorldMaterial.DataSeed, true, (long)step * budget.Batch + i)].Picture;
                pending.Add(trainer.Step(step, pictures));
                if (pending.Count == ReadEvery || step + 1 == budget.Steps)
                {
                    for (int i = 0; i < pending.Count; i++)
                    {
                        using torch.Tensor error = pending[i];
                        curve[step + 1 - pending.Count + i] = -10 * Math.Log10(error.ToDouble());
                    }

                    pending.Clear();
                    stage.Report(step + 1, new Metrics { Note = $"{curve[step]:F1} dB" });
                }
            }

            tokenizer = trainer.Finish();
        }

        byte[][] heldOut = [.. Corpus.Scenes(Split.HeldOut, WorldMaterial.DataSeed, FirstHeldOut, HeldOut).Select(scene => scene.Picture)];
        int[][] codes = tokenizer.Encode(heldOut, Corpus.Side, Corpus.Side);
        int grid = Corpus.Side / tokenizer.Stride;
        double[] psnr = PictureTokenizer.Psnr(heldOut, tokenizer.Decode(codes, grid, grid), Corpus.Side, Corpus.Side);
        CodeUse use = PictureMeasures.Use(tokenizer.Codes, codes);
        result = new TokenizerResult(
            psnr.Average(), use.Share, use.Entropy, tokenizer.Codes, curve, Stopwatch.GetElapsedTime(began).TotalSeconds);
        return tokenizer;
    }
}
