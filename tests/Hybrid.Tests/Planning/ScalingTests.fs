/// Predictions for many GPUs: memory by stage of ZeRO, bytes by collective, time, and the choice.
module Hybrid.Tests.ScalingTests

open System
open System.Text.RegularExpressions
open Expecto
open Hybrid
open Hybrid.Tests.Generate

let private work (chooser: Chooser) : ScalingWork =
    let rows = chooser.Int(50, 3000)

    let model =
        { ModelConfig.openLm (64 * chooser.Int(1, 6)) (chooser.Int(1, 5)) 2 rows 256 with
            Tied = chooser.Bool()
            FeedForward = chooser.Of [ SwiGlu; Gelu ]
            Norm = chooser.Of [ LayerNorm; RmsNorm ]
        }

    let precision = chooser.Of [ Fp32; Bf16 ]
    let positions = chooser.Int(8, 256)

    {
        Model = model
        Movement =
            if chooser.Int(0, 3) = 0 then
                Trainable.movement model (rows / 2) Trainable.EmbeddingHead
            else
                (fun _ -> Moves)
        Precision = precision
        Gradients = if precision = Bf16 then chooser.Of [ Fp32; Bf16 ] else Fp32
        Positions = positions
        TokensPerStep = float (positions * chooser.Int(1, 60))
        Tokens = 1e9
    }

let private cluster (chooser: Chooser) (most: int) : Cluster =
    {
        Gpus = chooser.Int(1, most)
        GpusPerNode = chooser.Int(1, 8)
        GpuMemory = 1e9 + 1e9 * chooser.Float(0.05, 0.6)
        Link = 10.0 ** chooser.Float(7.0, 11.0)
        NodeLink = 10.0 ** chooser.Float(8.0, 12.0)
        Latency = 1e-6 * chooser.Float(0.0, 50.0)
        Rate = 10.0 ** chooser.Float(10.0, 14.0)
    }

let private choice (work: ScalingWork) (cluster: Cluster) (zero: int) (checkpointing: Checkpointing) (microBatch: int) =
    {
        Zero = zero
        Checkpointing = checkpointing
        Accumulation = (Scaling.sequences work cluster + microBatch - 1) / microBatch
        MicroBatch = microBatch
    }

/// Every way to train that there is, whether or not it fits.
let private candidates (work: ScalingWork) (cluster: Cluster) : ScalingStep list =
    [
        for zero in 0 .. (if cluster.Gpus = 1 then 0 else 3) do
            for way in Memory.ways { Zero = zero; World = cluster.Gpus } do
                for microBatch in 1 .. Scaling.sequences work cluster do
                    Scaling.predict work cluster (choice work cluster zero way microBatch)
    ]

let private memory =
    property2 "memory never grows with the stage or with the processes" (1, 40) (1, 8) (fun seed world micro ->
        let chooser = Chooser seed
        let work = work chooser
        let way = chooser.Of [ for _, way in Checkpointing.names -> way ]
        let at world zero = Scaling.memory work { cluster chooser 1 with Gpus = world } zero way micro

        for world in [ world; world + 1; 1000 ] do
            let totals = [ for zero in 0..3 -> (at world zero).Total ]
            Expect.equal totals (List.sortDescending totals) $"stages 0 to 3 for {world}"

        for zero in 0..3 do
            Expect.equal (at 1 zero) (at 1 0) "a process alone has nothing to share"
            let totals = [ for world in 1..8 -> (at world zero).Total ]
            Expect.equal totals (List.sortDescending totals) $"stage {zero} for 1 to 8 processes"
            let shared, whole = at world zero, at 1 0

            if zero >= 1 then
                Expect.isTrue
                    (int64 world * shared.Moments >= whole.Moments && int64 world * (shared.Moments - 8L) < whole.Moments)
                    $"slices of moments of {shared.Moments} make {whole.Moments}"
            else
                Expect.equal shared whole "stage 0 shares nothing")

