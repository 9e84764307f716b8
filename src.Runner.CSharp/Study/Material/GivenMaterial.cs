using Hybrid.Api;
using Hybrid.Runner.Formats;
using Microsoft.FSharp.Core;
using TorchSharp;
using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>Material of one's own: a pre-trained model, token shards, text files and probe tasks, as a plan names them.</summary>
internal sealed class GivenMaterial : IMaterial
{
    private const int CompletionTokens = 24;

    private readonly MaterialPlan given;
    private readonly Plan plan;
    private readonly PromptCodec codec;
    private readonly string textTokenizer;
    private readonly PictureTokenizer? tokenizer;
    private readonly ProbeTask[] tasks;
    private readonly long[][] texts;
    private readonly CodedPictures pictures;
    private readonly int endOfText;
    private readonly CancellationToken stop;
    private readonly Lock gate = new();

    private GivenMaterial(Plan plan, MaterialPlan given, string folder, Progress progress, CancellationToken stop)
    {
        (this.plan, this.given, this.stop) = (plan, given, stop);
        string At(string path) => Path.Combine(folder, path);
        string? Optional(FSharpOption<string>? path) => path is null ? null : At(path.Value);
        using (ModelFile file = ModelFiles.Open(At(given.Model), Optional(given.ModelConfig)))
        {
            if (file.Vocabulary.ImageCodes > 0)
                throw new InputException($"{file.Path} has {file.Vocabulary.ImageCodes} image codes already; a study begins with a model of text alone.");
            TextModel = file.Config;
            endOfText = file.EndOfText;
            Pretrained = Load(file);
            codec = PromptCodec.Beside(file);
            textTokenizer = file.TokenizerPath!;
        }

        tasks = [.. given.Tasks.Select(task => ProbeTask.Read(At(task))).Select(task => task with { Items = [.. Spread(task.Items, plan.ProbeItems)] })];
        if (tasks.GroupBy(task => task.Name).FirstOrDefault(group => group.Count() > 1) is { } twice)
            throw new InputException($"material.tasks: two of the tasks are named {twice.Key}.");
        (texts, HeldOutTexts) = ReadTexts([.. given.Texts.Select(At)]);
        tokenizer = given.ImageTokenizer is null ? null : ImageTokenizers.Open(At(given.ImageTokenizer.Value));
        pictures = ReadPictures(At(given.Tokens), Optional(given.HeldOut), out string shards);
        Key = StageStore.Hash(
            ["given 1", $"{plan.TrainPairs} {plan.HeldOutPairs} {plan.TextPositions} {plan.HeldOutTexts} {plan.ProbeItems}", shards, HashOf(Pretrained),
             .. given.Tasks.Concat(given.Texts).Select(path => Files.Sha256(At(path)))]);
    }

    /// <summary>Reads all of it. Errors: InputException naming the file.</summary>
    /// <param name="folder">What the plan's paths are relative to.</param>
    public static GivenMaterial Read(Plan plan, MaterialPlan given, string folder, Progress progress, CancellationToken stop) =>
        new(plan, given, folder, progress, stop);

    public string Name => given.Name;

    public string Key { get; }

    public ModelConfig TextModel { get; }

    public IReadOnlyDictionary<string, torch.Tensor> Pretrained { get; }

    public int Words => TextModel.Rows;

    public long[][] HeldOutTexts { get; }

    public IReadOnlyList<string> Abilities => [.. tasks.Select(task => task.Name)];

    public IReadOnlyList<string> Prompts => [.. given.Prompts];

    public CodedPictures Pictures(PictureCodes codes) => codes == PictureCodes.Learned
        ? pictures
        : throw new InputException($"{Name} has no codes that stand for words; World alone has.");

    public IEnumerable<long[]> Texts()
    {
        if (texts.Length == 0)
            throw new InputException("material.texts: an arm replays text of the pre-training corpus, and no text file was given.");
        for (long i = 0; ; i++)
            yield return texts[Compose.Place(texts.Length, plan.Seed, true, i)];
    }

