/// Training over many GPUs, predicted: memory of each, bytes that are sent, time; and the choice of how to train.
namespace Hybrid

/// GPUs and the links between them.
type Cluster =
    {
        /// How many there are in all
        Gpus: int
        /// How many share a node
        GpusPerNode: int
        /// Bytes that a GPU holds
        GpuMemory: float
        /// Bytes per second that a node sends to another, all its cards together
        Link: float
        /// Bytes per second that a GPU sends to another one of its node
        NodeLink: float
        /// Seconds that a message takes from one GPU to the next, beside its bytes
        Latency: float
        /// Floating-point operations per second of a GPU in the midst of a step, those made again included
        Rate: float
    }

    /// How many there are; the last one may have fewer GPUs.
    member c.Nodes = (c.Gpus + c.GpusPerNode - 1) / c.GpusPerNode

    /// Bytes per second of the slowest link of a ring through all GPUs, which bounds the ring.
    member c.Slowest = if c.Nodes > 1 then min c.Link c.NodeLink else c.NodeLink

/// What is to be trained.
type ScalingWork =
    {
        /// What is trained
        Model: ModelConfig
        /// What moves of each parameter
        Movement: ParameterSpec -> Movement
        /// Of the forward and backward pass
        Precision: Precision
        /// In which micro-batches and processes add up
        Gradients: Precision
        /// Positions that the model reads of each sequence
        Positions: int
        /// Tokens of a step over all GPUs; as near as whole sequences for each GPU come
        TokensPerStep: float
        /// Tokens of the whole run
        Tokens: float
    }

/// How to train: a stage of ZeRO, what blocks keep, and how many micro-batches a step of a GPU has.
type ScalingChoice =
    {
        /// The stage, 0 to 3
        Zero: int
        /// What blocks keep for the backward pass
        Checkpointing: Checkpointing
        /// Micro-batches of a step
        Accumulation: int
        /// Sequences of a micro-batch
        MicroBatch: int
    }

/// What a GPU sends in a step by one kind of collective.
type Traffic =
    {
        /// all-reduce, reduce-scatter or all-gather
        Collective: string
        /// That a GPU sends
        Bytes: float
        /// Calls, each of which takes as many messages as its ring has steps
        Calls: float
        /// That its messages take
        Seconds: float
        /// Seconds that the GPU waits for it, where it goes on beside the computing
        Exposed: float
    }

/// A step, predicted.
type ScalingStep =
    {
        /// How it is done
        Choice: ScalingChoice
        /// Of one GPU
        Memory: StepMemory
        /// Empty for one GPU
        Traffic: Traffic list
        /// Seconds that a GPU computes
        Compute: float
    }

    /// That a GPU sends.
    member s.Bytes = s.Traffic |> List.sumBy _.Bytes
    /// Seconds that messages take.
    member s.Communication = s.Traffic |> List.sumBy _.Seconds
    /// Seconds that a GPU waits for messages.
    member s.Exposed = s.Traffic |> List.sumBy _.Exposed
    /// The whole step.
    member s.Seconds = s.Compute + s.Exposed

/// The fastest way of a stage of ZeRO that fits, or the least memory that the stage takes.
type ScalingStage =
    {
        /// The stage, 0 to 3
        Zero: int
        /// Its fastest step, or the least bytes that it takes
        Best: Result<ScalingStep, int64>
    }

/// What can be done, and the fastest of it.
type ScalingPlan =
    {
        /// Tokens of a step over all GPUs, in whole sequences for each
        TokensPerStep: float
        /// Each with its fastest step or its least memory
        Stages: ScalingStage list
        /// The fastest step of all stages
        Pick: ScalingStep
    }

