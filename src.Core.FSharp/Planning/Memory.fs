/// How much memory a step of training takes, estimated from a model's description.
namespace Hybrid

/// What decides the memory of a step, beside the model.
type StepPlan =
    {
        /// Of the forward and backward pass
        Precision: Precision
        /// In which micro-batches add up
        Gradients: Precision
        /// What blocks keep for the backward pass
        Checkpointing: Checkpointing
        /// Sequences that are worked on together
        Sequences: int
        /// Threads that share them, each with a gradient of its own
        Threads: int
        /// Positions that the model reads of each
        Positions: int
        /// Attention of its own on a CPU; elsewhere torch's fused one
        OnCpu: bool
        /// Torch has one thread on each of these, so that bf16 takes the passes of `Kernels`, which keep less
        Passes: bool
    }

/// Bytes by what they are for. Activations and the head are those of the sequences that are worked on together.
type StepMemory =
    {
        /// The fp32 master, and the copy in bf16 that the model computes with
        Weights: int64
        /// Of what moves, of each thread, and where micro-batches add up
        Gradients: int64
        /// AdamW's two
        Moments: int64
        /// What blocks keep for the backward pass
        Activations: int64
        /// Head and loss: the gradients of hidden states and table
        Head: int64
        /// What comes and goes: inner results of a block and some targets' logits
        Work: int64
        /// What a run holds beside its steps: the moving average of the weights, and the copy that checkpoints are written from
        Run: int64
        /// The program itself with its libraries
        Program: int64
    }

    /// Bytes of all parts.
    member m.Total = m.Weights + m.Gradients + m.Moments + m.Activations + m.Head + m.Work + m.Run + m.Program

/// Elements of a model's parameters as they stand in flat memory.
type ParameterSizes =
    {
        /// All of them
        Length: int64
        /// Those that a gradient covers
        Gradient: int64
        /// Those that an update may change, which have moments
        Updated: int64
        /// All blocks together
        Blocks: int64
        /// The largest block
        Block: int64
        /// The largest parameter outside the blocks
        Table: int64
    }

    /// What stands outside the blocks: embeddings, norms, head.
    member s.Ends = s.Length - s.Blocks

/// How processes share what belongs to the parameters: ZeRO's stages (Rajbhandari et al. 2020).
type Slicing =
    {
        /// 0: each has all; 1: slices of the moments, and in bf16 of the fp32 master; 2: of gradients too; 3: of the weights as well
        Zero: int
        /// How many processes
        World: int
    }

