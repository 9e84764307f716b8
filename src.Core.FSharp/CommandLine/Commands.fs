/// What a person can ask the program for, as plain records: an option that was not given is null, a list is read-only.
namespace Hybrid

open System
open System.Collections.Generic

/// A command to carry out. Its kinds are the records below; a C# caller switches on the type.
type ICommand =
    /// One JSON object on stdout, for machines, instead of text.
    abstract Json: bool

/// The whole experiment and its report.
type StudyCommand =
    {
        /// smoke, tiny or paper.
        Preset: string
        /// A plan's JSON beside the preset; or null
        Config: string | null
        /// Directory of the study; null: runs/study-PRESET, with a number where that is taken
        Out: string | null
        /// Goes on with an existing run instead of refusing it.
        Resume: bool
        /// Only works out what the run would take.
        DryRun: bool
        /// Of every arm's first run; null: the plan's
        Seed: Nullable<int64>
        /// Arms that run side by side; null: one for each GPU or CPU thread, as far as memory holds them.
        Parallel: Nullable<int>
        /// Event files for TensorBoard are written beside metrics.jsonl.
        TensorBoard: bool
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Picture-caption pairs to token shards.
type PrepareCommand =
    {
        /// Folders, tars and tables of pairs, or tars of tokens
        Input: IReadOnlyList<string>
        /// Where pictures are that tables name; null: beside them.
        ImageRoot: string | null
        /// A tokenizer.json
        TextTokenizer: string
        /// Null, as is ImageSize, for tars of tokens.
        ImageTokenizer: string | null
        /// Takes the moving averages that the image tokenizer's trainer kept.
        Ema: bool
        /// The image tokenizer computes in bf16.
        HalfPrecision: bool
        /// Pixels of a side that pictures are brought to
        ImageSize: Nullable<int>
        /// Large pictures are first shrunk to this multiple of the size; null: not
        ReducingGap: Nullable<float>
        /// A pair for each caption of a picture, not for its first one only.
        AllCaptions: bool
        /// Null: what fits beside the codes in 1,152 positions.
        MaxTextTokens: Nullable<int>
        /// Longer captions are dropped, not truncated.
        DropLongText: bool
        /// Pairs of every shard but the last
        PairsPerShard: int
        /// Null: one for each core.
        Workers: Nullable<int>
        /// The first thing that would be dropped ends the run.
        Strict: bool
        /// Directory of the shards
        Out: string
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// One training run.
type TrainCommand =
    {
        /// The configuration's file
        Config: string
        /// Configuration keys (a.b.c) and the values put in their place, in the order given.
        Set: IReadOnlyList<KeyValuePair<string, string>>
        /// Directory of the run
        Out: string
        /// auto, must, the path of a checkpoint, or null: an existing run is refused.
        Resume: string | null
        /// Event files for TensorBoard are written beside metrics.jsonl.
        TensorBoard: bool
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Where a model is, and what an open_lm checkpoint does not say about itself.
type ModelPath =
    {
        /// A checkpoint, a run, a Hugging Face directory or an open_lm file
        Path: string
        /// Path of open_lm's model JSON; null where the model brings its own
        Config: string | null
        /// Text rows of the table; null: what the model says
        TextRows: Nullable<int>
        /// Image codes of the table; null: what the model says
        ImageCodes: Nullable<int>
    }

/// Losses by kind of token.
type EvaluateCommand =
    {
        /// The model that is measured
        Model: ModelPath
        /// Shards or ready sequences
        Tokens: string
        /// Also where losses stand, and what codes, gradients and attention are like.
        Details: bool
        /// Another model, its start say, that the details compare with; or null.
        Against: ModelPath | null
        /// Rows and columns of a picture's codes; null: what the shards say.
        GridHeight: Nullable<int>
        /// Columns of a picture's codes; null: what the shards say
        GridWidth: Nullable<int>
        /// How many sequences gradients and attention are taken over.
        Sample: int
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Pictures from captions.
type GenerateCommand =
    {
        /// Directory of the model
        Model: string
        /// Captions; empty where a file has them.
        Prompts: IReadOnlyList<string>
        /// A file with a caption on each line, or null.
        PromptsFile: string | null
        /// Pictures for each caption.
        Count: int
        /// 0 takes the most probable code.
        Temperature: float
        /// Only so many of the most likely codes; null: all
        TopK: Nullable<int>
        /// Only the most likely codes with this probability together; null: all
        TopP: Nullable<float>
        /// Strengths of classifier-free guidance, at least one; 1 is none.
        Guidance: IReadOnlyList<float>
        /// Of the draws
        Seed: int64
        /// Codes of each picture that a pass reads ahead; 1 is none.
        Lookahead: int
        /// The model computes in bf16.
        HalfPrecision: bool
        /// Megabytes (10⁶ bytes) for cached keys and values; null: the library's own default.
        MemoryBudget: Nullable<int>
        /// Directory for the pictures
        Out: string
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// The continuation of a text. Exactly one of Prompt and PromptIds is given.
type CompleteCommand =
    {
        /// The model that goes on
        Model: ModelPath
        /// A text, or null
        Prompt: string | null
        /// Its token ids instead, or null
        PromptIds: IReadOnlyList<int> | null
        /// Takes the most likely token, not a drawn one
        Greedy: bool
        /// Most tokens of the continuation
        MaxTokens: int
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Knowledge, few-shot and language-modelling probes. At least one of Tasks, Texts and Prompts is not empty.
type ProbeCommand =
    {
        /// The model that is asked
        Model: ModelPath
        /// Models to compare with, in order: the one before training first.
        Against: IReadOnlyList<string>
        /// Files of tasks: JSON lines, lists of pairs, facts or paragraphs
        Tasks: IReadOnlyList<string>
        /// Files of plain text whose loss is measured.
        Texts: IReadOnlyList<string>
        /// Beginnings of texts that the models go on from.
        Prompts: IReadOnlyList<string>
        /// Most tokens of a completion.
        MaxTokens: int
        /// Examples before a question; null: five in lists of pairs, none elsewhere.
        Shots: Nullable<int>
        /// Questions of each task, and windows of each text; null takes all.
        Limit: Nullable<int>
        /// Null: the examples of a question are the ones that follow it.
        Seed: Nullable<int64>
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Contrastive alignment of image codes with text embeddings: of a model's table, or (Model null) of given tables.
type AlignCommand =
    {
        /// The model whose tables are aligned; null: the tables that are given
        Model: ModelPath | null
        /// With a model: shards or ready sequences.
        Tokens: string | null
        /// Without one: codes of pictures, ids of captions, the text table, and where the image table starts.
        Codes: string | null
        /// JSON, a list of token ids for each picture; null with a model
        TextIds: string | null
        /// The text table, .npy [V, D]; null with a model
        TextEmbedding: string | null
        /// Where the image table starts, .npy [codes, D]; null: as new rows do
        Initial: string | null
        /// How many codes there are; null: what the model, the data or the table say.
        ImageCodes: Nullable<int>
        /// A tokenizer.json, where the model has none beside it.
        Tokenizer: string | null
        /// Null: 1024, or all pairs where there are fewer.
        Batch: Nullable<int>
        /// Updates of the image table
        Steps: int
        /// Adam's, without a schedule
        LearningRate: float
        /// Adam's two
        Betas: IReadOnlyList<float>
        /// Adam's
        Epsilon: float
        /// Whether pairs come in a new order each epoch; else as they stand
        Shuffled: bool
        /// Of the order, of the held-out pairs, and of tables that start at random
        Seed: int64
        /// Pairs that are kept out of training and searched at the end.
        HeldOut: int
        /// shuffled-captions, random-text
        Controls: IReadOnlyList<string>
        /// Text tokens shown for a code.
        Nearest: int
        /// Codes that they are shown for; null: the ten used most.
        NearestOf: IReadOnlyList<int> | null
        /// Words whose codes are looked for.
        Words: IReadOnlyList<string>
        /// Directory for the table and the results
        Out: string
        /// Event files for TensorBoard are written beside metrics.jsonl.
        TensorBoard: bool
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Text to ids or back. Exactly one of Text, File and Decode is given.
type TokenizeCommand =
    {
        /// A tokenizer.json, or a folder with one
        Tokenizer: string
        /// What is tokenized, or null
        Text: string | null
        /// A file of it, or null
        File: string | null
        /// Token ids to make text of, or null
        Decode: IReadOnlyList<int> | null
        /// Adds the tokenizer's own special tokens
        Special: bool
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// The form of a model on disk.
type ModelFormat =
    /// A directory that Hugging Face's transformers opens.
    | HuggingFace = 0
    /// open_lm's epoch_1.pt and model.json.
    | OpenLm = 1
    /// A checkpoint of Hybrid without optimizer.
    | Hybrid = 2

/// A model from one form to another.
type ConvertCommand =
    {
        /// The model that is read
        From: ModelPath
        /// Directory that is written
        To: string
        /// In whose form it is written
        Format: ModelFormat
        /// fp32, bf16, fp16, or keep: that of each tensor of the source.
        ElementType: string
        /// Bytes of tensors in a file, at most (one tensor may be larger).
        ShardSize: int64
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// What a file or directory is.
type InspectCommand =
    {
        /// A model, run, shard, tar or file of tensors
        Path: string
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Curves of several runs on one page.
type ReportCommand =
    {
        /// Directories of runs
        Runs: IReadOnlyList<string>
        /// The page, or the directory of it.
        Out: string
        /// Serves the page while the runs go on.
        Watch: bool
        /// Null: any that is free.
        Port: Nullable<int>
        /// Weight of the moving average that the curves begin with.
        Smoothing: float
        /// Where event files for TensorBoard go, a folder for each run; null: none are written.
        TensorBoard: string | null
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// What this machine offers and what is missing.
type DoctorCommand =
    {
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// The script that completes command lines in a shell.
type CompletionCommand =
    {
        /// bash, zsh or fish.
        Shell: string
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// What a command line comes to: RunOutcome, HelpOutcome or UsageOutcome.
[<AbstractClass>]
type Outcome internal () = class end

/// A command to carry out.
[<Sealed>]
type RunOutcome internal (command: ICommand) =
    inherit Outcome()
    /// With every value that its options say.
    member _.Command: ICommand = command

/// A text that was asked for: to stdout, exit code 0.
[<Sealed>]
type HelpOutcome internal (text: string) =
    inherit Outcome()
    /// Whole, with its line breaks.
    member _.Text: string = text

/// A command line that cannot be carried out, and why: to stderr, exit code 2.
[<Sealed>]
type UsageOutcome internal (text: string) =
    inherit Outcome()
    /// What is wrong, where and what to do.
    member _.Text: string = text
