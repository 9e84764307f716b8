using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;
using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>World: an image tokenizer and a language model are trained on generated scenes and texts, then everything stands on those.</summary>
internal sealed class WorldMaterial : IMaterial
{
    /// <summary>World's seed: the data are the same for every seed of the arms.</summary>
    public const long DataSeed = 1;

    // Scenes from here on are drawn; those before are for losses and for the tokenizer's own measure.
    private const long FirstDrawn = 4096;

    private readonly Plan plan;
    private readonly StudyFiles files;
    private readonly PictureTokenizer tokenizer;
    private readonly TokenizerResult tokenizerResult;
    private readonly PretrainResult pretraining;
    private readonly WorldProbes probes;
    private readonly Vocabulary vocabulary;
    private readonly CodedPictures learned, inWords, told;

    private WorldMaterial(Plan plan, bool halfPrecision, StageStore stages, StudyFiles files, Progress progress, CancellationToken stop)
    {
        (this.plan, this.files) = (plan, files);
        Key = StageStore.Hash("world 1", PictureKey(plan, halfPrecision), TextKey(plan, halfPrecision));
        WorldPair[] scenes = Corpus.Scenes(Split.Train, DataSeed, 0, plan.TrainPairs);
        PictureTokenizer? trained = null;
        tokenizerResult = stages.Get("tokenizer", PictureKey(plan, halfPrecision), () =>
        {
            trained = TokenizerStage.Train(plan, scenes, halfPrecision, progress, stop, out TokenizerResult made);
            files.SaveTokenizer(trained);
            return made;
        });
        tokenizer = trained ?? files.LoadTokenizer();
        vocabulary = new Vocabulary(Corpus.TextRows, (int)SceneVqVae.defaults.Codes);
        TextModel = ModelConfigModule.openLm(
            plan.Width, plan.Layers, plan.Heads, Corpus.TextRows, Math.Max(Math.Max(plan.Positions, plan.LongPositions), plan.TextPositions));
        WorldPair[] heldOut = Corpus.Scenes(Split.HeldOut, DataSeed, 0, plan.HeldOutPairs);
        WorldPair[] drawn = Corpus.Scenes(Split.HeldOut, DataSeed, FirstDrawn, Math.Max(plan.Samples, plan.Pictures));
        int grid = Corpus.Side / tokenizer.Stride;
        using (Stage stage = progress.Stage("pictures to codes", scenes.Length + heldOut.Length + drawn.Length))
        {
            Pair[] Encode(WorldPair[] pairs, long before) => Corpus.Encode(pairs, tokenizer, done => stage.Report(before + done), stop);
            learned = new CodedPictures
            {
                Vocabulary = vocabulary,
                Train = Encode(scenes, 0),
                HeldOut = Encode(heldOut, scenes.Length),
                Drawn = Encode(drawn, scenes.Length + heldOut.Length),
                Grid = (grid, grid),
                Draw = codes => [.. tokenizer.Decode(codes, grid, grid).Select(pixels => new Formats.Picture(Corpus.Side, Corpus.Side, pixels))],
            };
        }

        inWords = new CodedPictures
        {
            Vocabulary = new Vocabulary(Corpus.TextRows, WorldWords.words.Length),
            Train = Corpus.InWords(scenes),
            HeldOut = Corpus.InWords(heldOut),
            Drawn = Corpus.InWords(drawn),
            Grid = (WorldWords.rows, 2 * WorldWords.columns),
            Draw = Corpus.DrawWords,
            Words = WorldWords.ids,
        };
        told = new CodedPictures
        {
            Vocabulary = new Vocabulary(Corpus.TextRows, WorldWords.Told.words.Length),
            Train = Corpus.InSentences(scenes),
            HeldOut = Corpus.InSentences(heldOut),
            Drawn = Corpus.InSentences(drawn),
            Grid = (8, WorldWords.Told.codes / 8),
            Draw = null,
            Words = [.. Enumerable.Range(0, WorldWords.Told.words.Length)],
        };
        HeldOutTexts = [.. Corpus.Rows(Split.HeldOut, plan.TextPositions, DataSeed).Take(plan.HeldOutTexts)];
        probes = new WorldProbes(plan, HeldOutTexts);
        pretraining = stages.Get("pretraining", TextKey(plan, halfPrecision), () =>
        {
            using Stage stage = progress.Stage("pre-training on text", plan.Pretraining.Steps);
            using Model model = PretrainStage.Train(plan, TextModel, probes, halfPrecision, stage, stop, out PretrainResult made);
            files.SaveModel("pretrained", model);
            return made;
        });
        Pretrained = files.LoadWeights("pretrained");
    }

