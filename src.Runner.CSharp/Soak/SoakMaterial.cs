using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Soak;

/// <summary>A small run for the purpose: a random model of two narrow layers, and captions and codes that are drawn.</summary>
internal static class SoakMaterial
{
    private const int Positions = 32, TextRows = 64, ImageCodes = 32, LongestCaption = 8, Codes = 16;
    private const int Sequences = 256, HeldOut = 16, Steps = 400, CheckpointEvery = 20;

    /// <summary>Writes its files into a folder; the path of its configuration.</summary>
    public static string Write(string folder, long seed)
    {
        Directory.CreateDirectory(folder);
        Tokens(Path.Combine(folder, "train.npy"), Hybrid.Random.named("train", Hybrid.Random.ofSeed(seed)), Sequences);
        Tokens(Path.Combine(folder, "held-out.npy"), Hybrid.Random.named("held out", Hybrid.Random.ofSeed(seed)), HeldOut);
        File.WriteAllText(
            Path.Combine(folder, "model.json"),
            $$"""
            { "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "seq_len": {{Positions}}, "vocab_size": {{TextRows}}, "post_embed_norm": false, "weight_tying": false }

            """);
        string configuration = Path.Combine(folder, "train.json");
        File.WriteAllText(
            configuration,
            $$"""
            {
              "model": { "config": "model.json" },
              "vocabulary": { "textRows": {{TextRows}}, "imageCodes": {{ImageCodes}} },
              "data": { "train": ["train.npy"], "heldOut": ["held-out.npy"] },
              "optimizer": { "learningRate": 0.003 },
              "schedule": { "steps": {{Steps}}, "warmupSteps": 20 },
              "batch": { "sequences": 8 },
              "checkpoint": { "everySteps": {{CheckpointEvery}} }
            }

            """);
        return configuration;
    }

    private static void Tokens(string path, Hybrid.Random.Stream stream, int count)
    {
        Vocabulary vocabulary = new(TextRows, ImageCodes);
        long[] ids = [.. Enumerable.Range(0, count).SelectMany(i => Sequence(vocabulary, Hybrid.Random.numbered(i, stream)))];
        NpyFile.Write<long>(path, ids, count, Positions);
    }

    private static long[] Sequence(Vocabulary vocabulary, Hybrid.Random.Stream stream)
    {
        int length = 1 + Hybrid.Random.below(LongestCaption, stream, 0);
        int[] caption = [.. Enumerable.Range(1, length).Select(place => Hybrid.Random.below(TextRows, stream, place))];
        int[] codes = [.. Enumerable.Range(0, Codes).Select(place => Hybrid.Random.below(ImageCodes, stream, 100 + place))];
        return Hybrid.Sequence.compose(vocabulary, Form.Captioned, Positions, caption, codes);
    }
}