let private slices =
    testCase "what a process has of a large model, in bytes for each parameter" (fun () ->
        // Two precisions of weights, a gradient in each, two moments: 6 + 6 + 8.
        let model = ModelConfig.openLm 1024 200 8 64 64
        let count = float (Decoder.parameterCount model)

        let plan =
            {
                Precision = Bf16
                Gradients = Fp32
                Checkpointing = Checkpointing.Full
                Sequences = 1
                Threads = 1
                Positions = 8
                OnCpu = false
                Passes = false
            }

        let shared sharing = Memory.ofShared model (fun _ -> Moves) plan sharing

        let each zero world =
            let found = shared { Zero = zero; World = world }
            [| found.Weights; found.Gradients; found.Moments |] |> Array.map (fun bytes -> float bytes / count)

        for zero, wanted in
            [
                0, [| 6.0; 6.0; 8.0 |]
                1, [| 2.0 + 4.0 / 50.0; 6.0; 8.0 / 50.0 |]
                // The computing copy stays whole; a block's gradient and two blocks' weights are a few hundredths.
                2, [| 2.0 + 4.0 / 50.0; 4.0 / 50.0; 8.0 / 50.0 |]
                3, [| 4.0 / 50.0; 4.0 / 50.0; 8.0 / 50.0 |]
            ] do
            close 0.03 0.0 $"stage {zero}" wanted (each zero 50)

        let wrong sharing () = shared sharing |> ignore

        Expect.throwsT<ArgumentException> (wrong { Zero = 4; World = 2 }) "a fifth stage"
        Expect.throwsT<ArgumentException> (wrong { Zero = 0; World = 0 }) "no process")

let private bytes =
    property "bytes sent by stage stand in the order that is known, and a GPU alone sends nothing" (fun seed ->
        let chooser = Chooser seed
        let cluster = { cluster chooser 40 with Gpus = chooser.Int(2, 40) }
        // One micro-batch, so that what is sent for each of them is sent once.
        let work = { work chooser with TokensPerStep = 1.0 }
        let at work zero = Scaling.predict work cluster (choice work cluster zero Checkpointing.Full 1)
        let sent = [| for zero in 0..3 -> (at work zero).Bytes |]
        Expect.isTrue (sent[1] = sent[2] && sent[2] <= sent[0] && sent[2] <= sent[3]) $"%A{sent}"

        // Everything moves and adds up in what it is computed in: ZeRO's own figures.
        let plain = { work with Movement = (fun _ -> Moves); Gradients = work.Precision }
        let n, size = float cluster.Gpus, (if work.Precision = Fp32 then 4.0 else 2.0)
        let count = float (Decoder.parameterCount work.Model)
        let sent = [| for zero in 0..3 -> (at plain zero).Bytes |]
        near 0.0 0.02 "a ring's all-reduce" (2.0 * (n - 1.0) / n * size * count) sent[0]
        near 0.0 1e-9 "to reduce-scatter and to gather is to all-reduce" sent[0] sent[2]
        Expect.isLessThanOrEqual sent[3] (1.5 * sent[0] * 1.0001) "stage 3 sends half as much again"
        let ends = float (Memory.sizes work.Model plain.Movement).Ends
        near 0.0 0.02 "but what is not in blocks is gathered once" ((n - 1.0) / n * size * (3.0 * count - ends)) sent[3]

        let alone =
            Scaling.predict work { cluster with Gpus = 1 } (choice work { cluster with Gpus = 1 } 0 Checkpointing.None 1)

        Expect.equal (alone.Bytes, alone.Seconds) (0.0, alone.Compute) "one GPU")

let private times =
    property "a step gets no slower by faster links, and no faster by more micro-batches or latency" (fun seed ->
        let chooser = Chooser seed
        let work, cluster = work chooser, { cluster chooser 40 with Gpus = chooser.Int(2, 40) }

        for zero in 0..3 do
            let way = chooser.Of(Memory.ways { Zero = zero; World = cluster.Gpus })
            let sequences = Scaling.sequences work cluster
            let step cluster micro = Scaling.predict work cluster (choice work cluster zero way micro)
            let seconds cluster = (step cluster sequences).Seconds
            let base' = seconds cluster
            let some = chooser.Float(1.1, 10.0)

            for faster in
                [
                    { cluster with Link = some * cluster.Link }
                    { cluster with NodeLink = some * cluster.NodeLink }
                    { cluster with Latency = cluster.Latency / some }
                ] do
                Expect.isLessThanOrEqual (seconds faster) base' $"stage {zero}"

            let both = { cluster with Link = some * cluster.Link; NodeLink = some * cluster.NodeLink }
            Expect.isLessThan (seconds both) base' "some of what is sent is always waited for"
            let bySize = [ for micro in 1..sequences -> (step cluster micro).Seconds ]

            for smaller, larger in List.pairwise bySize do
                Expect.isLessThanOrEqual larger (smaller * (1.0 + 1e-12)) "micro-batches"

            for sent in (step cluster 1).Traffic do
                Expect.isTrue (sent.Exposed > 0.0 && sent.Exposed <= sent.Seconds) $"%A{sent}"
                // No ring is faster than its slowest link.
                Expect.isLessThanOrEqual (sent.Bytes / sent.Seconds) (cluster.Slowest * 1.0001) "speed")