    /// <summary>Trains what is not there yet.</summary>
    public static WorldMaterial Make(
        Plan plan, bool halfPrecision, StageStore stages, StudyFiles files, Progress progress, CancellationToken stop) =>
        new(plan, halfPrecision, stages, files, progress, stop);

    public string Name => "World";

    public string Key { get; }

    public ModelConfig TextModel { get; }

    public IReadOnlyDictionary<string, torch.Tensor> Pretrained { get; }

    public int Words => WorldVocabulary.words.Length;

    public long[][] HeldOutTexts { get; }

    public IReadOnlyList<string> Abilities { get; } = [WorldProbes.Knowledge, WorldProbes.InContext];

    public IReadOnlyList<string> Prompts => probes.Shown;

    public CodedPictures Pictures(PictureCodes codes) => codes switch
    {
        PictureCodes.Words => inWords,
        PictureCodes.Told => told,
        _ => learned,
    };

    public IEnumerable<long[]> Texts() => Corpus.Rows(Split.Train, plan.TextPositions, DataSeed);

    public ArmProbes Score(Model model) => probes.Score(model);

    public string[] Complete(Model model) =>
    [
        .. probes.Shown.Select(prompt => Continuations.Say(
            model.Complete(WorldProbes.Context(prompt), 12, WorldVocabulary.endId, new Drawing { Temperature = 0 }), model.Vocabulary, Say)),
    ];

    public string Say(int[] ids) =>
        string.Join(' ', ids.Select(id => id < WorldVocabulary.words.Length ? WorldVocabulary.words[id] : "⟨unused row⟩"));

    public void PutTokenizers(string folder, PictureCodes codes) => files.PutWorldsTokenizers(folder, codes == PictureCodes.Learned);

    public IEnumerable<IBlock> Origins()
    {
        double[] steps = [.. Enumerable.Range(1, pretraining.Curve.Length).Select(i => (double)i)];
        yield return new Figure(
            "pretraining", "Pre-training on text", "", "",
            $"Held-out loss at the end {pretraining.HeldOutText:F3} nats a word.",
            [
                new CurvePanel("World's text", axis("step"), axis("nats a word"),
                    [curve("training", 0, steps, Statistics.ema(0.9, pretraining.Curve))], []),
            ]);
        WorldPair[] scenes = Corpus.Scenes(Split.HeldOut, DataSeed, 1000, 6);
        byte[][] originals = [.. scenes.Select(scene => scene.Picture)];
        byte[][] decoded = tokenizer.Decode(tokenizer.Encode(originals, Corpus.Side, Corpus.Side), learned.Grid.Rows, learned.Grid.Columns);
        IEnumerable<Report.Picture> pictures = scenes.SelectMany((scene, i) => new[]
        {
            picture("scene", Corpus.Side, Corpus.Side, scene.Picture), picture("through 64 codes", Corpus.Side, Corpus.Side, decoded[i]),
            picture("in words", Corpus.Side, Corpus.Side, WorldWords.decode(scene.WordCodes)),
        });
        yield return new PictureGrid(
            "What the image tokenizers keep",
            $"Held-out scenes, the same through 8 × 8 learned codes ({tokenizerResult.Psnr:F1} dB, {tokenizerResult.ShareUsed:P0} of the {tokenizerResult.Codes} codes used, {tokenizerResult.EntropyBits:F1} bits a code), and in codes that stand for words (colour and figure of 8 × 4 cells).",
            6, [.. pictures]);
    }

    public void Dispose()
    {
        ((IDisposable)tokenizer).Dispose();
        foreach (torch.Tensor weights in Pretrained.Values)
            weights.Dispose();
    }

    private static string PictureKey(Plan plan, bool half) =>
        StageStore.Hash("pictures", $"{DataSeed} {plan.TrainPairs} {plan.HeldOutPairs} {plan.SmallTokenizer} {half}", StudyPlan.budgetText(plan.Tokenizer));

    private static string TextKey(Plan plan, bool half) => StageStore.Hash(
        "texts", $"{DataSeed} {plan.Seed} {plan.Width} {plan.Layers} {plan.Heads} {plan.TextPositions} {plan.HeldOutTexts} {plan.ProbeItems} {half}",
        StudyPlan.budgetText(plan.Pretraining));
}
