module Hybrid.Tests.ExchangeTests

// Sums are made by address.
#nowarn "9"

open System
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Distribution
open Hybrid.Tests.Generate

let private slices =
    property2 "slices cover flat memory once, in order, and begin at multiples of 64" (1, 600) (0, 5000) (fun seed size length ->
        let length = int64 length + (Random.bits (Random.ofSeed seed) 0L |> int64 |> abs) % 100_000L
        let mutable at = 0L

        for rank in 0 .. size - 1 do
            let struct (start, count) = Slices.range size rank length
            Expect.equal start at "one begins where the one before it ends"
            Expect.isTrue (count >= 0L && (start % 64L = 0L || start = length)) "border"
            at <- start + count

        Expect.equal at length "all of it")

let private specs (seed: int64) (blocks: int) : ParameterSpec list =
    let size (k: int64) = 1L + int64 (Random.below 90_000 (Random.ofSeed seed |> Random.named "sizes") k)
    let spec name shape = { Name = name; Shape = shape; Init = Zeros }

    [
        spec "tok_embeddings.weight" [ size 0L; 2L ]
        for block in 0 .. blocks - 1 do
            spec $"layers.{block}.attention_norm.weight" [ size 1L % 300L + 1L ]
            spec $"layers.{block}.attention.in_proj.weight" [ size 2L; 3L ]
            spec $"layers.{block}.feed_forward.w12.weight" [ size 3L; 2L ]
            spec $"layers.{block}.ffn_norm.weight" [ size 1L % 300L + 1L ]
        spec "norm.weight" [ 7L ]
        spec "output.weight" [ size 0L; 2L ]
    ]

let private movements: (ParameterSpec -> Movement) list =
    [
        fun _ -> Moves
        fun spec -> if spec.Name.StartsWith "layers.0" then Stays else Moves
        fun spec ->
            if spec.Shape.Length = 2 && spec.Name.EndsWith "weight" && spec.Name.Contains "o" then
                Moves
            else
                Stays
    ]

let private buckets =
    property2
        "buckets cover what has a gradient once, none is ready before a block that it has, and owners have every element"
        (1, 5)
        (1, 7)
        (fun seed blocks size ->
            for decay in [ Parameters.Matrices; Parameters.All ] do
                for movement in movements do
                    let slots, segments, length = Parameters.layout decay movement (specs seed blocks)
                    let first = Slot.FirstMoving(slots, length)

                    let kinds =
                        [
                            for longest in [ 64L; 5000L; 1L <<< 20 ] do
                                Exchange.buckets longest slots length, longest

                                if (movement slots.Head.Spec) = Moves && first = 0L then
                                    Exchange.blockBuckets longest slots length, Int64.MaxValue
                        ]

                    for buckets, longest in kinds do
                        let sorted = buckets |> List.sortBy (fun (bucket: Bucket) -> bucket.Start)

                        Expect.equal
                            (sorted
                             |> List.fold
                                 (fun at (bucket: Bucket) ->
                                     (Expect.equal bucket.Start at "no gap"
                                      bucket.End))
                                 first)
                            length
                            "all"

                        Expect.isTrue (sorted |> List.forall (fun bucket -> bucket.Length <= longest)) "length"

                        for bucket in sorted do
                            for slot in slots do
                                if
                                    slot.Movement <> Stays
                                    && slot.Offset < bucket.End
                                    && slot.Offset + slot.Spec.Count > bucket.Start
                                then
                                    Expect.isLessThanOrEqual bucket.After (ParameterName.block slot.Spec.Name) "ready"

                        Expect.equal (buckets |> List.map _.After) (buckets |> List.map _.After |> List.sortDescending) "order"

                        let pieces =
                            [ for rank in 0 .. size - 1 -> Exchange.owned size rank buckets |> Exchange.pieces segments ]

                        let all = List.concat pieces |> List.sortBy snd
                        let total = segments |> List.sumBy _.Length

                        Expect.equal
                            (all
                             |> List.fold
                                 (fun at (piece, place) ->
                                     (Expect.equal place at "packed"
                                      at + piece.Length))
                                 0L)
                            total
                            "owned")

