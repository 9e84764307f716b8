using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>A captioned picture as tokens; the long caption is all captions that it has.</summary>
internal sealed record Pair(int[] Caption, int[] LongCaption, int[] Codes);

/// <summary>Captioned pictures in one kind of codes.</summary>
internal sealed record CodedPictures
{
    public required Vocabulary Vocabulary { get; init; }

    public required Pair[] Train { get; init; }

    /// <summary>What losses are measured on.</summary>
    public required Pair[] HeldOut { get; init; }

    /// <summary>Held-out pictures whose captions are drawn, and which the drawn ones are compared with.</summary>
    public required Pair[] Drawn { get; init; }

    /// <summary>Rows and columns of the grid of codes.</summary>
    public required (int Rows, int Columns) Grid { get; init; }

    /// <summary>Pictures of grids of codes, or null where none can be made.</summary>
    public required Func<int[][], IReadOnlyList<Picture>>? Draw { get; init; }

    /// <summary>The text row of each code's word, where codes stand for words.</summary>
    public int[]? Words { get; init; }

    public int Codes => Grid.Rows * Grid.Columns;
}

/// <summary>What a study is made of: a pre-trained language model, captioned pictures as tokens, texts and questions.</summary>
internal interface IMaterial : IDisposable
{
    string Name { get; }

    /// <summary>A hash of everything that arms depend on: pictures, texts, questions, the pre-trained weights.</summary>
    string Key { get; }

    ModelConfig TextModel { get; }

    /// <summary>The pre-trained weights by open_lm's names.</summary>
    IReadOnlyDictionary<string, torch.Tensor> Pretrained { get; }

    /// <summary>How many rows of the text table, from the first on, stand for a token of text; rows after them only pad it.</summary>
    int Words { get; }

    CodedPictures Pictures(PictureCodes codes);

    /// <summary>Rows of held-out text; none where there is none.</summary>
    long[][] HeldOutTexts { get; }

    /// <summary>Rows of the pre-training corpus from the start on, endless. Errors: InputException where there is none.</summary>
    IEnumerable<long[]> Texts();

    /// <summary>The probes whose loss is a claim, as a sentence names them.</summary>
    IReadOnlyList<string> Abilities { get; }

    /// <summary>Beginnings of texts, whose continuation is shown.</summary>
    IReadOnlyList<string> Prompts { get; }

    /// <summary>What a model knows.</summary>
    ArmProbes Score(Api.Model model);

    /// <summary>Greedy continuations of the prompts; image codes among them are counted, not written out.</summary>
    string[] Complete(Api.Model model);

    /// <summary>Tokens of a text as a person reads them.</summary>
    string Say(int[] ids);

    /// <summary>Puts the tokenizers that belong to a model of these codes into its folder.</summary>
    void PutTokenizers(string folder, PictureCodes codes);

    /// <summary>What the report shows of how the material was made.</summary>
    IEnumerable<Report.IBlock> Origins();
}