let private hidden =
    testCase "what is sent hides behind the backward pass, and the slowest link bounds the ring" (fun () ->
        let work =
            {
                Model = ModelConfig.openLm 2048 24 16 66823 1152
                Movement = fun _ -> Moves
                Precision = Bf16
                Gradients = Fp32
                Positions = 1152
                TokensPerStep = 64.0 * 1152.0
                Tokens = 1e9
            }

        let cluster =
            {
                Gpus = 64
                GpusPerNode = 8
                GpuMemory = 80e9
                Link = 25e9
                NodeLink = 300e9
                Latency = 0.0
                Rate = 1e14
            }

        let step cluster = Scaling.predict work cluster (choice work cluster 0 Checkpointing.None 1)
        let found = step cluster
        let sent = 2.0 * 63.0 / 64.0 * 4.0 * 1507033088.0
        near 0.0 1e-4 "bytes" sent found.Bytes
        near 0.0 1e-4 "at the speed between nodes" (sent / 25e9) found.Communication
        near 0.0 1e-4 "operations" (1152.0 * 8.899350528e9 / 1e14) found.Compute
        near 0.0 1e-4 "beside two thirds of the computing" (found.Communication - 2.0 / 3.0 * found.Compute) found.Exposed
        let within = step { cluster with Gpus = 8; GpusPerNode = 8 }
        near 0.0 1e-4 "within a node" (2.0 * 7.0 / 8.0 * 4.0 * 1507033088.0 / 300e9) within.Communication
        // 26 calls of 126 messages each.
        let late = step { cluster with Latency = 1e-3 }
        near 0.0 1e-4 "latency" (found.Communication + 26.0 * 126.0 * 1e-3) late.Communication)

let private choosing =
    costly "what is picked fits and is as fast as the fastest that fits" (fun seed ->
        let chooser = Chooser seed
        let work, cluster = work chooser, cluster chooser 12
        let budget = Scaling.fill * cluster.GpuMemory
        let all = candidates work cluster
        let fits = all |> List.filter (fun step -> float step.Memory.Total <= budget)

        match Scaling.plan work cluster with
        | Error sentence -> Expect.isEmpty fits sentence
        | Ok plan ->
            Expect.isLessThanOrEqual (float plan.Pick.Memory.Total) budget "memory"
            let fastest = fits |> List.map _.Seconds |> List.min
            near 0.0 1e-12 "seconds" fastest plan.Pick.Seconds
            let pick = plan.Pick.Choice

            Expect.isTrue
                (pick.Accumulation * pick.MicroBatch >= Scaling.sequences work cluster
                 && (pick.Accumulation - 1) * pick.MicroBatch < Scaling.sequences work cluster)
                $"%A{pick} makes {Scaling.sequences work cluster} sequences"

            for stage in plan.Stages do
                let ofStage = fits |> List.filter (fun step -> step.Choice.Zero = stage.Zero)

                match stage.Best with
                | Ok step -> near 0.0 1e-12 "the best of a stage" (ofStage |> List.map _.Seconds |> List.min) step.Seconds
                | Error least ->
                    Expect.isEmpty ofStage "nothing of the stage fits"

                    let totals = all |> List.filter (fun step -> step.Choice.Zero = stage.Zero) |> List.map _.Memory.Total

                    Expect.equal least (List.min totals) "the least of the stage")

let private tooSmall =
    costly "where nothing fits, what the sentence asks for is enough, and less is not" (fun seed ->
        let chooser = Chooser seed
        let work = { work chooser with TokensPerStep = 1.0; Movement = (fun _ -> Moves) }
        let work = { work with Model = { work.Model with Layers = 40; Width = 512; HeadWidth = 256 } }
        let cluster = { cluster chooser 3 with GpuMemory = 1.3e9; GpusPerNode = 4 }
        let fits cluster = Result.isOk (Scaling.plan work cluster)

        match Scaling.plan work cluster with
        | Ok _ -> ()
        | Error sentence ->
            let figure (pattern: string) =
                match Regex.Match(sentence, pattern) with
                | found when found.Success ->
                    Some(Double.Parse(found.Groups[1].Value, Globalization.CultureInfo.InvariantCulture))
                | _ -> None

            match figure "GPUs of at least ([\d.]+) GB" with
            | Some gigabytes ->
                Expect.isTrue (fits { cluster with GpuMemory = 1e9 * gigabytes }) sentence
                Expect.isFalse (fits { cluster with GpuMemory = 1e9 * (gigabytes - 0.11) }) sentence
            | None -> failtest sentence

            match figure "at least ([\d]+) of these" with
            | Some count ->
                Expect.isTrue (fits { cluster with Gpus = int count }) sentence
                Expect.isFalse (fits { cluster with Gpus = int count - 1 }) sentence
            | None -> Expect.isFalse (fits { cluster with Gpus = 1 <<< 20 }) sentence)

