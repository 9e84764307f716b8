/// The C# door: steps of training, and composing sequences for them.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// What a step left behind, as tensors, so that nothing waits for the device. Dispose it.
[<Sealed>]
type StepResult(parts: torch.Tensor, norm: torch.Tensor, counts: int64[]) =
    /// Cross-entropy sums of text, image and structure targets, [3]
    member _.Parts = parts
    /// The gradient's norm before clipping
    member _.Norm = norm
    /// Counts of text, image and structure targets
    member _.Counts: IReadOnlyList<int64> = counts

    interface IDisposable with
        member _.Dispose() =
            parts.Dispose()
            norm.Dispose()

/// Training: gradients over micro-batches and AdamW. Dispose it to release the moments.
[<Sealed>]
type Trainer(model: Model, optimizer: OptimizerConfig, objective: Objective, training: Training) =
    let store = model.Store
    let team, pass = training.Team, training.Pass
    let state = new OptimizerState(store, (if training.HalfGradients then Bf16 else Fp32))

    let average: MovingAverage | null =
        if training.AverageDecay > 0.0 then
            new MovingAverage(store, training.AverageDecay)
        else
            null

    // Made when they are needed: micro-batches may be fewer than threads.
    let replicas = ResizeArray<Replica>()

    let backward (total: int64) (batch: Batch) (weights: Weights) : torch.Tensor =
        let loss weights =
            let value =
                Decoder.hiddenBy pass model.Config weights batch
                |> HeadLoss.evaluate objective model.Config model.Vocabulary weights batch

            pass.Lap Phase.HeadAndLoss
            value

        pass.Lap Phase.Begin
        let parts = Step.backward total loss weights
        pass.Lap Phase.Backward
        parts

    // Micro-batches side by side, each with a gradient of its own; these are added in order, so that the sum does not depend on
    // which thread is done first.
    let together (total: int64) (batches: Batch[]) : torch.Tensor[] =
        let parts = Array.zeroCreate<torch.Tensor> batches.Length

        if batches.Length = 1 then
            parts[0] <- backward total batches[0] store.Weights
            pass.Lap Phase.Begin
            Step.collect store state store.Gradient
        else
            while replicas.Count < batches.Length - 1 do
                replicas.Add(store.Replica())

            team.Run(
                batches.Length,
                fun i ->
                    let weights = if i = 0 then store.Weights else replicas[i - 1].Weights
                    parts[i] <- (backward total batches[i] weights).DetachFromDisposeScope()
            )

            pass.Lap Phase.Begin
            Step.collect store state store.Gradient

            for i in 1 .. batches.Length - 1 do
                Step.collect store state (replicas[i - 1]).Gradient

        pass.Lap Phase.Gradients
        parts

    /// A trainer that keeps all that the gradients need, adds up micro-batches in fp32, and works on one thread, but for torch's own.
    new(model: Model, optimizer: OptimizerConfig, objective: Objective) = new Trainer(model, optimizer, objective, Training())

    /// Settings of AdamW.
    static member Optimizer(beta1: float, beta2: float, epsilon: float, weightDecay: float, clipNorm: float) : OptimizerConfig =
        {
            Betas = (beta1, beta2)
            Epsilon = epsilon
            WeightDecay = weightDecay
            Decay = Parameters.Matrices
            ClipNorm = if clipNorm > 0.0 then Some clipNorm else None
        }

    /// The objective of a configuration: the weighted parts and z-loss.
    static member Objective(text: float, image: float, structure: float, z: float) : Objective =
        let part weight objective = if weight = 0.0 then { Terms = [] } else Loss.weighted weight objective

        part text Loss.text + part image Loss.image + part structure Loss.structure + part z Loss.zLoss

    /// Where the model computes.
    member _.Device = store.Device

    /// How many sequences a micro-batch should have where `atOnce` may be in memory together: the threads share them.
    member _.Share(atOnce: int) : int = max 1 (atOnce / team.Size)

    /// One step over micro-batches of sequences (of one length): gradients of all of them, then one update.
    member _.Step(microBatches: IReadOnlyList<Batch>, learningRate: float) : StepResult =
        use _ = torch.NewDisposeScope()
        use _ = team.Lead()
        let counts = Array.init 3 (fun kind -> microBatches |> Seq.sumBy (fun batch -> batch.Counts[kind]))
        let total = Array.sum counts
        pass.Lap Phase.Begin
        Step.zero store state
        pass.Lap Phase.Gradients

        let parts = microBatches |> Seq.chunkBySize team.Size |> Seq.collect (together total) |> Seq.toArray
        let sum = torch.stack(parts).sum 0L

        for part in parts do
            part.Dispose()

        let norm = Step.updateBy pass.Lap optimizer learningRate store state

        match average with
        | null -> ()
        | average -> average.Update norm

        new StepResult(sum.MoveToOuterDisposeScope(), norm.MoveToOuterDisposeScope(), counts)

    /// Sequences of one length as the micro-batches that the threads share, all in memory together, on the model's device, without
    /// their padding; `Sequence.release` lets go of each.
    member trainer.Batches(sequences: int64[][]) : Batch[] =
        let share = (sequences.Length + team.Size - 1) / team.Size
        Sequence.microBatches Dropped model.Vocabulary store.Device (max 1 share) sequences

    /// The optimizer's tensors by name, in flat layout; the trainer keeps them.
    member _.State: IReadOnlyDictionary<string, torch.Tensor> =
        dict [ "first", state.First; "second", state.Second; "steps", state.Steps; "skipped", state.Skipped ]
        |> Dictionary
        :> IReadOnlyDictionary<string, torch.Tensor>

    /// The moving average of the weights, or null.
    member _.Average: MovingAverage | null = average

    /// The places of the parameters of which something moves.
    member _.AveragedSlots: Slot seq = store.Slots |> Seq.filter (fun slot -> slot.Movement <> Stays)

    /// The layout of the flat state: parameter names in order. A state of another layout does not fit.
    member _.StateLayout: string =
        String.Join(",", store.Slots |> List.map (fun slot -> $"{slot.Spec.Name}:{slot.Movement}"))

    /// Updates left out because their gradient was not finite. Reads from the device.
    member _.Skipped: int64 = int64 (state.Skipped.cpu().data<float32>().[0L])

    /// Puts saved tensors back: `fill` writes each by its name into the tensor it is given.
    member trainer.Restore(fill: Action<string, torch.Tensor>) : unit =
        use _ = torch.no_grad ()

        for pair in trainer.State do
            fill.Invoke(pair.Key, pair.Value)

    interface IDisposable with
        member _.Dispose() =
            for replica in replicas do
                (replica :> IDisposable).Dispose()

            match average with
            | null -> ()
            | average -> (average :> IDisposable).Dispose()

            (state :> IDisposable).Dispose()

