using System.Globalization;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner.Alignment;

/// <summary>What alignment is compared with.</summary>
internal enum AlignmentControl
{
    /// <summary>Nothing is changed.</summary>
    None,

    /// <summary>Each picture has the caption of another one, always the same.</summary>
    ShuffledCaptions,

    /// <summary>Random rows stand in the place of the text embeddings.</summary>
    RandomText,
}

/// <summary>One course of alignment: its steps and what it came to.</summary>
internal sealed record AlignmentCourse(string Name, AlignmentStep[] Steps, Retrieval Retrieval, Neighbour[][] Nearest, Dictionary<int, Neighbour[]> Ranked, torch.Tensor Images, long Skipped) : IDisposable
{
    public void Dispose() => Images.Dispose();
}

/// <summary>Trains courses of alignment on some data.</summary>
internal sealed class AlignmentTraining(AlignCommand command, AlignmentData data, AlignmentSplit split, int batch)
{
    /// <summary>Retrieval looks among so many pairs at most: beyond, a table of all cosines grows with the square.</summary>
    private const int MostRetrieved = 16_384;

    /// <summary>How often values of steps are read back.</summary>
    private const int ReadEvery = 16;

    /// <summary>Whether retrieval is over pairs that did not train.</summary>
    public bool HeldOut => split.HeldOut.Length > 0;

    /// <summary>The name of a control as the command line spells it.</summary>
    public static string NameOf(AlignmentControl control) => control switch
    {
        AlignmentControl.ShuffledCaptions => "shuffled-captions",
        AlignmentControl.RandomText => "random-text",
        _ => "aligned",
    };

    /// <summary>
    /// One course from the start. <paramref name="shown"/> are the codes whose nearest text rows are looked for, among
    /// <paramref name="rows"/> (null: all); for those in <paramref name="ranked"/> all rows in order.
    /// Errors: InputException; OperationCanceledException when asked to stop.
    /// </summary>
    public AlignmentCourse Run(AlignmentControl control, IReadOnlyList<int> shown, IReadOnlyList<int> ranked, IReadOnlyList<int>? rows, Stage stage, long done, CancellationToken stop)
    {
        using torch.Tensor? random = control == AlignmentControl.RandomText ? AlignmentTables.RandomTexts(data.Texts, command.Seed) : null;
        AlignerOptions options = new()
        {
            LearningRate = command.LearningRate,
            Beta1 = command.Betas[0],
            Beta2 = command.Betas[1],
            Epsilon = command.Epsilon,
            Device = TorchLibrary.Device,
        };
        using Aligner aligner = new(random ?? data.Texts, data.Initial, options);
        List<AlignmentStep> steps = [];
        for (int step = 0; step < command.Steps; step++)
        {
            stop.ThrowIfCancellationRequested();
            (int[][] captions, int[][] codes) = Batch(step, control == AlignmentControl.ShuffledCaptions);
            aligner.Step(captions, codes);
            if ((step + 1) % ReadEvery == 0 || step + 1 == command.Steps)
            {
                steps.AddRange(aligner.Read());
                stage.Report(done + step + 1, new Metrics { Loss = steps[^1].Loss, Note = string.Create(CultureInfo.InvariantCulture, $"{100 * steps[^1].Accuracy:0} % own caption nearest"), Memory = DeviceMemory.Used() });
            }
        }

        stop.ThrowIfCancellationRequested();
        int[] searched = HeldOut ? split.HeldOut : split.Train;
        (int[] Caption, int[] Codes)[] pairs = [.. searched.Take(MostRetrieved).Select(data.Pairs.Pair)];
        Retrieval retrieval = aligner.Retrieve([.. pairs.Select(pair => pair.Caption)], [.. pairs.Select(pair => pair.Codes)], command.Seed);
        int all = rows?.Count ?? aligner.TextRows;
        return new(
            NameOf(control), [.. steps], retrieval, aligner.NearestTo(shown, command.Nearest, rows),
            ranked.ToDictionary(code => code, code => aligner.NearestTo([code], all, rows)[0]), aligner.Images, aligner.Skipped);
    }

    /// <summary>The pairs of a step. In shuffled order each epoch is whole batches, so that no pair is twice in one.</summary>
    private (int[][] Captions, int[][] Codes) Batch(long step, bool shuffled)
    {
        int count = split.Train.Length, epoch = count / batch;
        long first = command.Shuffled ? (step / epoch * count) + (step % epoch * batch) : step * batch;
        int[][] captions = new int[batch][], codes = new int[batch][];
        for (int i = 0; i < batch; i++)
        {
            long place = Compose.Place(count, command.Seed, command.Shuffled, first + i);
            (captions[i], codes[i]) = data.Pairs.Pair(split.Train[place]);
            if (shuffled)
            {
                captions[i] = data.Pairs.Pair(split.Train[AlignmentTables.OtherCaption(count, command.Seed, place)]).Caption;
            }
        }

        return (captions, codes);
    }
}
