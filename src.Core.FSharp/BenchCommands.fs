/// What a person can have measured, as plain records, as in Commands.
namespace Hybrid

open System
open System.Collections.Generic

/// How fast this machine prepares data. What is not given is not measured.
type BenchPrepareCommand =
    {
        TextTokenizer: string | null
        Text: IReadOnlyList<string>
        ImageTokenizer: string | null
        Pictures: IReadOnlyList<string>
        ImageSize: Nullable<int>
        /// Null takes all cores.
        Threads: Nullable<int>
        /// How long each measurement goes on.
        Seconds: float
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// The model that a measurement is made with.
type BenchShape =
    {
        /// small, tiny, 160m or 1b: shapes to compare by; null takes small, or the model
        Size: string | null
        /// A model on disk, instead of a size; or null
        Model: ModelPath | null
        /// Positions of a sequence; null takes the size's or the model's
        Positions: Nullable<int>
        HalfPrecision: bool
    }

/// How fast this machine trains a model.
type BenchTrainCommand =
    {
        Shape: BenchShape
        /// Sequences of a step; null takes the size's, or 8
        Batch: Nullable<int>
        /// Sequences worked on together; null takes the batch
        MicroBatch: Nullable<int>
        /// What of each block is kept for the backward pass: none, selective or full
        Checkpointing: string
        /// Steps that are timed
        Steps: int
        /// Null takes all cores.
        Threads: Nullable<int>
        /// Says where the time of a step goes.
        Profile: bool
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// How fast training gets its batches, without a model.
type BenchLoadCommand =
    {
        /// Token shards or ready sequences; null makes shards for the purpose
        Tokens: string | null
        /// Positions of a composed sequence
        Length: int
        /// Sequences of a step
        Batch: int
        /// Steps composed at once; null takes what training takes
        Threads: Nullable<int>
        Seconds: float
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// How fast this machine draws tokens.
type BenchGenerateCommand =
    {
        Shape: BenchShape
        /// Sequences drawn together; null takes the size's, or 8
        Batch: Nullable<int>
        /// New tokens of each; null takes what the positions hold, at most 256
        New: Nullable<int>
        PromptLength: int
        TopK: int
        /// Strength of classifier-free guidance; 1 is none
        Guidance: float
        /// Tokens of each sequence that a pass reads ahead; 1 is none
        Lookahead: int
        /// Null takes all cores.
        Threads: Nullable<int>
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Runs that are disturbed and go on, held against one that is not.
type SoakCommand =
    {
        Out: string
        /// How long faults are injected; exactly one of this and FaultCount is given.
        Minutes: Nullable<float>
        /// How many are injected.
        FaultCount: Nullable<int>
        /// Processes of a run; above 1 they are started by mpirun.
        Ranks: int
        Seed: int64
        /// A training configuration; null: one that is made for the purpose.
        Config: string | null
        /// Runs that came out right are kept too.
        Keep: bool
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json
