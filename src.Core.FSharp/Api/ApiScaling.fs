/// The C# door: training over many GPUs, predicted.
namespace Hybrid.Api

open System
open System.Collections.Generic
open Hybrid

/// What a stage of ZeRO comes to: its fastest step, or null and the least memory that it takes.
[<Sealed>]
type StageOutcome internal (stage: ScalingStage) =
    /// The stage, 0 to 3.
    member _.Zero = stage.Zero

    /// Its fastest step; null where nothing fits.
    member _.Step: ScalingStep | null =
        match stage.Best with
        | Ok step -> step
        | Error _ -> null

    /// Bytes, where nothing fits
    member _.Least: int64 =
        match stage.Best with
        | Ok step -> step.Memory.Total
        | Error least -> least

/// What can be done, and the fastest of it.
[<Sealed>]
type ScalingOutcome internal (work: ScalingWork, cluster: Cluster, plan: ScalingPlan) =
    /// The fastest step of all stages.
    member _.Pick = plan.Pick

    /// Stages 0 to 3 as far as there is more than one GPU, in order.
    member _.Stages: IReadOnlyList<StageOutcome> =
        plan.Stages |> List.map StageOutcome |> List.toArray :> IReadOnlyList<StageOutcome>

    /// Sequences of a step for each GPU
    member _.Sequences: int = Scaling.sequences work cluster
    /// Over all GPUs, in whole sequences for each.
    member _.TokensPerStep = plan.TokensPerStep

/// Predictions for training over many GPUs.
[<AbstractClass; Sealed>]
type Scalings private () =

    /// A model that moves as a whole.
    static member Work
        (model: ModelConfig, half: bool, halfGradients: bool, positions: int, tokensPerStep: float, tokens: float)
        : ScalingWork =
        {
            Model = model
            Movement = fun _ -> Moves
            Precision = if half then Bf16 else Fp32
            Gradients = if half && halfGradients then Bf16 else Fp32
            Positions = positions
            TokensPerStep = tokensPerStep
            Tokens = tokens
        }

    /// The same work on a model of which only what a run trains moves.
    static member Moving(work: ScalingWork, run: TrainPlan) : ScalingWork =
        { work with
            Movement = Trainable.movement work.Model run.Config.Vocabulary.TextRows run.Config.Trainable
        }

    /// The best way to do it. Errors: InputException where there is none, or a step has too many sequences.
    static member Plan(work: ScalingWork, cluster: Cluster) : ScalingOutcome =
        match Scaling.plan work cluster with
        | Ok plan -> ScalingOutcome(work, cluster, plan)
        | Error sentence -> raise (InputException sentence)

    /// What a GPU sends in a step, by collective.
    static member Traffic(step: ScalingStep) : IReadOnlyList<Traffic> = List.toArray step.Traffic :> IReadOnlyList<Traffic>

    /// The way of checkpointing by its name.
    static member Checkpointing(choice: ScalingChoice) : string = Checkpointing.name choice.Checkpointing

    /// Bytes of a checkpoint: weights in fp32, and two moments of what moves.
    static member CheckpointBytes(work: ScalingWork) : int64 =
        let sizes = Memory.sizes work.Model work.Movement
        4L * sizes.Length + 8L * sizes.Updated

    /// What `bench train --json` wrote. Errors: InputException with every key that is wrong.
    static member Measured(path: string, text: string) : MeasuredTraining =
        match MeasuredTraining.parse text with
        | Ok measured -> measured
        | Error sentences ->
            let listed = String.Join("\n  ", sentences)
            raise (InputException $"{path} is not what hybrid bench train --json writes:\n  {listed}")

    /// Operations per second of a measurement. Errors: InputException where they cannot be told.
    static member Rate(path: string, measured: MeasuredTraining, work: ScalingWork) : float =
        match MeasuredTraining.rate work.Model work.Positions measured with
        | Ok rate -> rate
        | Error sentence -> raise (InputException $"{path} {sentence}")
