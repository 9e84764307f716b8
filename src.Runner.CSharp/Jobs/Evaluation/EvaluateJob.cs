using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>Losses of a model by kind of token, and with details what lies behind them.</summary>
internal static class EvaluateJob
{
    public static void Run(EvaluateCommand command, CancellationToken stop)
    {
        using ModelFile? other = command.Against is null ? null : ModelFiles.Open(command.Against);
        using ModelFile file = ModelFiles.Open(command.Model);
        using Model model = file.Open(new Layout { Device = TorchLibrary.Device, Frozen = true });
        using ISequenceSource source = TokenData.Open([command.Tokens], model.Vocabulary, new PairComposer(null, model.Vocabulary));
        Evaluation evaluation;
        EvaluationDetails? details = null;
        ModelComparison? comparison = null;
        using (Progress progress = new())
        {
            if (command.Details)
            {
                details = EvaluationDetails.Of(model, source, command, progress, stop);
                evaluation = Evaluation.Of(details.Losses);
                comparison = other is null ? null : ModelComparison.Of(model, details.Losses, source, other, progress, stop);
            }
            else
            {
                using Stage stage = progress.Stage("evaluate", source.Count);
                evaluation = Evaluation.Of(model, source, long.MaxValue, stop, stage.Report);
            }
        }

        if (command.Json)
        {
            Dictionary<string, object> json = evaluation.ToJson();
            if (details is not null)
            {
                Dictionary<string, object?> more = details.ToJson();
                more["against"] = comparison?.ToJson();
                json["details"] = more;
            }

            Json.Write(json);
            return;
        }

        Console.Out.WriteLine(evaluation.ToText());
        if (details is not null)
        {
            Console.Out.WriteLine(DetailsText.Of(details));
        }

        if (comparison is not null)
        {
            Console.Out.WriteLine(DetailsText.Of(comparison));
        }
    }
}
