/// The rules by which a study's claims are judged, and the answer in words.
module Hybrid.Tests.StudyVerdictTests

open System
open Expecto
open Hybrid
open Hybrid.Report
open Hybrid.Statistics
open Hybrid.Tests.Generate

let private interval mean low high : Interval = { Mean = mean; Low = low; High = high }
let private interval' low high = interval ((low + high) / 2.0) low high
let private single mean = interval mean nan nan
let private centred mean half = interval mean (mean - half) (mean + half)

let private bootstrap seed = Random.ofSeed seed |> Random.named "verdicts"

let private verdicts =
    testList
        "verdicts"
        [
            property "same: within the margin, outside it, across it, or one run" (fun seed ->
                let c = Chooser seed
                let margin = c.Float(0.01, 1.0)
                let sign = c.Of [ 1.0; -1.0 ]
                let inside = margin * c.Float(-0.4, 0.4)
                let same = Comparison.judge Rule.Same margin
                Expect.equal (same (centred inside (0.5 * margin))) Verdict.Holds "within"
                Expect.equal (same (centred (sign * 2.0 * margin) (0.9 * margin))) Verdict.DoesNotHold "outside"
                Expect.equal (same (centred (sign * margin) (0.1 * margin))) Verdict.Undecided "across the edge"
                Expect.equal (same (centred 0.0 (3.0 * margin))) Verdict.Undecided "too wide"
                Expect.equal (same (single inside)) Verdict.Undecided "one run")

            property "lower and higher: the whole interval on one side of zero, or of the margin" (fun seed ->
                let c = Chooser seed
                let size = c.Float(0.1, 5.0)
                let margin = size * c.Float(0.1, 0.4)

                for rule, mirrored, line in [ Rule.Lower, Rule.Higher, 0.0; Rule.ClearlyLower, Rule.ClearlyHigher, margin ] do
                    let verdict interval = Comparison.judge rule margin interval
                    let other (interval: Interval) = Comparison.judge mirrored margin (interval' -interval.High -interval.Low)
                    let at middle half = centred (middle - line) half

                    for wanted, interval in
                        [
                            Verdict.Holds, at -size (0.9 * size)
                            Verdict.DoesNotHold, at size (0.9 * size)
                            Verdict.Undecided, at (c.Of [ size; -size ]) (1.1 * size)
                            Verdict.Undecided, single -size
                        ] do
                        Expect.equal (verdict interval) wanted $"{rule}"
                        Expect.equal (other interval) wanted $"{mirrored}")

            property1 "a comparison: no effect, a planted effect, one run, and none" (3, 8) (fun seed runs ->
                let c = Chooser seed
                let comparison = { c.Of Comparison.ofPaper with Measure = ArmMeasure.Image; Rule = Rule.Same }
                let claim a b = Comparison.claim comparison a b
                let first = Array.init runs (fun _ -> c.Float(1.0, 5.0))
                let noise = c.Normals runs |> Array.map (fun x -> 1e-4 * x)
                let shifted by = Array.map2 (fun a n -> a + by + n) first noise
                Expect.equal (claim first (shifted 0.0)).Verdict Verdict.Holds "no effect"
                let effect = c.Of [ 1.0; -1.0 ] * c.Float(0.1, 2.0)
                Expect.equal (claim first (shifted effect)).Verdict Verdict.DoesNotHold "an effect"
                Expect.equal (claim (Array.take 1 first) (Array.take 1 (shifted 0.0))).Verdict Verdict.Undecided "one run"
                Expect.equal (claim [||] first).Verdict Verdict.Undecided "not run"
                Expect.equal (claim first first).Verdict Verdict.Undecided "no scatter, no interval"
                let wild = first |> Array.mapi (fun i a -> a + (if i % 2 = 0 then 3.0 else -3.0))
                Expect.equal (claim first wild).Verdict Verdict.Undecided "noise larger than the margin"

                Expect.equal
                    (claim first (Array.take 2 (shifted effect))).Evidence
                    (claim (Array.take 2 first) (Array.take 2 (shifted effect))).Evidence
                    "pairs are by seed: more seeds of one arm change nothing")

            testCase "the smallest effect that could have been seen" (fun () ->
                // s = 1, n = 4: (3.182 + 0.978) / 2.
                near
                    1e-3
                    0.0
                    "four seeds"
                    2.0802
                    (smallestEffect [| -1.0; -0.0; 0.0; 1.0 |] / deviation [| -1.0; 0.0; 0.0; 1.0 |])

                Expect.isTrue (Double.IsNaN(smallestEffect [| 1.0 |])) "one seed shows none"
                let claim = Comparison.claim Comparison.ofPaper[0] [| 1.0; 1.1; 1.2 |] [| 1.0; 1.0; 1.0 |]
                Expect.stringContains claim.Evidence "four times in five" "the evidence says so")

            property1 "all: one that fails decides, then one that is open" (1, 8) (fun seed count ->
                let c = Chooser seed
                let given = List.init count (fun _ -> c.Of [ Verdict.Holds; Verdict.DoesNotHold; Verdict.Undecided ])

                let expected =
                    if List.exists ((=) Verdict.DoesNotHold) given then Verdict.DoesNotHold
                    elif List.forall ((=) Verdict.Holds) given then Verdict.Holds
                    else Verdict.Undecided

                Expect.equal (StudyClaims.all given) expected "together"
                Expect.equal (StudyClaims.all (List.rev given)) expected "in any order")

            property "forgotten: less or more than a quarter of what was above chance" (fun seed ->
                let c = Chooser seed
                let chance = c.Float(0.1, 0.5)
                let gained = c.Float(0.2, 0.5)
                let before = centred (chance + gained) (0.1 * gained)
                let verdict after = (StudyClaims.forgotten "knowledge" chance before after).Verdict
                Expect.equal (verdict (centred chance (0.2 * gained))) Verdict.Holds "lost"
                Expect.equal (verdict (centred (chance + 0.9 * gained) (0.2 * gained))) Verdict.DoesNotHold "kept"
                Expect.equal (verdict (centred (chance + 0.25 * gained) (0.1 * gained))) Verdict.Undecided "between"
                Expect.equal (verdict (single chance)) Verdict.Undecided "one item"

                for never in [ centred chance (0.1 * gained); single (chance + gained) ] do
                    Expect.equal
                        (StudyClaims.forgotten "knowledge" chance never (centred chance 0.01)).Verdict
                        Verdict.Undecided
                        "what was not known cannot be lost")

            property1 "frozenNeverReach: every configuration decides" (1, 6) (fun seed count ->
                let c = Chooser seed
                let worse = Array.init count (fun i -> struct ($"frozen {i}", centred (c.Float(-2.0, -0.2)) 0.1))
                let verdict given = (StudyClaims.frozenNeverReach given).Verdict
                let place = c.Int(0, count - 1)
                let with' interval = worse |> Array.updateAt place (struct ("other", interval))
                Expect.equal (StudyClaims.frozenNeverReach [||]).Verdict Verdict.Undecided "none was run"
                Expect.equal (verdict worse) Verdict.Holds "all worse"
                Expect.equal (verdict (with' (centred 0.5 0.1))) Verdict.DoesNotHold "one better"
                Expect.equal (verdict (with' (centred 0.0 0.1))) Verdict.Undecided "one as good"
                Expect.equal (verdict (with' (single -1.0))) Verdict.Undecided "one without an interval"

                for struct (name, _) in worse do
                    Expect.stringContains (StudyClaims.frozenNeverReach worse).Evidence name "the evidence names it")

            property1 "plateau: a fall that ends early and high, and others" (30, 400) (fun seed steps ->
                let c = Chooser seed
                let pairs = c.Int(32, 1024)
                let chance = Math.Log(float pairs)
                let start, level = chance * c.Float(1.1, 1.5), chance * c.Float(0.6, 0.9)
                let at i = float i / float (steps - 1)
                let verdict shape = (StudyClaims.plateau pairs (Array.init steps shape)).Verdict
                let settled low i = low + (start - low) * exp (-12.0 * at i)
                Expect.equal (verdict (settled level)) Verdict.Holds "early and high"
                Expect.equal (verdict (settled (0.2 * chance))) Verdict.DoesNotHold "low: the pairs are told apart"
                Expect.equal (verdict (fun i -> start + (level - start) * at i)) Verdict.DoesNotHold "still falling"
                Expect.equal (verdict (fun _ -> level)) Verdict.Undecided "never fell"
                Expect.equal (verdict (fun i -> level + 0.3 * at i)) Verdict.Undecided "rose"

                for few in [ 1; 2; 29 ] do
                    Expect.equal
                        (StudyClaims.plateau pairs (Array.init few (settled level))).Verdict
                        Verdict.Undecided
                        $"{few} steps")

            property1 "nearestAreNoise: words that go with a code, and words that do not" (30, 100) (fun seed count ->
                let c = Chooser seed
                let shuffled = Array.init count (fun _ -> c.Float(0.1, 0.3))
                let noise = c.Normals count |> Array.map (fun x -> 0.01 * x)

                let verdict by =
                    (StudyClaims.nearestAreNoise (Array.map2 (fun s n -> s + by + n) shuffled noise) shuffled (bootstrap seed))
                        .Verdict

                Expect.equal (verdict 0.0) Verdict.Holds "noise"
                Expect.equal (verdict (c.Float(0.1, 0.6))) Verdict.DoesNotHold "meaning"
                let wild = shuffled |> Array.mapi (fun i s -> s + (if i % 2 = 0 then 0.9 else -0.9))

                Expect.equal
                    (StudyClaims.nearestAreNoise wild shuffled (bootstrap seed)).Verdict
                    Verdict.Undecided
                    "too few to tell"

                Expect.equal
                    (StudyClaims.nearestAreNoise [| 0.5 |] [| 0.1 |] (bootstrap seed)).Verdict
                    Verdict.Undecided
                    "one code"

                Expect.equal (StudyClaims.nearestAreNoise [||] [||] (bootstrap seed)).Verdict Verdict.Undecided "no code")
        ]

let private answers =
    testCase "the answer says what the numbers say" (fun () ->
        let found verdict mean : StudyClaims.Found =
            {
                Material = "World"
                Seeds = 8
                Image = centred mean 0.01
                ImageVerdict = verdict
                TextAtFirst = centred -1.5 0.1
                TextAtEnd = centred 0.0 0.01
                Claims = []
            }

        let said verdict mean = StudyClaims.answer (found verdict mean)

        for verdict, mean, word in
            [
                Verdict.Holds, 0.001, "No: "
                Verdict.DoesNotHold, -0.5, "Yes: "
                Verdict.DoesNotHold, 0.5, "It harms: "
                Verdict.Undecided, 0.015, "Not decided: "
            ] do
            Expect.stringContains (said verdict mean) word "the verdict in a word"
            Expect.stringContains (said verdict mean) ($"{mean:F4}".Replace('-', '−')) "the number"
            Expect.stringContains (said verdict mean) "led by 1.500" "and that of the text"

        let claim verdict : Claim = { Source = "Table 1"; Statement = ""; Verdict = verdict; Evidence = "" }

        let forgotten =
            { found Verdict.Holds 0.0 with
                Claims = [ claim Verdict.Holds; claim Verdict.DoesNotHold; claim Verdict.Holds ]
            }

        Expect.stringContains
            (StudyClaims.answer forgotten)
            "Of 3 abilities that were probed, 2 were lost by then, 1 kept"
            "counts")

let tests = testList "StudyVerdicts" [ verdicts; answers ]
