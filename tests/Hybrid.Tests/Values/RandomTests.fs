module Hybrid.Tests.RandomTests

open System
open System.Threading.Tasks
open Expecto
open Hybrid
open Hybrid.Tests.Generate

let private stream (seed: int64) (name: string) = Random.ofSeed seed |> Random.named name

/// Mean and standard deviation.
let private moments (values: float[]) =
    let mean = Array.average values
    mean, sqrt (Array.averageBy (fun v -> (v - mean) ** 2.0) values)

let tests =
    testList
        "Random"
        [
            testCase "is SplitMix64: the published outputs of seed 1234567" (fun () ->
                let outputs = Array.init 5 (fun i -> Random.bits { Key = 1234567UL } (int64 i))

                Expect.equal
                    outputs
                    [|
                        6457827717110365317UL
                        3203168211198807973UL
                        9817491932198370423UL
                        4593380528125082431UL
                        16408922859458223821UL
                    |]
                    "the generator's own test vector")

            testCase "gives the same bits on every machine" (fun () ->
                // Computed apart from this code, from the definitions of the functions.
                Expect.equal (Random.bits (Random.ofSeed 0L) 0L) 0xa706dd2f4d197e6fUL "root of seed 0"
                Expect.equal (Random.bits (stream 0L "weights") 0L) 0x74dd166b944181afUL "a named stream"
                Expect.equal (Random.bits (stream 1L "weights") 1L) 0x56cdc1f5665ae454UL "another seed"
                Expect.equal (Random.bits (stream -7L "é") 123456789012L) 0xb1abed424d9ce961UL "a negative seed, far on"
                Expect.equal (Random.bits (stream 20240229L "sampling") 65535L) 0x0bf80e5be75d17acUL "end of a block"
                let numbered = stream 5L "data" |> Random.numbered -3L
                Expect.equal (Random.bits numbered 9L) 0x855a7ce628eb429cUL "a numbered stream"
                Expect.equal (Random.uniform numbered 9L) 0.5209119855798408 "uniform"
                Expect.equal (Random.below 1000 numbered 9L) 520 "below"
                let order = stream 3L "order"
                let ten = Array.init 10 (fun i -> Random.permuted 10L order (int64 i))
                Expect.equal ten [| 5L; 9L; 6L; 7L; 4L; 0L; 2L; 8L; 3L; 1L |] "a permutation of ten"
                Expect.equal (Random.permuted 1000003L order 999999L) 320670L "a place in a large permutation")

            property "children, names, numbers and seeds are different streams" (fun seed ->
                let keys: uint64 list =
                    [
                        for name in [ ""; "a"; "b"; "ab"; "ba"; "aa" ] do
                            yield (stream seed name).Key
                        for number in [ -1L; 0L; 1L; 2L ] do
                            yield (Random.numbered number (Random.ofSeed seed)).Key
                        for other in 0L .. 3L do
                            yield (Random.ofSeed (seed + other)).Key
                        yield (Random.ofSeed seed |> Random.named "a" |> Random.named "b").Key
                    ]

                Expect.equal (List.distinct keys).Length keys.Length "streams that are one")

            property "uniform lies in [0, 1) and is uniform" (fun seed ->
                let values = Array.init 4000 (fun i -> Random.uniform (stream seed "u") (int64 i))
                Expect.all values (fun v -> v >= 0.0 && v < 1.0) "range"
                let mean, deviation = moments values
                // Six standard errors of 4,000 values.
                near 0.028 0.0 "mean" 0.5 mean
                near 0.013 0.0 "deviation" (sqrt (1.0 / 12.0)) deviation)

            property1 "below lies in range and reaches all of it" (1, 40) (fun seed count ->
                let values = Array.init (count * 40) (fun i -> Random.below count (stream seed "b") (int64 i))
                Expect.all values (fun v -> v >= 0 && v < count) "range"
                Expect.equal (Array.distinct values).Length count "values reached")

            testCase "below takes counts up to the largest" (fun () ->
                let values = Array.init 1000 (fun i -> Random.below Int32.MaxValue (stream 1L "b") (int64 i))
                Expect.all values (fun v -> v >= 0) "range"
                Expect.isGreaterThan (Array.max values) 2_000_000_000 "the top of the range")

            testCase "the normal quantile has its known values" (fun () ->
                // Tables of the standard normal distribution, and p = Φ(z) by the complementary error function.
                for p, z in
                    [
                        0.5, 0.0
                        0.9, 1.2815515655446004
                        0.975, 1.959963984540054
                        0.995, 2.5758293035489004
                        0.001349898031630095, -3.0
                        1e-10, -6.361340902404056
                        1e-300, -37.0470962993612
                    ] do
                    near 1e-14 4e-15 $"quantile of {p}" z (Random.normalQuantile p))

            property "the normal quantile rises and is odd" (fun seed ->
                let chooser = Chooser seed
                let points = Array.init 200 (fun _ -> chooser.Float(0.0, 1.0)) |> Array.filter (fun p -> p > 0.0) |> Array.sort
                let quantiles = Array.map Random.normalQuantile points

                for a, b in Array.pairwise quantiles do
                    Expect.isLessThanOrEqual a b "order"

                for p in points do
                    near 1e-9 1e-9 "symmetry" (-Random.normalQuantile p) (Random.normalQuantile (1.0 - p)))

            property "normal values have mean 0 and deviation 1" (fun seed ->
                let mean, deviation = moments (Array.init 4000 (fun i -> Random.normal (stream seed "n") (int64 i)))
                near 0.095 0.0 "mean" 0.0 mean
                near 0.068 0.0 "deviation" 1.0 deviation)

            property "truncated normal values stay within three deviations and have their moments" (fun seed ->
                let deviation = 0.02 + 0.1 * float (seed % 7L)
                let values = Array.zeroCreate<float32> 4000
                Random.fillTruncatedNormal deviation (stream seed "t") (values.AsSpan())
                let values = Array.map float values
                Expect.all values (fun v -> abs v <= 3.0 * deviation * (1.0 + 1e-7)) "cut"
                let mean, found = moments values
                near (0.095 * deviation) 0.0 "mean" 0.0 mean
                // √(1 − 6 φ(3) / (Φ(3) − Φ(−3)))
                near (0.065 * deviation) 0.0 "deviation" (0.98658 * deviation) found)

            testCase "the truncated tails are reached" (fun () ->
                let values = Array.zeroCreate<float32> 200_000
                Random.fillTruncatedNormal 1.0 (stream 1L "t") (values.AsSpan())
                Expect.isGreaterThan (Array.max values) 2.9f "upper"
                Expect.isLessThan (Array.min values) -2.9f "lower")

            property1 "permuted is a permutation" (1, 700) (fun seed count ->
                let found = Array.init count (fun i -> Random.permuted (int64 count) (stream seed "p") (int64 i))
                Expect.equal (Array.sort found) (Array.init count int64) "each index once")

            property1 "permutations of different streams differ" (40, 400) (fun seed count ->
                let of' name = Array.init count (fun i -> Random.permuted (int64 count) (stream seed name) (int64 i))
                Expect.notEqual (of' "a") (of' "b") "two streams"
                Expect.notEqual (of' "a") (Array.init count int64) "the identity")

            testCase "permuted takes any count" (fun () ->
                for count in [ 1L; 2L; 3L; 4L; 1L <<< 40; (1L <<< 62) - 1L; 1L <<< 62; (1L <<< 62) + 1L; Int64.MaxValue ] do
                    let places = [ 0L; count / 2L; count - 1L ] |> List.distinct
                    let work = Task.Run(fun () -> places |> List.map (Random.permuted count (stream 1L "p")))
                    Expect.isTrue (work.Wait 10_000) $"a permutation of {count} ends"
                    Expect.all work.Result (fun x -> x >= 0L && x < count) $"range of {count}"
                    Expect.equal (List.distinct work.Result).Length places.Length $"distinct places of {count}")

            testCase "the order of 134 million pairs takes no memory" (fun () ->
                let count = 134_000_000L
                let order = stream 1L "order"
                let places = [| for i in 0L .. 9_999L -> i * (count / 9_999L) |> min (count - 1L) |]
                let before = GC.GetAllocatedBytesForCurrentThread()
                let found = places |> Array.map (Random.permuted count order)
                Expect.isLessThan (GC.GetAllocatedBytesForCurrentThread() - before) 1_000_000L "memory"
                Expect.all found (fun place -> place >= 0L && place < count) "range"
                Expect.equal (Array.distinct found).Length places.Length "distinct"
                // They fall into the tenths of the range about equally often: 1,000 each, with a deviation of 30.
                let tenths = found |> Array.countBy (fun place -> 10L * place / count)
                Expect.all tenths (fun (_, n) -> abs (n - 1000) < 180) "spread"
                let first = Random.permuted count order 0L
                Expect.equal first (Random.permuted count (stream 1L "order") 0L) "the same again"
                Expect.notEqual first (Random.permuted count (stream 2L "order") 0L) "another seed")

            testCase "permuted refuses a position outside" (fun () ->
                for position in [ -1L; 5L; Int64.MaxValue ] do
                    Expect.throwsT<ArgumentOutOfRangeException>
                        (fun () -> Random.permuted 5L (Random.ofSeed 0L) position |> ignore)
                        $"position {position} of 5")
        ]