/// What the sum of parts, each a stride after the one before, is.
let private summed (kind: ElementType) (parts: int) (stride: int) (count: int) (source: 'a[]) : 'a[] when 'a: unmanaged =
    let target = Array.zeroCreate<'a>(max 1 count)
    use from = fixed source
    use into = fixed target
    let address = NativeInterop.NativePtr.toNativeInt
    OrderedSum.Into(address into, address from, parts, int64 stride, int64 count, kind)
    target[.. count - 1]

let private sums =
    property3
        "sums of what processes send go in the order of ranks, bf16 in fp32 with one rounding"
        (1, 6)
        (0, 200)
        (0, 3)
        (fun seed parts count kind ->
            let kind = enum<ElementType> kind
            let stride = count + 5

            let source convert =
                Array.init (parts * stride) (fun i -> convert (Random.uniform (Random.ofSeed seed) (int64 i) * 2.0 - 1.0))

            let inOrder add (source: _[]) =
                Array.init count (fun i -> Seq.init parts (fun p -> source[p * stride + i]) |> Seq.reduce add)

            let exactly add convert =
                let source = source convert
                Expect.equal (summed kind parts stride count source) (inOrder add source) $"{kind}"

            match kind with
            | ElementType.Float32 -> exactly (+) float32
            | ElementType.Float64 -> exactly (+) id
            | ElementType.Int64 -> exactly (+) (fun value -> int64 (value * 1e15))
            | _ ->
                let wide (bits: uint16) = BitConverter.UInt32BitsToSingle(uint32 bits <<< 16)
                let source = source (fun value -> uint16 (BitConverter.SingleToUInt32Bits(float32 value) >>> 16))
                let exact = inOrder (+) (Array.map wide source)

                for exact, found in Array.zip exact (summed kind parts stride count source) do
                    let error step = abs (wide (uint16 (int found + step)) - exact)
                    // A neighbour of zero may be no number, which is nearer to nothing.
                    Expect.isTrue (Single.IsFinite(error 0) && not (error 1 < error 0 || error -1 < error 0)) "the nearest bf16")

let private special =
    testCase "bf16 sums keep what is infinite or no number" (fun () ->
        for count in [ 1; 40 ] do
            let source = Array.concat [ Array.create count 0x7F80us; Array.create count 0xFF80us ]
            let sum parts = summed ElementType.BFloat16 parts count count source
            Expect.equal (sum 1) (Array.create count 0x7F80us) "infinity"

            Expect.isTrue
                (sum 2 |> Array.forall (fun bits -> bits &&& 0x7F80us = 0x7F80us && bits &&& 0x7Fus <> 0us))
                "no number")

let private read (pairs: (string * string) list) =
    let values = Map pairs
    RankVariables.Read(fun name -> Map.tryFind name values |> Option.toObj)

let private variables =
    testCase "ranks are read as launchers say them" (fun () ->
        Expect.isNull (read []) "alone"
        Expect.isNull (read [ "OMPI_COMM_WORLD_RANK", "0"; "OMPI_COMM_WORLD_SIZE", "1" ]) "one"

        for names in
            [
                [ "RANK"; "WORLD_SIZE"; "LOCAL_RANK"; "LOCAL_WORLD_SIZE" ]
                [ "OMPI_COMM_WORLD_RANK"; "OMPI_COMM_WORLD_SIZE"; "OMPI_COMM_WORLD_LOCAL_RANK"; "OMPI_COMM_WORLD_LOCAL_SIZE" ]
                [ "SLURM_PROCID"; "SLURM_STEP_NUM_TASKS"; "SLURM_LOCALID"; "SLURM_STEP_TASKS_PER_NODE" ]
            ] do
            match read (List.zip names [ "5"; "8"; "1"; "4(x2)" ]) with
            | null -> failtest "several"
            | ranks -> Expect.equal (ranks.Rank, ranks.Size, ranks.LocalRank, ranks.LocalSize) (5, 8, 1, 4) names.Head

        // A batch script is no process of a step.
        Expect.isNull (read [ "SLURM_PROCID", "0"; "SLURM_NTASKS", "8" ]) "script"

        for wrong in [ "8"; "-1"; "x"; "" ] do
            Expect.throwsT<ConfigurationException> (fun () -> read [ "RANK", wrong; "WORLD_SIZE", "8" ] |> ignore) wrong

        Expect.throwsT<ConfigurationException> (fun () -> read [ "RANK", "1" ] |> ignore) "no size")

let tests = testList "Exchange" [ slices; buckets; sums; special; variables ]
