/// The paper's claims that are not a comparison of two arms, and the answer in words.
module Hybrid.StudyClaims

open System
open Hybrid.Report
open Hybrid.Statistics

/// Several conditions together: one that does not hold decides, one that is undecided leaves it so.
let all (verdicts: Verdict seq) : Verdict =
    if Seq.contains Verdict.DoesNotHold verdicts then Verdict.DoesNotHold
    elif Seq.contains Verdict.Undecided verdicts then Verdict.Undecided
    else Verdict.Holds

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
            $"Accuracy before {Comparison.show before}, after {Comparison.show after}, chance {chance:F3}; lost means below {threshold:F3}, a quarter of what was above chance."
    }

/// Fig. 6: no frozen configuration reaches the fully tuned loss. For each, its interval of (fully tuned − frozen).
let frozenNeverReach (differences: (struct (string * Interval))[]) : Claim =
    let shown =
        differences
        |> Array.map (fun struct (name, interval) -> $"{name} {Comparison.show interval}")
        |> String.concat "; "

    {
        Source = "Fig. 6"
        Statement = "No frozen configuration reaches the loss of the fully tuned model."
        Verdict =
            if differences.Length = 0 then
                Verdict.Undecided
            else
                differences |> Array.map (fun struct (_, interval) -> Comparison.judge Rule.Lower 0.0 interval) |> all
        Evidence =
            if differences.Length = 0 then
                "No frozen configuration was run."
            else
                $"Fully tuned minus frozen, held-out image loss in nats, paired over sequences: {shown}."
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
            $"Share of a code's nearest words that occur more often with it than elsewhere, trained on true captions minus on shuffled ones, over {hits.Length} codes: {Comparison.show difference}."
    }


/// What an answer is made of.
type Found =
    {
        /// What the pictures and texts are called
        Material: string
        /// Of the captioned twins
        Seeds: int
        /// Held-out image loss at the end, pre-trained minus random, and its verdict as "the same"
        Image: Interval
        /// Whether the two are the same by the rule
        ImageVerdict: Verdict
        /// Held-out text loss at the first evaluation, and at the end
        TextAtFirst: Interval
        /// Held-out text loss at the end, pre-trained minus random
        TextAtEnd: Interval
        /// All, with their verdicts
        Claims: Claim seq
    }

let private count (verdict: Verdict) (claims: Claim list) =
    claims |> List.filter (fun claim -> claim.Verdict = verdict) |> List.length

let private both (claims: Claim list) =
    $"{count Verdict.Holds claims} hold, {count Verdict.DoesNotHold claims} do not, {count Verdict.Undecided claims} stay undecided"

/// The answer to the question whether language pre-training helps image tokens, in a paragraph: nothing but what the numbers say.
let answer (found: Found) : string =
    let claims = List.ofSeq found.Claims
    let from (source: string) = claims |> List.filter (fun claim -> claim.Source = source)
    let nats (interval: Interval) = $"{Comparison.show interval} nats a token"

    let image =
        let difference =
            $"the pre-trained model's held-out image loss minus its random twin's is {nats found.Image} over {found.Seeds} seeds"

        match found.ImageVerdict with
        | Verdict.Holds ->
            $"No: {difference}, inside the ±{Comparison.lossMargin:F4} that count as none. Language pre-training brought image tokens nothing."
        | Verdict.DoesNotHold when found.Image.Mean < 0.0 ->
            $"Yes: {difference}. Language pre-training lowered the loss on image tokens by more than the {Comparison.lossMargin:F4} that count as none."
        | Verdict.DoesNotHold -> $"It harms: {difference}. Language pre-training raised the loss on image tokens."
        | _ ->
            $"Not decided: {difference}, which neither lies within ±{Comparison.lossMargin:F4} nor outside. More seeds or a longer run would tell."

    let text =
        if Double.IsNaN found.TextAtFirst.Mean then
            ""
        else
            let stood = if found.TextAtFirst.Mean < 0.0 then "led" else "was behind"
            $" On text tokens it {stood} by {abs found.TextAtFirst.Mean:F3} nats at the first evaluation; at the end the difference is {nats found.TextAtEnd}."

    let forgetting =
        match from "Table 1" with
        | [] -> ""
        | lost ->
            $" Of {lost.Length} abilities that were probed, {count Verdict.Holds lost} were lost by then, {count Verdict.DoesNotHold lost} kept, {count Verdict.Undecided lost} undecided."

    let ratio =
        match from "More text" with
        | [] -> ""
        | more -> $" Of {more.Length} claims that more text would preserve or transfer something, {both more}."

    let words =
        match from "Codes with meaning" with
        | [] -> ""
        | words ->
            $" With image codes that stand for words, where pre-training should help if meaning is what learned codes lack, of {words.Length} claims of help {both words}."

    $"Does language pre-training help image tokens on {found.Material}? {image}{text}{forgetting}{ratio}{words}"
