/// The experiment as data: what is trained, for how long, and by which rule each of the paper's claims is judged.
namespace Hybrid

open System
open Hybrid.Report
open Hybrid.Statistics

/// How long something is trained.
type Budget =
    {
        Steps: int
        /// Sequences (or pictures, or pairs) a step
        Batch: int
        LearningRate: float
        WarmupSteps: int
    }

/// A study of World: every size and length of it.
type Plan =
    {
        Preset: string
        /// Seeds of the twins; the pre-trained model they start from is one
        Seeds: int64[]
        /// How many of the seeds the aligned start is run for
        AlignedSeeds: int
        /// Seeds of the image-only twins; the frozen configurations are run for the first
        ImageOnlySeeds: int64[]
        Tokenizer: Budget
        /// The smaller image tokenizer, which is there sooner and keeps less
        SmallTokenizer: bool
        Width: int
        Layers: int
        Heads: int
        /// Positions of a captioned sequence
        Positions: int
        /// Positions of a text sequence in pre-training
        TextPositions: int
        Pretraining: Budget
        Twins: Budget
        ImageOnly: Budget
        Alignment: Budget
        TrainPairs: int
        HeldOutPairs: int
        HeldOutTexts: int
        /// How often a run is evaluated on held-out data, beside its start
        Evaluations: int
        ProbeItems: int
        Pictures: int
    }

/// Where an arm's weights start.
type Start =
    | FromPretrained = 0
    | FromRandom = 1
    /// Pre-trained, with the image rows of the embedding table from alignment
    | FromAligned = 2

/// One training run of the study.
type Arm =
    {
        Name: string
        Start: Start
        /// Sequences without captions
        ImageOnly: bool
        /// A name of `Trainable.presets`
        Trainable: string
        Seed: int64
        /// Whether knowledge and in-context learning are probed along the way
        Probed: bool
    }

