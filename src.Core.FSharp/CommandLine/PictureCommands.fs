/// What a person can ask the program for that is about pictures and image tokenizers, as plain records.
namespace Hybrid

open System
open System.Collections.Generic

/// What a picture tokeniser is asked to do.
type ImageAction =
    /// Pictures to codes.
    | Encode = 0
    /// Codes to pictures.
    | Decode = 1
    /// Pictures to codes and back.
    | Reconstruct = 2

/// Pictures to codes, codes to pictures, or both.
type ImageCommand =
    {
        /// Which way it goes
        Action: ImageAction
        /// The image tokenizer's folder or file
        Tokenizer: string
        /// Its configuration, where it lies elsewhere; or null
        TokenizerConfig: string | null
        /// Takes the moving averages that the tokenizer's trainer kept.
        Ema: bool
        /// The tokenizer computes in bf16
        HalfPrecision: bool
        /// Pictures that are read and computed together.
        Batch: int
        /// Megabytes (10⁶ bytes) for the maps of pictures; null: the library's own default.
        MemoryBudget: Nullable<int>
        /// A picture that cannot be read ends the command.
        Strict: bool
        /// Pictures, or files of codes
        Input: IReadOnlyList<string>
        /// Directory that is written
        Out: string
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// Training an image tokenizer.
type ImageTrainCommand =
    {
        /// Folders, tars and tables of pictures
        Input: IReadOnlyList<string>
        /// The configuration's file, or null: what `Set` does not say has its default.
        Config: string | null
        /// Configuration keys (a.b.c) and the values put in their place, in the order given; options that stand for a key first.
        Set: IReadOnlyList<KeyValuePair<string, string>>
        /// Directory of the run
        Out: string
        /// Goes on with an existing run instead of refusing it.
        Resume: bool
        /// Event files for TensorBoard are written beside metrics.jsonl.
        TensorBoard: bool
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json

/// How far a set of generated pictures is from a set of real ones.
type FidCommand =
    {
        /// Pictures or features (.npy [N, D]) of the data
        Real: string
        /// Pictures or features of the model
        Generated: string
        /// A TorchScript file, which is run; null where both sets are features.
        Extractor: string | null
        /// The square in the middle is taken; else the sides are squeezed
        CenterCrop: bool
        /// The side that pictures are brought to before anything else, in whole numbers.
        PreSize: Nullable<int>
        /// lanczos, bicubic or bilinear
        PreFilter: string
        /// clean, lanczos, bilinear or none
        Resize: string
        /// Pixels of a side that the extractor sees
        InputSize: int
        /// inception, symmetric, unit or bytes
        Scale: string
        /// auto, forward, layers or features
        Entry: string
        /// Of fid, kid and neighbours.
        Measures: IReadOnlyList<string>
        /// How many random subsets KID is averaged over
        Subsets: int
        /// Samples of each set in a subset
        SubsetSize: int
        /// Precision and recall reach to this neighbour
        Neighbours: int
        /// FID is also extrapolated to endlessly many pictures
        Extrapolate: bool
        /// Of the subsets and the extrapolation
        Seed: int64
        /// Null: all.
        Limit: Nullable<int>
        /// Pictures that the extractor sees together
        Batch: int
        /// Null: one for each core.
        Workers: Nullable<int>
        /// Null: features are not kept.
        SaveFeatures: string | null
        /// A picture that cannot be read ends the command
        Strict: bool
        /// One object on stdout, and nothing else there
        Json: bool
    }

    interface ICommand with
        member command.Json = command.Json