/// Composing sequences and schedules.
[<AbstractClass; Sealed>]
type Compose private () =

    /// The captioned form, padded to `length`.
    static member Captioned(vocabulary: Vocabulary, length: int, caption: int[], codes: int[]) : int64[] =
        Sequence.compose vocabulary Captioned length caption codes

    /// The captioned form that has lost its caption, padded to `length`.
    static member WithoutCaption(vocabulary: Vocabulary, length: int, codes: int[]) : int64[] =
        Sequence.compose vocabulary CaptionDropped length [||] codes

    /// Whether the caption at a position of a run is dropped, where a share of them is: a function of seed and position alone.
    static member DropsCaption(seed: int64, share: float, position: int64) : bool =
        share > 0.0 && Random.uniform (Random.ofSeed seed |> Random.named "caption drop") position < share

    /// The image-only form.
    static member ImageOnly(vocabulary: Vocabulary, length: int, codes: int[]) : int64[] =
        Sequence.compose vocabulary ImageOnly length [||] codes

    /// The form that a configuration names, with captions dropped by its share: a pure function of the position.
    static member Of(config: TrainConfig, position: int64, caption: int[], codes: int[]) : int64[] =
        let drop = config.Form = Captioned && Compose.DropsCaption(config.Seed, config.CaptionDrop, position)

        Sequence.compose config.Vocabulary (if drop then CaptionDropped else config.Form) config.Length caption codes

    /// The caption and the codes of a sequence, empty where its form has none. Errors: InputException where no form fits.
    static member Parts(vocabulary: Vocabulary, sequence: int64[]) : struct (int[] * int[]) =
        let _, caption, codes = Sequence.decompose vocabulary sequence
        struct (caption, codes)

    /// The micro-batches, of up to `size` sequences each, of a step's sequences, as a configuration says; `Sequence.release` lets go of
    /// each.
    static member MicroBatches(config: TrainConfig, size: int, device: torch.Device, sequences: int64[][]) : Batch[] =
        Sequence.microBatches config.Padding config.Vocabulary device size sequences

    /// The learning rate of a step, counted from 0.
    static member LearningRate(schedule: Schedule, step: int) : float = Schedule.rate schedule step

    /// Which sequence of `count` stands at a position of the endless order of a run.
    static member Place(count: int64, seed: int64, shuffled: bool, position: int64) : int64 =
        let epoch, within = position / count, position % count

        if shuffled then
            Random.permuted count (Random.ofSeed seed |> Random.named "order" |> Random.numbered epoch) within
        else
            within
