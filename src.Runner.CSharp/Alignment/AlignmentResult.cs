using System.Globalization;
using System.Text;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using Hybrid.Runner.Runs;

namespace Hybrid.Runner.Alignment;

/// <summary>What alignment came to: the aligned course first, then its controls, with the codes and words that were asked for.</summary>
internal sealed class AlignmentResult(AlignCommand command, AlignmentData data, AlignmentSplit split, int batch, WordsOfCodes use, int[] shown, IReadOnlyList<AlignmentCourse> courses, double seconds)
{
    /// <summary>The file that says everything, and the curves.</summary>
    public const string FileName = "align.json", MetricsName = "metrics.jsonl";

    private AlignmentCourse Aligned => courses[0];

    /// <summary>Writes the directory; it appears when it is whole. Errors: InputException where it is there already.</summary>
    public void Write(string directory) => AtomicFile.WriteFolder(directory, folder =>
    {
        foreach (AlignmentCourse course in courses)
        {
            string beside(string name) => ReferenceEquals(course, Aligned) ? name : $"{Path.GetFileNameWithoutExtension(name)}.{course.Name}{Path.GetExtension(name)}";
            NpyFile.Write(Path.Combine(folder, beside(EmbeddingTables.NpyName)), course.Images);
            Dictionary<string, string> metadata = new() { ["alignment"] = course.Name, ["start"] = data.Start };
            foreach (var (name, hash) in data.Hashes)
            {
                metadata[$"sha256_{name}"] = hash;
            }

            SafeTensorsWriter.Write(Path.Combine(folder, beside(EmbeddingTables.FileName)), [(EmbeddingTables.TensorName, course.Images)], metadata);
            AtomicFile.WriteText(Path.Combine(folder, beside(MetricsName)), string.Concat(Steps(course).Select(step => Json.Text(step) + "\n")));
        }

        if (command.TensorBoard)
        {
            _ = new EventFile(folder);
        }

        AtomicFile.WriteText(Path.Combine(folder, FileName), Json.Text(ToJson(directory, withSteps: false)) + "\n");
    });

    /// <summary>The object for machines, and for align.json, which leaves the steps to metrics.jsonl.</summary>
    public Dictionary<string, object?> ToJson(string directory, bool withSteps)
    {
        Dictionary<string, object?> json = [];
        if (withSteps)
        {
            json["steps"] = Steps(Aligned);
        }

        Course(json, Aligned);
        json["controls"] = courses.Skip(1).ToDictionary(course => course.Name, course =>
        {
            Dictionary<string, object?> control = withSteps ? new() { ["steps"] = Steps(course) } : [];
            Course(control, course);
            return control;
        });
        json["configuration"] = new Dictionary<string, object?>
        {
            ["pairs"] = data.Pairs.Count,
            ["trained_on"] = split.Train.Length,
            ["held_out"] = split.HeldOut.Length,
            ["batch"] = batch,
            ["steps"] = command.Steps,
            ["learning_rate"] = command.LearningRate,
            ["betas"] = command.Betas,
            ["epsilon"] = command.Epsilon,
            ["order"] = command.Shuffled ? "shuffled" : "sequential",
            ["seed"] = command.Seed,
            ["text_rows"] = data.Texts.shape[0],
            ["image_codes"] = data.Initial.shape[0],
            ["width"] = data.Texts.shape[1],
            ["start"] = data.Start,
        };
        json["sha256"] = data.Hashes;
        json["out"] = directory;
        json["seconds"] = seconds;
        return json;
    }

    /// <summary>A table for a person.</summary>
    public string ToText(string directory)
    {
        string among = split.HeldOut.Length > 0 ? "held-out" : "training";
        StringBuilder text = new();
        text.AppendLine($"{"",-20}{"loss",-18}{"temperature",13}{"accuracy",10}");
        foreach (AlignmentCourse course in courses)
        {
            AlignmentStep first = course.Steps[0], last = course.Steps[^1];
            text.AppendLine($"{course.Name,-20}{Number(first.Loss) + " to " + Number(last.Loss),-18}{Number(last.Temperature),13}{Percent(last.Accuracy),10}");
        }

        text.AppendLine().AppendLine($"Own partner found among {Aligned.Retrieval.Pairs} {among} pairs; by chance {Percent(Aligned.Retrieval.Chance)}:");
        text.AppendLine($"{"",-20}{"caption of a picture",-28}{"picture of a caption",-28}");
        foreach (AlignmentCourse course in courses)
        {
            text.AppendLine($"{course.Name,-20}{Interval(course.Retrieval.PictureToText),-28}{Interval(course.Retrieval.TextToPicture),-28}");
        }

        text.AppendLine().AppendLine("Text tokens nearest to codes:");
        for (int i = 0; i < shown.Length; i++)
        {
            text.AppendLine($"  {shown[i],6}  {Shown(Aligned.Nearest[i])}");
        }

        foreach (WordUse word in use.Words)
        {
            text.AppendLine().AppendLine($"Codes that fire most on \"{word.Word}\" ({word.Captions:N0} captions):");
            foreach (FiringCode code in word.Codes)
            {
                string rank = Rank(Aligned, word.Word, code.Code) is { } place ? $", the word is number {place}" : "";
                text.AppendLine($"  {code.Code,6}  {Number(code.Lift)} times as often{rank}: {Shown(Aligned.Ranked[code.Code].Take(command.Nearest))}");
            }
        }

        return text.AppendLine().Append($"written to {directory}").ToString();
    }

