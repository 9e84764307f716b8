namespace Hybrid.Runner.Study;

/// <summary>Continuations as a person reads them: a model that forgot its text may answer with image codes.</summary>
internal static class Continuations
{
    private static readonly string[] Marks = [.. VocabularyModule.marks];

    /// <summary>The text of ids; runs of image codes are shown by their length, marks by their names.</summary>
    public static string Say(int[] ids, Vocabulary vocabulary, Func<int[], string> text)
    {
        var shown = new List<string>();
        for (int i = 0; i < ids.Length;)
        {
            int run = 0;
            bool Is(Func<int, bool> kind) => (run = ids[i..].TakeWhile(kind).Count()) > 0;
            if (Is(id => id >= vocabulary.FirstCode))
                shown.Add(run == 1 ? "⟨image code⟩" : $"⟨{run} image codes⟩");
            else if (Is(id => id < vocabulary.TextRows))
                shown.Add(text(ids[i..(i + run)]));
            else
            {
                run = 1;
                shown.Add(Marks[ids[i] - vocabulary.TextRows]);
            }

            i += run;
        }

        return string.Join(' ', shown);
    }
}
