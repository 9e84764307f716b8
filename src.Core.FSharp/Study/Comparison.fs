/// Comparisons of two arms as data, and the rules by which they are judged.
namespace Hybrid

open System
open System.Globalization
open Hybrid.Report
open Hybrid.Statistics

/// What of an arm is compared, a number for each seed.
[<RequireQualifiedAccess>]
type ArmMeasure =
    /// Held-out loss at the end, nats a token: all targets
    | Loss
    /// … of text targets
    | Text
    /// … of image targets
    | Image
    /// Held-out text loss at the first evaluation after the start
    | TextAtFirst
    /// Held-out image loss at the first evaluation after the start
    | ImageAtFirst
    /// Held-out image loss, mean over the evaluations after the start: how soon it fell
    | ImageOnTheWay
    /// Loss on held-out text of the pre-training corpus at the end, nats a token
    | Corpus
    /// Logarithm of the Fréchet distance between the pictures it draws and real ones
    | Pictures
    /// Share of a task's questions answered rightly at the end
    | Task of string

/// What a difference, first arm minus second, is asked to be.
type Rule =
    /// None: within the margin
    | Same = 0
    /// Below zero
    | Lower = 1
    /// Above zero
    | Higher = 2
    /// Below zero by more than the margin
    | ClearlyLower = 3
    /// Above zero by more than the margin
    | ClearlyHigher = 4

/// A claim about two arms.
type Comparison =
    {
        /// Where the paper says it, or what of ours it belongs to
        Source: string
        /// The claim as a sentence
        Statement: string
        /// Name of the arm that it is about
        Arm: string
        /// Name of the arm that it is held against
        Against: string
        /// What is measured of both
        Measure: ArmMeasure
        /// When the claim holds
        Rule: Rule
    }