/// Predicting steps over many GPUs, and searching for the fastest.
module Scaling =

    /// The share of a GPU's memory that a plan fills: the allocator's gaps and the library of collectives take some.
    let fill: float = 0.9

    /// The most sequences of a step, over all GPUs.
    let mostSequences: int = 1 <<< 24

    /// The time of a step that computes norms, gates and softmax again, as measured: 515 tokens/s without, 510 with.
    let private selectiveTime = 515.0 / 510.0

    /// Sequences of a step for each GPU: at least one.
    let sequences (work: ScalingWork) (cluster: Cluster) : int =
        let each = work.TokensPerStep / float work.Positions / float cluster.Gpus
        int (min (float (mostSequences / cluster.Gpus)) (max 1.0 (round each)))

    /// Operations per token that a GPU makes, those of the blocks' second forward pass included, over those of the model.
    let again (model: ModelConfig) (positions: int) (checkpointing: Checkpointing) : float =
        match checkpointing with
        | Checkpointing.None -> 1.0
        | Checkpointing.Selective -> selectiveTime
        | Checkpointing.Full -> 1.0 + ModelConfig.blockFlopsPerToken model positions / ModelConfig.flopsPerToken model positions

    /// Memory of a GPU.
    let memory (work: ScalingWork) (cluster: Cluster) (zero: int) (checkpointing: Checkpointing) (microBatch: int) : StepMemory =
        Memory.ofShared
            work.Model
            work.Movement
            {
                Precision = work.Precision
                Gradients = work.Gradients
                Checkpointing = checkpointing
                Sequences = microBatch
                Threads = 1
                Positions = work.Positions
                OnCpu = false
                Passes = false
            }
            { Zero = zero; World = cluster.Gpus }

    /// A collective over `bytes` in all, in so many calls. Around a ring each GPU sends a slice n − 1 times to reduce-scatter or to
    /// gather, twice that to all-reduce. Of its time `room` seconds are hidden, but not those of its first or last call.
    let private collective
        (cluster: Cluster)
        (name: string)
        (rounds: float)
        (bytes: float)
        (calls: float)
        (room: float)
        : Traffic =
        let hops = rounds * float (cluster.Gpus - 1)
        let sent = hops * bytes / float cluster.Gpus
        let seconds = sent / cluster.Slowest + hops * calls * cluster.Latency

        {
            Collective = name
            Bytes = sent
            Calls = calls
            Seconds = seconds
            Exposed = max (seconds - room) (seconds / max 1.0 calls)
        }

    let private traffic (work: ScalingWork) (cluster: Cluster) (sizes: ParameterSizes) (choice: ScalingChoice) (compute: float) =
        let each precision (elements: int64) = float elements * (if precision = Fp32 then 4.0 else 2.0)
        let sums = if work.Precision = Fp32 then Fp32 else work.Gradients
        let micro, layers = float choice.Accumulation, float work.Model.Layers
        // A bucket for each block, one for what stands before them and one for what stands behind.
        let buckets = layers + 2.0
        let forward = compute / 3.0 / again work.Model work.Positions choice.Checkpointing
        let backward = compute - forward
        let ring = collective cluster

        [
            match choice.Zero with
            // Sums are whole only when the last micro-batch goes backward.
            | 0 -> ring "all-reduce of gradients" 2.0 (each sums sizes.Gradient) buckets (backward / micro)
            | 1 ->
                ring "reduce-scatter of gradients" 1.0 (each sums sizes.Gradient) buckets (backward / micro)
                ring "all-gather of weights" 1.0 (each work.Precision sizes.Gradient) 1.0 0.0
            | 2 ->
                ring "reduce-scatter of gradients" 1.0 (micro * each sums sizes.Gradient) (micro * buckets) backward
                ring "all-gather of weights" 1.0 (each work.Precision sizes.Gradient) 1.0 0.0
            | _ ->
                let ends, blocks = each work.Precision sizes.Ends, micro * each work.Precision sizes.Blocks
                let scattered = micro * each sums sizes.Gradient
                ring "all-gather of embeddings and head" 1.0 ends 1.0 0.0
                ring "all-gather of blocks, forward" 1.0 blocks (micro * layers) forward
                // Both share the links while the backward pass goes on: each hides in its part of it.
                let part = blocks / (blocks + scattered)
                ring "all-gather of blocks, backward" 1.0 blocks (micro * layers) (part * backward)
                ring "reduce-scatter of gradients" 1.0 scattered (micro * buckets) ((1.0 - part) * backward)
        ]

    /// A step by a choice, whether or not it fits.
    let predict (work: ScalingWork) (cluster: Cluster) (choice: ScalingChoice) : ScalingStep =
        let flops =
            ModelConfig.flopsPerToken work.Model work.Positions * again work.Model work.Positions choice.Checkpointing

        let tokens = float (sequences work cluster) * float work.Positions
        let compute = tokens * flops / cluster.Rate
        let sizes = Memory.sizes work.Model work.Movement

        {
            Choice = choice
            Memory = memory work cluster choice.Zero choice.Checkpointing choice.MicroBatch
            Traffic = if cluster.Gpus = 1 then [] else traffic work cluster sizes choice compute
            Compute = compute
        }

    /// Stages that there are: one GPU has nothing to share.
    let private stages (cluster: Cluster) : int list = if cluster.Gpus = 1 then [ 0 ] else [ 0..3 ]

    let private ways (cluster: Cluster) (zero: int) : Checkpointing list = Memory.ways { Zero = zero; World = cluster.Gpus }

    /// The largest count up to `most` that fits, or 0. What fits must fit with less as well; no count beyond twice one that fits is tried.
    let private largest (fits: int -> bool) (most: int) : int =
        let rec between low high =
            if high - low <= 1 then
                low
            else
                let middle = low + (high - low) / 2
                if fits middle then between middle high else between low middle

        let rec above low =
            if low = most then
                low
            else
                let next = min most (2 * low)
                if fits next then above next else between low next

        if fits 1 then above 1 else 0

    /// The fastest way of a stage that fits: fewer micro-batches never take longer.
    let private stage (work: ScalingWork) (cluster: Cluster) (zero: int) : ScalingStage =
        let sequences = sequences work cluster
        let budget = int64 (fill * cluster.GpuMemory)
        let total way microBatch = (memory work cluster zero way microBatch).Total
        let ways = ways cluster zero

        let steps =
            [
                for way in ways do
                    match largest (fun count -> total way count <= budget) sequences with
                    | 0 -> ()
                    | most ->
                        let accumulation = (sequences + most - 1) / most

                        predict
                            work
                            cluster
                            {
                                Zero = zero
                                Checkpointing = way
                                Accumulation = accumulation
                                MicroBatch = (sequences + accumulation - 1) / accumulation
                            }
            ]

        {
            Zero = zero
            Best =
                match steps with
                | [] -> Error(ways |> List.map (fun way -> total way 1) |> List.min)
                | steps -> Ok(steps |> List.minBy _.Seconds)
        }

    /// The least memory that a step takes, with the stage and the way of checkpointing that take it.
    let private least (work: ScalingWork) (cluster: Cluster) : int64 * int * Checkpointing =
        [
            for zero in stages cluster do
                for way in ways cluster zero do
                    (memory work cluster zero way 1).Total, zero, way
        ]
        |> List.minBy (fun (total, _, _) -> total)

    let private nothingFits (work: ScalingWork) (cluster: Cluster) : string =
        let gigabytes (bytes: float) = (bytes / 1e9).ToString("0.0", System.Globalization.CultureInfo.InvariantCulture) + " GB"
        let most = 1 <<< 20
        let budget = fill * cluster.GpuMemory
        let total, zero, way = least work cluster

        let fits gpus =
            let total, _, _ = least work { cluster with Gpus = gpus }
            float total <= budget

        let more =
            if cluster.Gpus < most && fits most then
                $"at least {1 + largest (fits >> not) most} of these, "
            else
                ""

        let half = if work.Precision = Fp32 then ", --precision bf16" else ""

        $"nothing fits into GPUs of {gigabytes cluster.GpuMemory}, of which {gigabytes budget} may be filled: a step takes at least {gigabytes (float total)}, with ZeRO {zero}, checkpointing {Checkpointing.name way} and one sequence of {work.Positions} positions at a time. Take GPUs of at least {gigabytes (1e8 * ceil (float total / fill / 1e8))}, {more}shorter sequences (--sequence){half}, or a smaller model."

    /// What each stage of ZeRO comes to, and the fastest that fits; the lowest stage where several are as fast. Errors: a sentence where
    /// nothing fits, or a step has more sequences than can be.
    let plan (work: ScalingWork) (cluster: Cluster) : Result<ScalingPlan, string> =
        if work.TokensPerStep / float work.Positions > float mostSequences then
            Error
                $"a step of {work.TokensPerStep} tokens has more than {mostSequences} sequences of {work.Positions} positions; make --tokens-per-step smaller or --sequence longer."
        else
            let stages = stages cluster |> List.map (stage work cluster)

            match stages |> List.choose (fun stage -> Result.toOption stage.Best) with
            | [] -> Error(nothingFits work cluster)
            | steps ->
                Ok
                    {
                        TokensPerStep = float (sequences work cluster) * float cluster.Gpus * float work.Positions
                        Stages = stages
                        Pick = steps |> List.minBy _.Seconds
                    }