/// Estimates of a step's memory from a model's description alone.
module Memory =

    let private bytes (precision: Precision) = if precision = Fp32 then 4L else 2L

    // .NET with libtorch once it has computed; of a GPU's memory, what its context and its libraries set aside, which is an allowance.
    let private program (onCpu: bool) = if onCpu then 220_000_000L else 1_000_000_000L

    /// Sizes per position of a block's inner results, in elements.
    type private Widths(config: ModelConfig) =
        member _.Residual = int64 config.Width
        member _.Queries = int64 (ModelConfig.queryWidth config)
        member _.Keys = int64 (ModelConfig.keyWidth config)
        member w.Joined = w.Queries + 2L * w.Keys
        member _.FeedForward = int64 config.FeedForwardWidth
        member w.Hidden = if config.Gated then 2L * w.FeedForward else w.FeedForward

    let private inPasses (plan: StepPlan) = plan.OnCpu && plan.Passes && plan.Precision = Bf16

    /// Bytes per position that a norm over `width` values keeps beside its input: RMS norm is made of several operations in fp32.
    let private normKeeps (config: ModelConfig) (plan: StepPlan) (width: int64) =
        if config.Norm <> RmsNorm || inPasses plan then 8L
        elif plan.Precision = Fp32 then 4L * width
        else 8L * width

    /// Scores that a block works on at once, piece by piece: none where torch's fused attention does without.
    let private pieces (config: ModelConfig) (plan: StepPlan) =
        if plan.OnCpu then
            FusedAttention.scores Layers.scoresAtOnce (int64 config.Heads) (int64 plan.Sequences) (int64 plan.Positions)
        else
            []

    let private scoresOf (kept: int64 list -> int64) (pieces: int64 list) = if pieces.IsEmpty then 0L else kept pieces

    /// What a block keeps for the backward pass when nothing is computed again. A product keeps its input for its weights' gradient,
    /// so only where they move.
    let private everything (config: ModelConfig) (plan: StepPlan) (moves: string -> bool) (prefix: string) : int64 =
        let w, e = Widths config, bytes plan.Precision
        let tokens = int64 plan.Sequences * int64 plan.Positions
        let ifMoves name width = if moves $"{prefix}.{name}" then width else 0L
        let first, second = Layers.feedForwardNames config prefix
        let fed name width = if moves (name + ".weight") then width else 0L

        let elements =
            w.Residual
            + ifMoves "attention.in_proj.weight" w.Residual
            + w.Joined
            + (if plan.OnCpu && not config.QkNorm then 0L else w.Joined)
            + ifMoves "attention.out_proj.weight" w.Queries
            + (if config.ParallelResidual then 0L else w.Residual)
            + fed first w.Residual
            + w.Hidden
            + (if config.FeedForward = GeGlu then w.FeedForward else 0L)
            + fed second w.FeedForward

        let whole = int64 config.Heads * tokens * int64 plan.Positions

        let scores =
            scoresOf (fun pieces -> if whole <= Layers.scoresKept then List.sum pieces else 0L) (pieces config plan)

        let norms = normKeeps config plan

        let norms = 2L * norms w.Residual + (if config.QkNorm then norms w.Queries + norms w.Keys else 0L)

        e * (tokens * elements + scores) + tokens * norms

    let private selective (config: ModelConfig) (plan: StepPlan) : int64 =
        let w, e = Widths config, bytes plan.Precision
        let tokens = int64 plan.Sequences * int64 plan.Positions

        let elements =
            w.Residual
            + w.Joined
            + (if plan.OnCpu && not config.QkNorm then 0L else w.Joined)
            + w.Queries
            + (if config.ParallelResidual then 0L else w.Residual)
            + w.Hidden

        let norms =
            if config.QkNorm then
                normKeeps config plan w.Queries + normKeeps config plan w.Keys
            else
                0L

        tokens * (e * elements + norms)

    /// What comes and goes while a block is gone back through.
    let private passing (config: ModelConfig) (plan: StepPlan) : int64 =
        let w, e = Widths config, bytes plan.Precision
        let tokens = int64 plan.Sequences * int64 plan.Positions
        let pieces = pieces config plan
        let again = plan.Checkpointing = Checkpointing.Selective
        // A pass leaves the gradient of the scores where that of their softmax was.
        let copies = (if again then 3L else 2L) - (if inPasses plan then 1L else 0L)
        let scores = copies * scoresOf List.max pieces
        let sums = if pieces.Length > 1 then 8L * tokens * w.Keys else 0L
        let attention = e * (scores + tokens * (3L * w.Joined + 2L * w.Queries)) + sums
        let inputs = if again then w.FeedForward + w.Residual else 0L
        let feedForward = 2L * w.Hidden + 2L * w.FeedForward + w.Residual + inputs
        attention + e * (tokens * feedForward + w.Hidden * w.Residual)

    // The C library keeps much of what it was given back: three quarters more than there is at once, as measured with glibc.
    let private held (plan: StepPlan) (passing: int64) = if plan.OnCpu then passing * 7L / 4L else passing

    /// What the parameters of a model take in flat memory, in elements.
    let sizes (config: ModelConfig) (movement: ParameterSpec -> Movement) : ParameterSizes =
        let slots, segments, length = Parameters.layout Parameters.Matrices movement (Decoder.parameters config)

        let block (spec: ParameterSpec) = ParameterName.block spec.Name
        let blocks, ends = slots |> List.map _.Spec |> List.partition (fun spec -> block spec >= 0)
        let counts = blocks |> List.groupBy block |> List.map (fun (_, specs) -> specs |> List.sumBy _.Count)

        {
            Length = length
            Gradient = length - Slot.FirstMoving(slots, length)
            Updated = segments |> List.sumBy _.Length
            Blocks = List.sum counts
            Block = if counts.IsEmpty then 0L else List.max counts
            Table = if ends.IsEmpty then 0L else ends |> List.map _.Count |> List.max
        }

    /// Memory of a step of a model of which `movement` moves. Measured peaks were within 15 % of it.
    let ofStep (config: ModelConfig) (movement: ParameterSpec -> Movement) (plan: StepPlan) : StepMemory =
        let slots, segments, length = Parameters.layout Parameters.Matrices movement (Decoder.parameters config)
        let w, e = Widths config, bytes plan.Precision
        let tokens = int64 plan.Sequences * int64 plan.Positions
        let half = plan.Precision = Bf16
        let gradients = length - Slot.FirstMoving(slots, length)

        let moving = slots |> List.filter (fun slot -> slot.Movement <> Stays) |> List.map _.Spec.Name |> Set.ofList

        let moves name = Set.contains name moving

        // Before the first parameter that moves, nothing has a graph.
        let first =
            if
                moves "tok_embeddings.weight"
                || moves "pos_embeddings.weight"
                || moving |> Set.exists _.StartsWith("post_embed_norm.")
            then
                0
            else
                [ 0 .. config.Layers - 1 ]
                |> List.tryFind (fun layer -> moving |> Set.exists _.StartsWith($"layers.{layer}."))
                |> Option.defaultValue config.Layers

        let layers = [ for layer in first .. config.Layers - 1 -> $"layers.{layer}" ]

        let all = layers |> List.map (everything config plan moves)

        let blocks =
            match plan.Checkpointing with
            | Checkpointing.None -> List.sum all
            | Checkpointing.Selective -> int64 layers.Length * selective config plan
            | Checkpointing.Full -> int64 layers.Length * tokens * w.Residual * e

        // The norms at both ends, and the hidden states.
        let ends = tokens * (2L * w.Residual * e + normKeeps config plan w.Residual)

        // The head's gradients are formed in the forward pass, and handed on multiplied in the backward pass.
        let threads = int64 (max 1 plan.Threads)
        let head = 2L * e * (threads * int64 config.Rows + tokens) * w.Residual

        let logits =
            HeadLoss.rowsAtOnce tokens (int64 config.Rows)
            |> min tokens
            |> fun targets ->
                targets
                * int64 config.Rows
                * (if inPasses plan then 2L
                   elif half then 12L
                   else 8L)

        let again = if plan.Checkpointing = Checkpointing.Full && not all.IsEmpty then List.max all else 0L

        {
            Weights = length * (if half then 6L else 4L)
            Gradients = gradients * (threads * e + (if half && plan.Gradients = Fp32 then 4L else 0L))
            Moments = 8L * (segments |> List.sumBy _.Length)
            Activations = blocks + ends
            Head = head
            Work = held plan (passing config plan) + again + logits
            Run = 0L
            Program = program plan.OnCpu
        }

    let private slice (world: int) (elements: int64) = (elements + int64 world - 1L) / int64 world

    /// The ways of checkpointing that go with a stage, the fastest first: stage 3 computes each block again when its weights are there again.
    let ways (sharing: Slicing) : Checkpointing list =
        if sharing.Zero = 3 && sharing.World > 1 then
            [ Checkpointing.Full ]
        else
            List.map snd Checkpointing.names

    /// Memory of a step in one of the processes that share a model, `plan` being that process's own. From stage 2 on a gradient exists
    /// whole only for the block, or the table, that the backward pass is at; at stage 3 so do the weights, while the block that is
    /// computed next is gathered. Errors: ArgumentException for a stage that is none, or no process.
    let ofShared (config: ModelConfig) (movement: ParameterSpec -> Movement) (plan: StepPlan) (sharing: Slicing) : StepMemory =
        if sharing.Zero < 0 || sharing.Zero > 3 || sharing.World < 1 then
            invalidArg (nameof sharing) $"ZeRO {sharing.Zero} for {sharing.World} processes: stages are 0 to 3."

        let whole = ofStep config movement plan

        if sharing.World = 1 then
            whole
        else
            let s, e = sizes config movement, bytes plan.Precision
            let slice = slice sharing.World
            let half = plan.Precision = Bf16
            let from stage value otherwise = if sharing.Zero >= stage then min value otherwise else otherwise
            let sums = if half && plan.Gradients = Bf16 then 2L else 4L
            let passing = e * int64 (max 1 plan.Threads) * min s.Gradient (max s.Block s.Table)
            let gathered = e * (s.Ends + min s.Blocks (2L * s.Block))
            let master = 4L * slice s.Length

            { whole with
                Weights =
                    whole.Weights |> from 1 (if half then e * s.Length + master else whole.Weights) |> from 3 (master + gathered)
                Gradients = whole.Gradients |> from 2 (sums * slice s.Gradient + passing)
                Moments = whole.Moments |> from 1 (8L * slice s.Updated)
            }

    /// `ofShared` in a run that keeps a moving average of its weights, or takes checkpoints while steps go on. What checkpoints are
    /// written from is in host memory, and so counts where the step is there too: weights and average as a whole, and the moments that the
    /// process keeps. Errors: those of `ofShared`.
    let ofRun
        (config: ModelConfig)
        (movement: ParameterSpec -> Movement)
        (plan: StepPlan)
        (sharing: Slicing)
        (average: bool)
        (checkpoints: bool)
        : StepMemory =
        let s = sizes config movement
        let updated = if sharing.Zero >= 1 then slice sharing.World s.Updated else s.Updated
        let averages = if average then 1L else 0L
        let copies = if checkpoints && plan.OnCpu then 8L * updated + 4L * s.Length * (1L + averages) else 0L
        { ofShared config movement plan sharing with Run = 4L * updated * averages + copies }

    /// The first of some choices, the fastest first, with which a step takes at most `budget` bytes; where none does, the least that a step
    /// takes.
    let fastest
        (choices: Checkpointing list)
        (budget: int64)
        (estimate: Checkpointing -> StepMemory)
        : Result<Checkpointing, int64> =
        let needs = [ for choice in choices -> choice, (estimate choice).Total ]

        match needs |> List.tryFind (fun (_, total) -> total <= budget) with
        | Some(choice, _) -> Ok choice
        | None -> Error(needs |> List.map snd |> List.min)
