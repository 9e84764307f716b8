module Hybrid.Tests.SharingTests

open System
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Tests.Generate
open TorchSharp

let private vocabulary = RunSupport.vocabulary

let private config = { ModelConfig.openLm 32 3 2 vocabulary.Rows 16 with FeedForwardWidth = 48 }

let private sequences = RunSupport.sequences

/// How a run is set up, beside its processes.
type private Setup =
    {
        Zero: int
        Half: bool
        HalfGradients: bool
        Overlap: bool
        Bucket: int64
        Micro: int
        Trainable: string
        Team: Team
        Seed: int64
    }

let private plain =
    {
        Zero = 0
        Half = false
        HalfGradients = false
        Overlap = true
        Bucket = 4096L
        Micro = 2
        Trainable = "all"
        Team = Team.Alone
        Seed = 1L
    }

/// The losses and norms of two steps over seven sequences each.
let private trained (setup: Setup) (exchange: IExchange) : float32[] =
    use model =
        Model.Random(config, vocabulary, Layout(HalfPrecision = setup.Half, Trainable = setup.Trainable), setup.Seed)

    let sharing =
        ProcessSharing(Exchange = exchange, Zero = setup.Zero, Overlap = setup.Overlap, Bucket = setup.Bucket)

    use trainer =
        new Trainer(
            model,
            Trainer.Optimizer(0.9, 0.95, 1e-8, 0.1, 1.0),
            Trainer.Objective(1.0, 1.0, 1.0, 1e-4),
            Training(HalfGradients = setup.HalfGradients, Sharing = sharing, Team = setup.Team)
        )

    [|
        for step in 0L .. 1L do
            let all = sequences (setup.Seed + step) 7
            let border rank = all.Length * rank / exchange.Size
            let own = all[border exchange.Rank .. border (exchange.Rank + 1) - 1]
            let batches = Sequence.microBatches Dropped vocabulary torch.CPU setup.Micro own

            try
                use result = trainer.Step(batches, 1e-3)
                yield! result.Parts.data<float32>().ToArray()
                yield! result.Norm.reshape(1L).data<float32>().ToArray()
            finally
                Array.iter Sequence.release batches

        use weights = trainer.HostWeights()
        yield! weights.data<float32>().ToArray()
    |]

let private apart (a: float32[]) (b: float32[]) = Array.map2 (fun (a: float32) b -> abs (a - b) / (1.0f + abs a)) a b |> Array.max

let private same =
    property2
        "any number of processes trains what one does, whatever they share, and all end with the same bits"
        (2, 4)
        (0, 3)
        (fun seed size zero ->
            let half = seed % 2L = 0L
            let setup = { plain with Seed = seed; Zero = zero; Half = half; Micro = 1 + size % 2 }
            let one = trained setup Exchange.alone
            let results = Processes.side size (trained setup)

            for result in results do
                Expect.isTrue (result = results[0]) "the same on each process"

            // Sums are rounded in another order; AdamW divides small gradients by their own size.
            Expect.isLessThan
                (apart one results[0])
                (if half then 2e-2f else 1e-3f)
                $"{size} processes, ZeRO {zero}, bf16 {half}")

let private stages =
    costly "what processes keep in slices changes no bit, nor does sending while the backward pass goes on" (fun seed ->
        for half, halfGradients in [ false, false; true, false; true, true ] do
            let setup = { plain with Seed = seed; Half = half; HalfGradients = halfGradients; Micro = 4 }
            let run setup = (Processes.side 2 (trained setup))[0]
            let plainly = run { setup with Overlap = false }

            for zero in 0..3 do
                for overlap in [ true; false ] do
                    // Norms are summed by slices, and scale the gradient where it is clipped.
                    let other = run { setup with Zero = zero; Overlap = overlap }

                    Expect.isLessThan
                        (apart plainly other)
                        (if half then 2e-2f else 1e-4f)
                        $"ZeRO {zero}, overlap {overlap}, bf16 {half}")

let private halfModel () = Model.Random(config, vocabulary, Layout(HalfPrecision = true), 1L)

let private sharedTrainer (model: Model) (zero: int) (exchange: IExchange) : Trainer =
    new Trainer(
        model,
        Trainer.Optimizer(0.9, 0.95, 1e-8, 0.1, 1.0),
        Trainer.Objective(1.0, 1.0, 1.0, 0.0),
        Training(Sharing = ProcessSharing(Exchange = exchange, Zero = zero, Bucket = 4096L))
    )

let private memory =
    testCase "each process has its slices and no more, and steps leave nothing behind" (fun () ->
        let total =
            use model = halfModel ()
            model.Store.Segments |> List.sumBy _.Length

        for size in [ 2; 3 ] do
            for zero in 0..3 do
                let kept (exchange: IExchange) =
                    use model = halfModel ()
                    use trainer = sharedTrainer model zero exchange
                    trainer.State["first"].numel(), trainer.StatePlaces |> Seq.sumBy (fun struct (_, length) -> length)

                let parts = Processes.side size kept
                let wanted = if zero = 0 then int64 size * total else total
                Expect.equal (Array.sumBy fst parts) wanted $"moments of {size} processes, ZeRO {zero}"
                Expect.equal (Array.sumBy snd parts) wanted "their places"

                if zero > 0 then
                    let largest = parts |> Array.map fst |> Array.max
                    Expect.isLessThan (float largest) (1.4 * float total / float size) "evenly"

        for zero in 0..3 do
            let counts (exchange: IExchange) =
                use model = halfModel ()
                use trainer = sharedTrainer model zero exchange

                [
                    for _ in 1..5 do
                        let batches = Sequence.microBatches Dropped vocabulary torch.CPU 2 (sequences 1L 4)
                        (trainer.Step(batches, 1e-3) :> IDisposable).Dispose()
                        Array.iter Sequence.release batches
                        // Counted where no process is within a step.
                        exchange.Sum [||] |> ignore
                        // What other tests have left to the garbage collector goes before it is counted.
                        GC.Collect()
                        GC.WaitForPendingFinalizers()
                        torch.Tensor.TotalCount
                        exchange.Sum [||] |> ignore
                ]

            for found in Processes.side 2 counts do
                Expect.isLessThanOrEqual found[4] found[2] $"tensors after steps of ZeRO {zero}")

let tests = testSequenced (testList "Sharing" [ same; stages; memory ])
