using System.Diagnostics;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner.Study;

/// <summary>Trains one arm of the study and evaluates it on the way.</summary>
internal sealed class ArmRunner(Plan plan, IMaterial material, Func<torch.Tensor> alignedRows, bool halfPrecision, string logs, bool tensorBoard)
{
    private const int ReadEvery = 20;
    private const int EvaluationBatch = 32;
    private const int DrawnAtOnce = 256;
    private const long DrawingSeed = 5;

    /// <summary>How long an arm is trained.</summary>
    public Budget BudgetOf(Arm arm) => Hybrid.Study.budgetOf(plan, arm.Plan);

    /// <summary>Runs an arm; <paramref name="finished"/> sees the trained model before it is released.</summary>
    public ArmResult Run(Arm arm, ArmPlace place, Stage progress, Action<Model>? finished, CancellationToken stop)
    {
        long began = Stopwatch.GetTimestamp();
        Budget budget = BudgetOf(arm);
        CodedPictures pictures = material.Pictures(arm.Plan.Codes);
        var sequences = new ArmSequences(plan, arm, pictures, material);
        using Model model = Start(arm, place.Device);
        model.Reach(sequences.Length);
        using var trainer = new Trainer(
            model, Trainer.Optimizer(0.9, 0.95, 1e-8, 0.1, 1.0), Trainer.Objective(arm.Plan.TextWeight, arm.Plan.ImageWeight, 1, 0),
            new Training { Team = place.Team(budget.Batch) });
        Schedule schedule = Hybrid.Study.schedule(budget);
        int[] evaluateAt = Hybrid.Study.evaluationSteps(budget, plan.Evaluations);

        using var log = new ArmLog(Path.Combine(logs, arm.Name), tensorBoard);
        var curve = new Curves(budget.Steps, (step, curves) => log.Step(
            step + 1, curves.Total[step], curves.Text[step], curves.Image[step], Compose.LearningRate(schedule, step)));
        using Examination? examination = arm.Plan.Diagnosed && arm.First
            ? new Examination(model, pictures, sequences.HeldOut, arm.Plan.Start == Hybrid.Start.FromRandom ? null : material.Pretrained)
            : null;
        var evaluations = new List<ArmEvaluation>();
        bool spoken = arm.Plan.Probed && arm.First;
        string[] onTheWay = [];
        SequenceLoss[] losses = [];
        void Look(int step)
        {
            losses = model.Losses(sequences.HeldOut, EvaluationBatch);
            evaluations.Add(Evaluate(model, arm, step, losses));
            log.Evaluation(evaluations[^1]);
            examination?.Look(step);
            if (spoken && evaluations.Count == evaluateAt.Length / 2 + 1)
                onTheWay = material.Complete(model);
        }

        Look(0);
        var pending = new Queue<(int Step, StepResult Result)>();
        double training = 0, tokens = 0;
        for (int step = 0; step < budget.Steps; step++)
        {
            stop.ThrowIfCancellationRequested();
            long started = Stopwatch.GetTimestamp();
            Batch[] batches = trainer.Batches(sequences.Step(budget.Batch, step));
            StepResult result = trainer.Step(batches, Compose.LearningRate(schedule, step));
            tokens += result.Counts.Sum();
            pending.Enqueue((step, result));
            BatchFeed.Release(batches);
            if (pending.Count >= ReadEvery || step + 1 == budget.Steps)
                curve.Read(pending);
            training += Stopwatch.GetElapsedTime(started).TotalSeconds;
            progress.Report(step + 1, curve.Metrics((long)tokens));
            if (evaluateAt.Contains(step + 1))
                Look(step + 1);
        }

        double[] bySequence = [.. losses.Select(loss => loss.Image / loss.ImageCount)];
        string[] completions = spoken ? material.Complete(model) : [];
        (Drawings? drawings, int[][] drawn) = arm.Plan.Sampled && plan.Samples > 0 ? Draw(model, arm, pictures, stop) : (null, []);
        finished?.Invoke(model);
        double flops = tokens * ModelConfigModule.flopsPerToken(model.Config, sequences.Length);
        return new ArmResult(
            arm.Plan.Name, arm.Seed, curve.Total, curve.Text, curve.Image, [.. evaluations], bySequence, model.MovingCount, model.ParameterCount,
            sequences.Length, new Cost(tokens, flops, tokens / training, Stopwatch.GetElapsedTime(began).TotalSeconds), onTheWay, completions, drawings, examination?.Finish(drawn));
    }

    /// <summary>What the pre-trained model knows before any training, its table grown already.</summary>
    public ArmProbes Before()
    {
        using Model model = Start(Hybrid.StudyArms.runs(plan.Seed, [Hybrid.StudyArms.pretrained])[0], TorchLibrary.Device);
        return material.Score(model);
    }

    /// <summary>What the pre-trained model says, its table not grown.</summary>
    public string[] CompletionsBefore()
    {
        using Model model = Model.Load(
            material.TextModel, VocabularyModule.plainText(material.TextModel.Rows), new Layout { Frozen = true, Device = TorchLibrary.Device },
            name => material.Pretrained[name].alias());
        return material.Complete(model);
    }

