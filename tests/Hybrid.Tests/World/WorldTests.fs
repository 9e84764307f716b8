module Hybrid.Tests.WorldTests

open System
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.WorldDraw

let private nameOf split =
    match split with
    | Split.Train -> "train"
    | Split.HeldOut -> "held-out"

let private splits = [ Split.Train; Split.HeldOut ]
let private many = 2000
let private wordsOf (text: string) = text.Split ' '

let private scenes seed split count = Array.init count (fun i -> World.scene seed split (int64 i))

let private documents seed split count = Array.init count (fun i -> World.document seed split (int64 i))

/// The examples of a list; none for another text.
let private examplesOf (text: string) =
    let words = wordsOf text

    WorldLists.styles
    |> Array.tryPick (fun (struct (joint, mark)) ->
        let examples =
            words
            |> Array.chunkBySize 4
            |> Array.choose (function
                | [| word; j; partner; m |] when j = joint && m = mark -> Some(word, partner)
                | _ -> None)

        if 4 * examples.Length = words.Length then Some examples else None)

/// What is checked of every split, for some seeds and many indices.
let private forEverySplit name check = testList name [ for split in splits -> testCase (nameOf split) (fun () -> check split) ]

let private vocabulary =
    testList
        "vocabulary"
        [
            testCase "ids are the places of the words"
            <| fun () ->
                Expect.equal WorldVocabulary.words[0] "<unk>" "id 0"
                Expect.equal WorldVocabulary.words[1] "<end>" "id 1"
                Expect.equal WorldVocabulary.endId 1 "the end's id"
                Expect.isTrue (WorldVocabulary.words.Length <= 512) "fits a table of 512 rows"

                Expect.equal
                    (WorldVocabulary.encode (String.Join(" ", WorldVocabulary.words)))
                    [| 0 .. WorldVocabulary.words.Length - 1 |]
                    "every word has its own id"

            testCase "white space of any kind separates, and unknown words have id 0"
            <| fun () -> Expect.equal (WorldVocabulary.encode " a\t\nzebra  <end>") [| WorldVocabulary.id "a"; 0; 1 |] "ids"

            testCase "an id outside the vocabulary is refused"
            <| fun () ->
                for id in [ -1; WorldVocabulary.words.Length ] do
                    Expect.throwsT<InputException> (fun () -> WorldVocabulary.decode [ id ] |> ignore) $"id {id}"

            testCase "tokenizer.json has the same ids"
            <| fun () ->
                use json = JsonDocument.Parse WorldVocabulary.tokenizerJson
                let model = json.RootElement.GetProperty "model"
                Expect.equal (model.GetProperty("type").GetString()) "WordLevel" "model"
                Expect.equal (model.GetProperty("unk_token").GetString()) "<unk>" "unknown word"

                Expect.equal
                    (json.RootElement.GetProperty("pre_tokenizer").GetProperty("type").GetString())
                    "WhitespaceSplit"
                    "separator"

                let ids = [| for entry in model.GetProperty("vocab").EnumerateObject() -> entry.Name, entry.Value.GetInt32() |]

                Expect.equal ids (WorldVocabulary.words |> Array.mapi (fun id word -> word, id)) "vocabulary"
                let added = json.RootElement.GetProperty("added_tokens")[0]

                Expect.equal
                    (added.GetProperty("content").GetString(), added.GetProperty("id").GetInt32())
                    ("<end>", 1)
                    "end of text"

                Expect.isTrue (added.GetProperty("special").GetBoolean()) "special"

            testCase "every word is used by captions or text"
            <| fun () ->
                let used =
                    [
                        for split in splits do
                            for struct (caption, _) in scenes 3L split many do
                                yield! wordsOf caption

                            for document in documents 3L split (2 * many) do
                                yield! wordsOf document
                    ]
                    |> Set.ofList

                Expect.equal (WorldVocabulary.words[2..] |> Array.filter (used.Contains >> not)) [||] "words that never occur"

            forEverySplit "texts decode to themselves and have no unknown word"
            <| fun split ->
                let texts =
                    Array.append
                        (documents 5L split many)
                        (scenes 5L split many |> Array.map (fun (struct (caption, _)) -> caption))

                for text in texts do
                    let ids = WorldVocabulary.encode text
                    Expect.equal (WorldVocabulary.decode ids) text "decode of encode"
                    Expect.isFalse (Array.contains 0 ids) $"unknown word in: {text}"
                    Expect.isFalse (Array.contains WorldVocabulary.endId ids) $"end inside: {text}"
        ]