/// Comparisons of the study, and how one is judged from what the arms measured.
module Comparison =

    let private taskPrefix = "task:"

    let private measures =
        [
            "loss", ArmMeasure.Loss
            "text", ArmMeasure.Text
            "image", ArmMeasure.Image
            "text-at-first", ArmMeasure.TextAtFirst
            "image-at-first", ArmMeasure.ImageAtFirst
            "image-on-the-way", ArmMeasure.ImageOnTheWay
            "corpus", ArmMeasure.Corpus
            "pictures", ArmMeasure.Pictures
        ]

    /// The names of the rules.
    let rules: (string * Rule) list =
        [
            "same", Rule.Same
            "lower", Rule.Lower
            "higher", Rule.Higher
            "clearly-lower", Rule.ClearlyLower
            "clearly-higher", Rule.ClearlyHigher
        ]

    /// The names of the measures, for a person.
    let measureNames: string = (measures |> List.map fst |> String.concat ", ") + ", or task: and a task's name"

    /// A measure's name.
    let nameOf (measure: ArmMeasure) : string =
        match measure with
        | ArmMeasure.Task task -> taskPrefix + task
        | measure -> measures |> List.find (fun (_, m) -> m = measure) |> fst

    /// The measure of a name.
    let measureOf (name: string) : ArmMeasure option =
        if name.StartsWith(taskPrefix, StringComparison.Ordinal) && name.Length > taskPrefix.Length then
            Some(ArmMeasure.Task name[taskPrefix.Length ..])
        else
            measures |> List.tryFind (fun (known, _) -> known = name) |> Option.map snd

    /// The smallest difference of mean losses, in nats, that counts as one: perplexities that differ by 2 %.
    let lossMargin: float = Math.Log 1.02

    /// The smallest difference that counts as one: 2 % of perplexity, 5 % of a Fréchet distance, 5 of 100 questions.
    let margin (measure: ArmMeasure) : float =
        match measure with
        | ArmMeasure.Pictures -> Math.Log 1.05
        | ArmMeasure.Task _ -> 0.05
        | _ -> lossMargin

    let private words (measure: ArmMeasure) =
        match measure with
        | ArmMeasure.Loss -> "Held-out loss at the end", "nats a token"
        | ArmMeasure.Text -> "Held-out text loss at the end", "nats a token"
        | ArmMeasure.Image -> "Held-out image loss at the end", "nats a token"
        | ArmMeasure.TextAtFirst -> "Held-out text loss at the first evaluation", "nats a token"
        | ArmMeasure.ImageAtFirst -> "Held-out image loss at the first evaluation", "nats a token"
        | ArmMeasure.ImageOnTheWay -> "Held-out image loss, mean over the evaluations", "nats a token"
        | ArmMeasure.Corpus -> "Loss on held-out text of the corpus at the end", "nats a token"
        | ArmMeasure.Pictures -> "Logarithm of the Fréchet distance of drawn pictures", "(5 % are 0.049)"
        | ArmMeasure.Task task -> $"Share right in {task} at the end", "of the questions"

    let private four (value: float) = value.ToString("F4", CultureInfo.InvariantCulture).Replace('-', '−')

    /// A value with its interval, for a sentence.
    let show (interval: Interval) : string =
        if Double.IsNaN interval.Mean then "no value"
        elif Double.IsNaN interval.Low then $"{four interval.Mean} (no interval)"
        else $"{four interval.Mean} [{four interval.Low}, {four interval.High}]"

    /// What a 95 % interval says of a rule. Same: the whole interval within ± the margin holds, outside it does not. Lower and higher: the side
    /// of zero. Clearly lower or higher: beyond the margin holds, short of it does not. All else, and no interval, is undecided.
    let judge (rule: Rule) (margin: float) (difference: Interval) : Verdict =
        let side holds fails =
            if holds then Verdict.Holds
            elif fails then Verdict.DoesNotHold
            else Verdict.Undecided

        if Double.IsNaN difference.Low then
            Verdict.Undecided
        else
            match rule with
            | Rule.Same ->
                side (difference.Low > -margin && difference.High < margin) (difference.Low > margin || difference.High < -margin)
            | Rule.Lower -> side (difference.High < 0.0) (difference.Low > 0.0)
            | Rule.Higher -> side (difference.Low > 0.0) (difference.High < 0.0)
            | Rule.ClearlyLower -> side (difference.High < -margin) (difference.Low > -margin)
            | _ -> side (difference.Low > margin) (difference.High < margin)

    /// Runs that all gave the same difference, as shares of few questions may, say nothing of how it scatters.
    let private scattered (differences: float[]) : Interval =
        let interval = studentMean differences
        if interval.Low < interval.High then interval else { interval with Low = nan; High = nan }

    let private wanted (rule: Rule) (margin: float) =
        match rule with
        | Rule.Same -> $"the same means within ±{margin:F4}"
        | Rule.Lower -> "lower means below zero"
        | Rule.Higher -> "higher means above zero"
        | Rule.ClearlyLower -> $"that counts from {four -margin} down"
        | _ -> $"that counts from {margin:F4} up"

    /// The verdict on a comparison from the values of both arms, seed by seed; an arm that was run for fewer seeds is compared with the first
    /// ones of the other.
    let claim (comparison: Comparison) (arm: float[]) (against: float[]) : Claim =
        let seeds = min arm.Length against.Length
        let differences = Array.map2 (-) arm[.. seeds - 1] against[.. seeds - 1]
        let difference = scattered differences
        let margin = margin comparison.Measure
        let what, unit' = words comparison.Measure

        let power =
            match smallestEffect differences with
            | least when least > 0.0 -> $" Over {seeds} seeds a difference of {least:F4} would be seen four times in five."
            | _ -> ""

        {
            Source = comparison.Source
            Statement = comparison.Statement
            Verdict = judge comparison.Rule margin difference
            Evidence =
                if seeds = 0 then
                    $"{what}: {comparison.Arm} and {comparison.Against} were not both run with it."
                else
                    $"{what}, {comparison.Arm} minus {comparison.Against}: {show difference} {unit'}; {wanted comparison.Rule margin}.{power}"
        }

    let private paper source statement arm against measure rule =
        {
            Source = source
            Statement = statement
            Arm = arm
            Against = against
            Measure = measure
            Rule = rule
        }

    /// The paper's claims that compare two arms.
    let ofPaper: Comparison list =
        let twins source statement measure rule = paper source statement "twin-pretrained" "twin-random" measure rule

        [
            twins "Fig. 3" "The pre-trained model and its random twin reach the same perplexity." ArmMeasure.Loss Rule.Same
            twins "Fig. 3" "The pictures that both draw are equally far from real ones." ArmMeasure.Pictures Rule.Same
            twins "Fig. 4" "The loss on image tokens is the same for both." ArmMeasure.Image Rule.Same
            twins
                "Fig. 4"
                "The loss on text tokens is lower at first for the pre-trained model."
                ArmMeasure.TextAtFirst
                Rule.Lower
            twins "Fig. 4" "The gap on text tokens is soon gone." ArmMeasure.Text Rule.Same
            paper
                "Fig. 6"
                "On image tokens alone the pre-trained model and its random twin reach the same loss."
                "image-pretrained"
                "image-random"
                ArmMeasure.Image
                Rule.Same
            paper
                "Fig. 7"
                "Starting from aligned image embeddings brings nothing."
                "twin-aligned"
                "twin-pretrained"
                ArmMeasure.Loss
                Rule.Same
        ]

    let private ratios =
        [
            "weight", "a loss that weighs text six times"
            "replay", "half of all sequences text of the corpus"
            "long", "longer captions"
        ]

    /// What the paper left open. `tasks` are the probes whose loss the paper reports.
    let beyond (tasks: string list) : Comparison list =
        [
            for name, what in ratios do
                for task in tasks do
                    paper
                        "More text"
                        $"With {what} the model keeps more of its {task}."
                        (name + "-pretrained")
                        "twin-pretrained"
                        (ArmMeasure.Task task)
                        Rule.ClearlyHigher

            for name, what in ratios do
                paper
                    "More text"
                    $"With {what} language pre-training lowers the loss on image tokens."
                    (name + "-pretrained")
                    (name + "-random")
                    ArmMeasure.Image
                    Rule.ClearlyLower

            for arm, against, told, start in
                [
                    "words-pretrained", "words-random", "in a grid", "language pre-training"
                    "told-pretrained", "told-random", "in sentences", "language pre-training"
                    "told-tied", "told-random", "in sentences", "language pre-training that knows each code's word"
                ] do
                for measure, what in
                    [
                        ArmMeasure.ImageOnTheWay, "lets the loss on image tokens fall sooner"
                        ArmMeasure.Image, "lowers the loss on image tokens at the end"
                    ] do
                    paper
                        "Codes with meaning"
                        $"With codes that stand for words, {told}, {start} {what}."
                        arm
                        against
                        measure
                        Rule.ClearlyLower
        ]
