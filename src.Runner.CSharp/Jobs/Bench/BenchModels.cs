using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>The models that measurements are made with: shapes to compare by, or a model on disk.</summary>
internal static class BenchModels
{
    private const int UsualBatch = 8, TextShare = 5;

    private static readonly Dictionary<string, (int Width, int Layers, int Heads, int Rows, int Positions, int Batch)> sizes = new()
    {
        ["small"] = (256, 6, 8, 2567, 96, 32),
        ["tiny"] = (128, 4, 4, 1024, 96, 32),
        ["160m"] = (768, 12, 12, 66823, 1152, 8),
        ["1b"] = (2048, 24, 16, 66823, 1152, 8),
        ["7b"] = (4096, 32, 32, 66823, 1152, 8),
    };

    /// <summary>The model of a measurement, its positions and the size's batch. Errors: InputException.</summary>
    public static (Model Model, int Positions, int Batch) Open(BenchShape shape, Layout layout)
    {
        if (shape.Model is { } path)
        {
            if (shape.Size is not null)
            {
                throw new ConfigurationException("--size and --model: one model is measured at a time.");
            }

            using ModelFile file = ModelFiles.Open(path);
            int positions = shape.Positions ?? file.Config.Positions;
            Model model = file.Open(layout);
            model.Reach(positions);
            return (model, positions, UsualBatch);
        }

        string size = shape.Size ?? "small";
        ModelConfig config = Shape(size, shape.Positions);
        // The published table is text, seven marks and codes; here a fifth of it is text.
        Vocabulary vocabulary = new(config.Rows / TextShare, config.Rows - config.Rows / TextShare - 7);
        return (Model.Random(config, vocabulary, layout, seed: 0), config.Positions, sizes[size].Batch);
    }

    /// <summary>A size's shape, with positions of its own or with as many as are given.</summary>
    public static ModelConfig Shape(string size, int? positions)
    {
        (int width, int layers, int heads, int rows, int usual, _) = sizes[size];
        return ModelConfigModule.openLm(width, layers, heads, rows, positions ?? usual);
    }

    /// <summary>Sequences of ids of every kind but padding, a function of the seed.</summary>
    public static long[][] Sequences(Vocabulary vocabulary, int count, int length, int seed)
    {
        System.Random random = new(seed);
        int rows = vocabulary.Rows;
        return [.. Enumerable.Range(0, count).Select(_ => Enumerable.Range(0, length).Select(_ =>
        {
            long id = random.Next(vocabulary.ImageCodes > 0 ? rows - 1 : rows);
            return vocabulary.ImageCodes > 0 && id >= vocabulary.Pad ? id + 1 : id;
        }).ToArray())];
    }
}
