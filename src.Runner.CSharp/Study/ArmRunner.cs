using System.Diagnostics;
using Hybrid.Api;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>Trains one arm of the study and evaluates it on the way.</summary>
public sealed class ArmRunner(
    Plan plan, Corpus corpus, WorldProbes probes, ModelConfig textModel, Vocabulary vocabulary,
    IReadOnlyDictionary<string, torch.Tensor> pretrained, torch.Tensor? alignedRows, bool halfPrecision)
{
    private const int CodesPerPicture = 64;
    private const int ReadEvery = 20;

    /// <summary>The budget of an arm.</summary>
    public Budget BudgetOf(Arm arm) => arm.ImageOnly ? plan.ImageOnly : plan.Twins;

    /// <summary>Runs an arm; <paramref name="finished"/> sees the trained model before it is released.</summary>
    public ArmResult Run(Arm arm, Stage progress, Action<Model>? finished, CancellationToken stop)
    {
        long began = Stopwatch.GetTimestamp();
        Budget budget = BudgetOf(arm);
        using Model model = Start(arm);
        using var trainer = new Trainer(model, Trainer.Optimizer(0.9, 0.95, 1e-8, 0.1, 1.0), Trainer.Objective(1, 1, 1, 0), new Training { Team = TorchLibrary.TeamFor(budget.Batch) });
        Schedule schedule = Hybrid.Study.schedule(budget);
        int[] evaluateAt = Hybrid.Study.evaluationSteps(budget, plan.Evaluations);
        long[][] heldOut = [.. corpus.HeldOut.Select(pair => Compose(arm, pair))];
        int length = heldOut[0].Length;

        var curve = new Curves(budget.Steps);
        var evaluations = new List<Evaluation> { Evaluate(model, arm, 0, heldOut) };
        var pending = new Queue<(int Step, StepResult Result)>();
        double training = 0;
        for (int step = 0; step < budget.Steps; step++)
        {
            stop.ThrowIfCancellationRequested();
            long started = Stopwatch.GetTimestamp();
            Batch[] batches = trainer.Batches(Rows(arm, budget, step));
            pending.Enqueue((step, trainer.Step(batches, Api.Compose.LearningRate(schedule, step))));
            BatchFeed.Release(batches);
            if (pending.Count >= ReadEvery || step + 1 == budget.Steps)
                curve.Read(pending);
            training += Stopwatch.GetElapsedTime(started).TotalSeconds;
            progress.Report(step + 1, curve.Metrics((long)(step + 1) * budget.Batch * (length - 1)));
            if (evaluateAt.Contains(step + 1))
                evaluations.Add(Evaluate(model, arm, step + 1, heldOut));
        }

        double[] bySequence = [.. model.Losses(heldOut, 32).Select(loss => loss.Image / loss.ImageCount)];
        string[] completions = arm.Probed ? Completions(model) : [];
        finished?.Invoke(model);
        return new ArmResult(
            arm.Name, curve.Total, curve.Text, curve.Image, [.. evaluations], bySequence, model.MovingCount, model.ParameterCount,
            (double)budget.Steps * budget.Batch * (length - 1) / training, Stopwatch.GetElapsedTime(began).TotalSeconds, completions);
    }

    /// <summary>The model before training: what probes are compared with.</summary>
    public ProbeScores Before()
    {
        using Model model = Start(new Arm("before", Hybrid.Start.FromPretrained, false, "all", 1, true));
        return probes.Score(model);
    }

    /// <summary>Greedy continuations of the shown prompts by a model.</summary>
    public string[] Completions(Model model) =>
    [
        .. probes.Shown.Select(prompt => Words(
            model.Complete(WorldProbes.Context(prompt), 12, WorldVocabulary.endId, new Drawing { Temperature = 0 }))),
    ];

    // A model that forgot its text may answer with image codes: a run of them is shown by its length.
    private string Words(int[] ids)
    {
        var shown = new List<string>();
        for (int i = 0; i < ids.Length; i++)
        {
            int run = ids[i..].TakeWhile(id => id >= vocabulary.FirstCode).Count();
            if (run > 0)
            {
                shown.Add(run == 1 ? "⟨image code⟩" : $"⟨{run} image codes⟩");
                i += run - 1;
            }
            else if (ids[i] < WorldVocabulary.words.Length)
                shown.Add(WorldVocabulary.words[ids[i]]);
            else
                shown.Add(ids[i] >= vocabulary.TextRows ? Marks[ids[i] - vocabulary.TextRows] : "⟨unused row⟩");
        }

        return string.Join(' ', shown);
    }

    private static readonly string[] Marks = [.. VocabularyModule.marks];

    /// <summary>The start of an arm's weights.</summary>
    public Model Start(Arm arm)
    {
        var layout = new Layout { HalfPrecision = halfPrecision, Trainable = arm.Trainable };
        if (arm.Start == Hybrid.Start.FromRandom)
        {
            ModelConfig grown = Extension.grow(vocabulary.Rows, textModel);
            return Model.Random(grown, vocabulary, layout, arm.Seed);
        }

        torch.Tensor? given = arm.Start == Hybrid.Start.FromAligned ? alignedRows : null;
        return Model.Extend(textModel, vocabulary, layout, name => pretrained[name].alias(), "normal", given, arm.Seed);
    }

    private long[] Compose(Arm arm, Pair pair) => arm.ImageOnly
        ? Api.Compose.ImageOnly(vocabulary, CodesPerPicture + 4, pair.Codes)
        : Api.Compose.Captioned(vocabulary, plan.Positions, pair.Caption, pair.Codes);

    private long[][] Rows(Arm arm, Budget budget, int step)
    {
        var rows = new long[budget.Batch][];
        for (int i = 0; i < rows.Length; i++)
        {
            long place = Api.Compose.Place(corpus.Train.Length, arm.Seed, true, (long)step * budget.Batch + i);
            rows[i] = Compose(arm, corpus.Train[place]);
        }

        return rows;
    }

    private Evaluation Evaluate(Model model, Arm arm, int step, long[][] heldOut)
    {
        SequenceLoss[] losses = model.Losses(heldOut, 32);
        long text = losses.Sum(l => l.TextCount), image = losses.Sum(l => l.ImageCount), marks = losses.Sum(l => l.StructureCount);
        double textSum = losses.Sum(l => l.Text), imageSum = losses.Sum(l => l.Image), marksSum = losses.Sum(l => l.Structure);
        return new Evaluation(
            step,
            (textSum + imageSum + marksSum) / (text + image + marks),
            text == 0 ? double.NaN : textSum / text,
            imageSum / image,
            marksSum / marks,
            losses.Sum(l => l.ImageWithin) / image,
            arm.Probed ? probes.Score(model) : null);
    }

    /// <summary>Loss curves, read from the device a few steps at a time.</summary>
    private sealed class Curves(int steps)
    {
        private int last = -1;

        public double[] Total { get; } = new double[steps];

        public double[] Text { get; } = new double[steps];

        public double[] Image { get; } = new double[steps];

        public void Read(Queue<(int Step, StepResult Result)> pending)
        {
            while (pending.TryDequeue(out (int Step, StepResult Result) item))
            {
                using StepResult result = item.Result;
                using torch.Tensor host = result.Parts.cpu();
                float[] sums = host.data<float>().ToArray();
                double Mean(int kind) => result.Counts[kind] == 0 ? double.NaN : sums[kind] / result.Counts[kind];
                (Text[item.Step], Image[item.Step]) = (Mean(0), Mean(1));
                Total[item.Step] = sums.Sum() / result.Counts.Sum();
                last = item.Step;
            }
        }

        public Metrics Metrics(long tokens) => last < 0
            ? new Metrics { Tokens = tokens }
            : new Metrics { Loss = Total[last], Text = Show(Text[last]), Image = Show(Image[last]), Tokens = tokens };

        private static double? Show(double value) => double.IsNaN(value) ? null : value;
    }
}
