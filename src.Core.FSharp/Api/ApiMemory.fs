/// The C# door: how a step of training uses threads and memory, and how much.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// Threads that work side by side: `run` carries out a piece of work for each number below its count, at most `size`, and returns
/// when all are done.
[<Sealed>]
type Team
    /// `run` is given a count, at most `size`, and the work to do for each number below it.
    (size: int, run: Action<int, Action<int>>) =
    /// How many pieces of work go on at once.
    member _.Size = size
    /// Does `work` for each number below `count` (at most `Size`), and returns when all are done.
    member _.Run(count: int, work: Action<int>) : unit = run.Invoke(count, work)

    /// Until this is disposed, torch does the caller's own work between runs on the caller alone. Threads that it shared the work with
    /// would wait for more, spinning, where the team needs the cores.
    member _.Lead() : IDisposable = SamplerLoop.alone (size > 1)

    /// One thread, the caller's.
    static member Alone: Team =
        Team(
            1,
            fun count work ->
                for i in 0 .. count - 1 do
                    work.Invoke i
        )

/// How the processes of a run share a step.
[<Sealed>]
type ProcessSharing() =
    /// The collectives that join the processes; one process by default.
    member val Exchange: IExchange = Exchange.alone with get, set

    /// What each process keeps a slice of. 0: nothing; 1: moments (and in bf16 the fp32 weights); 2: gradients too; 3: the weights of
    /// blocks too
    member val Zero = 0 with get, set

    /// Whether gradients are summed over processes while the backward pass goes on
    member val Overlap = true with get, set

    /// Elements that are sent as one, at most
    member val Bucket = 1L <<< 24 with get, set

    member internal s.Of(store: ParameterStore) : Sharing =
        if s.Exchange.Size = 1 then
            Sharing.Alone
        else
            {
                Exchange = s.Exchange
                Stage = s.Zero
                Buckets = (if s.Zero >= 3 then Exchange.blockBuckets else Exchange.buckets) s.Bucket store.Slots store.Length
            }

/// How a step of training uses memory and threads.
[<Sealed>]
type Training() =
    /// What of each block is kept for the backward pass: a name of `Checkpointing.names`
    member val Checkpointing = "none" with get, set
    /// Micro-batches of a model in bf16 add up in bf16 instead of fp32
    member val HalfGradients = false with get, set

    /// The decay of a moving average of the weights; 0: none is kept
    member val AverageDecay = 0.0 with get, set

    /// The threads that share the micro-batches of a step
    member val Team = Team.Alone with get, set

    /// The processes that share a step, and how
    member val Sharing = ProcessSharing() with get, set

    /// Is told of each part of a step when it is over, by its name, on the thread that did it; null for nobody
    member val Lap: Action<string> | null = null with get, set

    /// Errors: ArgumentException for a name that is none of `Checkpointing.names`.
    member internal t.Pass: Decoder.Pass =
        match Checkpointing.names |> List.tryFind (fun (name, _) -> name = t.Checkpointing) with
        | Some(_, checkpointing) ->
            {
                Checkpointing = checkpointing
                Lap =
                    match t.Lap with
                    | null -> ignore
                    | lap -> fun phase -> lap.Invoke(Phase.name phase)
                Passed = None
                Gathered = None
            }
        | None ->
            let names = Checkpointing.names |> List.map fst |> String.concat ", "
            invalidArg (nameof t.Checkpointing) $"'{t.Checkpointing}' is not a way of checkpointing; there are {names}."

/// A part of a step's memory.
[<Struct>]
type MemoryPart =
    {
        /// weights, gradients, moments, activations, head, work, program or total
        Name: string
        /// How much it takes of the machine's, or of the GPU's, memory
        Bytes: int64
    }

/// Estimates of the memory of a step of training.
[<AbstractClass; Sealed>]
type StepMemories private () =

    /// A step of a model of which `movement` moves, in a run that keeps an average of its weights or checkpoints while steps go on.
    static member internal Of
        (
            config: ModelConfig,
            movement: ParameterSpec -> Movement,
            precision: Precision,
            gradients: Precision,
            checkpointing: Checkpointing,
            sequences: int,
            threads: int,
            positions: int,
            device: torch.Device,
            processes: Slicing,
            average: bool,
            checkpoints: bool
        ) : StepMemory =
        Memory.ofRun
            config
            movement
            {
                Precision = precision
                Gradients = gradients
                Checkpointing = checkpointing
                Sequences = sequences
                Threads = threads
                Positions = positions
                OnCpu = (device.``type`` = DeviceType.CPU)
                Passes = (threads > 1 || torch.get_num_threads () = 1)
            }
            processes
            average
            checkpoints

    /// The parts of an estimate by name, with their total.
    static member Parts(memory: StepMemory) : IReadOnlyList<MemoryPart> =
        [|
            { Name = "weights"; Bytes = memory.Weights }
            { Name = "gradients"; Bytes = memory.Gradients }
            { Name = "moments"; Bytes = memory.Moments }
            { Name = "activations"; Bytes = memory.Activations }
            { Name = "head"; Bytes = memory.Head }
            { Name = "work"; Bytes = memory.Work }
            // A step by itself is no run.
            if memory.Run > 0L then
                { Name = "run"; Bytes = memory.Run }
            { Name = "program"; Bytes = memory.Program }
            { Name = "total"; Bytes = memory.Total }
        |]

    /// The ways of checkpointing, the fastest first.
    static member Ways: IReadOnlyList<string> = Checkpointing.names |> List.map fst |> List.toArray :> IReadOnlyList<string>

    /// A step on a CPU that moves the whole model, `sequences` of `positions` positions at a time.
    static member Of(config: ModelConfig, halfPrecision: bool, training: Training, sequences: int, positions: int) : StepMemory =
        let precision which = if which then Bf16 else Fp32

        StepMemories.Of(
            config,
            (fun _ -> Moves),
            precision halfPrecision,
            precision training.HalfGradients,
            training.Pass.Checkpointing,
            sequences,
            training.Team.Size,
            positions,
            torch.CPU,
            { Zero = 0; World = 1 },
            training.AverageDecay > 0.0,
            false
        )
