using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>Losses of a model by kind of token.</summary>
internal static class EvaluateJob
{
    public static void Run(EvaluateCommand command, CancellationToken stop)
    {
        using ModelFile file = ModelFiles.Open(command.Model);
        using Model model = file.Open(new Layout { Device = TorchLibrary.Device, Frozen = true });
        using ISequenceSource source = TokenData.Open([command.Tokens], model.Vocabulary, new PairComposer(null, model.Vocabulary));
        Evaluation evaluation;
        using (Progress progress = new())
        using (Stage stage = progress.Stage("evaluate", source.Count))
        {
            evaluation = Evaluation.Of(model, source, long.MaxValue, stop, stage.Report);
        }

        if (command.Json)
        {
            Json.Write(evaluation.ToJson());
        }
        else
        {
            Console.Out.WriteLine(evaluation.ToText());
        }
    }
}
