using Hybrid.Api;
using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>The report of a study: claims first, then each figure and table with the paper's finding beside it.</summary>
public static class StudyReport
{
    public static Page Build(StudyData data, PictureTokenizer tokenizer, string machine)
    {
        Claim[] claims = data.Claims();
        return new Page(
            "Does language pre-training help image tokens?",
            $"The study of Zhang et al., “Pre-trained Language Models Do Not Help Auto-regressive Text-to-Image Generation”, on generated scenes: preset {data.Plan.Preset}, {data.Seconds / 60:F1} minutes on {machine}. The verdicts speak of this scale and these data.",
            [
                KeyNumbers(data, claims),
                new Claims("The paper's claims", claims),
                StudyFigures.Perplexity(data),
                StudyFigures.ByKind(data),
                StudyFigures.ImageOnly(data),
                StudyFigures.Alignment(data),
                Nearest(data),
                StudyFigures.AlignedStart(data),
                StudyFigures.Forgetting(data),
                Forgetting(data),
                Completions(data),
                Pictures(data, tokenizer),
                Reconstructions(data, tokenizer),
                StudyFigures.Pretraining(data),
                Protocol(data, machine),
            ]);
    }

    private static KeyNumbers KeyNumbers(StudyData data, Claim[] claims)
    {
        int Count(Verdict verdict) => claims.Count(claim => claim.Verdict == verdict);
        double Final(ArmResult[] arms) => arms.Average(arm => arm.Evaluations[^1].Total);
        return new KeyNumbers(
            [
                new KeyNumber("Claims that hold", $"{Count(Verdict.Holds)} of {claims.Length}", $"{Count(Verdict.DoesNotHold)} do not, {Count(Verdict.Undecided)} undecided"),
                new KeyNumber("Perplexity, pre-trained", $"{Math.Exp(Final(data.Pretrained)):F2}", "held-out, all tokens"),
                new KeyNumber("Perplexity, random", $"{Math.Exp(Final(data.Random)):F2}", "held-out, all tokens"),
                new KeyNumber("Reconstruction", $"{data.Tokenizer.Psnr:F1} dB", $"{data.Tokenizer.ShareUsed:P0} of {data.Tokenizer.Codes} codes used"),
            ]);
    }

    private static Table Nearest(StudyData data) =>
        table(
            "Words nearest to the most used codes",
            ["code", "nearest words by cosine", "words that go with it in the captions"],
            data.Alignment.Nearest);

    private static Table Forgetting(StudyData data)
    {
        string Show(Statistics.Interval i) => interval(i.Mean, i.Low, i.High);
        int middle = data.Pretrained[0].Evaluations.Length / 2;
        List<IReadOnlyList<string>> rows =
        [
            .. data.Before.Correct.Keys.Select(task => (IReadOnlyList<string>)
            [
                task, $"{data.Before.Chance[task]:F3}", Show(StudyData.Accuracy(data.Before, task)),
                $"{data.Pretrained.Average(arm => arm.Evaluations[middle].Probes!.Correct[task].Average()):F3}", Show(data.After(task)),
            ]),
            [
                "held-out text, nats a word", "–", $"{data.Before.TextLoss:F3}",
                $"{data.Pretrained.Average(arm => arm.Evaluations[middle].Probes!.TextLoss):F3}",
                $"{data.Pretrained.Average(arm => arm.Evaluations[^1].Probes!.TextLoss):F3}",
            ],
        ];
        Table made = table(
            "Knowledge and in-context learning before and after",
            ["task", "chance", "before", $"after {data.Pretrained[0].Evaluations[middle].Step} steps", "after"],
            rows);
        return new Table(
            made.Title, "Table 1", "After 5B of 100B tokens knowledge and in-context learning are gone.",
            $"Accuracy with 95 % bootstrap intervals over items; after: mean over {data.Pretrained.Length} seeds.", made.Header, made.Rows);
    }

    private static Table Completions(StudyData data) =>
        table(
            "Greedy completions before and after",
            ["prompt", "before", "after (first seed)"],
            [
                .. data.Prompts.Select((prompt, i) =>
                    (IReadOnlyList<string>)[prompt, data.CompletionsBefore[i], data.Pretrained[0].Completions[i]]),
            ]);

    private static PictureGrid Pictures(StudyData data, PictureTokenizer tokenizer)
    {
        var pictures = new List<Picture>();
        (string Caption, byte[] Picture)[] scenes = Corpus.Scenes(Split.HeldOut, StudyJob.DataSeed, 0, data.Plan.Pictures);
        byte[][][] drawn = [.. data.Samples.Select(sample => tokenizer.Decode(sample.Codes, 8, 8))];
        for (int i = 0; i < scenes.Length; i++)
        {
            pictures.Add(picture(scenes[i].Caption, Corpus.Side, Corpus.Side, scenes[i].Picture));
            for (int arm = 0; arm < drawn.Length; arm++)
                pictures.Add(picture(data.Samples[arm].Arm, Corpus.Side, Corpus.Side, drawn[arm][i]));
        }

        return new PictureGrid(
            "Pictures for held-out captions", "Left: the scene that the caption was written for. Then what each twin draws for the same caption.",
            1 + drawn.Length, pictures);
    }

    private static PictureGrid Reconstructions(StudyData data, PictureTokenizer tokenizer)
    {
        (string Caption, byte[] Picture)[] scenes = Corpus.Scenes(Split.HeldOut, StudyJob.DataSeed, 1000, 6);
        byte[][] originals = [.. scenes.Select(scene => scene.Picture)];
        byte[][] decoded = tokenizer.Decode(tokenizer.Encode(originals, Corpus.Side, Corpus.Side), 8, 8);
        IEnumerable<Picture> pictures = originals.SelectMany((original, i) => new[]
        {
            picture("scene", Corpus.Side, Corpus.Side, original), picture("through 64 codes", Corpus.Side, Corpus.Side, decoded[i]),
        });
        return new PictureGrid(
            "What the image tokenizer keeps",
            $"Held-out scenes before and after 8 × 8 codes: {data.Tokenizer.Psnr:F1} dB, {data.Tokenizer.ShareUsed:P0} of the {data.Tokenizer.Codes} codes used, {data.Tokenizer.EntropyBits:F1} bits a code.",
            6, [.. pictures]);
    }

    private static Text Protocol(StudyData data, string machine)
    {
        Plan plan = data.Plan;
        string Say(string name, Budget b) => $"{name}: {b.Steps} steps of {b.Batch}, peak rate {b.LearningRate}, warm-up {b.WarmupSteps}.";
        return new Text(
            "How this was made",
            $"A decoder of {plan.Layers} layers and width {plan.Width} ({data.Pretrained[0].Parameters:N0} parameters with the image rows) was pre-trained on World's text, extended by {data.Tokenizer.Codes} image codes and trained on captioned scenes beside a twin that starts from random weights with the same seeds and data order. "
            + Say("Pre-training", plan.Pretraining) + " " + Say("Twins", plan.Twins) + " " + Say("Image only", plan.ImageOnly) + " " + Say("Alignment", plan.Alignment)
            + $" AdamW (0.9, 0.95), weight decay 0.1 on matrices, clip 1, cosine to a tenth. {plan.TrainPairs:N0} training pairs, {plan.HeldOutPairs} held-out pairs. Intervals: 95 %, Student's t over seeds, bootstrap over items and sequences. Differences below {Hybrid.Study.margin:F4} nats (2 % of perplexity) count as none. Precision: {(data.HalfPrecision ? "bf16 with fp32 master weights" : "fp32")}. Machine: {machine}.");
    }
}