let private determinism =
    testList
        "determinism"
        [
            testPropertyWithConfig
                { FsCheckConfig.defaultConfig with maxTest = 50 }
                "the same seed, split and index give the same item"
            <| fun (seed: int) (index: uint16) ->
                for split in splits do
                    let at = int64 index
                    Expect.equal (World.pair (int64 seed) split at) (World.pair (int64 seed) split at) "pair"
                    Expect.equal (World.document (int64 seed) split at) (World.document (int64 seed) split at) "document"

            testCase "items do not depend on the order or the thread in which they are drawn"
            <| fun () ->
                let inOrder = Array.init 200 (fun i -> World.pair 7L Split.Train (int64 i))
                let inParallel = Array.Parallel.init 200 (fun i -> World.pair 7L Split.Train (int64 (199 - i)))
                Expect.equal (Array.rev inParallel) inOrder "pairs"

            testCase "bytes and text are those of every machine"
            <| fun () ->
                // Recorded values: a change of World's data changes every result that was measured on it.
                let digest (bytes: byte[]) = Convert.ToHexString(Security.Cryptography.SHA256.HashData bytes)[..15]

                let pictures = Array.init 64 (fun i -> World.pair 0L Split.Train (int64 i) |> snd) |> Array.concat

                let text =
                    Array.init 64 (fun i ->
                        World.document 0L Split.Train (int64 i) + "\n" + fst (World.pair 0L Split.HeldOut (int64 i)))
                    |> String.concat "\n"

                Expect.equal (digest pictures) "5A23DE54F13703A5" "pictures"
                Expect.equal (digest (Text.Encoding.UTF8.GetBytes text)) "573707FAACB5EBDE" "documents and captions"

            testCase "other seeds give other items"
            <| fun () ->
                Expect.notEqual (documents 1L Split.Train 20) (documents 2L Split.Train 20) "documents"
                Expect.notEqual (scenes 1L Split.Train 20) (scenes 2L Split.Train 20) "scenes"
        ]

let private text =
    testList
        "text"
        [
            forEverySplit "documents are at most 80 words"
            <| fun split ->
                for document in documents 19L split many do
                    Expect.isLessThanOrEqual (wordsOf document).Length WorldText.maximumWords document

            testCase "no document and no caption is in both splits"
            <| fun () ->
                let overlap (drawn: Split -> string[]) =
                    Set.intersect (Set.ofArray (drawn Split.Train)) (Set.ofArray (drawn Split.HeldOut))

                // The seeds differ as well: a split must not depend on the seed.
                Expect.isEmpty
                    (overlap (fun split -> Array.append (documents 23L split many) (documents 24L split many)))
                    "documents"

                Expect.isEmpty
                    (overlap (fun split ->
                        Array.append (scenes 23L split many) (scenes 24L split many)
                        |> Array.map (fun (struct (caption, _)) -> caption)))
                    "captions"

                Expect.isEmpty
                    (overlap (fun split ->
                        Array.append (scenes 23L split many) (scenes 24L split many)
                        |> Array.map (fun (struct (_, scene)) -> WorldScene.composition scene)))
                    "compositions"

            testCase "no two examples of a list that are held out stand side by side in the train split"
            <| fun () ->
                let adjacent document =
                    match examplesOf document with
                    | Some examples ->
                        WorldLists.rules
                        |> Array.filter (fun rule -> examples |> Array.forall (fun e -> Array.contains e rule.Pairs))
                        |> Array.collect (fun rule -> WorldLists.combinations rule (Array.map fst examples))
                        |> List.ofArray
                    | None -> []

                let found split = documents 29L split many |> Array.toList |> List.collect adjacent
                let train = found Split.Train
                Expect.isGreaterThan train.Length 500 "pairs of examples"
                Expect.all train (fun pair -> splitOf pair = Split.Train) "all of the train split"

                Expect.exists
                    (found Split.HeldOut)
                    (fun pair -> splitOf pair = Split.HeldOut)
                    "held-out pairs are in held-out text"

            testCase "about one composition in ten is held out"
            <| fun () ->
                let share =
                    Array.init many (fun i -> WorldScene.scene (Random.ofSeed (int64 i)) |> WorldScene.composition)
                    |> Array.distinct
                    |> Array.averageBy (fun c -> if splitOf c = Split.HeldOut then 1.0 else 0.0)

                Expect.isTrue (share > 0.07 && share < 0.13) $"share {share}"
        ]

let private facts =
    testList
        "facts"
        [
            testCase "every subject has exactly one object per relation, and objects are dealt evenly"
            <| fun () ->
                for relation in WorldFacts.relations do
                    let own = WorldFacts.all |> Array.filter (fun fact -> fact.Relation.Name = relation.Name)
                    Expect.equal (own |> Array.map _.Subject |> Array.sort) (Array.sort relation.Subjects) relation.Name
                    let counts = own |> Array.countBy _.Object |> Array.map snd
                    Expect.isLessThanOrEqual (Array.max counts - Array.min counts) 1 relation.Name

            testCase "no wording without its subject and object, and prompts end with the object"
            <| fun () ->
                for relation in WorldFacts.relations do
                    for wording in relation.Prompts do
                        Expect.isTrue (wording.EndsWith " O .") wording

                    for wording in Array.append relation.Prompts relation.Others do
                        Expect.contains (wordsOf wording) "S" wording
                        Expect.contains (wordsOf wording) "O" wording
        ]

