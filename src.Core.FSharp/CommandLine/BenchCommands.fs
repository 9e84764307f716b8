/// What a person can have measured or predicted, as plain records, as in Commands.
namespace Hybrid

open System
open System.Collections.Generic

/// How fast this machine prepares data. What is not given is not measured.
type BenchPrepareCommand =
    {
        /// A tokenizer.json; null: text is not measured
        TextTokenizer: string | null
        /// Files of text
        Text: IReadOnlyList<string>
        /// Its folder or file; null: pictures are not measured
        ImageTokenizer: string | null
        /// Folders, tars and tables of pictures
        Pictures: IReadOnlyList<string>
        /// Pixels of a side that pictures are brought to
        ImageSize: Nullable<int>
        /// Null takes all cores.
        Threads: Nullable<int>
        /// How long each measurement goes on.
        Seconds: float
        /// One object on stdout, and nothing else there
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
        /// The model computes in bf16
        HalfPrecision: bool
    }

/// How fast this machine trains a model.
type BenchTrainCommand =
    {
        /// The model that is trained
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
        /// What each process of a launcher keeps a slice of: 0 nothing, 1 moments, 2 gradients too, 3 weights too
        Zero: int
        /// One object on stdout, and nothing else there
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
        /// How long batches are taken
        Seconds: float
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// How fast the processes of a launcher exchange memory.
type BenchCollectiveCommand =
    {
        /// Lengths of messages in bytes
        Bytes: IReadOnlyList<int64>
        /// Elements are bf16, not fp32
        HalfPrecision: bool
        /// How long each measurement goes on.
        Seconds: float
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// How fast this machine draws tokens.
type BenchGenerateCommand =
    {
        /// The model that draws
        Shape: BenchShape
        /// Sequences drawn together; null takes the size's, or 8
        Batch: Nullable<int>
        /// New tokens of each; null takes what the positions hold, at most 256
        New: Nullable<int>
        /// Tokens before the drawn ones
        PromptLength: int
        /// Only so many of the most likely tokens are drawn from
        TopK: int
        /// Strength of classifier-free guidance; 1 is none
        Guidance: float
        /// Tokens of each sequence that a pass reads ahead; 1 is none
        Lookahead: int
        /// Null takes all cores.
        Threads: Nullable<int>
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// What training over many GPUs would take, and how to go about it.
type PlanCommand =
    {
        /// How many there are in all
        Gpus: int
        /// Gigabytes (10⁹ bytes) of each
        GpuMemory: float
        /// Gigabytes per second between nodes
        Link: float
        /// How many share a node
        NodeGpus: int
        /// Gigabytes per second within a node; null: as between nodes
        NodeLink: Nullable<float>
        /// Microseconds
        Latency: float
        /// TFLOP/s of a GPU; null: the A100's, or what was measured
        Peak: Nullable<float>
        /// Of the peak; null: 0.45, or what was measured
        Share: Nullable<float>
        /// What `bench train --json` wrote, in the place of peak and share; or null
        Measured: string | null
        /// A training configuration, a model's description, or a size (null: 1b). At most one of these is not null.
        Config: string | null
        /// A model's description, or null
        ModelConfig: string | null
        /// small, tiny, 160m, 1b or 7b, or null
        Size: string | null
        /// Positions of a sequence; null: the configuration's, else 1,152
        Sequence: Nullable<int>
        /// Null: the configuration's, else a million
        TokensPerStep: Nullable<float>
        /// Null: the configuration's, else a hundred thousand million
        Tokens: Nullable<float>
        /// bf16 or fp32; null: the configuration's, else bf16
        Precision: string | null
        /// bf16 or fp32; null: the configuration's, else fp32
        Gradients: string | null
        /// Gigabytes per second at which all processes together write a checkpoint; null: not said
        CheckpointLink: Nullable<float>
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Runs that are disturbed and go on, held against one that is not.
type SoakCommand =
    {
        /// Directory of the runs and the report
        Out: string
        /// How long faults are injected; exactly one of this and FaultCount is given.
        Minutes: Nullable<float>
        /// How many are injected.
        FaultCount: Nullable<int>
        /// Processes of a run; above 1 they are started by mpirun.
        Ranks: int
        /// Of the faults and their moments
        Seed: int64
        /// A training configuration; null: one that is made for the purpose.
        Config: string | null
        /// Runs that came out right are kept too.
        Keep: bool
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json
