/// The experiment as data: what is trained and for how long.
namespace Hybrid

open System

/// Material of one's own in the place of World: a pre-trained model, token shards, texts and questions, by their paths.
type MaterialPlan =
    {
        /// What the report calls it
        Name: string
        /// Path of the pre-trained model
        Model: string
        /// open_lm's description of the model, where its weights are a bare file
        ModelConfig: string option
        /// Folders of token shards; pictures in training
        Tokens: string
        /// The same for held-out pictures; none: the last `heldOutPairs` of `Tokens`
        HeldOut: string option
        /// The image tokenizer that the shards were made with, which draws their pictures; none: no pictures
        ImageTokenizer: string option
        /// Text files; the last tenth of each is held out
        Texts: string list
        /// Probe tasks
        Tasks: string list
        /// Beginnings of texts whose greedy continuation is shown
        Prompts: string list
    }

/// A study: every size and length of it, and the arms and comparisons that it adds to the paper's.
type Plan =
    {
        /// smoke, tiny or paper: which it was made from
        Preset: string
        /// Seed of the first run of every arm
        Seed: int64
        /// Seeds of the captioned twins; the pre-trained model they start from is one
        Seeds: int
        /// Of the aligned start
        AlignedSeeds: int
        /// Of the image-only twins
        ImageOnlySeeds: int
        /// Of the frozen configurations
        FrozenSeeds: int
        /// Of the arms with more text
        RatioSeeds: int
        /// Of the arms whose codes stand for words
        WordSeeds: int
        /// Training of the image tokenizer
        Tokenizer: Budget
        /// The smaller image tokenizer, which is there sooner and keeps less
        SmallTokenizer: bool
        /// D of the language model
        Width: int
        /// L of the language model
        Layers: int
        /// H of the language model
        Heads: int
        /// Positions of a captioned sequence
        Positions: int
        /// Positions of a sequence with long captions
        LongPositions: int
        /// Positions of a text sequence in pre-training
        TextPositions: int
        /// Training of the language model on text
        Pretraining: Budget
        /// Training of the captioned arms
        Twins: Budget
        /// Training of the arms without captions
        ImageOnly: Budget
        /// Training of the image table against the text table
        Alignment: Budget
        /// Captioned pictures in training
        TrainPairs: int
        /// Captioned pictures that losses are measured on
        HeldOutPairs: int
        /// Text sequences that forgetting is measured on
        HeldOutTexts: int
        /// How often a run is evaluated on held-out data, beside its start
        Evaluations: int
        /// Questions of each probe
        ProbeItems: int
        /// Captions that the report shows pictures for
        Pictures: int
        /// Pictures that an arm draws for the distance to real ones
        Samples: int
        /// Strengths of guidance that the guided arm draws with
        Guidance: float[]
        /// None: World
        Material: MaterialPlan option
        /// Arms beside the study's own, or in the place of those with the same name
        Arms: ArmPlan[]
        /// Comparisons beside the study's own
        Comparisons: Comparison[]
    }

