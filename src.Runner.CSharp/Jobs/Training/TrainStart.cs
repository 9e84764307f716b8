using Hybrid.Api;
using Hybrid.Runner.Alignment;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>The model that a run begins with.</summary>
/// <param name="Model">Laid out for training.</param>
/// <param name="Tokenizer">The path of its tokenizer, or null.</param>
/// <param name="Words">What it is, for the log.</param>
internal sealed record TrainStart(Model Model, string? Tokenizer, string Words)
{
    /// <summary>
    /// The start that a configuration asks for: pre-trained weights as they are where their table holds every row of the
    /// vocabulary, pre-trained weights with their table extended, or random weights. Errors: ConfigurationException where
    /// description, table and vocabulary do not go together; InputException where the checkpoint cannot be read.
    /// </summary>
    public static TrainStart Fresh(TrainPlan plan, Layout layout)
    {
        if (plan.ImageRows is not { } path)
        {
            return Weights(plan, layout);
        }

        Vocabulary vocabulary = plan.Config.Vocabulary;
        using torch.Tensor rows = EmbeddingTables.Read(path, "the image rows (newRows)");
        int width = Describe(plan, null).Width;
        if (rows.shape[0] != vocabulary.ImageCodes || rows.shape[1] != width)
        {
            throw new ConfigurationException(
                $"newRows: {path} holds {rows.shape[0]} rows of width {rows.shape[1]}; the model has {vocabulary.ImageCodes} image codes and the width {width}.");
        }

        TrainStart start = Weights(plan, layout);
        start.Model.SetImageRows(rows);
        return start with { Words = $"{start.Words}; image rows of {path}" };
    }

    private static TrainStart Weights(TrainPlan plan, Layout layout)
    {
        Vocabulary vocabulary = plan.Config.Vocabulary;
        if (plan.Checkpoint is null)
        {
            string path = plan.Description ?? throw new ConfigurationException("model: needs a checkpoint or a config.");
            return Random(plan, layout, Describe(path).Config, path, null);
        }

        using ModelFile file = ModelFiles.Open(plan.Checkpoint, plan.Description);
        if (!plan.Pretrained)
        {
            return Random(plan, layout, file.Config, plan.Checkpoint, file.TokenizerPath);
        }

        if (file.Vocabulary.ImageCodes > 0 && !file.Vocabulary.Equals(vocabulary))
        {
            throw new ConfigurationException(
                $"vocabulary: has {vocabulary.TextRows} text rows and {vocabulary.ImageCodes} image codes, but {plan.Checkpoint} has {file.Vocabulary.TextRows} and {file.Vocabulary.ImageCodes}.");
        }

        if (file.Config.Rows >= vocabulary.Rows)
        {
            return new(file.Open(layout, vocabulary), file.TokenizerPath, $"the weights of {plan.Checkpoint} as they are");
        }

        RequireTable(plan, file.Config, plan.Checkpoint);
        Model extended = Model.Extend(file.Config, vocabulary, layout, file.Load, plan.Config.NewRows, null, plan.Config.Seed);
        return new(
            extended, file.TokenizerPath, $"the weights of {plan.Checkpoint}, extended from {file.Config.Rows} to {vocabulary.Rows} rows (new rows: {(plan.ImageRows is null ? plan.Config.NewRows : "normal")})");
    }

    /// <summary>The model of a checkpoint of a run, to go on with.</summary>
    public static TrainStart Resumed(TrainPlan plan, Layout layout, Checkpoint checkpoint)
    {
        using ModelFile file = ModelFiles.Open(checkpoint.Directory);
        return file.Vocabulary.Equals(plan.Config.Vocabulary)
            ? new(file.Open(layout), file.TokenizerPath, $"{checkpoint.Directory}, at step {checkpoint.State.Step}")
            : throw new ConfigurationException($"vocabulary: is not the one of {checkpoint.Directory}.");
    }

    /// <summary>
    /// The description of the model that a run will have, read without its weights. Errors: ConfigurationException; InputException
    /// where the checkpoint cannot be read.
    /// </summary>
    public static ModelConfig Describe(TrainPlan plan, Checkpoint? checkpoint)
    {
        ModelConfig config;
        if (checkpoint is null && plan.Checkpoint is null)
        {
            config = Describe(plan.Description ?? throw new ConfigurationException("model: needs a checkpoint or a config.")).Config;
        }
        else
        {
            using ModelFile file = checkpoint is null ? ModelFiles.Open(plan.Checkpoint!, plan.Description) : ModelFiles.Open(checkpoint.Directory);
            config = file.Config;
        }

        return config.Rows < plan.Config.Vocabulary.Rows ? Extension.grow(plan.Config.Vocabulary.Rows, config) : config;
    }

    private static TrainStart Random(TrainPlan plan, Layout layout, ModelConfig config, string path, string? tokenizer)
    {
        Vocabulary vocabulary = plan.Config.Vocabulary;
        if (config.Rows < vocabulary.Rows)
        {
            RequireTable(plan, config, path);
            config = Extension.grow(vocabulary.Rows, config);
        }

        return new(Model.Random(config, vocabulary, layout, plan.Config.Seed), tokenizer, $"random weights for {path}, seed {plan.Config.Seed}");
    }

    private static void RequireTable(TrainPlan plan, ModelConfig config, string path)
    {
        Vocabulary vocabulary = plan.Config.Vocabulary;
        if (config.Rows != vocabulary.TextRows)
        {
            throw new ConfigurationException(
                $"vocabulary.textRows: is {vocabulary.TextRows}, but the table of {path} has {config.Rows} rows; it must be {config.Rows} to extend that table, or the table must hold all {vocabulary.Rows} rows already.");
        }
    }

    private static ModelDescription Describe(string path)
    {
        try
        {
            return ModelDescription.Read(path);
        }
        catch (InputException error)
        {
            throw new ConfigurationException($"model.config: {error.Message}");
        }
    }
}
