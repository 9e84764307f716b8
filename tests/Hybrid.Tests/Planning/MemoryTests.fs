/// The memory of training: what is kept, what a step takes in all, and that steps leave nothing behind.
module Hybrid.Tests.MemoryTests

open System
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Tests.Generate
open Hybrid.Tests.Watching
open TorchSharp

let private optimizer: OptimizerConfig =
    {
        Betas = (0.9, 0.95)
        Epsilon = 1e-8
        WeightDecay = 0.1
        Decay = Parameters.Matrices
        ClipNorm = Some 1.0
    }

/// A model, sequences and a configuration in a folder; the configuration's path.
let private prepare
    (folder: Folder)
    (config: ModelConfig)
    (v: Vocabulary)
    (length: int)
    (sequences: int)
    (steps: int)
    (more: string)
    =
    folder.Write(
        "model.json",
        $$"""{ "hidden_dim": {{config.Width}}, "n_layers": {{config.Layers}}, "n_heads": {{config.Heads}}, "seq_len": {{length}},
               "vocab_size": {{v.Rows}}, "post_embed_norm": false, "weight_tying": false }"""
    )
    |> ignore

    let chooser = Chooser 1L

    [|
        for _ in 1 .. 2 * sequences ->
            let codes = chooser.Ints(length / 2, v.ImageCodes)
            Sequence.compose v Captioned length (chooser.Ints(length / 2 - 8, v.TextRows)) codes
    |]
    |> RunSupport.writeTokens (folder.At "train.npy")

    folder.Write(
        "run-config.json",
        $$"""{ "model": { "config": "model.json" }, "vocabulary": { "textRows": {{v.TextRows}}, "imageCodes": {{v.ImageCodes}} },
               "data": { "train": ["train.npy"] }, "optimizer": { "learningRate": 0.001 }, "schedule": { "steps": {{steps}} },
               "batch": { "sequences": {{sequences}} }, "checkpoint": { "everySteps": 1000000 }{{more}} }"""
    )

let private stepPlan precision checkpointing sequences positions : StepPlan =
    {
        Precision = precision
        Gradients = Fp32
        Checkpointing = checkpointing
        Sequences = sequences
        Positions = positions
        OnCpu = true
        Threads = 1
        Passes = true
    }

let private step config precision checkpointing sequences positions : StepMemory =
    Memory.ofStep config (fun _ -> Moves) (stepPlan precision checkpointing sequences positions)

/// An estimate is right within this share of what is measured.
let private tolerance = 0.15

let private right (what: string) (estimated: int64) (measured: float) =
    let off = float estimated / measured - 1.0
    Expect.isLessThan (abs off) tolerance $"{what}: {float estimated / 1e6} MB are estimated, {measured / 1e6} MB measured"

let private choosing =
    property "the more is computed again, the less is kept; what is chosen fits and is the fastest that does" (fun seed ->
        let chooser = Chooser seed
        let norm = chooser.Of [ LayerNorm; RmsNorm; PlainLayerNorm ]
        let feedForward = chooser.Of [ SwiGlu; GeGlu; Gelu ]

        let config =
            { ModelConfig.openLm (64 * chooser.Int(1, 8)) (chooser.Int(2, 6)) 4 500 512 with
                Norm = norm
                FeedForward = feedForward
            }

        let precision, sequences = chooser.Of [ Fp32; Bf16 ], chooser.Int(1, 4)
        let estimate choice = step config precision choice sequences 256
        let kept = [ for _, choice in Checkpointing.names -> (estimate choice).Activations ]
        Expect.isTrue (kept[0] > kept[1] && kept[1] > kept[2]) $"%A{kept}"
        let totals = [ for _, choice in Checkpointing.names -> choice, (estimate choice).Total ]

        for _, budget in totals do
            match Memory.fastest (List.map snd Checkpointing.names) budget estimate with
            | Ok choice ->
                let fits = totals |> List.filter (fun (_, total) -> total <= budget)
                Expect.equal choice (fst fits.Head) $"%A{totals}, {budget}"
            | Error _ -> failtest "something fits"

        let least = totals |> List.map snd |> List.min
        Expect.equal (Memory.fastest (List.map snd Checkpointing.names) (least - 1L) estimate) (Error least) "nothing fits")

