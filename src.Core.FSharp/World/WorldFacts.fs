/// What there is to know in World: relations between invented entities, each fact in several wordings. Facts are the same for
/// every seed and in both splits; what is held out is which statements stand side by side.
namespace Hybrid

open Hybrid.WorldDraw
open Hybrid.WorldVocabulary

/// A relation: each subject has one object. In a wording, S stands for the subject and O for the object; the wordings of
/// `Prompts` end with the object, those of `Others` do not.
type FactRelation =
    {
        /// What the report calls it
        Name: string
        /// Each once
        Subjects: string[]
        /// The answers that there are
        Objects: string[]
        /// Wordings that end with the object
        Prompts: string[]
        /// Wordings that do not
        Others: string[]
    }

/// That a subject has an object.
type Fact =
    {
        /// Which relation holds
        Relation: FactRelation
        /// Whom it is about
        Subject: string
        /// What the answer is
        Object: string
    }

/// The relations and facts of World, as statements and questions.
module WorldFacts =

    let private relation name subjects (objects: string) prompts others =
        {
            Name = name
            Subjects = subjects
            Objects = objects.Split ' '
            Prompts = prompts
            Others = others
        }

    /// The relations: three of countries, four of people, three of animals.
    let relations: FactRelation[] =
        [|
            relation
                "capital"
                countries
                (String.concat " " towns)
                [| "the capital of S is O ."; "question : what is the capital of S ? answer : O ." |]
                [| "O is the capital of S ." |]
            relation
                "flag"
                countries
                "red orange yellow green blue purple black white"
                [| "the flag of S is O ."; "question : what colour is the flag of S ? answer : O ." |]
                [| "S has a O flag ." |]
            relation
                "crop"
                countries
                "wheat rice corn apples grapes tea cotton potatoes"
                [| "the crop of S is O ."; "question : what is the crop of S ? answer : O ." |]
                [| "they grow O in S ." |]
            relation
                "job"
                people
                "baker doctor teacher farmer painter singer sailor tailor"
                [| "S works as a O ."; "question : what is the job of S ? answer : O ." |]
                [| "the O is called S ." |]
            relation
                "home"
                people
                (String.concat " " countries[..7])
                [| "S lives in O ."; "question : where is the home of S ? answer : O ." |]
                [| "O is the home of S ." |]
            relation
                "instrument"
                people
                "piano flute harp violin horn guitar trumpet cello"
                [| "S plays the O ."; "question : what does S play ? answer : O ." |]
                [| "the O is played by S ." |]
            relation
                "pet"
                people
                "dog cat bird horse rabbit duck goat mouse"
                [| "the pet of S is a O ."; "question : which animal lives with S ? answer : O ." |]
                [| "S keeps a O at home ." |]
            relation
                "coat"
                creatures
                "red orange yellow green blue purple brown pink"
                [| "the S is O ."; "question : what colour is the S ? answer : O ." |]
                [| "O is the colour of the S ." |]
            relation
                "food"
                creatures
                "seeds worms leaves nuts honey berries roots moss"
                [| "the S eats O ."; "question : what does the S eat ? answer : O ." |]
                [| "they feed O to the S ." |]
            relation
                "habitat"
                creatures
                "forest river desert cave lake hills swamp valley"
                [| "the S lives in the O ."; "question : where is the S found ? answer : O ." |]
                [| "in the O lives the S ." |]
        |]

    /// Every fact. The objects of a relation are dealt evenly, so that none is a better guess than another.
    let all: Fact[] =
        [|
            for relation in relations do
                let dealt =
                    Random.ofSeed 0L |> Random.named "facts" |> sample relation.Name relation.Subjects.Length relation.Subjects

                for i, subject in Array.indexed dealt ->
                    { Relation = relation; Subject = subject; Object = relation.Objects[i % relation.Objects.Length] }
        |]

    /// A fact in a wording.
    let state (wording: string) (fact: Fact) : string =
        wording.Split ' '
        |> Array.map (function
            | "S" -> fact.Subject
            | "O" -> fact.Object
            | word -> word)
        |> sentence
        |> withArticles

    /// A fact in one of its wordings.
    let statement (stream: Random.Stream) (fact: Fact) : string =
        let wordings = Array.append fact.Relation.Prompts fact.Relation.Others
        state (pick "wording" wordings stream) fact

    let private ofSubject = all |> Array.groupBy _.Subject |> Array.map snd

    /// `count` statements for a document, at most nine: everything about a few subjects one after the other, or facts from
    /// anywhere.
    let statements (count: int) (stream: Random.Stream) : string[] =
        let facts =
            if happens "portrait" 0.5 stream then
                let several = sample "subjects" 3 ofSubject stream

                several
                |> Array.mapi (fun i facts -> sample "facts" facts.Length facts (Random.numbered (int64 i) stream))
                |> Array.concat
            else
                sample "facts" count all stream

        facts
        |> Array.truncate count
        |> Array.mapi (fun i fact -> statement (stream |> Random.named "statement" |> Random.numbered (int64 i)) fact)
