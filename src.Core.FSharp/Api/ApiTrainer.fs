/// The C# door: steps of training, and composing sequences for them.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// What a step left behind, as tensors, so that nothing waits for the device. Dispose it.
[<Sealed>]
type StepResult internal (parts: torch.Tensor, norm: torch.Tensor, counts: int64[]) =
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
type Trainer
    /// Moments of 0 for what moves of a model; the model stays the caller's. Errors: ArgumentException for a name that is no way of
    /// checkpointing.
    (model: Model, optimizer: OptimizerConfig, objective: Objective, training: Training) =
    let store = model.Store
    let team = training.Team
    let sharing = training.Sharing.Of store
    let exchange = sharing.Exchange
    let state = new OptimizerState(store, (if training.HalfGradients then Bf16 else Fp32), sharing)
    let reductions = new GradientExchange(store, state, training.Sharing.Overlap, model.Config.Layers)
    let shards = if sharing.SlicesWeights then Some(new BlockShards(store, state)) else None

    let pass =
        match shards with
        | Some shards ->
            { training.Pass with
                Gathered = Some { Enter = (fun block down -> shards.Enter(block, down)); Leave = shards.Leave }
            }
        | None -> training.Pass

    do shards |> Option.iter (fun shards -> model.ComputeBy(shards.Weights, pass))

    let last = { pass with Passed = Some reductions.Passed }

    let average: MovingAverage | null =
        if training.AverageDecay > 0.0 then
            new MovingAverage(state, training.AverageDecay)
        else
            null

    let publish () =
        match shards with
        | Some shards -> shards.Publish()
        | None -> Step.publish store state

    // Made when they are needed: micro-batches may be fewer than threads.
    let replicas = ResizeArray<Replica>()

    let replica (i: int) =
        while replicas.Count < i do
            let made = store.Replica()

            if sharing.SlicesGradients then
                made.Loosen()

            replicas.Add made

        if i = 0 then store.Own else replicas[i - 1]

    let backward (pass: Decoder.Pass) (total: int64) (batch: Batch) (weights: Weights) : torch.Tensor =
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

    // Blocks come and go for one micro-batch at a time.
    let byShards (shards: BlockShards) (total: int64) (rounds: Batch[][]) (most: int) : torch.Tensor[] =
        let parts =
            [|
                for batches in rounds do
                    for batch in batches do
                        backward pass total batch shards.Weights
                        shards.Finish()
            |]

        for _ in parts.Length .. most - 1 do
            shards.TakePart()

        parts

    // Micro-batches side by side, each with a gradient of its own; these are added in order, so that the sum does not depend on
    // which thread is done first.
    let together (reduced: bool) (total: int64) (batches: Batch[]) : torch.Tensor[] =
        let parts = Array.zeroCreate<torch.Tensor> batches.Length
        let used = [ for i in 0 .. batches.Length - 1 -> replica i ]
        let pass = if reduced then last else pass

        if reduced then
            reductions.Begin used

        if batches.Length = 1 then
            parts[0] <- backward pass total batches[0] store.Weights
        else
            team.Run(
                batches.Length,
                fun i -> parts[i] <- (backward pass total batches[i] used[i].Weights).DetachFromDisposeScope()
            )

        pass.Lap Phase.Begin

        if reduced then
            reductions.Finish()
        else
            for replica in used do
                Step.collect store state replica

        pass.Lap Phase.Gradients
        parts

    // Targets of each kind over all processes, and the rounds that the process with the most has.
    let agree (microBatches: IReadOnlyList<Batch>) (rounds: int) : int64[] * int =
        let counts = [| for kind in 0..2 -> microBatches |> Seq.sumBy (fun batch -> batch.Counts[kind]) |> float |]
        let all = [| for rank in 0 .. exchange.Size - 1 -> if rank = exchange.Rank then float rounds else 0.0 |]
        let sums = exchange.Sum(Array.append counts all)
        [| for kind in 0..2 -> int64 sums[kind] |], (if exchange.Size = 1 then rounds else int (Array.max sums[3..]))

    let summed (parts: torch.Tensor) : torch.Tensor =
        exchange.Begin(fun () -> exchange.AllReduce parts).Invoke()
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

    /// One step over micro-batches of sequences (of one length): gradients of all of them, and of those that other processes have, then
    /// one update.
    member _.Step(microBatches: IReadOnlyList<Batch>, learningRate: float) : StepResult =
        use _ = torch.NewDisposeScope()
        use _ = team.Lead()
        let atOnce = if shards.IsSome then 1 else team.Size
        let rounds = microBatches |> Seq.chunkBySize atOnce |> Seq.toArray
        let counts, most = agree microBatches rounds.Length
        let total = Array.sum counts
        pass.Lap Phase.Begin
        Step.zero store state
        pass.Lap Phase.Gradients

        // Gradients that are kept in slices are summed in each round; a process that has none left takes part with nothing.
        let reduced (i: int) = exchange.Size > 1 && (sharing.SlicesGradients || i = rounds.Length - 1)

        let parts =
            match shards with
            | Some shards -> byShards shards total rounds most
            | None -> rounds |> Array.mapi (fun i -> together (reduced i) total) |> Array.concat

        if sharing.SlicesGradients && shards.IsNone then
            for _ in rounds.Length .. most - 1 do
                reductions.Begin []
                reductions.Finish()

        let sum = torch.stack(parts).sum 0L |> summed

        for part in parts do
            part.Dispose()

        let norm = Step.updateBy pass.Lap optimizer learningRate publish state

        match average with
        | null -> ()
        | average -> average.Update norm

        new StepResult(sum.MoveToOuterDisposeScope(), norm.MoveToOuterDisposeScope(), counts)

    /// Sequences of one length as the micro-batches that the threads share, all in memory together, on the model's device, without
    /// their padding; `Sequence.release` lets go of each.
    member trainer.Batches(sequences: int64[][]) : Batch[] =
        let share = (sequences.Length + team.Size - 1) / team.Size
        Sequence.microBatches Dropped model.Vocabulary store.Device (max 1 share) sequences

    /// All fp32 weights in the store's layout, in host memory; the caller owns them. All processes must ask together.
    member _.HostWeights() : torch.Tensor = Step.wholeWeights store state

    /// The moving average of the weights in the same form, with what does not move as it is; null where none is kept.
    member _.HostAverage() : torch.Tensor | null =
        match average with
        | null -> null
        | average -> Step.whole store state average.Of

    /// Puts a parameter's fp32 values, on any device, in the place of its weights, as far as they move and this process keeps them. Call
    /// `Publish` when all are set.
    member _.SetWeights(name: string, values: torch.Tensor) : unit = Step.setParameter store state _.Weights name values

    /// Renews the weights that compute. All processes must ask together.
    member _.Publish() : unit = publish ()

    /// Puts a parameter's fp32 average, on any device, in the place of the one that is kept.
    member _.SetAverage(name: string, values: torch.Tensor) : unit =
        match average with
        | null -> ()
        | average -> Step.setParameter store state average.Of name values

    /// Elements of the moments of all processes together.
    member _.StateLength: int64 = store.Segments |> List.sumBy _.Length

    /// Whether each process keeps its own slices of the moments.
    member _.StateIsSliced: bool = sharing.Sliced

    /// Where this process's part of the moments stands among all of them: place and length of each piece, in order.
    member _.StatePlaces: IReadOnlyList<struct (int64 * int64)> =
        [| for piece in state.Pieces -> struct (piece.Place, piece.Segment.Length) |] :> IReadOnlyList<struct (int64 * int64)>

    /// The optimizer's tensors by name, in flat layout; the trainer keeps them.
    member _.State: IReadOnlyDictionary<string, torch.Tensor> =
        dict [ "first", state.First; "second", state.Second; "steps", state.Steps; "skipped", state.Skipped ]
        |> Dictionary
        :> IReadOnlyDictionary<string, torch.Tensor>

    /// Whether a moving average of the weights is kept.
    member _.KeepsAverage: bool = not (isNull average)

    /// The names of the parameters of which something moves.
    member _.Moving: IReadOnlyList<string> =
        [|
            for slot in store.Slots do
                if slot.Movement <> Stays then
                    slot.Spec.Name
        |]

    /// The layout of the flat state: parameter names in order. A state of another layout does not fit.
    member _.StateLayout: string =
        String.Join(",", store.Slots |> List.map (fun slot -> $"{slot.Spec.Name}:{slot.Movement}"))

    /// Updates left out because their gradient was not finite. Reads from the device.
    member _.Skipped: int64 = int64 (state.Skipped.cpu().data<float32>().[0L])

    interface IDisposable with
        member _.Dispose() =
            for replica in replicas do
                (replica :> IDisposable).Dispose()

            (reductions :> IDisposable).Dispose()
            shards |> Option.iter (fun shards -> (shards :> IDisposable).Dispose())

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

    /// A text alone, padded to `length`.
    static member TextOnly(vocabulary: Vocabulary, length: int, text: int[]) : int64[] =
        Sequence.compose vocabulary TextOnly length text [||]

    /// Sequences of one length as a batch with all their padding; `Release` lets go of it.
    static member Batch(vocabulary: Vocabulary, device: torch.Device, sequences: int64[][]) : Batch =
        Sequence.batch vocabulary device sequences

    /// Releases a batch's tensors.
    static member Release(batch: Batch) : unit = Sequence.release batch

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
