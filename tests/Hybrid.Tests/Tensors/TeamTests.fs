module Hybrid.Tests.TeamTests

open System
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Tests.Generate
open TorchSharp

let private teams = lazy [ for size in [ 2; 3 ] -> WorkerTeam.Start(size, 1) ]

let private vocabulary = RunSupport.vocabulary

let private config = { ModelConfig.openLm 32 2 2 vocabulary.Rows 16 with FeedForwardWidth = 48 }

let private sequences = RunSupport.sequences

/// The losses of some steps and the weights after them.
let private trainedBy (checkpointing: string) (half: bool) (team: Team) (size: int) (seed: int64) : float32[] =
    use model = Model.Random(config, vocabulary, Layout(HalfPrecision = half), seed)

    use trainer =
        new Trainer(
            model,
            Trainer.Optimizer(0.9, 0.95, 1e-8, 0.1, 1.0),
            Trainer.Objective(1.0, 1.0, 1.0, 1e-4),
            Training(Team = team, Checkpointing = checkpointing)
        )

    let losses =
        [|
            for step in 0L .. 2L do
                let batches = Sequence.microBatches Dropped vocabulary torch.CPU size (sequences (seed + step) 7)

                try
                    use result = trainer.Step(batches, 1e-3)
                    yield! result.Parts.data<float32>().ToArray()
                finally
                    Array.iter Sequence.release batches
        |]

    Array.append losses (model.Store.Master.data<float32>().ToArray())

let private trained = trainedBy "none"

let private same =
    property1 "a team trains what one thread does, and the same bits each time" (1, 4) (fun seed size ->
        for half in [ false; true ] do
            let alone = trained half Team.Alone size seed

            for team in teams.Value do
                let together = trained half team size seed
                Expect.isTrue (together = trained half team size seed) "the same bits"
                // Sums of micro-batches are rounded in another order.
                let apart = Array.map2 (fun (a: float32) b -> abs (a - b) / (1.0f + abs a)) alone together |> Array.max
                Expect.isLessThan apart (if half then 2e-3f else 2e-5f) $"{team.Size} threads, bf16 {half}")

let private again =
    property "what is computed again is computed on its own thread" (fun seed ->
        for half in [ false; true ] do
            let alone = trained half Team.Alone 2 seed

            for team in teams.Value do
                for name, _ in Checkpointing.names do
                    let together = trainedBy name half team 2 seed
                    let apart = Array.map2 (fun (a: float32) b -> abs (a - b) / (1.0f + abs a)) alone together |> Array.max
                    Expect.isLessThan apart (if half then 4e-3f else 2e-5f) $"{name}, {team.Size} threads, bf16 {half}")

let private failure =
    testCase "what goes wrong on a thread is raised where the team was asked, which works on" (fun () ->
        for team in teams.Value do
            let asked () =
                team.Run(
                    2,
                    fun i ->
                        if i = 1 then
                            raise (InputException "the second failed.")
                )

            Running.fails [ "the second failed." ] asked
            let seen = Array.zeroCreate<int> team.Size
            team.Run(team.Size, fun i -> seen[i] <- seen[i] + 1)
            Expect.equal seen (Array.create team.Size 1) "each once")

let private threads =
    testCase "torch works on each thread alone, and is given back what it had" (fun () ->
        let before = torch.get_num_threads ()

        for team in teams.Value do
            let seen = Array.zeroCreate<int> team.Size

            (use _ = team.Lead()
             team.Run(team.Size, fun i -> seen[i] <- torch.get_num_threads ()))

            Expect.equal seen (Array.create team.Size 1) "threads of each"
            Expect.equal (torch.get_num_threads ()) before "threads of the caller")

let private shares =
    testCase "threads share no more sequences than may be in memory together" (fun () ->
        use model = Model.Random(config, vocabulary, Layout(), 1L)

        for team in Team.Alone :: teams.Value do
            use trainer =
                new Trainer(
                    model,
                    Trainer.Optimizer(0.9, 0.95, 1e-8, 0.1, 1.0),
                    Trainer.Objective(1.0, 1.0, 1.0, 0.0),
                    Training(Team = team)
                )

            for atOnce in team.Size .. 9 do
                Expect.isLessThanOrEqual (trainer.Share atOnce * team.Size) atOnce "sequences together"

            let batches = trainer.Batches(sequences 1L 7)
            Expect.isLessThanOrEqual batches.Length team.Size "all at once"

            Expect.equal
                (batches |> Array.sumBy (fun b -> b.Count))
                (sequences 1L 7 |> Array.sumBy (fun s -> Array.sum (Sequence.counts vocabulary s).[0..2]))
                "every target"

            Array.iter Sequence.release batches)

let tests = testSequenced (testList "Team" [ same; again; failure; threads; shares ])
