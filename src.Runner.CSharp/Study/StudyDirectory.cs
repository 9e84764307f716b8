using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner.Study;

/// <summary>The directory of a study: which one, and of what plan and precision (run.json).</summary>
internal static class StudyDirectory
{
    /// <summary>The next unused directory under <c>runs/</c>, or the last one to go on with.</summary>
    public static string Usual(Plan plan, bool resume)
    {
        string Named(int number) => Path.Combine("runs", number == 1 ? $"study-{plan.Preset}" : $"study-{plan.Preset}-{number}");
        int used = 0;
        while (Directory.Exists(Named(used + 1)))
            used++;
        return Named(resume && used > 0 ? used : used + 1);
    }

    /// <summary>Makes the run directory, or checks that the one to go on with is of this plan; gives the precision.</summary>
    public static bool Prepare(string directory, Plan plan, bool resume)
    {
        string file = Path.Combine(directory, "run.json");
        string planText = StudyPlan.toJson(plan).ToJsonString();
        if (File.Exists(file))
        {
            JsonNode run = Existing(file);
            if (!resume)
                throw new InputException($"{directory} holds a study already. Give --resume auto to go on with it, or another --out.");
            bool stored = run["halfPrecision"]!.GetValue<bool>();
            // Another plan goes on with the stages that are the same in both.
            if (run["plan"]?.ToJsonString() != planText)
                Write(stored);
            return stored;
        }

        if (Files.Occupied(directory))
            throw new InputException($"{directory} is not empty and holds no study; give another --out.");
        bool half = Precisions.HalfIsFaster();
        Directory.CreateDirectory(directory);
        Write(half);
        return half;

        void Write(bool precision)
        {
            var made = new JsonObject { ["job"] = "study", ["halfPrecision"] = precision, ["plan"] = JsonNode.Parse(planText) };
            AtomicFile.WriteText(file, made.ToJsonString(new() { WriteIndented = true }));
        }
    }

    private static JsonNode Existing(string file)
    {
        try
        {
            if (JsonNode.Parse(File.ReadAllText(file)) is JsonObject run
                && run["plan"] is JsonObject && run["halfPrecision"] is JsonValue half && half.TryGetValue(out bool _))
                return run;
        }
        catch (Exception e) when (e is JsonException or ArgumentException)
        {
            // A key that is given twice is an ArgumentException of the first look at the object.
        }

        throw new InputException($"{file} is not the description of a study; give another --out.");
    }
}