let private probes =
    let all seed = [ WorldProbe.knowledge seed 120; WorldProbe.inContext seed 120; WorldProbe.narrative seed 120 ]

    testList
        "probes"
        [
            testCase "are well formed, seeded and distinct"
            <| fun () ->
                for items in all 1L do
                    Expect.isGreaterThanOrEqual items.Length 100 "items"
                    Expect.equal (items |> Array.map _.Prompt |> Array.distinct |> Array.length) items.Length items[0].Task
                    Expect.equal (WorldProbe.chance items) 0.25 "chance"

                    for probe in items do
                        Expect.equal probe.Choices.Length WorldProbe.choices probe.Prompt
                        Expect.equal (Array.distinct probe.Choices) probe.Choices probe.Prompt
                        Expect.isTrue (probe.Answer >= 0 && probe.Answer < probe.Choices.Length) probe.Prompt
                        Expect.isFalse (WorldVocabulary.encode probe.Prompt |> Array.contains 0) probe.Prompt
                        Expect.isFalse (probe.Choices |> Array.exists (fun c -> WorldVocabulary.id c = 0)) probe.Prompt

                Expect.equal (all 1L) (all 1L) "the same seed"
                Expect.notEqual (all 1L) (all 2L) "another seed"

            testCase "right answers stand at every place"
            <| fun () ->
                for items in all 3L do
                    for place in 0..3 do
                        let count = items |> Array.filter (fun probe -> probe.Answer = place) |> Array.length
                        Expect.isTrue (count > 12 && count < 60) $"{items[0].Task}: {count} answers at place {place}"

            testCase "knowledge: the text states the right answer and none of the wrong ones"
            <| fun () ->
                let text = " " + String.Join(" ", documents 31L Split.Train 12000) + " "
                let states (probe: Probe) choice = text.Contains $" {probe.Prompt} {choice} ."

                for probe in WorldProbe.knowledge 5L 192 do
                    probe.Choices
                    |> Array.iteri (fun i choice ->
                        Expect.equal (states probe choice) (i = probe.Answer) $"{probe.Prompt} {choice}")

            testCase "in-context: the answer follows the rule of the examples, and wrong choices break it"
            <| fun () ->
                for probe in WorldProbe.inContext 7L 200 do
                    let words = wordsOf probe.Prompt
                    let word, joint = words[words.Length - 2], words[words.Length - 1]

                    let examples = words[.. words.Length - 3] |> Array.chunkBySize 4 |> Array.map (fun e -> e[0], e[2])

                    let fitting =
                        WorldLists.rules
                        |> Array.filter (fun rule -> examples |> Array.forall (fun e -> Array.contains e rule.Pairs))

                    Expect.equal fitting.Length 1 $"one rule explains: {probe.Prompt}"
                    Expect.equal words[1] joint "one style"

                    probe.Choices
                    |> Array.iteri (fun i choice ->
                        Expect.equal
                            (Array.contains (word, choice) fitting[0].Pairs)
                            (i = probe.Answer)
                            $"{probe.Prompt} {choice}")

            testCase "in-context: the prompts never occur in the train split"
            <| fun () ->
                let last (prompt: string) =
                    let words = wordsOf prompt
                    String.Join(" ", words[words.Length - 6 ..])

                let text = " " + String.Join(" \n ", documents 37L Split.Train 12000) + " "

                for probe in WorldProbe.inContext 7L 200 do
                    Expect.isFalse (text.Contains(" " + last probe.Prompt + " ")) probe.Prompt

            testCase "narrative: the answer was named before, and where two of its sort were, both are choices"
            <| fun () ->
                let items = WorldProbe.narrative 9L 200

                for probe in items do
                    Expect.contains (wordsOf probe.Prompt) probe.Choices[probe.Answer] probe.Prompt

                let rivals =
                    items
                    |> Array.filter (fun probe ->
                        let named = probe.Choices |> Array.filter (fun c -> Array.contains c (wordsOf probe.Prompt))
                        named.Length >= 2)

                Expect.isGreaterThan rivals.Length 80 "stories that take keeping two of a sort apart"

                let sorts =
                    [ WorldVocabulary.characters; WorldVocabulary.objects; WorldVocabulary.places; WorldVocabulary.colours ]

                for probe in items do
                    let sort = sorts |> List.find (Array.contains probe.Choices[probe.Answer])
                    let named = wordsOf probe.Prompt |> Array.filter (fun word -> Array.contains word sort) |> Array.distinct
                    Expect.containsAll sort probe.Choices probe.Prompt
                    Expect.containsAll probe.Choices named probe.Prompt

            testCase "asking for more facts than there are gives them all"
            <| fun () -> Expect.equal (WorldProbe.knowledge 1L 100000).Length WorldFacts.all.Length "facts"
        ]

let tests = testList "World" [ vocabulary; determinism; text; facts; probes ]