let private running =
    property
        "what a run holds beside its steps counts: the average, the copy of a checkpoint, a process's slices of them"
        (fun seed ->
            let chooser = Chooser seed
            let config = ModelConfig.openLm (64 * chooser.Int(1, 4)) (chooser.Int(2, 4)) 4 500 512
            let sequences, precision = chooser.Int(1, 4), chooser.Of [ Fp32; Bf16 ]
            let plan = stepPlan precision Checkpointing.None sequences 128
            let zero, world = chooser.Int(0, 3), chooser.Int(1, 8)

            let whole =
                List.sumBy
                    (fun (slot: Slot) -> slot.Spec.Count)
                    (let slots, _, _ = Parameters.layout Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config) in
                     slots)

            let held plan average checkpoints =
                (Memory.ofRun config (fun _ -> Moves) plan { Zero = zero; World = world } average checkpoints).Run

            let near what expected found =
                Expect.isTrue (abs (float found / float expected - 1.0) < 0.01) $"{what}: {found} instead of {expected}"

            let own = if zero = 0 then whole else whole / int64 world
            Expect.equal (held plan false false) 0L "a step alone"
            near "the average" (4L * own) (held plan true false)
            near "the copy" (4L * whole + 8L * own) (held plan false true)
            near "both" (8L * whole + 12L * own) (held plan true true)
            Expect.equal (held { plan with OnCpu = false } true true) (held plan true false) "a GPU's memory holds no copy"
            let total average = (Memory.ofRun config (fun _ -> Moves) plan { Zero = zero; World = world } average true).Total
            Expect.isGreaterThan (total true) (total false) "it is part of the total"
            Expect.equal (Memory.ways { Zero = 3; World = 2 }) [ Checkpointing.Full ] "gathered blocks are computed again"
            Expect.equal (Memory.ways { Zero = 3; World = 1 }) (List.map snd Checkpointing.names) "one process gathers nothing")

// ---- what is kept, by the C library's own account ----

[<Struct; StructLayout(LayoutKind.Sequential)>]
type private Allocated =
    {
        Arena: unativeint
        Free: unativeint
        FastFree: unativeint
        Maps: unativeint
        Mapped: unativeint
        Unused: unativeint
        FastBytes: unativeint
        Used: unativeint
        Unallocated: unativeint
        Top: unativeint
    }

[<DllImport("libc")>]
extern Allocated private mallinfo2()

/// Bytes that native code has allocated.
let private allocated () : int64 =
    try
        let info = mallinfo2 ()
        int64 (info.Used + info.Mapped)
    with
    | :? DllNotFoundException
    | :? EntryPointNotFoundException -> skiptest "this C library does not say what is allocated"

/// Whether this machine multiplies bf16 so slowly that a pass over a few thousand tokens takes minutes: it has no instructions for it.
let private halfCrawls =
    lazy
        (let seconds (dtype: torch.ScalarType) =
            use _ = torch.NewDisposeScope()
            let a = torch.ones (256L, 256L, dtype = dtype)
            a.mm a |> ignore
            let clock = System.Diagnostics.Stopwatch.StartNew()
            a.mm a |> ignore
            clock.Elapsed.TotalSeconds

         seconds torch.bfloat16 > 10.0 * seconds torch.float32)