/// The sizes of the study, and its runs.
module Study =

    /// A minute on two cores: every stage runs, nothing is learned well, so most verdicts stay undecided.
    let smoke: Plan =
        {
            Preset = "smoke"
            Seed = 1L
            Seeds = 2
            AlignedSeeds = 2
            ImageOnlySeeds = 1
            FrozenSeeds = 1
            RatioSeeds = 1
            WordSeeds = 1
            Tokenizer = { Steps = 500; Batch = 16; LearningRate = SceneVqVae.recipe.LearningRate; WarmupSteps = 20 }
            SmallTokenizer = true
            Width = 64
            Layers = 2
            Heads = 2
            Positions = 96
            LongPositions = 144
            TextPositions = 96
            Pretraining = { Steps = 60; Batch = 16; LearningRate = 3e-3; WarmupSteps = 10 }
            Twins = { Steps = 24; Batch = 16; LearningRate = 2e-3; WarmupSteps = 4 }
            ImageOnly = { Steps = 12; Batch = 16; LearningRate = 2e-3; WarmupSteps = 2 }
            Alignment = { Steps = 30; Batch = 128; LearningRate = 1e-2; WarmupSteps = 0 }
            TrainPairs = 512
            HeldOutPairs = 64
            HeldOutTexts = 32
            Evaluations = 3
            ProbeItems = 24
            Pictures = 6
            Samples = 64
            Guidance = [| 1.0; 2.0 |]
            Material = None
            Arms = [||]
            Comparisons = [||]
        }

    /// Ten minutes on two cores: the default.
    let tiny: Plan =
        {
            Preset = "tiny"
            Seed = 1L
            Seeds = 6
            AlignedSeeds = 3
            ImageOnlySeeds = 4
            FrozenSeeds = 1
            RatioSeeds = 2
            WordSeeds = 3
            Tokenizer = { Steps = 3000; Batch = 16; LearningRate = SceneVqVae.recipe.LearningRate; WarmupSteps = 20 }
            SmallTokenizer = false
            Width = 128
            Layers = 4
            Heads = 4
            Positions = 96
            LongPositions = 144
            TextPositions = 96
            Pretraining = { Steps = 500; Batch = 32; LearningRate = 2e-3; WarmupSteps = 50 }
            Twins = { Steps = 240; Batch = 32; LearningRate = 4e-3; WarmupSteps = 20 }
            ImageOnly = { Steps = 140; Batch = 32; LearningRate = 4e-3; WarmupSteps = 10 }
            Alignment = { Steps = 200; Batch = 1024; LearningRate = 1e-2; WarmupSteps = 0 }
            TrainPairs = 8192
            HeldOutPairs = 192
            HeldOutTexts = 96
            Evaluations = 6
            ProbeItems = 120
            Pictures = 8
            Samples = 512
            Guidance = [| 1.0; 1.5; 2.0; 3.0; 5.0 |]
            Material = None
            Arms = [||]
            Comparisons = [||]
        }

    /// The arms of a plan: the paper's, those beyond it, and the plan's own.
    let arms (plan: Plan) : ArmPlan list =
        [
            yield! StudyArms.twins plan.Seeds plan.AlignedSeeds
            yield! StudyArms.imageOnly plan.ImageOnlySeeds plan.FrozenSeeds
            yield! StudyArms.textRatio plan.RatioSeeds
            if plan.Material.IsNone then
                yield! StudyArms.words plan.WordSeeds
            if plan.Samples > 0 then
                yield! StudyArms.guided plan.Seeds
        ]
        |> StudyArms.replace plan.Arms

    /// The runs of a plan.
    let runs (plan: Plan) : Arm[] = StudyArms.runs plan.Seed (arms plan)

    /// The comparisons of a plan: the paper's, those beyond it whose arms are run, and the plan's own.
    let comparisons (plan: Plan) (tasks: string list) : Comparison list =
        let run = arms plan |> List.filter (fun arm -> arm.Seeds > 0) |> List.map _.Name |> Set

        let beyond = Comparison.beyond tasks |> List.filter (fun c -> run.Contains c.Arm && run.Contains c.Against)

        Comparison.ofPaper @ beyond @ List.ofArray plan.Comparisons

    /// How long an arm is trained.
    let budgetOf (plan: Plan) (arm: ArmPlan) : Budget =
        let own = if arm.Captions = CaptionKind.None then plan.ImageOnly else plan.Twins

        if arm.Steps = 0 then
            own
        else
            { own with Steps = arm.Steps; WarmupSteps = min own.WarmupSteps (arm.Steps / 2) }

    /// The schedule of a budget: cosine with warm-up, as the paper has it, down to a tenth of the peak.
    let schedule (budget: Budget) : Schedule =
        {
            Kind = Cosine
            Peak = budget.LearningRate
            Minimum = 0.1 * budget.LearningRate
            WarmupSteps = budget.WarmupSteps
            Steps = budget.Steps
        }

    /// The steps (counted from 1) after which a run is evaluated: denser at the start, where the curves move; the last one always.
    let evaluationSteps (budget: Budget) (count: int) : int[] =
        [| for i in 1..count -> max 1 (int (Math.Round(float budget.Steps * (float i / float count) ** 2.0))) |]
        |> Array.distinct

    /// The paper's own configuration: open_lm-1b with 16,384 codes, 1,152 positions, 1M tokens a step, 100B tokens.
    let paperModel: ModelConfig =
        { ModelConfig.openLm 2048 24 16 (50432 + 7 + 16384) 1152 with Position = HeadRotary }

    /// Tokens of the paper's run and of one of its steps.
    let paperTokens, paperTokensPerStep = 100e9, 1e6

    /// The plan with its seeds counted from another one.
    let withSeed (seed: int64) (plan: Plan) : Plan = { plan with Seed = seed }
