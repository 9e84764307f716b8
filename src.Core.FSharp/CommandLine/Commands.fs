/// What a person can ask the program for, as plain records: an option that was not given is null, a list is read-only.
namespace Hybrid

open System
open System.Collections.Generic

/// A command to carry out. Its kinds are the records below; a C# caller switches on the type.
type ICommand =
    /// One JSON object on stdout, for machines, instead of text.
    abstract Json: bool

/// What a picture tokeniser is asked to do.
type ImageAction =
    /// Pictures to codes.
    | Encode = 0
    /// Codes to pictures.
    | Decode = 1
    /// Pictures to codes and back.
    | Reconstruct = 2

/// The whole experiment and its report.
type StudyCommand =
    {
        /// smoke, tiny or paper.
        Preset: string
        Config: string | null
        Out: string | null
        /// Goes on with an existing run instead of refusing it.
        Resume: bool
        /// Only works out what the run would take.
        DryRun: bool
        Seed: Nullable<int64>
        /// Arms that run side by side; null: one for each GPU or CPU thread, as far as memory holds them.
        Parallel: Nullable<int>
        /// Event files for TensorBoard are written beside metrics.jsonl.
        TensorBoard: bool
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Picture-caption pairs to token shards.
type PrepareCommand =
    {
        Input: IReadOnlyList<string>
        /// Where pictures are that tables name; null: beside them.
        ImageRoot: string | null
        TextTokenizer: string
        /// Null, as is ImageSize, for tars of tokens.
        ImageTokenizer: string | null
        /// Takes the moving averages that the image tokenizer's trainer kept.
        Ema: bool
        /// The image tokenizer computes in bf16.
        HalfPrecision: bool
        ImageSize: Nullable<int>
        ReducingGap: Nullable<float>
        /// A pair for each caption of a picture, not for its first one only.
        AllCaptions: bool
        /// Null: what fits beside the codes in 1,152 positions.
        MaxTextTokens: Nullable<int>
        /// Longer captions are dropped, not truncated.
        DropLongText: bool
        PairsPerShard: int
        /// Null: one for each core.
        Workers: Nullable<int>
        /// The first thing that would be dropped ends the run.
        Strict: bool
        Out: string
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// One training run.
type TrainCommand =
    {
        Config: string
        /// Configuration keys (a.b.c) and the values put in their place, in the order given.
        Set: IReadOnlyList<KeyValuePair<string, string>>
        Out: string
        /// auto, must, the path of a checkpoint, or null: an existing run is refused.
        Resume: string | null
        /// Event files for TensorBoard are written beside metrics.jsonl.
        TensorBoard: bool
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Where a model is, and what an open_lm checkpoint does not say about itself.
type ModelPath = { Path: string; Config: string | null; TextRows: Nullable<int>; ImageCodes: Nullable<int> }

/// Losses by kind of token.
type EvaluateCommand =
    {
        Model: ModelPath
        Tokens: string
        /// Also where losses stand, and what codes, gradients and attention are like.
        Details: bool
        /// Another model, its start say, that the details compare with; or null.
        Against: ModelPath | null
        /// Rows and columns of a picture's codes; null: what the shards say.
        GridHeight: Nullable<int>
        GridWidth: Nullable<int>
        /// How many sequences gradients and attention are taken over.
        Sample: int
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Pictures from captions.
type GenerateCommand =
    {
        Model: string
        /// Captions; empty where a file has them.
        Prompts: IReadOnlyList<string>
        /// A file with a caption on each line, or null.
        PromptsFile: string | null
        /// Pictures for each caption.
        Count: int
        /// 0 takes the most probable code.
        Temperature: float
        TopK: Nullable<int>
        TopP: Nullable<float>
        /// Strengths of classifier-free guidance, at least one; 1 is none.
        Guidance: IReadOnlyList<float>
        Seed: int64
        /// Codes of each picture that a pass reads ahead; 1 is none.
        Lookahead: int
        /// The model computes in bf16.
        HalfPrecision: bool
        /// Megabytes (10⁶ bytes) for cached keys and values; null: the library's own default.
        MemoryBudget: Nullable<int>
        Out: string
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// The continuation of a text. Exactly one of Prompt and PromptIds is given.
type CompleteCommand =
    {
        Model: ModelPath
        Prompt: string | null
        PromptIds: IReadOnlyList<int> | null
        Greedy: bool
        MaxTokens: int
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Knowledge, few-shot and language-modelling probes. At least one of Tasks, Texts and Prompts is not empty.
type ProbeCommand =
    {
        Model: ModelPath
        /// Models to compare with, in order: the one before training first.
        Against: IReadOnlyList<string>
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
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Contrastive alignment of image codes with text embeddings: of a model's table, or (Model null) of given tables.
type AlignCommand =
    {
        Model: ModelPath | null
        /// With a model: shards or ready sequences.
        Tokens: string | null
        /// Without one: codes of pictures, ids of captions, the text table, and where the image table starts.
        Codes: string | null
        TextIds: string | null
        TextEmbedding: string | null
        Initial: string | null
        /// How many codes there are; null: what the model, the data or the table say.
        ImageCodes: Nullable<int>
        /// A tokenizer.json, where the model has none beside it.
        Tokenizer: string | null
        /// Null: 1024, or all pairs where there are fewer.
        Batch: Nullable<int>
        Steps: int
        LearningRate: float
        Betas: IReadOnlyList<float>
        Epsilon: float
        Shuffled: bool
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
        Out: string
        /// Event files for TensorBoard are written beside metrics.jsonl.
        TensorBoard: bool
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Text to ids or back. Exactly one of Text, File and Decode is given.
type TokenizeCommand =
    {
        Tokenizer: string
        Text: string | null
        File: string | null
        Decode: IReadOnlyList<int> | null
        Special: bool
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Pictures to codes, codes to pictures, or both.
type ImageCommand =
    {
        Action: ImageAction
        Tokenizer: string
        TokenizerConfig: string | null
        /// Takes the moving averages that the tokenizer's trainer kept.
        Ema: bool
        HalfPrecision: bool
        /// Pictures that are read and computed together.
        Batch: int
        /// Megabytes (10⁶ bytes) for the maps of pictures; null: the library's own default.
        MemoryBudget: Nullable<int>
        /// A picture that cannot be read ends the command.
        Strict: bool
        Input: IReadOnlyList<string>
        Out: string
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// How far a set of generated pictures is from a set of real ones.
type FidCommand =
    {
        Real: string
        Generated: string
        /// A TorchScript file, which is run; null where both sets are features.
        Extractor: string | null
        CenterCrop: bool
        /// The side that pictures are brought to before anything else, in whole numbers.
        PreSize: Nullable<int>
        /// lanczos, bicubic or bilinear
        PreFilter: string
        /// clean, lanczos, bilinear or none
        Resize: string
        InputSize: int
        /// inception, symmetric, unit or bytes
        Scale: string
        /// auto, forward, layers or features
        Entry: string
        /// Of fid, kid and neighbours.
        Measures: IReadOnlyList<string>
        Subsets: int
        SubsetSize: int
        Neighbours: int
        Extrapolate: bool
        Seed: int64
        /// Null: all.
        Limit: Nullable<int>
        Batch: int
        /// Null: one for each core.
        Workers: Nullable<int>
        /// Null: features are not kept.
        SaveFeatures: string | null
        Strict: bool
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
        From: ModelPath
        To: string
        Format: ModelFormat
        /// fp32, bf16, fp16, or keep: that of each tensor of the source.
        ElementType: string
        /// Bytes of tensors in a file, at most (one tensor may be larger).
        ShardSize: int64
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Training an image tokenizer.
type ImageTrainCommand =
    {
        Input: IReadOnlyList<string>
        /// The configuration's file, or null: what `Set` does not say has its default.
        Config: string | null
        /// Configuration keys (a.b.c) and the values put in their place, in the order given; options that stand for a key first.
        Set: IReadOnlyList<KeyValuePair<string, string>>
        Out: string
        /// Goes on with an existing run instead of refusing it.
        Resume: bool
        /// Event files for TensorBoard are written beside metrics.jsonl.
        TensorBoard: bool
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// What a file or directory is.
type InspectCommand =
    {
        Path: string
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Curves of several runs on one page.
type ReportCommand =
    {
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
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// What this machine offers and what is missing.
type DoctorCommand =
    {
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// The script that completes command lines in a shell.
type CompletionCommand =
    {
        /// bash, zsh or fish.
        Shell: string
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// What a command line comes to: RunOutcome, HelpOutcome or UsageOutcome.
[<AbstractClass>]
type Outcome internal () = class end

/// A command to carry out.
[<Sealed>]
type RunOutcome(command: ICommand) =
    inherit Outcome()
    member _.Command: ICommand = command

/// A text that was asked for: to stdout, exit code 0.
[<Sealed>]
type HelpOutcome(text: string) =
    inherit Outcome()
    member _.Text: string = text

/// A command line that cannot be carried out, and why: to stderr, exit code 2.
[<Sealed>]
type UsageOutcome(text: string) =
    inherit Outcome()
    member _.Text: string = text