    private static object[] Steps(AlignmentCourse course) =>
        [.. course.Steps.Select((step, i) => (object)new { Step = i, step.Loss, step.Temperature, step.Accuracy })];

    private void Course(Dictionary<string, object?> json, AlignmentCourse course)
    {
        Retrieval found = course.Retrieval;
        json["loss"] = course.Steps[^1].Loss;
        json["temperature"] = course.Steps[^1].Temperature;
        json["accuracy"] = course.Steps[^1].Accuracy;
        json["skipped_steps"] = course.Skipped;
        json["retrieval"] = new Dictionary<string, object?>
        {
            ["pairs"] = found.Pairs,
            ["held_out"] = split.HeldOut.Length > 0,
            ["picture_to_text"] = found.PictureToText.Mean,
            ["picture_to_text_interval"] = new[] { found.PictureToText.Low, found.PictureToText.High },
            ["text_to_picture"] = found.TextToPicture.Mean,
            ["text_to_picture_interval"] = new[] { found.TextToPicture.Low, found.TextToPicture.High },
            ["chance"] = found.Chance,
            ["picture_to_text_at_5"] = found.PictureToTextAt5,
            ["text_to_picture_at_5"] = found.TextToPictureAt5,
            ["chance_at_5"] = found.ChanceAt5,
        };
        json["nearest"] = shown.Select((code, i) => new { Code = code, Pictures = use.Pictures[code], Tokens = Tokens(course.Nearest[i]) }).ToArray();
        json["words"] = use.Words.Select(word => new
        {
            word.Word,
            word.Captions,
            Codes = word.Codes.Select(code => new
            {
                code.Code,
                code.Pictures,
                code.Together,
                code.Association,
                code.Lift,
                WordRank = Rank(course, word.Word, code.Code),
                Tokens = Tokens(course.Ranked[code.Code].Take(command.Nearest)),
            }).ToArray(),
        }).ToArray();
    }

    /// <summary>The place, from 1, of the first token that is the word itself among the text tokens by their nearness to a code; null where no token is.</summary>
    private int? Rank(AlignmentCourse course, string word, int code)
    {
        Neighbour[] ranked = course.Ranked[code];
        int place = Array.FindIndex(ranked, token => string.Equals(Text(token.Id).Trim(), word.Trim(), StringComparison.OrdinalIgnoreCase));
        return place < 0 ? null : place + 1;
    }

    private object[] Tokens(IEnumerable<Neighbour> tokens) => [.. tokens.Select(token => (object)new { token.Id, Text = data.Tokenizer is null ? null : Text(token.Id), token.Cosine })];

    private string Text(int id) => data.Tokenizer is null ? id.ToString(CultureInfo.InvariantCulture) : WordsOfCodes.Text(data.Tokenizer, [id]);

    private string Shown(IEnumerable<Neighbour> tokens) =>
        string.Join(", ", tokens.Select(token => $"{Spelled(token.Id)} {token.Cosine.ToString("0.00", CultureInfo.InvariantCulture)}"));

    /// <summary>A token without the spaces beside it; one that is nothing else shows its number.</summary>
    private string Spelled(int id) => Text(id).Trim() is { Length: > 0 } text ? FileErrors.Show(text) : $"#{id}";

    private static string Number(double value) => value.ToString("0.000", CultureInfo.InvariantCulture);

    private static string Percent(double value) => (100 * value).ToString("0.0", CultureInfo.InvariantCulture) + " %";

    private static string Interval(Statistics.Interval interval) => $"{Percent(interval.Mean)} [{Percent(interval.Low)}, {Percent(interval.High)}]";
}