let private large =
    testCase "the largest sizes that can be asked for do not overflow" (fun () ->
        for layers, width, positions in [ 256, 16384, 1 <<< 20; 64, 65536, 2048 ] do
            let work =
                {
                    Model = ModelConfig.openLm width layers 64 (1 <<< 20) positions
                    Movement = fun _ -> Moves
                    Precision = Fp32
                    Gradients = Fp32
                    Positions = positions
                    TokensPerStep = float (1 <<< 23) * float positions
                    Tokens = 1e18
                }

            for gpus in [ 1; 1 <<< 20 ] do
                let cluster =
                    {
                        Gpus = gpus
                        GpusPerNode = 1
                        GpuMemory = 1e15
                        Link = 1.0
                        NodeLink = 1e15
                        Latency = 1.0
                        Rate = 1e6
                    }

                match Scaling.plan work cluster with
                | Error sentence -> failtest sentence
                | Ok plan ->
                    for stage in plan.Stages do
                        match stage.Best with
                        | Ok step ->
                            for value in [ float step.Memory.Total; float step.Memory.Work; step.Compute; step.Seconds ] do
                                Expect.isTrue (Double.IsFinite value && value > 0.0) $"%A{step}"

                            Expect.isGreaterThan
                                (float step.Memory.Activations)
                                (float positions * float width * 4.0)
                                "activations"
                        | Error least -> Expect.isGreaterThan least (int64 1e12) "what does not fit is large")

let private tooMany =
    testCase "a step has as many sequences as a configuration can have" (fun () ->
        let work = { work (Chooser 1L) with Positions = 8; TokensPerStep = 1e12 }

        match Scaling.plan work { cluster (Chooser 1L) 4 with GpuMemory = 1e15 } with
        | Error sentence -> Expect.stringContains sentence "--tokens-per-step" sentence
        | Ok _ -> failtest "it went through")

let private measurement (changes: string) =
    $"""{{ "model": "small", "tokens_per_second": 1000, "flop_per_token": 1e8, "checkpointing": "none", "matrix_peak_flops": 1e12{changes} }}"""

let private measured =
    testCase "a measurement gives the rate that it stands for" (fun () ->
        let found = measurement "" |> MeasuredTraining.parse |> accepted "a measurement"
        let model = ModelConfig.openLm 256 6 8 2567 96
        let flops = ModelConfig.flopsPerToken model 96
        Expect.equal (MeasuredTraining.rate model 96 found) (Ok 1e11) "of another model, nothing computed again"
        let full = { found with Checkpointing = Checkpointing.Full; FlopPerToken = flops }
        let again = 2.0 * float (ModelConfig.matrixParameters model - 2567L * 256L) + 4.0 * 6.0 * 256.0 * 96.0

        match MeasuredTraining.rate model 96 full with
        | Ok rate -> near 0.0 1e-9 "what is computed again counts" (1000.0 * (flops + again)) rate
        | Error sentence -> failtest sentence

        match MeasuredTraining.rate model 96 { full with FlopPerToken = 2.0 * flops } with
        | Error sentence -> Expect.stringContains sentence "--checkpointing none" "what to do"
        | Ok _ -> failtest "what is computed again of another model is not known"

        measurement ""
        |> _.Replace("1000", "\"fast\"").Replace("none", "some").Replace("1e12", "0")
        |> MeasuredTraining.parse
        |> errorsAt "a measurement" [ "tokens_per_second"; "checkpointing"; "matrix_peak_flops" ]

        for text in [ ""; "{}"; "[]"; "{ \"tokens_per_second\": 1"; measurement ", \"checkpointing\": \"full\"" ] do
            Expect.isTrue (Result.isError (MeasuredTraining.parse text)) text)

let tests =
    testList "Scaling" [ memory; slices; bytes; times; hidden; choosing; tooSmall; large; tooMany; measured ]