/// What a process reached, as `hybrid bench train --json` writes it.
type MeasuredTraining =
    {
        /// Of all sequences of a step
        TokensPerSecond: float
        /// Floating-point operations of forward and backward pass for a token
        FlopPerToken: float
        /// What blocks kept meanwhile
        Checkpointing: Checkpointing
        /// Operations per second of products of matrices, measured beside it
        Peak: float
    }

/// Reading a measurement, and the operations per second that it comes to.
module MeasuredTraining =

    /// Reads a measurement; what else stands in it is not looked at. Errors: a sentence for each key that is wrong.
    let parse (text: string) : Result<MeasuredTraining, string list> =
        Json.parse text (fun json ->
            {
                // Several processes write what they reach together.
                TokensPerSecond = json.Float("tokens_per_second", 1e-6, 1e15) / float (json.Int("processes", 1, 1 <<< 20, 1))
                FlopPerToken = json.Float("flop_per_token", 1.0, 1e18)
                Checkpointing = json.Choice("checkpointing", Checkpointing.names)
                Peak = json.Float("matrix_peak_flops", 1.0, 1e21)
            })

    /// Operations per second that it stands for, those made again included. Errors: a sentence where these cannot be told, since it
    /// was measured on another model.
    let rate (model: ModelConfig) (positions: int) (measured: MeasuredTraining) : Result<float, string> =
        let planned = ModelConfig.flopsPerToken model positions
        let same = abs (measured.FlopPerToken / planned - 1.0) < 0.01

        if same || measured.Checkpointing = Checkpointing.None then
            Ok(measured.TokensPerSecond * measured.FlopPerToken * Scaling.again model positions measured.Checkpointing)
        else
            Error
                $"was measured with checkpointing {Checkpointing.name measured.Checkpointing} on another model ({measured.FlopPerToken} operations a token, this one has {planned}); measure this model, or measure with --checkpointing none."