    public ArmProbes Score(Model model)
    {
        Dictionary<string, double[]> correct = [];
        Dictionary<string, double> chance = [];
        foreach (ProbeTask task in tasks)
        {
            // The tokenizer is one for all arms that run side by side.
            ProbeResult result;
            lock (gate)
                result = ProbeResult.Of(model, codec, task, stop);
            correct[task.Name] = [.. result.Right.Select(right => right ? 1.0 : 0.0)];
            chance[task.Name] = task.Items.Average(item => item.IsChoice ? 1.0 / item.Choices.Count : 0.0);
        }

        SequenceLoss[] losses = model.Losses(HeldOutTexts, 16);
        return new ArmProbes(correct, chance, losses.Length == 0 ? double.NaN : losses.Sum(loss => loss.Text) / losses.Sum(loss => loss.TextCount));
    }

    public string[] Complete(Model model) =>
    [
        .. given.Prompts.Select(prompt =>
        {
            int[] ids = codec.Encode(prompt);
            return Continuations.Say(model.Complete(ids, CompletionTokens, endOfText, new Drawing { Temperature = 0 }), model.Vocabulary, Say);
        }),
    ];

    public string Say(int[] ids)
    {
        string text = codec.Decode(ids).Trim();
        return text.Length > 0 ? text : $"⟨{string.Join(' ', ids)}⟩";
    }

    public void PutTokenizers(string folder, PictureCodes codes)
    {
        File.Copy(textTokenizer, Path.Combine(folder, "tokenizer.json"));
        if (tokenizer is not null)
            ImageTokenizers.Save(tokenizer, Path.Combine(folder, ImageTokenizers.FileName), pictures.Grid.Rows, pictures.Grid.Columns);
    }

    public IEnumerable<IBlock> Origins()
    {
        yield return new Text(
            "What it was made of",
            $"{Name}: {pictures.Train.Length:N0} captioned pictures to train on and {pictures.HeldOut.Length:N0} held out, {pictures.Codes} codes each of {pictures.Vocabulary.ImageCodes:N0}; {texts.Length:N0} rows of text to replay and {HeldOutTexts.Length:N0} held out. The pre-trained model: {Architecture.Describe(TextModel)}.");
    }

    public void Dispose()
    {
        codec.Dispose();
        ((IDisposable?)tokenizer)?.Dispose();
        foreach (torch.Tensor weights in Pretrained.Values)
            weights.Dispose();
    }

    private static Dictionary<string, torch.Tensor> Load(ModelFile file) =>
        Hybrid.Decoder.parameters(file.Config).ToDictionary(spec => spec.Name, spec =>
        {
            using torch.Tensor values = file.Load(spec.Name);
            return values.to(torch.float32, copy: true);
        });