module Study =

    /// A minute on two cores: every stage runs, nothing is learned well, so most verdicts stay undecided.
    let smoke: Plan =
        {
            Preset = "smoke"
            Seeds = [| 1L; 2L |]
            AlignedSeeds = 2
            ImageOnlySeeds = [| 1L |]
            Tokenizer = { Steps = 500; Batch = 16; LearningRate = SceneVqVae.recipe.LearningRate; WarmupSteps = 20 }
            SmallTokenizer = true
            Width = 64
            Layers = 2
            Heads = 2
            Positions = 96
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
        }

    /// Ten minutes on two cores: the default.
    let tiny: Plan =
        {
            Preset = "tiny"
            Seeds = [| 1L .. 5L |]
            AlignedSeeds = 3
            ImageOnlySeeds = [| 1L .. 3L |]
            Tokenizer = { Steps = 3000; Batch = 16; LearningRate = SceneVqVae.recipe.LearningRate; WarmupSteps = 20 }
            SmallTokenizer = false
            Width = 128
            Layers = 4
            Heads = 4
            Positions = 96
            TextPositions = 96
            Pretraining = { Steps = 500; Batch = 32; LearningRate = 2e-3; WarmupSteps = 50 }
            Twins = { Steps = 240; Batch = 32; LearningRate = 4e-3; WarmupSteps = 20 }
            ImageOnly = { Steps = 140; Batch = 32; LearningRate = 4e-3; WarmupSteps = 10 }
            Alignment = { Steps = 200; Batch = 512; LearningRate = 1e-2; WarmupSteps = 0 }
            TrainPairs = 8192
            HeldOutPairs = 192
            HeldOutTexts = 96
            Evaluations = 6
            ProbeItems = 120
            Pictures = 8
        }

    /// The captioned twins, with the aligned start beside them.
    let twins (plan: Plan) : Arm[] =
        [|
            for i, seed in Array.indexed plan.Seeds do
                for start, name in
                    [
                        Start.FromPretrained, "pretrained"
                        Start.FromRandom, "random"
                        if i < plan.AlignedSeeds then
                            Start.FromAligned, "aligned"
                    ] do
                    {
                        Name = $"twin-{name}-seed{seed}"
                        Start = start
                        ImageOnly = false
                        Trainable = "all"
                        Seed = seed
                        Probed = start = Start.FromPretrained
                    }
        |]

    /// The image-only runs: fully tuned twins, and the four frozen configurations from the pre-trained model.
    let imageOnly (plan: Plan) : Arm[] =
        let arm start name trainable seed =
            {
                Name = $"image-{name}-seed{seed}"
                Start = start
                ImageOnly = true
                Trainable = trainable
                Seed = seed
                Probed = false
            }

        [|
            for seed in plan.ImageOnlySeeds do
                arm Start.FromPretrained "pretrained" "all" seed
                arm Start.FromRandom "random" "all" seed

            for preset in [ "embedding-head"; "+norms"; "+first-half"; "+ffn" ] do
                arm Start.FromPretrained (preset.Replace("+", "plus-")) preset plan.ImageOnlySeeds[0]
        |]

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

    /// The smallest difference of mean losses, in nats, that counts as one: perplexities that differ by 2 %.
    let margin: float = Math.Log 1.02

    let private show (interval: Interval) =
        if Double.IsNaN interval.Low then
            $"{interval.Mean:F4} (one run, no interval)"
        else
            $"{interval.Mean:F4} [{interval.Low:F4}, {interval.High:F4}]"

    /// Whether a difference is none: its whole interval within ± the margin, or outside it, or neither.
    let same (margin: float) (difference: Interval) : Verdict =
        if Double.IsNaN difference.Low then Verdict.Undecided
        elif difference.Low > -margin && difference.High < margin then Verdict.Holds
        elif difference.Low > margin || difference.High < -margin then Verdict.DoesNotHold
        else Verdict.Undecided

    /// Whether a difference is below zero.
    let below (difference: Interval) : Verdict =
        if Double.IsNaN difference.Low then Verdict.Undecided
        elif difference.High < 0.0 then Verdict.Holds
        elif difference.Low > 0.0 then Verdict.DoesNotHold
        else Verdict.Undecided

    /// Several conditions together: one that does not hold decides, one that is undecided leaves it so.
    let all (verdicts: Verdict seq) : Verdict =
        if Seq.contains Verdict.DoesNotHold verdicts then Verdict.DoesNotHold
        elif Seq.contains Verdict.Undecided verdicts then Verdict.Undecided
        else Verdict.Holds

    let private twinsClaim source statement what (pretrained: float[]) (random: float[]) =
        let difference = pairedDifference pretrained random

        {
            Source = source
            Statement = statement
            Verdict = same margin difference
            Evidence =
                $"{what} at the end, pre-trained minus random, over {pretrained.Length} seeds: {show difference} nats; the same means within ±{margin:F4} (perplexities within 2 %%)."
        }

    /// Fig. 3: both twins end at the same perplexity. Final held-out losses by seed, in nats.
    let twinsEnd (pretrained: float[]) (random: float[]) : Claim =
        twinsClaim
            "Fig. 3"
            "The pre-trained model and its random twin reach the same perplexity."
            "Held-out loss"
            pretrained
            random

    /// Fig. 4: the image part is the same.
    let imagePart (pretrained: float[]) (random: float[]) : Claim =
        twinsClaim "Fig. 4" "The loss on image tokens is the same for both." "Held-out image loss" pretrained random

    /// Fig. 4: the text part starts lower for the pre-trained model. Held-out text losses at the first evaluation, by seed.
    let textStart (step: int) (pretrained: float[]) (random: float[]) : Claim =
        let difference = pairedDifference pretrained random

        {
            Source = "Fig. 4"
            Statement = "The loss on text tokens is lower at first for the pre-trained model."
            Verdict = below difference
            Evidence =
                $"Held-out text loss after step {step}, pre-trained minus random, over {pretrained.Length} seeds: {show difference} nats."
        }

    /// Fig. 4: the text gap closes. Final held-out text losses by seed, and the gap at the first evaluation.
    let textEnd (firstGap: float) (pretrained: float[]) (random: float[]) : Claim =
        let difference = pairedDifference pretrained random

        {
            Source = "Fig. 4"
            Statement = "The gap on text tokens is soon gone."
            Verdict = same margin difference
            Evidence =
                $"Held-out text loss at the end, pre-trained minus random: {show difference} nats, from {firstGap:F4} at the first evaluation; gone means within ±{margin:F4}."
        }

    /// Table 1: what the pre-trained model knew is lost. Accuracies before and after over the same items (1 right, 0 wrong; the
    /// after-model of each seed gives its own items), with the level of chance. Lost: less than a quarter of what was above
    /// chance is left, at the upper end of the interval; kept: more than a quarter is left at its lower end.
    let forgotten (name: string) (chance: float) (before: Interval) (after: Interval) : Claim =
        let gained = before.Mean - chance
        let threshold = chance + 0.25 * gained

        let verdict =
            if not (before.Low > chance) then Verdict.Undecided
            elif after.High < threshold then Verdict.Holds
            elif after.Low > threshold then Verdict.DoesNotHold
            else Verdict.Undecided

        {
            Source = "Table 1"
            Statement = $"After training on captioned pictures the model has lost its {name}."
            Verdict = verdict
            Evidence =
                $"Accuracy before {show before}, after {show after}, chance {chance:F3}; lost means below {threshold:F3}, a quarter of what was above chance."
        }

    /// Fig. 6: without captions the twins are still the same.
    let imageOnlyTwins (pretrained: float[]) (random: float[]) : Claim =
        twinsClaim
            "Fig. 6"
            "On image tokens alone the pre-trained model and its random twin reach the same loss."
            "Held-out image loss"
            pretrained
            random

    /// Fig. 6: no frozen configuration reaches the fully tuned loss. For each, its interval of (fully tuned − frozen).
    let frozenNeverReach (differences: (struct (string * Interval))[]) : Claim =
        let shown =
            differences |> Array.map (fun struct (name, interval) -> $"{name} {show interval}") |> String.concat "; "

        {
            Source = "Fig. 6"
            Statement = "No frozen configuration reaches the loss of the fully tuned model."
            Verdict = differences |> Array.map (fun struct (_, interval) -> below interval) |> all
            Evidence = $"Fully tuned minus frozen, held-out image loss in nats, paired over sequences: {shown}."
        }

    /// Fig. 7: the contrastive loss plateaus: of the fall from its start, less than a tenth happens in the last third, and it stays
    /// above half of ln N, where N pairs that cannot be told apart would be. A loss that fell by less than a hundredth learned nothing
    /// that could plateau: undecided.
    let plateau (pairs: int) (losses: float[]) : Claim =
        let third = max 1 (losses.Length / 3)
        let tail = Array.average losses[losses.Length - max 1 (third / 4) ..]
        let middle = Array.average losses[losses.Length - third - 1 .. losses.Length - third - 1 + max 1 (third / 4)]
        let fall = losses[0] - tail
        let late = (middle - tail) / (if fall < 0.01 * losses[0] then nan else fall)
        let level = tail / Math.Log(float pairs)

        {
            Source = "Fig. 7"
            Statement = "The contrastive loss of aligning image codes with text plateaus."
            Verdict =
                (if Double.IsNaN late || losses.Length < 30 then Verdict.Undecided
                 elif late < 0.1 && level > 0.5 then Verdict.Holds
                 else Verdict.DoesNotHold)
            Evidence =
                $"Loss {losses[0]:F3} at the start, {tail:F3} at the end, {level:P0} of ln {pairs}; the last third brought {late:P0} of the fall. A plateau means less than 10 %% of the fall there, at a level above 50 %% of ln {pairs}."
        }

    /// Fig. 7: the nearest text tokens of an image code are noise: whether words that occur with a code are nearer to it than chance.
    /// `hits` is, for each code, the share of its nearest words that its own captions favour, minus the same for shuffled captions.
    let nearestAreNoise (hits: float[]) (shuffled: float[]) (stream: Random.Stream) : Claim =
        let difference = bootstrapMean stream 2000 (Array.map2 (-) hits shuffled)

        {
            Source = "Fig. 7"
            Statement = "The text tokens nearest to an image code have nothing to do with it."
            Verdict =
                (if Double.IsNaN difference.Low then Verdict.Undecided
                 elif difference.Low > 0.02 then Verdict.DoesNotHold
                 elif difference.High < 0.05 then Verdict.Holds
                 else Verdict.Undecided)
            Evidence =
                $"Share of a code's nearest words that occur more often with it than elsewhere, trained on true captions minus on shuffled ones, over {hits.Length} codes: {show difference}."
        }

    /// Fig. 7: starting from aligned image embeddings brings nothing.
    let alignedStart (aligned: float[]) (pretrained: float[]) : Claim =
        let difference = pairedDifference aligned pretrained

        {
            Source = "Fig. 7"
            Statement = "Starting from aligned image embeddings brings nothing."
            Verdict = same margin difference
            Evidence =
                $"Held-out loss at the end, aligned minus pre-trained start, over {aligned.Length} seeds: {show difference} nats; nothing means within ±{margin:F4}."
        }

    /// The paper's own configuration: open_lm-1b with 16,384 codes, 1,152 positions, 1M tokens a step, 100B tokens.
    let paperModel: ModelConfig =
        { ModelConfig.openLm 2048 24 16 (50432 + 7 + 16384) 1152 with Position = HeadRotary }

    /// Tokens of the paper's run and of one of its steps.
    let paperTokens, paperTokensPerStep = 100e9, 1e6

    /// A learning curve's x axis of evaluated steps, in tokens.
    let tokensAt (budget: Budget) (positions: int) (step: int) : float = float step * float budget.Batch * float positions

    /// The plan with its seeds counted from another one.
    let withSeed (seed: int64) (plan: Plan) : Plan =
        { plan with
            Seeds = Array.init plan.Seeds.Length (fun i -> seed + int64 i)
            ImageOnlySeeds = Array.init plan.ImageOnlySeeds.Length (fun i -> seed + int64 i)
        }
