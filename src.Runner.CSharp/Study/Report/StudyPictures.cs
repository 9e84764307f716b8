using Hybrid.Runner.Formats;
using static Hybrid.Report;

namespace Hybrid.Runner.Study;

/// <summary>The same captions drawn by every arm, and by every strength of guidance.</summary>
internal static class StudyPictures
{
    /// <summary>A row for each caption: the real picture, then each arm's; null where no picture can be made.</summary>
    public static PictureGrid? ByArm(StudyData data)
    {
        ArmResult[] arms = [.. data.Arms.Where(arm => arm.Drawings is { Codes: [{ Length: > 0 }, ..] })];
        CodedPictures learned = data.Material.Pictures(PictureCodes.Learned);
        if (arms.Length == 0 || learned.Draw is null)
            return null;
        int count = Math.Min(arms[0].Drawings!.Codes[0].Length, data.Plan.Pictures);
        Pair[] wanted = [.. learned.Drawn.Take(count)];
        IReadOnlyList<Formats.Picture> real = learned.Draw([.. wanted.Select(pair => pair.Codes)]);
        IReadOnlyList<Formats.Picture>[] drawn = [.. arms.Select(arm => Decode(data, arm, 0))];
        var pictures = new List<Report.Picture>();
        for (int i = 0; i < count; i++)
        {
            pictures.Add(Shown(data.Material.Say(wanted[i].Caption), real[i]));
            for (int arm = 0; arm < arms.Length; arm++)
                pictures.Add(Shown(arms[arm].Plan, drawn[arm][i]));
        }

        return new PictureGrid(
            "Pictures for held-out captions", "Left: the picture that the caption was written for, through the image tokenizer. Then what each arm draws for the same caption, first seed.",
            1 + arms.Length, pictures);
    }

    /// <summary>A row for each caption, a column for each strength; null where no arm can be guided.</summary>
    public static PictureGrid? ByGuidance(StudyData data)
    {
        ArmResult? arm = data.Arms.FirstOrDefault(arm => arm.Drawings is { Guidance.Length: > 1, Codes: [{ Length: > 0 }, ..] });
        if (arm is null || PicturesOf(data, arm).Draw is null)
            return null;
        Drawings drawings = arm.Drawings!;
        IReadOnlyList<Formats.Picture>[] drawn = [.. drawings.Guidance.Select((_, i) => Decode(data, arm, i))];
        int count = Math.Min(4, drawn[0].Count);
        IEnumerable<Report.Picture> pictures = Enumerable.Range(0, count).SelectMany(i =>
            drawings.Guidance.Select((strength, k) => Shown($"strength {number(2, strength)}", drawn[k][i])));
        return new PictureGrid(
            "Guidance", $"The first {count} captions above, drawn by {arm.Plan} with more and more guidance.", drawings.Guidance.Length, [.. pictures]);
    }

    private static CodedPictures PicturesOf(StudyData data, ArmResult arm) =>
        data.Material.Pictures(Hybrid.Study.arms(data.Plan).First(plan => plan.Name == arm.Plan).Codes);

    private static IReadOnlyList<Formats.Picture> Decode(StudyData data, ArmResult arm, int strength) =>
        PicturesOf(data, arm).Draw!(arm.Drawings!.Codes[strength]);

    private static Report.Picture Shown(string caption, Formats.Picture given) => picture(caption, given.Width, given.Height, given.Pixels);
}
