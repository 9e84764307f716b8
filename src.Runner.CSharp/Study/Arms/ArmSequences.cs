using Hybrid.Api;

namespace Hybrid.Runner.Study;

/// <summary>The sequences of an arm: which ones a step sees follows from the step and the seed alone.</summary>
internal sealed class ArmSequences
{
    private readonly Arm arm;
    private readonly CodedPictures pictures;
    private readonly IEnumerator<long[]>? texts;
    private double owed;
    private long pairs;

    public ArmSequences(Plan plan, Arm arm, CodedPictures pictures, IMaterial material)
    {
        (this.arm, this.pictures) = (arm, pictures);
        Length = arm.Plan.Captions switch
        {
            CaptionKind.None => pictures.Codes + Sequence.marks(Form.ImageOnly),
            CaptionKind.Long => plan.LongPositions,
            _ => plan.Positions,
        };
        HeldOut = [.. pictures.HeldOut.Select(Of)];
        texts = arm.Plan.Replay > 0 ? material.Texts().GetEnumerator() : null;
    }

    /// <summary>Positions of every sequence.</summary>
    public int Length { get; }

    /// <summary>Held-out pictures in the arm's own form, captions never dropped.</summary>
    public long[][] HeldOut { get; }

    /// <summary>The sequences of the next step, in the order of the steps: text of the corpus by its share, captioned pictures for the rest.</summary>
    public long[][] Step(int count, int step)
    {
        if (arm.Plan.Replay == 0)
            pairs = (long)step * count;
        var rows = new long[count][];
        for (int i = 0; i < count; i++)
        {
            owed += arm.Plan.Replay;
            if (owed >= 1)
            {
                owed--;
                rows[i] = NextText();
                continue;
            }

            long position = pairs++;
            Pair pair = pictures.Train[Compose.Place(pictures.Train.Length, arm.Seed, true, position)];
            rows[i] = arm.Plan.Captions != CaptionKind.None && Compose.DropsCaption(arm.Seed, arm.Plan.CaptionDrop, position)
                ? Compose.WithoutCaption(pictures.Vocabulary, Length, pair.Codes)
                : Of(pair);
        }

        return rows;
    }

    private long[] Of(Pair pair)
    {
        if (arm.Plan.Captions == CaptionKind.None)
            return Compose.ImageOnly(pictures.Vocabulary, Length, pair.Codes);
        int[] caption = arm.Plan.Captions == CaptionKind.Long ? pair.LongCaption : pair.Caption;
        int room = Length - pair.Codes.Length - Sequence.marks(Form.Captioned);
        return Compose.Captioned(pictures.Vocabulary, Length, caption.Length > room ? caption[..room] : caption, pair.Codes);
    }

    private long[] NextText()
    {
        texts!.MoveNext();
        var row = new long[Length];
        Array.Fill(row, pictures.Vocabulary.Pad);
        long[] text = texts.Current;
        Array.Copy(text, row, Math.Min(text.Length, Length));
        return row;
    }
}