let private kept =
    [
        for precision in [ Fp32; Bf16 ] do
            for name, checkpointing in Checkpointing.names do
                case $"what blocks keep is what the estimate says: {precision}, {name}" (fun () ->
                    let base' = ModelConfig.openLm 192 3 6 64 2048

                    for what, config, sequences, positions, frozen in
                        [
                            "layer norm, SwiGLU, one sequence", base', 1, 400, false
                            "several sequences, scores in pieces", base', 3, 800, false
                            "RMS norm, groups of heads", { base' with Norm = RmsNorm; KeyValueHeads = 2 }, 2, 300, false
                            "GELU, parallel, biases",
                            { base' with FeedForward = Gelu; ParallelResidual = true; FeedForwardBias = true; QkvBias = true },
                            2,
                            300,
                            false
                            "GeGLU, norms of q and k", { base' with FeedForward = GeGlu; QkNorm = true }, 2, 300, false
                            "embeddings and head alone", base', 2, 300, true
                        ]
                        |> List.filter (fun (_, _, sequences, positions, _) ->
                            precision = Fp32 || not halfCrawls.Value || sequences * positions <= 400) do
                        let movement =
                            if frozen then
                                Trainable.movement config config.Rows Trainable.EmbeddingHead
                            else
                                (fun _ -> Moves)

                        use store = storeWith precision Parameters.Matrices movement (Decoder.parameters config) 1L

                        let measure () =
                            use scope = torch.NewDisposeScope()
                            let tokens = Array.init sequences (fun _ -> Array.zeroCreate<int64>(positions + 1))
                            let batch = Sequence.batch (Vocabulary.plainText config.Rows) torch.CPU tokens
                            let before = allocated ()
                            let pass = { Decoder.plainPass with Checkpointing = checkpointing }
                            let hidden = Decoder.hiddenBy pass config store.Weights batch
                            let after = allocated ()
                            hidden.sum().backward()
                            float (after - before)

                        // What earlier tests left to the garbage collector is released first, not in the middle.
                        GC.Collect()
                        GC.WaitForPendingFinalizers()
                        // What libraries allocate once and keep comes with the first.
                        measure () |> ignore
                        let measured = [ measure (); measure (); measure () ] |> List.sort |> List.item 1
                        let plan = { stepPlan precision checkpointing sequences positions with Gradients = precision }
                        right what (Memory.ofStep config movement plan).Activations measured)
    ]

/// Bytes of resident memory that some work adds at its peak.
let private added (work: unit -> unit) : float =
    let status (key: string) =
        File.ReadLines "/proc/self/status"
        |> Seq.find (fun line -> line.StartsWith(key + ":"))
        |> Seq.filter Char.IsDigit
        |> Seq.toArray
        |> String
        |> float

    try
        // Begins the peak anew.
        File.WriteAllText("/proc/self/clear_refs", "5")
    with
    | :? IOException
    | :? UnauthorizedAccessException -> skiptest "this system does not begin a process's peak of memory anew"

    let before = status "VmRSS"
    work ()
    1024.0 * (status "VmHWM" - before)

let private head =
    case "head and loss take at most 15 % of the memory that all logits take" (fun () ->
        let v: Vocabulary = { TextRows = 8000; ImageCodes = 8000 }
        let config = ModelConfig.openLm 32 1 2 v.Rows 512
        let tokens = Array.init 4 (fun row -> Array.init 513 (fun i -> int64 ((row + 31 * i) % v.TextRows)))
        let batch = Sequence.batch v torch.CPU tokens
        use store = storeWith Fp32 Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config) 1L

        let objective (evaluate: torch.Tensor -> LossValue) () =
            use _ = torch.NewDisposeScope()
            let hidden = torch.ones ([| 4L; 512L; 32L |], requires_grad = true)
            (evaluate hidden).Objective.backward()

        let chunked = objective (HeadLoss.evaluate Loss.total config v store.Weights batch)

        let whole =
            objective (fun hidden ->
                Decoder.head config store.Weights v.Rows hidden |> Loss.score v batch |> Loss.evaluate Loss.total)

        GC.Collect()
        GC.WaitForPendingFinalizers()
        let chunked, whole = added chunked, added whole
        Expect.isGreaterThan whole 3e8 "all logits, their logarithms and their gradient"
        Expect.isLessThan chunked (0.15 * whole) $"{chunked / 1e6} MB beside {whole / 1e6} MB")

let private peaks =
    testCase "the peak of a run is what the estimate says, and falls with what is kept" (fun () ->
        use folder = new Folder()
        let v: Vocabulary = { TextRows = 1000; ImageCodes = 561 }
        let config = ModelConfig.openLm 256 4 4 v.Rows 512
        let length, sequences = 449, 8

        // A step in bf16 takes many minutes where there are no instructions for it.
        for precision in
            [
                Fp32
                if not halfCrawls.Value then
                    Bf16
            ] do
            let name = if precision = Fp32 then "fp32" else "bf16"

            let peaks =
                [
                    for way, checkpointing in Checkpointing.names do
                        let more = $$""", "precision": "{{name}}", "memory": { "checkpointing": "{{way}}" }"""
                        let file = prepare folder config v length sequences 2 more
                        let watched = watch (fun () -> false) [ "train"; "--config"; file; "--out"; folder.At $"{name}-{way}" ]
                        let estimate = step config precision checkpointing sequences (length - 1)
                        right $"{name}, {way}" estimate.Total (float watched.Peak)
                        watched.Peak
                ]

            if precision = Fp32 then
                let more = $$""", "precision": "{{name}}", "memory": { "checkpointing": "full" }, "ema": { "decay": 0.9 }"""
                let file = prepare folder config v length sequences 3 more
                File.WriteAllText(file, (File.ReadAllText file).Replace("1000000", "1"))
                let watched = watch (fun () -> false) [ "train"; "--config"; file; "--out"; folder.At $"{name}-saving" ]
                let plan = stepPlan precision Checkpointing.Full sequences (length - 1)
                let estimate = Memory.ofRun config (fun _ -> Moves) plan { Zero = 0; World = 1 } true true
                right $"{name}, an average and checkpoints" estimate.Total (float watched.Peak)

            Expect.isLessThan (float peaks[2]) (0.9 * float peaks[0]) $"full beside none, {name}: %A{peaks}")

// ---- steps leave nothing behind ----

let private alive =
    [
        for half, checkpointing, halfGradients in [ false, "none", false; true, "selective", true; true, "full", false ] do
            let precision = if half then "bf16" else "fp32"

            case $"a thousand steps leave as many tensors alive as one: {precision}, {checkpointing}" (fun () ->
                let v: Vocabulary = { TextRows = 12; ImageCodes = 8 }
                let config = ModelConfig.openLm 16 2 2 v.Rows 32
                use model = Model.Random(config, v, Layout(HalfPrecision = half), 1L)
                let training = Training(Checkpointing = checkpointing, HalfGradients = halfGradients)
                use trainer = new Trainer(model, optimizer, Trainer.Objective(1.0, 1.0, 1.0, 1e-4), training)
                let chooser = Chooser 1L

                let step () =
                    let batches = [| for _ in 1..2 -> batch chooser v 2 14 |]

                    try
                        use result = trainer.Step(batches, 1e-3)
                        result.Counts |> ignore
                    finally
                        Array.iter Sequence.release batches

                step ()
                let before = liveTensors ()

                for i in 1 .. (if half && halfCrawls.Value then 200 else 1000) do
                    step ()

                    if i % 100 = 0 then
                        Expect.equal (liveTensors ()) before $"tensors after {i} steps")
    ]

let private flat =
    [
        for precision, checkpointing in [ "fp32", "none"; "bf16", "full" ] do
            testCase $"the memory of a run does not grow: {precision}, {checkpointing}" (fun () ->
                use folder = new Folder()
                let v: Vocabulary = { TextRows = 20; ImageCodes = 9 }
                let config = ModelConfig.openLm 16 2 2 v.Rows 32
                let more = $$""", "precision": "{{precision}}", "memory": { "checkpointing": "{{checkpointing}}" }"""
                let steps = if precision = "bf16" && halfCrawls.Value then 500 else 2000
                let file = prepare folder config v 24 2 steps more

                let stepping () =
                    File.Exists(folder.At "run/metrics.jsonl") && not (Directory.Exists(folder.At "run/checkpoints"))

                let watched = watch stepping [ "train"; "--config"; file; "--out"; folder.At "run" ]
                Expect.isGreaterThan watched.Own.Length 40 "samples"
                let half = watched.Own.Length / 2
                let mean samples = samples |> List.averageBy float<int64>
                // The runtime is still compiling and finding its heap's size at first: the middle stands for the first half.
                let middle = watched.Own[half - half / 5 .. half + half / 5] |> mean
                let last = watched.Own[watched.Own.Length - half / 5 ..] |> mean
                Expect.isLessThan (last - middle) 2e6 $"{middle / 1e6} MB in the middle, {last / 1e6} MB at the end"
                // A step of so small a model takes little; a run that keeps something of each would not end near where it began.
                Expect.isLessThan last 250e6 "at the end")
    ]

let tests = testSequenced (testList "Memory" ([ choosing; running ] @ kept @ [ head; peaks ] @ alive @ flat))
