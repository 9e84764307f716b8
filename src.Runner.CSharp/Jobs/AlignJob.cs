using System.Diagnostics;
using Hybrid.Api;
using Hybrid.Runner.Alignment;

namespace Hybrid.Runner;

/// <summary>Contrastive alignment of image codes with text embeddings, with its controls, into a new directory.</summary>
internal static class AlignJob
{
    private const int UsualBatch = 1024, UsualShown = 10;

    public static void Run(AlignCommand command, CancellationToken stop) => Run(command, Console.Out, stop);

    /// <summary>Aligns, and says what came of it. Errors: ConfigurationException where options do not fit the data; InputException.</summary>
    public static void Run(AlignCommand command, TextWriter output, CancellationToken stop)
    {
        if (Path.Exists(command.Out))
        {
            throw new InputException($"{command.Out} exists already; choose another --out or remove it.");
        }

        long began = Stopwatch.GetTimestamp();
        using AlignmentData data = AlignmentData.Open(command);
        AlignmentSplit split = AlignmentSplit.Of(data.Pairs, command.HeldOut, command.Seed);
        int batch = BatchOf(command, data.Pairs, split);
        int codes = (int)data.Initial.shape[0];
        if (command.NearestOf?.FirstOrDefault(code => code >= codes, -1) is >= 0 and var unknown)
        {
            throw new ConfigurationException($"--nearest-of: there is no code {unknown}; the codes are 0 to {codes - 1}.");
        }

        WordsOfCodes use = WordsOfCodes.Of(data.Pairs, split.Train, codes, command.Words, data.Tokenizer, stop);
        foreach (WordUse word in use.Words.Where(word => word.Captions == 0))
        {
            Terminal.Warn($"no caption of {data.Pairs.Name} has the word \"{word.Word}\"");
        }

        int[] shown = command.NearestOf is null ? use.Frequent(UsualShown) : [.. command.NearestOf];
        int[] ranked = [.. use.Words.SelectMany(word => word.Codes).Select(code => code.Code).Distinct()];
        AlignmentControl[] courses = [AlignmentControl.None, .. command.Controls.Select(Control)];
        List<AlignmentCourse> results = [];
        try
        {
            AlignmentTraining training = new(command, data, split, batch);
            using (Progress progress = new())
            using (Stage stage = progress.Stage("align", (long)courses.Length * command.Steps))
            {
                foreach (AlignmentControl control in courses)
                {
                    results.Add(training.Run(control, shown, ranked, Known(data), stage, (long)results.Count * command.Steps, stop));
                }
            }

            foreach (AlignmentCourse course in results.Where(course => course.Skipped > 0))
            {
                Terminal.Warn($"{course.Name}: {course.Skipped} steps had a gradient that is not finite and changed nothing; a smaller --learning-rate may help");
            }

            AlignmentResult result = new(command, data, split, batch, use, shown, results, Stopwatch.GetElapsedTime(began).TotalSeconds);
            result.Write(command.Out);
            output.WriteLine(command.Json ? Json.Text(result.ToJson(command.Out, withSteps: true)) : result.ToText(command.Out));
        }
        finally
        {
            results.ForEach(course => course.Dispose());
        }
    }

    private static int BatchOf(AlignCommand command, ITokenPairs pairs, AlignmentSplit split)
    {
        if (split.Train.Length < 2)
        {
            throw new InputException($"{pairs.Name} holds {split.Train.Length} pair to train on; to tell pairs from each other takes two at least.");
        }

        int batch = command.Batch ?? Math.Min(UsualBatch, split.Train.Length);
        return batch <= split.Train.Length
            ? batch
            : throw new ConfigurationException($"--batch: asks for {batch} different pairs, but {pairs.Name} has {split.Train.Length} to train on; make it smaller.");
    }

    private static AlignmentControl Control(string name) => name == "random-text" ? AlignmentControl.RandomText : AlignmentControl.ShuffledCaptions;

    /// <summary>The text rows that stand for a token: a table may have rows that only fill it up. Null where no tokenizer says which.</summary>
    private static int[]? Known(AlignmentData data)
    {
        if (data.Tokenizer is not { } tokenizer)
        {
            return null;
        }

        int[] known = [.. Enumerable.Range(0, (int)data.Texts.shape[0]).Where(id => tokenizer.TokenOf(id) is not null)];
        return known.Length > 0 ? known : null;
    }
}