    private static string HashOf(IReadOnlyDictionary<string, torch.Tensor> weights)
    {
        using var sha = System.Security.Cryptography.IncrementalHash.CreateHash(System.Security.Cryptography.HashAlgorithmName.SHA256);
        foreach ((string name, torch.Tensor tensor) in weights.OrderBy(entry => entry.Key, StringComparer.Ordinal))
        {
            sha.AppendData(System.Text.Encoding.UTF8.GetBytes(name));
            using torch.Tensor whole = tensor.contiguous();
            sha.AppendData(whole.bytes);
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    /// <summary>As many items as asked for, spread over all.</summary>
    private static IEnumerable<T> Spread<T>(IReadOnlyList<T> items, int count) =>
        items.Count <= count ? items : Enumerable.Range(0, count).Select(i => items[(int)((long)i * items.Count / count)]);

    /// <summary>Rows of the text files: the last tenth of each file is held out.</summary>
    private (long[][] Train, long[][] HeldOut) ReadTexts(string[] paths)
    {
        const int piece = 1 << 16;
        int[] beginning = codec.Encode("");
        int width = plan.TextPositions - beginning.Length;
        List<long[]> train = [], heldOut = [];
        foreach (string path in paths)
        {
            string text = Files.Text(path, "the text");
            var ids = new List<int>();
            for (int start = 0; start < text.Length;)
            {
                stop.ThrowIfCancellationRequested();
                // Pieces end at a line's end, so that no word is cut.
                int end = Math.Min(text.Length, start + piece);
                if (end < text.Length && text.LastIndexOf('\n', end - 1, end - start) is int line and > 0 && line > start)
                    end = line + 1;
                ids.AddRange(codec.EncodePlain(text[start..end]));
                start = end;
            }

            long[][] rows = [.. ids.Chunk(width).Where(row => row.Length == width).Select(row => beginning.Concat(row).Select(id => (long)id).ToArray())];
            int last = rows.Length - rows.Length / 10;
            train.AddRange(rows[..last]);
            heldOut.AddRange(rows[last..]);
        }

        return ([.. train], [.. Spread(heldOut, plan.HeldOutTexts)]);
    }

    private CodedPictures ReadPictures(string tokens, string? heldOut, out string hash)
    {
        using ShardReader reader = ShardReader.Open(tokens);
        ShardInfo info = reader.Info;
        if (info.TextVocabulary > TextModel.Rows)
            throw new InputException($"{tokens} was made with {info.TextVocabulary} text tokens; the model has {TextModel.Rows} rows. Prepare it again with the model's own tokenizer.");
        if (tokenizer is not null && tokenizer.Codes != info.ImageVocabulary)
            throw new InputException($"{tokens} was made with {info.ImageVocabulary} image codes; the image tokenizer has {tokenizer.Codes}.");
        Pair[] all = Read(reader);
        Pair[] train, held;
        if (heldOut is null)
        {
            if (all.Length <= plan.HeldOutPairs)
                throw new InputException($"{tokens} holds {all.Length} pictures, and {plan.HeldOutPairs} of them would be held out (heldOutPairs); give more, or hold fewer out.");
            (train, held) = (all[..^plan.HeldOutPairs], all[^plan.HeldOutPairs..]);
            hash = HashOf(reader);
        }
        else
        {
            using ShardReader other = ShardReader.Open(heldOut);
            if (other.Info with { Crop = info.Crop } != info)
                throw new InputException($"{heldOut} was made with other tokenizers or another grid than {tokens}.");
            (train, held) = (all, [.. Read(other).Take(plan.HeldOutPairs)]);
            hash = StageStore.Hash(HashOf(reader), HashOf(other));
        }

        if (train.Length < plan.Alignment.Batch)
            throw new InputException($"{tokens} leaves {train.Length} pictures to train on; alignment takes {plan.Alignment.Batch} at a time (alignment.batch).");
        if (plan.Positions < info.Codes + Sequence.marks(Form.Captioned) + 1)
            throw new InputException($"{info.Codes} codes and the marks do not fit into {plan.Positions} positions (positions).");
        return new CodedPictures
        {
            Vocabulary = new Vocabulary(TextModel.Rows, info.ImageVocabulary),
            Train = train[..Math.Min(train.Length, plan.TrainPairs)],
            HeldOut = held,
            Drawn = [.. Spread(held, Math.Max(plan.Samples, plan.Pictures))],
            Grid = (info.GridHeight, info.GridWidth),
            Draw = tokenizer is null ? null : codes =>
                [.. tokenizer.Decode(codes, info.GridHeight, info.GridWidth)
                    .Select(pixels => new Formats.Picture(info.GridWidth * tokenizer.Stride, info.GridHeight * tokenizer.Stride, pixels))],
        };
    }

    /// <summary>The pictures of a folder; pairs side by side with the same codes are one picture with several captions.</summary>
    private static Pair[] Read(ShardReader reader)
    {
        var pairs = new List<Pair>();
        var captions = new List<int[]>();
        int[]? codes = null;
        void Finish()
        {
            if (codes is not null)
                pairs.Add(new Pair(captions[0], [.. captions.SelectMany(caption => caption)], codes));
            captions.Clear();
        }

        for (long i = 0; i < reader.Count; i++)
        {
            (int[] text, int[] own) = reader.Pair(i);
            if (codes is null || !own.AsSpan().SequenceEqual(codes))
            {
                Finish();
                codes = own;
            }

            if (text.Length > 0 || captions.Count == 0)
                captions.Add(text);
        }

        Finish();
        return [.. pairs.Where(pair => pair.Caption.Length > 0)];
    }

    private static string HashOf(ShardReader reader) => StageStore.Hash(reader.Manifest.Entries.Select(entry => entry.Sha256));
}
