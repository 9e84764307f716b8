/// Questions with one right answer among several, that measure what a language model learnt from World's text: knowledge,
/// learning from
/// examples in the context, and the thread of a story.
namespace Hybrid

open Hybrid.WorldDraw

/// A question: the text before the answer, the possible answers (one word each), and the index of the right one.
type Probe =
    {
        /// Which probe it belongs to
        Task: string
        /// The text before the answer
        Prompt: string
        /// One word each
        Choices: string[]
        /// The right one's index
        Answer: int
    }

/// Questions about World, drawn from a stream.
module WorldProbe =

    /// Number of choices of every probe.
    let choices: int = 4

    let private probe task prompt right (wrong: string seq) stream =
        let shown =
            wrong |> Seq.distinct |> Seq.filter (fun word -> word <> right) |> Seq.truncate (choices - 1) |> Array.ofSeq

        let shown = sample "choices" choices (Array.append [| right |] shown) stream

        {
            Task = task
            Prompt = prompt
            Choices = shown
            Answer = Array.findIndex (fun word -> word = right) shown
        }

    let private streamOf (task: string) (seed: int64) = Random.ofSeed seed |> Random.named "probe" |> Random.named task

    /// `count` probes with different prompts, each drawn from its own stream.
    let private different (task: string) (seed: int64) (count: int) (draw: Random.Stream -> Probe) =
        Seq.initInfinite (fun i -> draw (Random.numbered (int64 i) (streamOf task seed)))
        |> Seq.distinctBy _.Prompt
        |> Seq.truncate count
        |> Array.ofSeq

    /// Facts that the text states, as sentences to be completed. Wrong choices are objects of the same relation. At most as many
    /// as there are facts.
    let knowledge (seed: int64) (count: int) : Probe[] =
        let stream = streamOf "knowledge" seed

        sample "facts" count WorldFacts.all stream
        |> Array.mapi (fun i fact ->
            let stream = Random.numbered (int64 i) stream
            let wording = pick "wording" fact.Relation.Prompts stream
            let prompt = wording[.. wording.IndexOf " O ." - 1]
            let wrong = sample "wrong" fact.Relation.Objects.Length fact.Relation.Objects stream
            probe "knowledge" (WorldFacts.state prompt fact) fact.Object wrong stream)

    /// Lists of four examples and a word whose partner is asked for. The last example and the word never stand side by side in
    /// the train split. Wrong choices are the word's partners under the other rules, then partners of other words under the right
    /// rule: neither the rule nor the word alone gives the answer away.
    let inContext (seed: int64) (count: int) : Probe[] =
        let ask (stream: Random.Stream) =
            let rule = pick "rule" WorldLists.rules stream
            let examples = sample "examples" 5 rule.Pairs stream
            struct (rule, examples[..3], examples[4])

        let unseen (struct (rule: ListRule, examples: (string * string)[], (word, _))) =
            splitOf (WorldLists.combination rule (fst examples[3]) word) = Split.HeldOut

        different "in-context" seed count (fun stream ->
            let struct (rule, examples, (word, partner)) = until unseen ask stream
            let style = pick "style" WorldLists.styles stream
            let struct (joint, _) = style

            let elsewhere =
                WorldLists.rules
                |> Array.collect (fun other -> other.Pairs |> Array.filter (fun (w, p) -> w = word && p <> partner))

            let wrong =
                Array.append (sample "elsewhere" 2 elsewhere stream) (sample "same rule" rule.Pairs.Length rule.Pairs stream)

            probe "in-context" $"{WorldLists.write style examples} {word} {joint}" partner (Array.map snd wrong) stream)

    /// Stories of the held-out split without their last word. Wrong choices are of the same sort; where the story names
    /// two of the sort, the other one is among them.
    let narrative (seed: int64) (count: int) : Probe[] =
        different "narrative" seed count (fun stream ->
            let story = until (fun (s: WorldStories.Story) -> splitOf s.Combination = Split.HeldOut) WorldStories.story stream

            probe "narrative" story.Opening story.Last story.Rivals stream)

    /// The share of right answers of a guesser.
    let chance (probes: Probe seq) : float = probes |> Seq.averageBy (fun probe -> 1.0 / float probe.Choices.Length)