    /// <summary>The start of an arm's weights.</summary>
    public Model Start(Arm arm, torch.Device device)
    {
        var layout = new Layout { HalfPrecision = halfPrecision, Trainable = arm.Plan.Trainable, Device = device };
        CodedPictures pictures = material.Pictures(arm.Plan.Codes);
        Vocabulary vocabulary = pictures.Vocabulary;
        torch.Tensor Source(string name) => material.Pretrained[name].alias();
        return arm.Plan.Start switch
        {
            Hybrid.Start.FromRandom => Model.Random(Extension.grow(vocabulary.Rows, material.TextModel), vocabulary, layout, arm.Seed),
            Hybrid.Start.FromWords => Model.ExtendByCopies(
                material.TextModel, vocabulary, layout, Source,
                [.. Enumerable.Repeat(-1, vocabulary.FirstCode - vocabulary.TextRows), .. pictures.Words!], arm.Seed),
            Hybrid.Start.FromAligned => Model.Extend(material.TextModel, vocabulary, layout, Source, "normal", alignedRows(), arm.Seed),
            _ => Model.Extend(material.TextModel, vocabulary, layout, Source, "normal", null, arm.Seed),
        };
    }

    private ArmEvaluation Evaluate(Model model, Arm arm, int step, SequenceLoss[] losses)
    {
        long text = losses.Sum(l => l.TextCount), image = losses.Sum(l => l.ImageCount), marks = losses.Sum(l => l.StructureCount);
        double textSum = losses.Sum(l => l.Text), imageSum = losses.Sum(l => l.Image), marksSum = losses.Sum(l => l.Structure);
        return new ArmEvaluation(
            step,
            (textSum + imageSum + marksSum) / (text + image + marks),
            text == 0 ? double.NaN : textSum / text,
            imageSum / image,
            marksSum / marks,
            text == 0 ? double.NaN : losses.Sum(l => l.TextWithin) / text,
            losses.Sum(l => l.ImageWithin) / image,
            // Along the way one seed is enough to see when it goes.
            arm.Plan.Probed && (arm.First || step == BudgetOf(arm).Steps) ? material.Score(model) : null);
    }

    /// <summary>What it draws, and the codes of all pictures of the first strength.</summary>
    private (Drawings, int[][]) Draw(Model model, Arm arm, CodedPictures pictures, CancellationToken stop)
    {
        Pair[] wanted = pictures.Drawn;
        int shown = arm.First ? Math.Min(plan.Pictures, wanted.Length) : 0;
        int[][] captions = [.. wanted.Select(pair => arm.Plan.Captions == CaptionKind.Long ? pair.LongCaption : pair.Caption)];
        double[] strengths = arm.Plan.CaptionDrop > 0 ? plan.Guidance : [1.0];
        PictureDistance? distance = pictures.Draw is null ? null : new PictureDistance(pictures.Draw, [.. wanted.Select(pair => pair.Codes)]);
        var distances = new List<double>();
        var codes = new List<int[][]>();
        int[][] first = [];
        foreach (double strength in strengths)
        {
            int[][] drawn =
            [
                .. captions.Chunk(DrawnAtOnce).SelectMany((some, part) =>
                {
                    stop.ThrowIfCancellationRequested();
                    return model.DrawImages(some, pictures.Codes, new Drawing { Seed = DrawingSeed + part, Guidance = strength });
                }),
            ];
            distances.Add(distance?.To(drawn) ?? double.NaN);
            codes.Add(drawn[..shown]);
            if (codes.Count == 1)
                first = drawn;
        }

        return (new Drawings(strengths, [.. distances], [.. codes], wanted.Length), first);
    }

    /// <summary>Loss curves, read from the device a few steps at a time; of each step that is read <paramref name="read"/> is told.</summary>
    private sealed class Curves(int steps, Action<int, Curves> read)
    {
        private int last = -1;

        public double[] Total { get; } = new double[steps];

        public double[] Text { get; } = new double[steps];

        public double[] Image { get; } = new double[steps];

        public double[] Structure { get; } = new double[steps];

        public void Read(Queue<(int Step, StepResult Result)> pending)
        {
            while (pending.TryDequeue(out (int Step, StepResult Result) item))
            {
                using StepResult result = item.Result;
                using torch.Tensor host = result.Parts.cpu();
                float[] sums = host.data<float>().ToArray();
                double Mean(int kind) => result.Counts[kind] == 0 ? double.NaN : sums[kind] / result.Counts[kind];
                (Text[item.Step], Image[item.Step], Structure[item.Step]) = (Mean(0), Mean(1), Mean(2));
                Total[item.Step] = sums.Sum() / result.Counts.Sum();
                last = item.Step;
                read(last, this);
            }
        }

        public Metrics Metrics(long tokens) => last < 0
            ? new Metrics { Tokens = tokens }
            : new Metrics { Loss = Total[last], Text = Show(Text[last]), Image = Show(Image[last]), Structure = Show(Structure[last]), Tokens = tokens };

        private static double? Show(double value) => double.IsNaN(value) ? null : value;
    }
}
